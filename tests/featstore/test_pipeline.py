"""Reading ahead and writing behind in other processes: the same store, and no utterance lost to a dead worker."""

import dataclasses
import os
import signal
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from featstore import pipeline as pipeline_module
from featstore.build import build_store
from featstore.corpora.librispeech import scan_librispeech
from featstore.errors import StoreError
from featstore.extract import CodecClock
from featstore.header import StoreHeader, read_header
from featstore.pipeline import Pipeline
from featstore.plan import plan_build
from featstore.store import Store
from featstore.workers import choose_workers
from featstore.writer import ShardFrames
from tests.support import tiny_codec
from tests.support.builds import tiny_build
from tests.support.stores import write_store

CLOCKS = [CodecClock("tiny", 8_000, 160)]


@pytest.fixture
def build(tiny, tiny_corpus, tmp_path):
    def run(n_workers, progress=None):
        output = tmp_path / f"workers-{n_workers}" / "store.h5"
        options = tiny_build(tiny_corpus, output, workers=n_workers)
        return build_store(plan_build(options), progress)

    return run


@pytest.fixture
def utterances(tiny_corpus):
    return scan_librispeech(tiny_corpus.librispeech_root, tiny_corpus.alignments_root, tiny_corpus.split).utterances


@pytest.mark.parametrize("numbers", [(0, 2), pytest.param((0, 1, 2, 4), marks=pytest.mark.slow)])
def test_the_store_does_not_depend_on_the_number_of_workers(build, numbers):
    found = set()
    for n_workers in numbers:
        notes = []
        result = build(n_workers, lambda done, total, what, note="", notes=notes: notes.append(note))
        with Store(result.path) as store:
            found.add(store.content_digest)
            assert all('"encode"' in seconds for seconds in store.strings("shards/seconds_by_stage"))
        assert any("wait for input" in note for note in notes)
        assert not list(result.path.parent.rglob("*.partial"))
    assert len(found) == 1


def test_prepared_ahead_is_bounded_by_the_workers(utterances):
    with Pipeline(CLOCKS, "yin", 2) as pipeline:
        places, handed_out = [], []

        def watched():
            for utterance in utterances:
                handed_out.append(utterance.id)
                yield utterance

        taken = pipeline._preparing.run(("prepare", (utterance,)) for utterance in watched())
        for n_taken, (place, prepared) in enumerate(taken, start=1):
            places.append(place)
            assert prepared.utterance == utterances[place]
            assert len(handed_out) <= n_taken + 2
    assert sorted(places) == list(range(len(utterances)))


class Slow(pipeline_module._Preparer):
    """Has the first utterance ready when a file is there."""

    def __init__(self, clocks, f0_method, first, mark):
        super().__init__(clocks, f0_method)
        self._first, self._mark = first, mark

    def prepare(self, utterance):
        while utterance.id == self._first and not self._mark.exists():
            time.sleep(0.01)
        return super().prepare(utterance)


def test_nobody_goes_far_ahead_of_the_slowest(utterances, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline_module, "_MOST_AHEAD", 3)
    pipeline = Pipeline(CLOCKS, "yin", 2)
    pipeline._make = partial(Slow, CLOCKS, "yin", utterances[0].id, tmp_path / "mark")
    with pipeline:
        handed_out = []

        def watched():
            for utterance in utterances:
                handed_out.append(utterance.id)
                yield "prepare", (utterance,)

        taken = pipeline._preparing.run(watched())
        assert [next(taken)[0] for _ in range(3)] == [1, 2, 3]
        assert len(handed_out) == 4
        (tmp_path / "mark").touch()
        assert {place for place, _ in taken} == {0, *range(4, len(utterances))}


def children():
    return {int(path.name) for path in Path("/proc").glob("[0-9]*") if parent_of(path) == os.getpid()}


