"""Stores as Zarr 3 folders: what other programs read of them, how damage is found, what is refused of strangers."""

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
import warnings

import google_crc32c
import numcodecs
import numpy as np
import pytest
import zarr

from featstore import zarr_store
from featstore.atomic import discard_leftovers, write_folder_once
from featstore.describe import describe, describe_text
from featstore.errors import StoreError
from featstore.export import export_store
from featstore.merge import merge_stores
from featstore.store import Store
from featstore.verify import verify_store
from featstore.zarr_seal import SEAL_NAME, write_folder_seal
from probes.options import ProbeOptions
from probes.runner import run_probes
from schemas.errors import SchemaError
from tests.support.command_line import run_python
from tests.support.stores import StoreRecipe, write_store

RECIPE = StoreRecipe(codecs=("alpha",))
CODES = "codecs/alpha/codes"


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """A dense HDF5 store and its export; tests must not change them."""
    folder = tmp_path_factory.mktemp("zarr")
    source = write_store(folder / "a.h5", RECIPE, "dense")
    export_store(source, folder / "a.zarr")
    return source, folder / "a.zarr"


@pytest.fixture
def copy(stores, tmp_path):
    """A copy of the Zarr store, as another machine would get it."""
    return shutil.copytree(stores[1], tmp_path / "copy.zarr")


def change(folder, array, **entries):
    """Change an array's metadata, and seal the folder again: whoever forges a store can do so."""
    path = folder / array / "zarr.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))
    write_folder_seal(folder)


def sharded(folder, array, **settings):
    """Return an array's codecs with other settings of the sharding codec."""
    (codec,) = json.loads((folder / array / "zarr.json").read_text())["codecs"]
    return [codec | {"configuration": codec["configuration"] | settings}]


def forge_shard(path, make):
    """Replace the stored chunks of a one-chunk shard, with a right index and right checksums."""
    content = path.read_bytes()
    start, n_stored = struct.unpack("<QQ", content[-20:-4])
    data, n_claimed = make(content[start : start + n_stored - 4])
    data += crc(data)
    index = struct.pack("<QQ", *((0, len(data)) if n_claimed is None else n_claimed))
    path.write_bytes(data + index + crc(index))


def crc(data):
    return google_crc32c.value(data).to_bytes(4, "little")


# What is written


def test_zarr_reads_it_by_itself(stores):
    source, folder = stores
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        root = zarr.open_group(folder, mode="r")
        rows = zarr.open_array(folder / "codecs/alpha/embeddings", mode="r")[2]
        ids = root["utterances/id"]
    with Store(source) as store:
        assert np.array_equal(rows, store["alpha"].layer(3)[:])
        assert [bytes(row).rstrip(b"\0").decode() for row in ids[:]] == store.strings("utterances/id")
        assert dict(root.attrs) == store.attributes | {"created": root.attrs["created"]}
    assert ids.attrs["encoding"] == "utf-8"


def test_every_array_is_sharded_with_checksums(stores):
    for path in stores[1].rglob("zarr.json"):
        metadata = json.loads(path.read_text())
        if metadata["node_type"] == "array":
            (codec,) = metadata["codecs"]
            assert codec["name"] == "sharding_indexed"
            assert [one["name"] for one in codec["configuration"]["codecs"]] == ["bytes", "zstd", "crc32c"]
            assert [one["name"] for one in codec["configuration"]["index_codecs"]] == ["bytes", "crc32c"]
            assert metadata["codecs"][0]["configuration"]["codecs"][1]["configuration"]["level"] == 3


