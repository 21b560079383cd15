"""Stores written anew in another layout, compression or container: same values, same digest, or nothing at all."""

import os
from dataclasses import replace

import h5py
import numpy as np
import pytest

from featstore import export
from featstore.errors import StoreError
from featstore.export import export_store
from featstore.header import SkippedRow, read_header
from featstore.lock import hold_lock
from featstore.merge import merge_into
from featstore.store import Store
from featstore.verify import verify_store
from featstore.writer import StoreWriter
from tests.support.stores import StoreRecipe, edited, write_store

RECIPE = StoreRecipe(skipped={"s9-1-0001": "no alignment"})
TABLES = ("utterances/id", "utterances/sha256", "skipped/id", "skipped/reason", "shards/host", "vocab/speakers")
NUMBERS = ("utterances/speaker", "utterances/split", "utterances/n_samples", "utterances/shard")


def with_latents(path, source):
    """Write a store again with latents that tell layer, frame and dimension apart."""
    with Store(source) as store:
        header = read_header(store)
        header = replace(header, codecs=[replace(codec, has_latents=True) for codec in header.codecs])
        with StoreWriter(path, header, "factored") as writer:
            for name in store.codec_names:
                frames, n = store[name], store[name].n_frames
                labels = frames.labels("phoneme", 0, n), frames.labels("f0", 0, n)
                writer.append(name, frames.codes(0, n), *labels)
                writer.append_latents(name, np.arange(n * frames.dim, dtype="f4").reshape(n, frames.dim) / 7)
    return path


def check_equal(one, other):
    with Store(one) as a, Store(other) as b:
        assert a.content_digest == b.content_digest
        assert a.codec_names == b.codec_names
        assert all(a.strings(path) == b.strings(path) for path in TABLES)
        assert all(np.array_equal(a.numbers(path), b.numbers(path)) for path in NUMBERS)
        assert read_header(a).shards == read_header(b).shards
        assert read_header(a).attributes == read_header(b).attributes
        for name in a.codec_names:
            check_equal_frames(a[name], b[name])


def check_equal_frames(a, b):
    n = a.n_frames
    assert {**a.attributes, "layout": ""} == {**b.attributes, "layout": ""}
    assert np.array_equal(a.offsets, b.offsets)
    assert a.codebooks.tobytes() == b.codebooks.tobytes()
    assert np.array_equal(a.codes(0, n), b.codes(0, n))
    for track in ("phoneme", "speaker", "f0"):
        assert a.labels(track, 0, n).tobytes() == b.labels(track, 0, n).tobytes()
        assert a.labels(track, 0, n).dtype == b.labels(track, 0, n).dtype
    for layer in range(1, a.n_layers + 1):
        for frames in (slice(None), slice(3, 77), slice(1, n, 7), slice(5, 5)):
            assert a.layer(layer)[frames].tobytes() == b.layer(layer)[frames].tobytes()
        assert a.layer(layer).take([n - 1, 0, 3, 3]).tobytes() == b.layer(layer).take([n - 1, 0, 3, 3]).tobytes()
    assert a.has_latents == b.has_latents
    if a.has_latents:
        assert a.latents(0, n).tobytes() == b.latents(0, n).tobytes()


def test_every_conversion_keeps_content_and_values(tmp_path):
    first = with_latents(tmp_path / "0.h5", write_store(tmp_path / "bare.h5", RECIPE))
    steps = [
        ("1.h5", {"layout": "dense", "compression": "gzip"}),
        ("2.zarr", {}),
        ("3.h5", {"layout": "factored", "compression": "none"}),
        ("4.zarr", {"compression": "gzip"}),
        ("5.zarr", {"layout": "dense", "compression": "none"}),
        ("6", {"format": "zarr", "layout": "factored"}),
        ("7.h5", {"layout": "dense"}),
    ]
    source, layout = first, "factored"
    for name, options in steps:
        assert export_store(source, tmp_path / name, **options)
        layout = options.get("layout", layout)
        with Store(tmp_path / name) as store:
            assert {store[codec].layout for codec in store.codec_names} == {layout}
        check_equal(first, tmp_path / name)
        assert verify_store(tmp_path / name, full=True) == []
        source = tmp_path / name
    assert not [name for name in os.listdir(tmp_path) if name.endswith((".lock", ".partial"))]


