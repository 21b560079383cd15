"""The seal: a hash of the whole file, where HDF5 does not reach."""

import hashlib
import os
import shutil

import h5py
import numpy as np
import pytest

from featstore import admission, trust
from featstore.errors import StoreError
from featstore.seal import SEAL_BYTES, check_seal, read_seal, write_seal
from featstore.store import Store
from featstore.verify import verify_store
from tests.support.stores import edited, write_store


def test_the_seal_is_what_the_format_says(tmp_path):
    data = write_store(tmp_path / "a.h5").read_bytes()
    line = f"rvqprobe-seal 1 bytes {len(data)} sha256 {hashlib.sha256(data[512:]).hexdigest()}\n"
    assert data[:512] == line.encode().ljust(512, b"\0")
    assert data[512:520] == b"\x89HDF\r\n\x1a\n"


def test_any_flipped_bit_is_found(tmp_path):
    path = write_store(tmp_path / "a.h5", layout="dense")
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    places = [*range(0, SEAL_BYTES + 64), *rng.integers(0, len(data), 300).tolist(), len(data) - 1]
    for place in places:
        changed = bytearray(data)
        changed[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        with pytest.raises(StoreError, match=r"a\.h5: "):
            check_seal(path) or pytest.fail(f"a flipped bit in byte {place} was not seen")


def test_any_other_length_is_found_without_reading(tmp_path):
    path = write_store(tmp_path / "a.h5")
    data = path.read_bytes()
    for length in (0, 1, 100, SEAL_BYTES, SEAL_BYTES + 8, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(StoreError, match="truncated|seal at its beginning is damaged|another kind"):
            Store(path)
    path.write_bytes(data + b"\0")
    with pytest.raises(StoreError, match="longer than it was when it was finished"):
        Store(path)


def test_every_dataset_has_checksums(tmp_path):
    path = write_store(tmp_path / "a.h5", layout="dense")
    n_seen = 0
    with h5py.File(path, "r") as file:

        def look(name, item):
            nonlocal n_seen
            if isinstance(item, h5py.Dataset) and item.size:
                n_seen += 1
                assert item.fletcher32, name
                plist = item.id.get_create_plist()
                assert plist.get_filter(plist.get_nfilters() - 1)[0] == h5py.h5z.FILTER_FLETCHER32, name
                assert h5py.check_string_dtype(item.dtype) is None or item.dtype.kind == "S", name

        file.visititems(look)
    assert n_seen > 20


def test_a_copy_is_compared_with_its_seal_at_first_sight(tmp_path):
    path = write_store(tmp_path / "a.h5")
    copy = tmp_path / "copy.h5"
    shutil.copy(path, copy)
    assert trust.is_known(path)
    assert not trust.is_known(copy)
    with Store(copy) as store:
        assert store.n_utterances
    assert trust.is_known(copy)
    data = bytearray(copy.read_bytes())
    data[-30] ^= 1
    copy.write_bytes(data)
    with pytest.raises(StoreError, match="not as it was when it was finished"):
        Store(copy)


def test_what_was_checked_is_not_checked_again(tmp_path, monkeypatch):
    path = write_store(tmp_path / "a.h5")
    shutil.copy(path, tmp_path / "copy.h5")
    checked = []
    monkeypatch.setattr(admission, "check_foreign", checked.append)
    for _ in range(2):
        Store(tmp_path / "copy.h5").close()
    assert checked == [tmp_path / "copy.h5"]
    os.utime(tmp_path / "copy.h5", ns=(1, 1))
    Store(tmp_path / "copy.h5").close()
    assert len(checked) == 2


def test_without_a_cache_folder_every_opening_checks(tmp_path, monkeypatch):
    monkeypatch.setenv("RVQPROBE_CACHE_DIR", "/dev/null/nowhere")
    checked = []
    monkeypatch.setattr(admission, "check_foreign", checked.append)
    path = write_store(tmp_path / "a.h5")
    for _ in range(2):
        Store(path).close()
    assert checked == [path, path]


def test_a_store_changed_on_purpose_can_be_sealed_anew(tmp_path):
    path = write_store(tmp_path / "a.h5")
    with h5py.File(path, "r+") as file:
        file["codecs/alpha/mine"] = np.arange(3)
    with pytest.raises(StoreError, match="verify --full --reseal"):
        verify_store(path)
    verify_store(path, full=True, reseal=True)
    assert read_seal(path) == check_seal(path)
    verify_store(path, full=True)
    with h5py.File(path, "r+") as file:
        file["codecs/alpha/codes"][0, 0] ^= 1
    with pytest.raises(StoreError, match="content_digest: differs"):
        verify_store(path, full=True, reseal=True)
    with pytest.raises(StoreError, match="not as it was"):
        verify_store(path, full=True)


def test_a_store_without_a_seal_is_read_after_a_check(tmp_path):
    path = write_store(tmp_path / "a.h5")
    bare = tmp_path / "bare.h5"
    with h5py.File(path, "r") as file, h5py.File(bare, "w") as copy:
        for name in file:
            file.copy(name, copy)
        for name in file.attrs:
            copy.attrs.create(name, file.attrs[name], dtype=file.attrs.get_id(name).dtype)
    assert read_seal(bare) is None
    with Store(bare) as store, Store(path) as original:
        assert store.content_digest == original.content_digest
    assert verify_store(bare, full=True) == ["it has no seal, so damage where HDF5 does not look is not seen"]
    with pytest.raises(StoreError, match="user block of 512 bytes"):
        write_seal(bare)


def test_what_is_no_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.h5")
    with pytest.raises(StoreError, match="found no regular file"):
        Store(tmp_path / "pipe.h5")
    with pytest.raises(StoreError, match="found a folder"):
        Store(tmp_path)
    (tmp_path / "loop.h5").symlink_to(tmp_path / "loop.h5")
    with pytest.raises(StoreError, match=r"loop\.h5: expected a store"):
        Store(tmp_path / "loop.h5")
    with pytest.raises(StoreError, match="expected the path of a store"):
        Store("a\0b.h5")


def test_an_edit_by_the_same_user_is_seen(tmp_path):
    path = write_store(tmp_path / "a.h5")
    with edited(path) as file:
        file.attrs["note"] = 1
    Store(path).close()
    with h5py.File(path, "r+") as file:
        file.attrs["note"] = 2
    with pytest.raises(StoreError, match="not as it was"):
        Store(path)


def test_a_file_put_in_place_while_another_is_checked_is_not_trusted(tmp_path, monkeypatch):
    path = write_store(tmp_path / "a.h5")
    shutil.copy(path, tmp_path / "copy.h5")
    other = write_store(tmp_path / "b.h5")

    def swap(checked):
        shutil.copy(other, tmp_path / "other.h5")
        (tmp_path / "other.h5").replace(checked)

    monkeypatch.setattr(admission, "check_foreign", swap)
    with pytest.raises(StoreError, match="was replaced while it was checked"):
        Store(tmp_path / "copy.h5")
    assert not trust.is_known(tmp_path / "copy.h5")