def test_shards_are_few_and_hold_whole_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(zarr_store, "BLOCK_FRAMES", 64)
    monkeypatch.setattr(zarr_store, "embedding_chunk", lambda dim: (32, 3))  # and 2 of the fifth number's chunk unused
    monkeypatch.setattr(zarr_store, "SHARD_BYTES", 4000)
    source = write_store(tmp_path / "a.h5", RECIPE)
    export_store(source, tmp_path / "b.zarr", "dense")
    embeddings = zarr.open_array(tmp_path / "b.zarr/codecs/alpha/embeddings", mode="r")
    assert (embeddings.chunks, embeddings.shards) == ((1, 32, 3), (1, 160, 6))  # 5 x 2 chunks of 384 bytes in 4000
    with Store(source) as one, Store(tmp_path / "b.zarr") as other:
        n = one["alpha"].n_frames
        assert len(list((tmp_path / "b.zarr/codecs/alpha/embeddings/c").rglob("0"))) >= 3
        for layer in (1, 2, 3):
            for start, stop in ((0, n), (31, 33), (159, 161), (100, 500), (n - 1, n)):
                assert np.array_equal(one["alpha"].layer(layer)[start:stop], other["alpha"].layer(layer)[start:stop])
    assert verify_store(tmp_path / "b.zarr", full=True) == []
    shutil.copytree(tmp_path / "b.zarr", tmp_path / "c.zarr")
    Store(tmp_path / "c.zarr").close()  # a stranger's, with shards that are not full


def test_chunks_of_zeros_are_stored(tmp_path):
    recipe = StoreRecipe(codecs=("alpha",), n_codewords=1)
    export_store(write_store(tmp_path / "a.h5", recipe), tmp_path / "b.zarr")
    assert all((tmp_path / f"b.zarr/{CODES}/c/{layer}/0").is_file() for layer in range(3))


def test_inspect_tells_size_and_files(stores):
    source, folder = stores
    files = [path for path in folder.rglob("*") if path.is_file()]
    with Store(folder) as store:
        found = describe(store)
        assert f"format 1.0, Zarr 3, {len(files)} files)" in describe_text(store).splitlines()[0]
    assert (found["container"], found["n_files"]) == ("zarr", len(files))
    assert found["bytes"] == sum(path.stat().st_size for path in files)
    assert 0 < found["codecs"]["alpha"]["bytes"] < found["bytes"]
    with Store(source) as store:
        assert (describe(store)["container"], describe(store)["n_files"]) == ("hdf5", 1)


def test_probes_of_it_give_the_same_records(stores, tmp_path):
    records = []
    for place, path in enumerate(stores):
        options = ProbeOptions(layers=(1, 2), n_workers=1)
        found = run_probes([path], tmp_path / str(place), options)
        records.append([{k: v for k, v in record.items() if k not in ("created", "seconds")} for record in found])
    assert len(records[0]) == 6
    assert records[0] == records[1]


def test_it_can_be_merged(tmp_path):
    whole = write_store(tmp_path / "whole.h5", RECIPE)
    parts = [write_store(tmp_path / f"{part}.h5", RECIPE, only=range(part, 12, 2)) for part in (0, 1)]
    export_store(parts[0], tmp_path / "0.zarr")
    merge_stores([tmp_path / "0.zarr", parts[1]], tmp_path / "merged.h5")
    with Store(whole) as one, Store(tmp_path / "merged.h5") as other:
        assert one.content_digest == other.content_digest
    assert verify_store(tmp_path / "merged.h5", full=True, against=[tmp_path / "0.zarr"]) == []
    with pytest.raises(StoreError, match="found the folder"):
        merge_stores([tmp_path / "0.zarr", parts[1]], tmp_path / "virtual.h5", virtual=True)


def test_zarr_is_imported_for_folders_only(stores):
    code = f"""
import sys
from featstore.describe import describe_text
from featstore.export import export_store
from featstore.store import Store
from featstore.verify import verify_store
with Store({str(stores[0])!r}) as store:
    store["alpha"].layer(1)[:], describe_text(store)
verify_store(store.path, full=True)
print("zarr" in sys.modules, "numcodecs" in sys.modules)
Store({str(stores[1])!r}).close()
print("zarr" in sys.modules)
"""
    assert run_python(code).stdout.split() == ["False", "False", "True"]