@pytest.mark.parametrize("name", ["plain.h5", "plain.zarr"])
def test_a_virtual_store_becomes_one_that_stands_by_itself(tmp_path, name):
    write_store(tmp_path / "parts/a.h5", RECIPE, "dense", only=range(0, 12, 2))
    write_store(tmp_path / "parts/b.h5", RECIPE, "dense", only=range(1, 12, 2))
    merge_into(tmp_path / "virtual.h5", [tmp_path / "parts/a.h5", tmp_path / "parts/b.h5"], virtual=True)
    export_store(tmp_path / "virtual.h5", tmp_path / name)
    check_equal(tmp_path / "virtual.h5", tmp_path / name)
    (tmp_path / "parts/a.h5").rename(tmp_path / "elsewhere.h5")
    assert verify_store(tmp_path / name, full=True) == []
    with pytest.raises(StoreError, match=r"part parts/a\.h5 is missing; bring it back"):
        export_store(tmp_path / "virtual.h5", tmp_path / "other.h5")


@pytest.mark.parametrize("name", ["empty.h5", "empty.zarr"])
def test_a_store_without_an_utterance(tmp_path, name):
    with Store(write_store(tmp_path / "a.h5", RECIPE)) as store:
        header = read_header(store)
    codecs = [replace(codec, n_frames=[]) for codec in header.codecs]
    skipped = {f"s1-1-{index:04d}": SkippedRow("é nothing") for index in range(3)}
    with StoreWriter(tmp_path / "0.h5", replace(header, utterances=[], codecs=codecs, skipped=skipped)):
        pass
    export_store(tmp_path / "0.h5", tmp_path / name)
    with Store(tmp_path / name) as store:
        assert store.strings("utterances/id") == []
        assert store.strings("skipped/reason") == ["é nothing"] * 3
        assert store["alpha"].layer(1)[:].shape == (0, RECIPE.dim)
    verify_store(tmp_path / name, full=True)


@pytest.mark.parametrize("name", ["b.h5", "b.zarr"])
def test_a_finished_export_is_told_and_anything_else_stays(tmp_path, name):
    source = write_store(tmp_path / "a.h5", RECIPE)
    other = write_store(tmp_path / "c.h5", replace(RECIPE, seed=1))
    output = tmp_path / name
    assert export_store(source, output) is True
    before = sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*"))
    assert export_store(source, output) is False
    for refused in ({"path": source, "layout": "dense"}, {"path": other}):
        with pytest.raises(StoreError, match="stands there already; remove it or choose another output"):
            export_store(output=output, **refused)
    with pytest.raises(StoreError, match="stands there already"):
        export_store(source, output, format="hdf5" if name == "b.zarr" else "zarr")
    with pytest.raises(StoreError, match="is the store itself"):
        export_store(output, output)
    assert sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*")) == before


