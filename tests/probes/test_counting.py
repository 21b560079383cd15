"""The counting pass: memory that the number of frames does not change, frames kept on disk, labels that agree."""

import tracemalloc
from functools import cached_property

import numpy as np
import pytest

from featstore.frames import Frames
from featstore.store import Store
from probes import counting
from probes.counting import count_frames
from probes.errors import ProbeError
from probes.evaluation import EvaluationFrames
from probes.files import OutputError
from probes.options import ProbeOptions
from probes.runner import run_probes
from probes.spool import Spool, Spooled, scratch_folder
from probes.statistics import Statistics
from tests.support.stores import StoreRecipe, edited, write_store

ONE = StoreRecipe(codecs=("alpha",))


def peak_of_counting(path, folder, n_utterances):
    """Return the peak of traced memory, in bytes, while a store is counted and its frames, all held out, are kept."""
    recipe = StoreRecipe(
        n_utterances=n_utterances, codecs=("alpha",), frames_per_utterance=(3000, 3001), eval_every=1, n_layers=8
    )
    with Store(write_store(path, recipe)) as store:
        frames, layers = store["alpha"], range(1, 9)
        tracemalloc.start()
        try:
            with Spool(folder, layers) as spool:
                counted = count_frames(frames, layers, spool=spool)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert counted.phoneme[1, 0].sum() == frames.n_frames == 3000 * n_utterances
        np.testing.assert_array_equal(Spooled([folder]).codes(8), frames.layer(8).codes(0, frames.n_frames))
    return peak


def test_memory_does_not_grow_with_the_frames(tmp_path, monkeypatch):
    monkeypatch.setattr(counting, "_BLOCK_FRAMES", 4096)
    some, more = (peak_of_counting(tmp_path / f"{n}.h5", tmp_path / f"spool{n}", n) for n in (15, 60))
    # What is kept of the larger store is 26 bytes a frame, 3.5 MB more than of the smaller.
    assert more < some + 200_000


def test_spans_are_read_in_their_order(tmp_path):
    with Store(write_store(tmp_path / "a.h5", ONE)) as store:
        frames = store["alpha"]
        whole, n = EvaluationFrames(frames), frames.n_frames
        first_held_out = int(np.flatnonzero(frames.frame_splits(0, n) == 1)[0])
        folders = []
        for start, stop in ((0, first_held_out), (first_held_out, first_held_out + 7), (first_held_out + 7, n)):
            folders.append(tmp_path / f"{start}")
            with Spool(folders[-1], [3, 1]) as spool:
                count_frames(frames, [1, 3], span=(start, stop), spool=spool)
        kept = EvaluationFrames(frames, spooled=Spooled(folders))
        empty = Spooled(folders[:1])
        for name in ("phoneme", "speaker", "f0_hz"):
            np.testing.assert_array_equal(getattr(kept, name), getattr(whole, name))
            assert getattr(kept, name).dtype == getattr(whole, name).dtype
        np.testing.assert_array_equal(empty.codes(1), np.zeros(0, np.uint16))


def test_tables_of_spans_add_up_to_those_of_the_whole(tmp_path):
    with Store(write_store(tmp_path / "a.h5", ONE)) as store:
        frames = store["alpha"]
        n, expected, folders = frames.n_frames, count_frames(frames), []
        for start, stop in ((0, 10), (10, n // 2), (n // 2, n)):
            folders.append(tmp_path / f"{start}")
            with Spool(folders[-1], [3, 1]) as spool:
                spool.keep(count_frames(frames, [3, 1], span=(start, stop), spool=spool))
    for layer in (1, 3):
        found, whole = Spooled(folders).tables(layer), expected.layer(layer)
        for name in ("phoneme", "speaker"):
            np.testing.assert_array_equal(getattr(found, name), getattr(whole, name))
            assert getattr(found, name).dtype == np.int64
        np.testing.assert_allclose(found.pitch, whole.pitch, rtol=1e-12)


def test_a_cell_of_more_than_four_billion_frames_is_kept(tmp_path):
    table = np.full((2, 1, 1, 2), 5_000_000_000)
    counted = Statistics("alpha", (1,), ("AA",), ("s1",), "ab" * 32, table, table, np.zeros((2, 3, 1, 2)))
    with Spool(tmp_path / "000", [1]) as spool:
        spool.keep(counted)
    np.testing.assert_array_equal(Spooled([tmp_path / "000"] * 2).tables(1).speaker, 10_000_000_000)


def test_a_full_disk_is_told_with_the_folder(tmp_path):
    block = np.zeros((1, 50), np.uint16)
    with open("/dev/full", "wb", buffering=0) as full, Spool(tmp_path / "000", [1]) as spool:
        spool._files[0] = full
        with pytest.raises(OutputError, match=r"000: cannot be read or written \(No space left"):
            spool.add(block, [block[0]] * 3)


def test_a_scratch_folder_is_the_run_s_own(tmp_path):
    """What a killed run left goes when the next begins, and a worker it left behind can write to neither's folder."""
    (tmp_path / ".evaluation" / "000").mkdir(parents=True)  # of an older version
    killed = scratch_folder(tmp_path)
    left = killed.__enter__()
    with Spool(left / "000", [1]), scratch_folder(tmp_path) as ours:
        assert list(tmp_path.iterdir()) == [ours]
        assert list(ours.iterdir()) == []
        with pytest.raises(OutputError, match="No such file or directory"):
            Spool(left / "001", [1])
        assert list(tmp_path.iterdir()) == [ours]
        Spool(ours / "001", [1]).__exit__(None, None, None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda labels: np.roll(labels, 1), "expected 0 in frame 0, the speaker of its utterance .*, found 2;"),
        (lambda labels: (labels + 1) % 3, "expected 0 in frame 0, .*, found 1;"),
        (lambda labels: np.where(np.arange(len(labels)) == 333, 2, labels), "expected 0 in frame 333, .*, found 2;"),
    ],
)
def test_speakers_of_frames_are_those_of_their_utterances(tmp_path, monkeypatch, change, says):
    monkeypatch.setattr(counting, "_BLOCK_FRAMES", 100)
    path = write_store(tmp_path / "a.h5", ONE)
    with edited(path) as file:
        labels = file["codecs/alpha/labels/speaker"]
        labels[...] = change(labels[()])
    with Store(path) as store:
        with pytest.raises(ProbeError, match=f"a.h5:/codecs/alpha/labels/speaker: {says} .* rebuild it"):
            count_frames(store["alpha"])
        with pytest.raises(ProbeError, match="labels/speaker"):  # whether the utterance takes part or not
            count_frames(store["alpha"], split=np.full(store.n_utterances, -1, np.int8))


def test_codebooks_are_not_read_anew_for_every_probe(tmp_path, monkeypatch):
    reads = []

    def codebooks(frames):
        reads.append(frames.name)
        return np.asarray(frames.stored_codes().parent["codebooks"][()])

    counted = cached_property(codebooks)
    counted.__set_name__(Frames, "codebooks")
    monkeypatch.setattr(Frames, "codebooks", counted)
    path = write_store(tmp_path / "a.h5", ONE)
    reads.clear()
    assert len(run_probes([path], tmp_path / "all", ProbeOptions())) == 9
    assert len(reads) == 2  # checked by the run, then counted and probed
