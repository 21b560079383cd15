import h5py
import hdf5plugin  # noqa: F401
import numpy as np
import pytest

from featstore.describe import describe, describe_text, weights_text
from featstore.errors import StoreError, UnknownNameError
from featstore.store import Store
from featstore.verify import verify_store
from featstore.writer import StoreWriter
from schemas.errors import SchemaError
from schemas.store import store_spec
from tests.support.stores import PHONEMES, StoreRecipe, edited, write_store

LAYOUTS = [("dense", "zstd"), ("dense", "gzip"), ("dense", "none"), ("factored", "zstd"), ("factored", "gzip")]


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    recipe = StoreRecipe(skipped={"s9-1-0001": "no TextGrid — ünïcode"})
    return [write_store(folder / f"{layout}-{how}.h5", recipe, layout, how) for layout, how in LAYOUTS]


def test_layouts_and_compressions_read_the_same_bits(stores):
    reference = None
    for path in stores:
        with Store(path) as store:
            rows = [store[name].layer(layer)[:].tobytes() for name in store.codec_names for layer in (1, 2, 3)]
        reference = reference or rows
        assert rows == reference


def test_content_digest_is_independent_of_layout_and_compression(stores):
    digests = set()
    for path in stores:
        with Store(path) as store:
            digests.add(store.content_digest)
    assert len(digests) == 1


def test_content_digest_sees_every_kind_of_change(tmp_path):
    path = write_store(tmp_path / "a.h5")
    with Store(path) as store:
        before = store.content_digest
    changes = {
        "codecs/alpha/codes": (0, 3),
        "codecs/beta/labels/phoneme": (5,),
        "codecs/alpha/codebooks": (1, 2, 3),
        "utterances/split": (0,),
        "utterances/n_samples": (1,),
    }
    from featstore.digest import content_digest

    for name, place in changes.items():
        with edited(path) as file:
            old = file[name][place]
            file[name][place] = old + 1 if old == 0 else old - 1
        with Store(path) as store:
            assert content_digest(store) != before, name
        with edited(path) as file:
            file[name][place] = old
    with Store(path) as store:
        assert content_digest(store) == before


def test_content_digest_takes_every_nan_for_the_same(tmp_path):
    from featstore.digest import content_digest

    path = write_store(tmp_path / "a.h5")
    with edited(path) as file:
        f0 = file["codecs/alpha/labels/f0"]
        values = f0[()]
        values.view("u4")[np.isnan(values)] = 0xFFC00123
        f0[...] = values
    with Store(path) as store:
        assert content_digest(store) == store.content_digest


def test_unknown_label_track_is_refused_by_name(stores):
    with Store(stores[0]) as store:
        frames = store["alpha"]
        with pytest.raises(UnknownNameError, match="/codecs/alpha/labels: no track 'pitch'; it has f0, phoneme, spe"):
            frames.labels("pitch", 0, 1)
        assert len(frames.labels("f0", 0, 1)) == 1


def test_reading_a_closed_store_is_an_error_of_ours(stores):
    with Store(stores[0]) as store:
        alpha, beta = store["alpha"], store["beta"]
        kept = alpha.codebooks
    store.close()  # twice does nothing
    reads = [
        lambda: store["alpha"],
        lambda: store.strings("utterances/id"),
        lambda: store.n_utterances,
        lambda: alpha.codes(0, 1),
        lambda: alpha.labels("f0", 0, 1),
        lambda: alpha.layer(1)[0:1],
        lambda: alpha.layer(1).codes(0, 1),
        lambda: alpha.offsets,
        lambda: beta.codebooks,
        alpha.stored_bytes,
    ]
    for read in reads:
        with pytest.raises(StoreError, match="the store was closed"):
            read()
    assert alpha.codebooks is kept


def test_slices_of_a_layer(stores):
    for path in (stores[0], stores[3]):
        with Store(path) as store:
            layer = store["alpha"].layer(3)
            whole = layer[:]
            assert whole.shape == layer.shape == (len(layer), 5)
            assert whole.dtype == layer.dtype == np.float32
            np.testing.assert_array_equal(layer[10:20], whole[10:20])
            np.testing.assert_array_equal(layer[3:90:7], whole[3:90:7])
            assert layer[20:10].shape == (0, 5)
            assert layer[-5:].tobytes() == whole[-5:].tobytes()
            np.testing.assert_array_equal(whole, layer.codebook[layer.codes(0, len(layer))])
            with pytest.raises(TypeError, match="slices"):
                layer[3]
            with pytest.raises(ValueError, match="forwards"):
                layer[::-1]