def parent_of(path):
    try:
        return int((path / "stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError):
        return None


class Deadly(pipeline_module._Preparer):
    """Dies of one utterance: as often as it comes, or once only."""

    def __init__(self, clocks, f0_method, victim, mark):
        super().__init__(clocks, f0_method)
        self._victim, self._mark = victim, mark

    def prepare(self, utterance):
        if utterance.id == self._victim and not (self._mark and self._mark.exists()):
            if self._mark:
                self._mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().prepare(utterance)


@pytest.mark.parametrize("is_once", [True, False])
def test_a_killed_worker_costs_no_utterance_or_the_one_that_kills_twice(utterances, tmp_path, is_once):
    victim = utterances[7].id
    pipeline = Pipeline(CLOCKS, "yin", 2)
    pipeline._make = partial(Deadly, CLOCKS, "yin", victim, tmp_path / "mark" if is_once else None)
    with pipeline:
        prepared = dict(pipeline.prepare(utterances))
    assert sorted(prepared) == list(range(len(utterances)))
    problems = {item.utterance.id: item.problem for item in prepared.values() if item.problem}
    if is_once:
        assert problems == {}
    else:
        assert list(problems) == [victim]
        assert "the process that read it ended twice (exit code -9; too little memory?)" in problems[victim]
        assert not any(prepared[7].inputs), "nothing is known of its files, so --retry-skipped takes it up"


class Hanging(pipeline_module._Preparer):
    def prepare(self, utterance):
        if utterance.id.endswith("0003"):
            time.sleep(600)
        return super().prepare(utterance)


@pytest.mark.slow
def test_a_file_system_that_hangs_is_given_up_in_words(utterances, monkeypatch):
    monkeypatch.setattr(pipeline_module, "PREPARE_TIMEOUT_S", 30.0)
    pipeline = Pipeline(CLOCKS, "yin", 1)
    pipeline._make = partial(Hanging, CLOCKS, "yin")
    chosen = [item for item in utterances if item.id.startswith("101-")][2:5]
    with pipeline:
        prepared = dict(pipeline.prepare(chosen))
    (problem,) = [item.problem for item in prepared.values() if item.problem]
    assert "reading it took longer than 30 s, twice (a file system that hangs?); use --retry-skipped" in problem


def test_a_writer_that_fails_is_told(tmp_path):
    (tmp_path / "file").write_text("mine")
    shard = ShardFrames(StoreHeader([], {}, [], [], [], {}), [])
    with Pipeline(CLOCKS, "yin", 1) as pipeline:
        pipeline._writing.begin(("write", (tmp_path / "file" / "x.h5", shard)))
        with pytest.raises((StoreError, OSError)):
            pipeline.finish()


def test_no_process_is_left(utterances):
    before, n_threads = children(), threading.active_count()
    with Pipeline(CLOCKS, "yin", 2) as pipeline:
        next(pipeline.prepare(utterances))
        assert len(children() - before) >= 3
    deadline = time.monotonic() + 5
    while children() - before and time.monotonic() < deadline:
        time.sleep(0.05)
    left = children() - before
    assert len(left) <= 1, left  # multiprocessing's resource tracker stays
    assert threading.active_count() <= n_threads


def test_the_number_of_workers():
    assert choose_workers(None, 10, "cpu, 2 threads") == 0
    assert choose_workers(None, 1000, "cpu, 2 threads") == 1
    assert choose_workers(None, 1000, "cuda, H") >= 1
    assert choose_workers(5, 3, "cpu, 2 threads") == 3
    assert choose_workers(0, 1000, "cuda, H") == 0


class Failing(tiny_codec.TinyCodec):
    """Stops the build at one utterance, as a bug or a full GPU would."""

    n_left = 6

    def encode(self, samples):
        Failing.n_left -= 1
        if Failing.n_left < 0:
            raise RuntimeError("out of GPU memory")
        return super().encode(samples)


@pytest.mark.parametrize("n_workers", [0, 1])
def test_an_encoded_shard_is_kept_whatever_ends_the_build(build, monkeypatch, tmp_path, n_workers):
    """Also when the process that writes it has not finished by then."""

    def load(checkpoint, device):
        codec = tiny_codec.load(checkpoint, device)
        return Failing(codec.codebooks, codec.weights, codec.weights_sha256)

    monkeypatch.setattr(Failing, "n_left", 6)
    with monkeypatch.context() as patch:
        patch.setattr(
            "featstore.codecs.registry._registered", {"tiny": dataclasses.replace(tiny_codec.FAMILY, load=load)}
        )
        with pytest.raises(RuntimeError, match="out of GPU memory"):
            build(n_workers)
    shards = tmp_path / f"workers-{n_workers}" / "store.h5.shards"
    assert [path.name for path in shards.iterdir()] == ["shard-00001-of-00005.h5"]
    assert build(n_workers).n_reused == 1


class Buggy(pipeline_module._Preparer):
    def prepare(self, utterance):
        if utterance.id.endswith("0002"):
            raise IndexError("a fault of ours")
        return super().prepare(utterance)


def test_a_fault_of_ours_is_no_reason_to_skip_an_utterance(utterances):
    pipeline = Pipeline(CLOCKS, "yin", 1)
    pipeline._make = partial(Buggy, CLOCKS, "yin")
    with pipeline, pytest.raises(RuntimeError, match="IndexError: a fault of ours"):
        list(pipeline.prepare(utterances))


class Stillborn:
    def __init__(self):
        os._exit(9)


def test_workers_that_cannot_live_end_the_build_and_skip_nothing_more(utterances):
    pipeline = Pipeline(CLOCKS, "yin", 2)
    pipeline._make = Stillborn
    with (
        pipeline,
        pytest.raises(StoreError, match=r"worker processes keep ending \(exit code 9\).*fewer --workers or 0"),
    ):
        list(pipeline.prepare(utterances))


def test_what_the_writing_process_does_not_live_to_write_is_written_here(tmp_path, caplog):
    source = write_store(tmp_path / "source.h5")
    with Store(source) as store:
        header = read_header(store)
        frames = [
            (name, store[name].codes(a, b), store[name].labels("phoneme", a, b), store[name].labels("f0", a, b), None)
            for name in store.codec_names
            for a, b in [(0, store[name].n_frames)]
        ]
    with Pipeline(CLOCKS, "yin", 1) as pipeline:
        pipeline.write(tmp_path / "a.h5", ShardFrames(header, frames))
        for process in pipeline._writing._pool._workers.values():
            process.kill()
        pipeline.finish()
    with Store(tmp_path / "a.h5") as store, Store(source) as expected:
        assert store.content_digest == expected.content_digest
    assert "shards are written by this one from now on" in caplog.text or not caplog.text
