import numpy as np
import pytest

from featstore.errors import StoreError, UnknownNameError
from featstore.merge import merge_stores
from featstore.reading import PIECE_ROWS, frames_of, gather_rows, spans_of, take_from
from featstore.store import Store
from tests.support.stores import StoreRecipe, edited, write_store

LAYOUTS = ("dense", "factored")
LONG = StoreRecipe(n_utterances=3, n_speakers=3, frames_per_utterance=(50_000, 60_000), codecs=("alpha",), n_layers=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reading")
    for layout in LAYOUTS:
        write_store(folder / f"{layout}.h5", StoreRecipe(unvoiced=False), layout)
        write_store(folder / f"long-{layout}.h5", LONG, layout)
    return folder


@pytest.fixture(params=LAYOUTS)
def alpha(folder, request):
    with Store(folder / f"{request.param}.h5") as store:
        yield store["alpha"]


@pytest.fixture(params=LAYOUTS)
def long(folder, request):
    """More frames than two chunks of codes."""
    with Store(folder / f"long-{request.param}.h5") as store:
        yield store["alpha"]


def test_reading_into_an_array_is_slicing(long):
    layer = long.layer(2)
    assert len(layer) > 2 * 65_536
    whole = layer[:]
    for start, stop in [(0, len(layer)), (7, 8), (9, 9), (65_530, 65_540), (65_536, 131_072), (len(layer), len(layer))]:
        out = np.full((stop - start, 5), np.nan, np.float32)
        layer.read_into(out, start, stop)
        assert out.tobytes() == whole[start:stop].tobytes()


def test_reading_into_part_of_an_array_touches_nothing_else(alpha):
    out = np.full((30, 5), np.nan, np.float32)
    alpha.layer(1).read_into(out[10:20], 40, 50)
    assert np.isnan(out[:10]).all()
    assert np.isnan(out[20:]).all()
    np.testing.assert_array_equal(out[10:20], alpha.layer(1)[40:50])


@pytest.mark.parametrize(
    "out",
    [
        np.empty((10, 5), np.float64),
        np.empty((9, 5), np.float32),
        np.empty((10, 10), np.float32)[:, ::2],
        np.empty((5, 10), np.float32).T,
        np.broadcast_to(np.float32(0), (10, 5)),
        [[0.0] * 5] * 10,
    ],
)
def test_an_array_that_does_not_fit_is_refused(alpha, out):
    for read in (lambda: alpha.layer(1).read_into(out, 0, 10), lambda: alpha.layer(1).take(np.arange(10), out)):
        with pytest.raises(ValueError, match=r"float32 array of shape \(10, 5\), found .*; make it with np.empty"):
            read()


@pytest.mark.parametrize(("start", "stop"), [(-1, 4), (5, 4), (0, 10**9)])
def test_a_span_that_is_not_there_is_refused(alpha, start, stop):
    with pytest.raises(IndexError, match=f"frames, found start {start} and stop {stop}"):
        alpha.layer(1).read_into(np.empty((5, 5), np.float32), start, stop)


def test_frames_in_any_order(long):
    layer = long.layer(1)
    whole = layer[:]
    rng = np.random.default_rng(0)
    for frames in (
        rng.integers(0, len(layer), 5000),
        rng.permutation(len(layer)),
        np.array([len(layer) - 1, 0, 0], np.uint32),
        [65_536, 65_535],
        [],
    ):
        rows = layer.take(frames)
        assert rows.tobytes() == whole[np.asarray(frames, dtype=np.int64)].tobytes()
        out = np.empty((len(frames), 5), np.float32)
        assert layer.take(frames, out) is out
        assert out.tobytes() == rows.tobytes()


def test_frame_numbers_that_are_none_are_refused(alpha):
    layer = alpha.layer(1)
    n = len(layer)
    for frames, kind, message in (
        ([0.5], TypeError, "integers, found float64"),
        ([True], TypeError, "integers, found bool"),
        ([n], IndexError, f"from 0 to {n - 1}, found {n} to {n}"),
        ([-1, 3], IndexError, "found -1 to 3"),
        ([[1]], IndexError, r"one axis, found shape \(1, 1\)"),
    ):
        with pytest.raises(kind, match=message):
            layer.take(frames)


def test_labels_of_frames_in_any_order(long):
    frames = np.random.default_rng(1).integers(0, long.n_frames, 500)
    for name in ("phoneme", "speaker", "f0"):
        np.testing.assert_array_equal(long.take_labels(name, frames), long.labels(name, 0, long.n_frames)[frames])
    with pytest.raises(UnknownNameError, match="no track 'pitch'; it has f0, phoneme, speaker"):
        long.take_labels("pitch", frames)


def test_utterances_by_id_and_place(alpha):
    ids = alpha.store.strings("utterances/id")
    for place, id_ in enumerate(ids):
        span = alpha.utterance_span(id_)
        assert span == alpha.utterance_span(place) == alpha.utterance_span(np.int32(place))
        assert (span.start, span.stop) == tuple(alpha.offsets[place : place + 2])
        rows = alpha.read_utterance(id_)
        assert rows.shape == (3, span.stop - span.start, 5)
        for layer in (1, 2, 3):
            assert rows[layer - 1].tobytes() == alpha.layer(layer)[span].tobytes()
    assert alpha.read_utterance(0, (3, 1)).tobytes() == alpha.read_utterance(0)[[2, 0]].tobytes()
    for unknown in ("nobody-1-0001", len(ids), -1):
        with pytest.raises(UnknownNameError, match=f"no utterance {unknown!r} among the {len(ids)}"):
            alpha.utterance_span(unknown)


def test_splits_are_spans_of_frames(alpha):
    splits = alpha.frame_splits(0, alpha.n_frames)
    for value, name in enumerate(("train", "eval")):
        spans = alpha.of_split(name)
        assert (spans[1:, 0] > spans[:-1, 1]).all()  # neighbours are joined
        np.testing.assert_array_equal(frames_of(spans), np.flatnonzero(splits == value))
    with pytest.raises(UnknownNameError, match="no split 'test'; it has train and eval"):
        alpha.of_split("test")


def test_spans_leave_out_what_is_empty():
    offsets = np.array([0, 3, 3, 5, 9, 9])
    assert spans_of(offsets, np.array([True, True, True, False, True])).tolist() == [[0, 5]]
    assert spans_of(offsets, np.array([False, True, False, True, True])).tolist() == [[5, 9]]
    assert spans_of(offsets, np.zeros(5, bool)).shape == (0, 2)
    assert frames_of(np.zeros((0, 2), np.int64)).tolist() == []
    assert frames_of(np.array([[2, 4], [9, 10]])).tolist() == [2, 3, 9]


def test_blocks_are_read_once_each_and_no_wider_than_needed():
    spans = []

    def read(place):
        row, span = place
        assert row == 1
        spans.append((span.start, span.stop))
        return np.arange(span.start, span.stop)

    frames = np.array([25, 3, 29, 25, 11, 4])
    np.testing.assert_array_equal(take_from(read, np.dtype(np.int64), (1,), frames, 10), frames)
    assert spans == [(3, 5), (11, 12), (25, 30)]


def test_gathering_in_pieces():
    rng = np.random.default_rng(0)
    codebook = rng.standard_normal((300, 3)).astype(np.float32)
    for n in (0, 1, PIECE_ROWS, PIECE_ROWS + 1, 3 * PIECE_ROWS - 1):
        codes, out = rng.integers(0, 300, n).astype(np.uint16), np.empty((n, 3), np.float32)
        gather_rows(codebook, codes, out)
        np.testing.assert_array_equal(out, codebook[codes])
    out = np.zeros((2, 3), np.float32)
    with pytest.raises(IndexError, match="expected codes from 0 to 299, found 300"):
        gather_rows(codebook, np.array([0, 300], np.uint16), out)
    assert not out.any()


def test_a_code_that_has_no_row_names_the_file(tmp_path):
    path = write_store(tmp_path / "a.h5")
    with edited(path) as file:
        file["codecs/alpha/codes"][0, 3] = 99
    with Store(path) as store:
        layer = store["alpha"].layer(1)
        layer.read_into(np.empty((3, 5), np.float32), 0, 3)
        for read in (lambda: layer.read_into(np.empty((4, 5), np.float32), 0, 4), lambda: layer.take([3])):
            with pytest.raises(StoreError, match="a.h5:/codecs/alpha/codes: expected codes from 0 to 15, found 99; .*"):
                read()


def test_frames_of_an_absent_part_are_refused_and_the_others_read(tmp_path):
    parts = [write_store(tmp_path / f"part{i}.h5", StoreRecipe(), only=range(i, 12, 2)) for i in (0, 1)]
    whole = write_store(tmp_path / "whole.h5", StoreRecipe())
    merge_stores(parts, tmp_path / "all.h5", virtual=True)
    with Store(tmp_path / "all.h5") as shown, Store(whole) as copied:
        expected = copied["alpha"].layer(2)[:]
        assert shown["alpha"].layer(2).take(np.arange(len(expected))[::-1]).tobytes() == expected[::-1].tobytes()
        assert not shown["alpha"]._opened  # a kept handle would keep the files of all parts open
        assert shown["alpha"].utterance_span(3) == copied["alpha"].utterance_span(3)
    parts[1].unlink()
    with Store(tmp_path / "all.h5") as shown:
        layer, spans = shown["alpha"].layer(2), [shown["alpha"].utterance_span(place) for place in range(12)]
        there = [place for place in range(12) if _reads(layer, spans[place])]
        assert len(there) == 6
        frames = np.concatenate([np.arange(spans[place].start, spans[place].stop) for place in there])[::-1]
        assert layer.take(frames).tobytes() == expected[frames].tobytes()  # absent ones lie between them
        (absent, *_) = set(range(12)) - set(there)
        for read in (
            lambda: layer.take([frames[0], spans[absent].start]),
            lambda: shown["alpha"].read_utterance(absent),
        ):
            with pytest.raises(StoreError, match=r"lie in the part part1\.h5, which"):
                read()


def _reads(layer, span):
    try:
        layer.read_into(np.empty((span.stop - span.start, 5), np.float32), span.start, span.stop)
    except StoreError:
        return False
    return True


def test_datasets_are_opened_once_and_closed_with_the_store(folder):
    with Store(folder / "dense.h5") as store:
        frames = store["alpha"]
        assert frames.stored_codes() is frames.stored_codes()
        assert frames.stored_embeddings() is frames.stored_embeddings()
        handle = frames.stored_codes()
        assert handle
    assert not handle
    for read in (
        lambda: frames.layer(1).read_into(np.empty((1, 5), np.float32), 0, 1),
        lambda: frames.layer(1).take([0]),
        lambda: frames.utterance_span("s0-1-0000"),
        lambda: frames.take_labels("f0", [0]),
        frames.stored_embeddings,
    ):
        with pytest.raises(StoreError, match="the store was closed"):
            read()