def test_layers_count_from_one(stores):
    with Store(stores[0]) as store:
        for layer in (0, 4, -1):
            with pytest.raises(UnknownNameError, match=f"count from 1 to 3, asked was {layer}"):
                store["alpha"].layer(layer)
        with pytest.raises(KeyError, match="it has alpha, beta"):
            store["gamma"]


def test_frame_splits_follow_the_utterances(stores):
    with Store(stores[0]) as store:
        frames = store["beta"]
        whole = np.repeat(store.numbers("utterances/split"), np.diff(frames.offsets))
        assert len(whole) == frames.n_frames
        for start, stop in [(0, frames.n_frames), (7, 8), (100, 331), (int(frames.offsets[2]), int(frames.offsets[3]))]:
            np.testing.assert_array_equal(frames.frame_splits(start, stop), whole[start:stop])


def test_plain_h5py_sees_the_shapes_of_the_format(stores):
    for path, (layout, _) in zip(stores, LAYOUTS, strict=True):
        with h5py.File(path, "r") as file:
            group = file["codecs/alpha"]
            n_layers, n_frames = group["codes"].shape
            assert group["codes"].dtype == np.uint16
            assert group["codebooks"].shape == (n_layers, 16, 5)
            assert group["labels/f0"].shape == (n_frames,)
            assert group["offsets"][-1] == n_frames
            assert group.attrs["layout"].decode() == layout
            assert file.attrs["complete"]
            assert [label.decode() for label in file["vocab/phonemes"][()]] == PHONEMES
            if layout == "dense":
                expected = group["codebooks"][1][group["codes"][1]]
                assert group["embeddings"][1].tobytes() == expected.tobytes()
            else:
                assert "embeddings" not in group


def test_no_variable_length_string_is_written(stores):
    with h5py.File(stores[0], "r") as file:
        strings = []

        def check(name, item):
            for value in item.attrs.values():
                strings.append(isinstance(value, str))  # h5py gives str for variable length, bytes for fixed
            if isinstance(item, h5py.Dataset) and (info := h5py.check_string_dtype(item.dtype)):
                strings.append(info.length is None)

        file.visititems(check)
        check("/", file)
        assert len(strings) > 20
        assert not any(strings)


def test_empty_store(tmp_path):
    path = write_store(tmp_path / "empty.h5", StoreRecipe(skipped={"a-1-1": "bad"}), "dense", only=[])
    verify_store(path, full=True)
    with Store(path) as store:
        assert store.n_utterances == 0
        assert store["alpha"].layer(1)[:].shape == (0, 5)


def test_blocks_larger_than_a_chunk(tmp_path):
    recipe = StoreRecipe(
        n_utterances=3, n_speakers=3, frames_per_utterance=(50_000, 60_000), codecs=("alpha",), n_layers=1
    )
    dense, factored = (write_store(tmp_path / f"{layout}.h5", recipe, layout) for layout in ("dense", "factored"))
    verify_store(dense, full=True)
    with Store(dense) as one, Store(factored) as other:
        assert one["alpha"].n_frames > 65_536 * 2
        assert one.content_digest == other.content_digest


def test_verify_accepts_what_the_writer_writes(stores):
    for path in stores:
        verify_store(path, full=True)


@pytest.mark.parametrize(
    ("name", "place", "value", "message"),
    [
        ("codecs/alpha/codes", (0, 0), 99, "codes: expected values from 0 to 15, found 0 to 99"),
        ("codecs/alpha/labels/phoneme", 0, 77, "phoneme: expected values from 0 to 5"),
        ("codecs/alpha/labels/speaker", 0, 2, "labels/speaker: differs"),
        ("codecs/alpha/labels/f0", 0, -5.0, "labels/f0: expected positive Hz"),
        ("codecs/alpha/embeddings", (1, 2, 3), 5.0, "layer 2 differs from codebook"),
        ("codecs/alpha/offsets", 1, -4, "offsets: expected to rise"),
        ("codecs/alpha/codebooks", (0, 0, 0), np.nan, "codebooks: expected finite"),
        ("utterances/speaker", 0, 9, "utterances/speaker: expected values from 0 to 2"),
        ("utterances/n_samples", 0, 1, "content_digest: differs"),
    ],
)
def test_verify_finds_changed_values(tmp_path, name, place, value, message):
    path = write_store(tmp_path / "a.h5", layout="dense")
    with edited(path) as file:
        file[name][place] = value
    with pytest.raises(StoreError, match=message):
        verify_store(path, full=True)