def test_a_closed_store_says_so(stores):
    with Store(stores[1]) as store:
        frames = store["alpha"]
    with pytest.raises(StoreError, match="the store was closed"):
        frames.codes(0, 1)


def test_what_zarr_does_has_ended_before_an_interruption_goes_on(stores, tmp_path, monkeypatch):
    ended, write = [], zarr.Array.__setitem__

    def interrupted_write(self, *arguments):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
        write(self, *arguments)
        ended.append(True)

    monkeypatch.setattr(zarr.Array, "__setitem__", interrupted_write)
    with pytest.raises(KeyboardInterrupt):
        export_store(stores[0], tmp_path / "b.zarr")
    assert ended == [True]
    assert os.listdir(tmp_path) == []


# Damage


def test_a_flipped_bit_in_any_file_is_found(copy):
    Store(copy).close()
    files = sorted(path for path in copy.rglob("*") if path.is_file())
    assert copy / SEAL_NAME in files
    for path in files:
        content = path.read_bytes()
        place = (len(path.name) * 31 + len(content)) % len(content)
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        with pytest.raises(StoreError):
            verify_store(copy, full=True)
        path.write_bytes(content)
    assert verify_store(copy, full=True) == []


def test_every_bit_of_the_seal_counts(copy):
    path = copy / SEAL_NAME
    content = path.read_bytes()
    for place in [*range(60), *range(len(content) - 80, len(content))]:
        for bit in range(8):
            path.write_bytes(content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :])
            with pytest.raises(StoreError):
                verify_store(copy, full=True)


@pytest.mark.parametrize("spoil", ["missing", "further", "shorter", "no metadata"])
def test_a_file_too_few_too_many_or_too_short_is_found_on_opening(copy, spoil):
    Store(copy).close()  # known from now on
    chunk = copy / CODES / "c" / "1" / "0"
    message = {
        "missing": r"lacks codecs/alpha/codes/c/1/0; get a whole copy",
        "further": r"holds codecs/alpha/codes/c/1/1, which was not there",
        "shorter": r"codes/c/1/0: expected [\d,]+ bytes, found 10;",
        "no metadata": r"lacks zarr\.json",
    }[spoil]
    if spoil == "missing":
        chunk.unlink()
    elif spoil == "further":
        chunk.with_name("1").touch()
    elif spoil == "shorter":
        chunk.write_bytes(b"0123456789")
    else:
        (copy / "zarr.json").unlink()
    for check in (Store, verify_store):
        with pytest.raises(StoreError, match=message):
            check(copy)


def test_a_shard_that_goes_while_the_store_is_open_is_no_zeros(copy):
    with Store(copy) as store:
        frames = store["alpha"]
        shutil.rmtree(copy / CODES / "c" / "1")
        with pytest.raises(StoreError, match=r"/codecs/alpha/codes: does not decode .* damaged or gone"):
            frames.codes(0, 10)


def test_a_changed_chunk_is_found_by_its_checksum(copy):
    with Store(copy) as store:
        path = copy / CODES / "c" / "1" / "0"
        content = bytearray(path.read_bytes())
        content[10] ^= 1
        path.write_bytes(content)
        with pytest.raises(StoreError, match="does not decode"):
            store["alpha"].codes(0, 10)


def test_a_change_that_was_meant_is_sealed_anew(copy):
    root = zarr.open_group(copy, mode="r+")
    root.attrs["corpus"] = '{"split": "mine"}'
    with pytest.raises(StoreError, match="verify --full --reseal"):
        verify_store(copy, full=True)
    assert verify_store(copy, full=True, reseal=True) == []
    assert verify_store(copy, full=True) == []
    with Store(copy) as store:
        assert store.json_attribute("corpus") == {"split": "mine"}


def test_a_folder_without_a_seal_is_read_with_a_note(copy):
    (copy / SEAL_NAME).unlink()
    assert "it has no seal" in verify_store(copy, full=True)[0]


# From strangers