def test_what_is_no_store_stays(tmp_path):
    source = write_store(tmp_path / "a.h5", RECIPE)
    (tmp_path / "out.zarr").mkdir()
    with pytest.raises(StoreError, match="stands there already"):
        export_store(source, tmp_path / "out.zarr")
    with pytest.raises(StoreError, match="expected a store, found no file"):
        export_store(tmp_path / "absent.h5", tmp_path / "b.h5")
    assert sorted(os.listdir(tmp_path)) == ["a.h5", "out.zarr"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("name", ["b.h5", "b.zarr"])
def test_nothing_is_left_of_an_export_that_ends_in_the_middle(tmp_path, name, error):
    source = write_store(tmp_path / "a.h5", RECIPE)

    def stop(n_done, n_total, what):
        assert 0 < n_done <= n_total
        if what == "export":
            raise error

    with pytest.raises(error):
        export_store(source, tmp_path / name, progress=stop)
    assert os.listdir(tmp_path) == ["a.h5"]
    assert export_store(source, tmp_path / name)


@pytest.mark.parametrize("name", ["b.h5", "b.zarr"])
def test_leftovers_of_killed_exports_go(tmp_path, name):
    source = write_store(tmp_path / "a.h5", RECIPE)
    leftover = tmp_path / f".{name}.another-machine-123.partial"
    (leftover / "codecs").mkdir(parents=True)
    (leftover / "codecs" / "zarr.json").touch()
    export_store(source, tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == ["a.h5", name]


def test_one_writer_at_a_time(tmp_path):
    source = write_store(tmp_path / "a.h5", RECIPE)
    with hold_lock(tmp_path / "b.zarr"), pytest.raises(StoreError, match="is being written by"):
        export_store(source, tmp_path / "b.zarr")


@pytest.mark.parametrize("name", ["b.h5", "b.zarr"])
def test_a_damaged_source_is_refused(tmp_path, name):
    source = write_store(tmp_path / "a.h5", RECIPE)
    content = bytearray(source.read_bytes())
    content[-100] ^= 1
    source.write_bytes(content)
    with pytest.raises(StoreError, match="SHA-256 differs from the seal"):
        export_store(source, tmp_path / name)
    assert os.listdir(tmp_path) == ["a.h5"]


@pytest.mark.parametrize("name", ["b.h5", "b.zarr"])
def test_a_source_that_says_other_than_its_digest_is_refused(tmp_path, name):
    source = write_store(tmp_path / "a.h5", RECIPE)
    with edited(source) as file:
        file["codecs/alpha/codes"][0, 0] ^= 1
    with pytest.raises(StoreError, match=r"its content has the digest \w+, (but it claims|expected) \w+"):
        export_store(source, tmp_path / name)
    assert os.listdir(tmp_path) == ["a.h5"]


@pytest.mark.parametrize(("name", "layout"), [("b.h5", "dense"), ("b.h5", "factored"), ("b.zarr", "dense")])
def test_a_code_outside_the_codebook_is_refused(tmp_path, name, layout):
    source = write_store(tmp_path / "a.h5", RECIPE)
    with edited(source) as file:
        file["codecs/alpha/codes"][0, 7] = 999
    with pytest.raises(StoreError, match="codes"):
        export_store(source, tmp_path / name, layout=layout)
    assert os.listdir(tmp_path) == ["a.h5"]


@pytest.mark.parametrize("name", ["b.h5", "b.zarr"])
def test_room_is_looked_at_first(tmp_path, monkeypatch, name):
    source = write_store(tmp_path / "a.h5", RECIPE)
    monkeypatch.setattr("featstore.preflight.free_bytes", lambda output: 1000)
    monkeypatch.setattr(export, "StoreWriter", None)
    with pytest.raises(StoreError, match="1.0 kB are free"):
        export_store(source, tmp_path / name)


def test_compression_is_what_was_asked(tmp_path):
    source = write_store(tmp_path / "a.h5", RECIPE, "dense")
    export_store(source, tmp_path / "b.h5", compression="gzip")
    with h5py.File(tmp_path / "b.h5") as file:
        assert file["codecs/alpha/embeddings"].compression == "gzip"


@pytest.mark.parametrize("name", ["copy.h5", "copy.zarr"])
@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("codecs/alpha/labels/phoneme", 999, "labels/phoneme: expected values"),
        ("codecs/alpha/codes", 999, "codes"),
        ("utterances/speaker", 77, "/utterances/speaker: expected values from 0 to"),
        ("utterances/shard", 55, "/utterances/shard: expected values from 0 to"),
    ],
)
def test_what_points_at_nothing_is_refused_in_words(tmp_path, name, path, value, message):
    store = write_store(tmp_path / "a.h5")
    with edited(store) as file:
        file[path][..., 0] = value
    with pytest.raises(StoreError, match=message):
        export_store(store, tmp_path / name)
    assert not (tmp_path / name).exists()
    with pytest.raises(StoreError, match=message):
        verify_store(store, full=True)