def test_verify_finds_a_wrong_structure(tmp_path):
    path = write_store(tmp_path / "a.h5", layout="dense")
    with edited(path) as file:
        del file["codecs/alpha/labels/f0"], file["codecs/beta/embeddings"], file["vocab/speakers"]
        file["codecs/beta"].attrs["weights"] = np.bytes_(b"borrowed")
        file.attrs["corpus"] = np.bytes_(b"{no json")
        del file["codecs/beta/offsets"]
        file["codecs/beta/offsets"] = np.zeros(3, np.int32)
    with pytest.raises(StoreError) as caught:
        verify_store(path)
    text = str(caught.value)
    for part in (
        "/@corpus: expected json",
        "/vocab/speakers: expected a dataset, found none",
        "/codecs/alpha/labels/f0: expected a dataset",
        "/codecs/beta/@weights: expected one of pretrained, checkpoint, untrained",
        "/codecs/beta/offsets: expected dtype int64, found int32",
        "(and 2 more)",
    ):
        assert part in text


def test_unknown_fields_are_ignored(tmp_path):
    path = write_store(tmp_path / "a.h5")
    with edited(path) as file:
        file.attrs["later"] = 3
        file["codecs/alpha/extra"] = np.arange(3)
        file.attrs["format_version"] = np.bytes_(b"1.7")
    verify_store(path, full=True)


def test_files_that_are_no_store(tmp_path):
    with pytest.raises(StoreError, match="found no file"):
        Store(tmp_path / "absent.h5")
    (tmp_path / "text.h5").write_text("hello")
    with pytest.raises(StoreError, match="a file of another kind"):
        Store(tmp_path / "text.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(SchemaError, match="not an rvqprobe store"):
        Store(tmp_path / "other.h5")
    path = write_store(tmp_path / "a.h5")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(StoreError, match="truncated: expected .* bytes, found .*; get a whole copy"):
        Store(path)


def test_unknown_major_version_is_refused_by_name(tmp_path):
    path = write_store(tmp_path / "a.h5")
    with edited(path) as file:
        file.attrs["format_version"] = np.bytes_(b"2.0")
    with pytest.raises(SchemaError, match=r"format_version: version 2\.0 is not known to this build, which reads 1\.x"):
        Store(path)


def test_unfinished_store_is_refused(tmp_path):
    path = write_store(tmp_path / "a.h5")
    with edited(path) as file:
        file.attrs["complete"] = False
    with pytest.raises(StoreError, match="never finished"):
        Store(path)


def test_failing_writer_leaves_nothing(tmp_path):
    path = write_store(tmp_path / "a.h5")
    with Store(path) as store:
        codes = store["alpha"].codes(0, 3)
    from tests.support import stores

    header = None

    class Caught(StoreWriter):
        def __enter__(self):
            nonlocal header
            header = self.header
            return super().__enter__()

    original, stores.StoreWriter = stores.StoreWriter, Caught
    try:
        write_store(tmp_path / "b.h5")
    finally:
        stores.StoreWriter = original
    with (
        pytest.raises(StoreError, match="alpha got 3 frames, expected"),
        StoreWriter(tmp_path / "c.h5", header) as writer,
    ):
        writer.append("alpha", codes, np.zeros(3, np.uint16), np.zeros(3, np.float32))
    with pytest.raises(RuntimeError, match="stop"), StoreWriter(tmp_path / "c.h5", header):
        raise RuntimeError("stop")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.h5", "b.h5"]


def test_describe(stores):
    with Store(stores[0]) as store:
        found, text = describe(store), describe_text(store)
    assert found["n_skipped"] == 1
    assert found["n_speakers"] == 3
    assert found["codecs"]["alpha"]["layout"] == "dense"
    assert found["codecs"]["alpha"]["bytes"] < stores[0].stat().st_size
    assert found["codecs"]["beta"]["frame_rate_hz"] == 40.0
    assert "s9-1-0001: no TextGrid — ünïcode" in text
    assert "UNTRAINED weights" in text


def test_what_weights_are_called():
    assert weights_text("melrvq", "untrained") == "codebooks fitted to the corpus"
    assert weights_text("encodec", "untrained") == "UNTRAINED weights"
    assert [weights_text("encodec", kind) for kind in ("pretrained", "checkpoint")] == [
        "pretrained weights",
        "weights of an own checkpoint",
    ]


def test_the_prose_names_all_of_the_format():
    from importlib.resources import files

    prose = files("schemas").joinpath("store-1.0.md").read_text(encoding="utf-8")
    spec = store_spec()
    for item in spec.datasets + spec.codec_datasets:
        assert f"`{item.path}`" in prose, item.path
        assert item.dtype in prose
    for attribute in spec.root_attributes + spec.codec_attributes:
        assert f"`{attribute.name}`" in prose, attribute.name