def test_links_are_refused(copy, tmp_path):
    outside = tmp_path / "outside"
    shutil.move(copy / CODES, outside)
    (copy / CODES).symlink_to(outside)
    with pytest.raises(StoreError, match=r"expected files and folders only, found a link: codecs/alpha/codes"):
        Store(copy)


@pytest.mark.parametrize(
    ("array", "entries", "message"),
    [
        (CODES, {"data_type": "uint32"}, "/codecs/alpha/codes: expected data_type uint16, found 'uint32'"),
        (CODES, {"shape": [3, 1 << 41]}, "expected n_frames of at most"),
        (CODES, {"shape": [3, 1 << 30]}, "expected [0-9,]+ shards for shape"),
        (CODES, {"shape": [3]}, "expected a shape of 2 whole numbers"),
        (CODES, {"shape": [3, -1]}, "expected a shape of 2 whole numbers"),
        (CODES, {"codecs": [{"name": "bytes", "configuration": {"endian": "little"}}]}, "the one codec sharding_index"),
        (CODES, {"chunk_grid": {"name": "rectangular", "configuration": {}}}, "expected shards and chunks of 2 axes"),
        (CODES, {"storage_transformers": [{"name": "x"}]}, "no storage transformers"),
        (CODES, {"chunk_key_encoding": {"name": "v2", "configuration": {"separator": "."}}}, "chunk_key_encoding"),
        (CODES, {"node_type": "group"}, "expected node_type array"),
        ("utterances/id", {"attributes": {}}, "expected the attribute 'encoding'"),
        ("utterances/id", {"shape": [12, 5000]}, "expected strings of at most 1,024 bytes, found a length of 5,000"),
        ("", {"consolidated_metadata": {"kind": "inline"}}, "without consolidated metadata"),
        ("", {"attributes": {"format": "rvqprobe-store", "format_version": "1.0"}}, "never finished|expected an"),
    ],
)
def test_metadata_beyond_the_rules_are_refused(copy, array, entries, message):
    change(copy, array, **entries)
    with pytest.raises(StoreError, match=message):
        Store(copy)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"chunk_shape": [1, 1 << 40]}, "expected shards of whole chunks"),
        ({"index_location": "start"}, "expected an index with a CRC32C at the end"),
        ({"index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}]}, "expected an index with a CRC"),
        ({"codecs": [{"name": "blosc", "configuration": {}}]}, "expected the codecs bytes, then zstd"),
        ({"codecs": [{"name": "bytes", "configuration": {"endian": "little"}}]}, "expected the codecs bytes, then"),
        ({"codecs": "bytes"}, "expected the codecs bytes, then zstd"),
    ],
)
def test_codecs_beyond_the_rules_are_refused(copy, settings, message):
    change(copy, CODES, codecs=sharded(copy, CODES, **settings))
    with pytest.raises(StoreError, match=message):
        Store(copy)


def test_chunks_larger_than_the_bound_are_refused(copy):
    grid = {"name": "regular", "configuration": {"chunk_shape": [1, 1 << 26]}}
    change(copy, CODES, chunk_grid=grid, codecs=sharded(copy, CODES, chunk_shape=[1, 1 << 26]))
    with pytest.raises(StoreError, match="expected chunks of at most 67,108,864 bytes, found 134,217,728"):
        Store(copy)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda data: (data[:5] + b"\xff" * 8 + data[5:], None), "a larger one"),
        (lambda data: (numcodecs.Zstd(3).encode(bytes(1 << 20)), None), "a larger one"),
        (lambda data: (numcodecs.Zstd(3).encode(bytes(10)), None), "a smaller one"),
        (lambda data: (b"no zstd at all", None), "a damaged one"),
        (lambda data: (data, (2**64 - 1, 2**64 - 1)), "one missing"),
        (lambda data: (data, (1 << 63, 1 << 63)), "one beyond its data"),
        (lambda data: (data, (2**64 - 2, 20)), "one beyond its data"),
        (lambda data: (data, (0, 2)), "a damaged one"),
    ],
)
def test_chunks_that_decode_to_another_size_are_never_decoded(copy, monkeypatch, make, message):
    forge_shard(copy / CODES / "c" / "1" / "0", make)
    write_folder_seal(copy)
    monkeypatch.setattr("featstore.zarr_rules.open_folder", None)  # nothing of it gets that far
    with pytest.raises(StoreError, match=rf"expected chunks that decode to [\d,]+ bytes, found ({message}) in "):
        Store(copy)


@pytest.mark.parametrize("n_members", [1, 2])
def test_gzip_is_one_member_of_the_right_size(stores, tmp_path, n_members):
    export_store(stores[0], tmp_path / "a.zarr", compression="gzip")
    copy = shutil.copytree(tmp_path / "a.zarr", tmp_path / "copy.zarr")
    Store(copy).close()
    forge_shard(copy / CODES / "c" / "1" / "0", lambda data: (data * n_members, None))
    write_folder_seal(copy)
    if n_members == 1:
        Store(copy).close()
    else:  # the second would be decoded too, however long it is
        with pytest.raises(StoreError, match="found a damaged one"):
            Store(copy)


@pytest.mark.parametrize("text", ["[]", "{", '{"zarr_format": 3, "zarr_format": 3}', "[" * 10_000])
def test_metadata_that_are_no_json_object_are_refused(copy, text):
    (copy / CODES / "zarr.json").write_text(text)
    (copy / SEAL_NAME).unlink()
    with pytest.raises(StoreError, match=r"expected Zarr metadata in codecs/alpha/codes/zarr\.json, found"):
        Store(copy)


def test_an_unknown_version_is_named(copy):
    root = zarr.open_group(copy, mode="r+")
    root.attrs["format_version"] = "2.0"
    write_folder_seal(copy)
    with pytest.raises(SchemaError, match="2.0"):
        Store(copy)


def test_another_zarr_folder_is_no_store(tmp_path):
    zarr.create_group(tmp_path / "other.zarr", zarr_format=3)
    with pytest.raises(SchemaError, match="not an rvqprobe store: the file names no format"):
        Store(tmp_path / "other.zarr")


def test_text_that_is_no_utf8_is_refused(copy):
    array = zarr.open_array(copy / "vocab/speakers", mode="r+")
    array[0] = 0xFF
    write_folder_seal(copy)
    with pytest.raises(StoreError, match="/vocab/speakers: expected UTF-8"):
        Store(copy)


# Folders written once


def test_a_folder_is_seen_whole_or_not_at_all(tmp_path):
    def write(is_interrupted):
        with write_folder_once(tmp_path / "out") as folder:
            (folder / "deep").mkdir()
            (folder / "deep" / "file").write_text("x", encoding="utf-8")
            if is_interrupted:
                assert not (tmp_path / "out").exists()
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(is_interrupted=True)
    assert os.listdir(tmp_path) == []
    write(is_interrupted=False)
    assert (tmp_path / "out/deep/file").read_text(encoding="utf-8") == "x"
    with pytest.raises(OSError, match="not empty"):
        write(is_interrupted=False)
    assert os.listdir(tmp_path) == ["out"]


def test_everything_is_synced_before_the_rename(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr("featstore.atomic.sync", lambda path: calls.append(path.relative_to(tmp_path).as_posix()))
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("rename"), replace(a, b)))
    with write_folder_once(tmp_path / "out") as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "file").touch()
        name = folder.name
    assert calls == [f"{name}/deep/file", f"{name}/deep", name, "rename", "."]


def test_folders_of_killed_writers_go(tmp_path):
    code = f"""
import os, signal
from pathlib import Path
from featstore.atomic import write_folder_once
with write_folder_once(Path({str(tmp_path / "out")!r})) as folder:
    (folder / "file").touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code], check=False)
    (leftover,) = tmp_path.iterdir()
    assert (leftover / "file").exists()
    assert discard_leftovers(tmp_path / "out") == [leftover]
    assert os.listdir(tmp_path) == []
