"""The seal of a finished store: length and hash of the whole file, where HDF5 does not reach.

HDF5 lets a file begin with a user block that it never touches. There the writer of a store puts, as its last act before
the store gets its name, one line: how long the file is and the SHA-256 of everything after the block. So damage is
found before HDF5 parses a byte of it. It is no signature: whoever changes a store can seal it again.
"""

import hashlib
import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from featstore.errors import StoreError
from featstore.zarr_seal import check_folder_seal, is_zarr

SEAL_BYTES = 512  # the smallest user block of HDF5
_LINE = re.compile(rb"rvqprobe-seal 1 bytes (0|[1-9][0-9]{0,18}) sha256 ([0-9a-f]{64})\n")
_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_WAY_OUT = (
    "get a whole copy or build it again, or, if the change was meant, check and seal it anew with "
    "verify --full --reseal"
)
_PIECE_BYTES = 4 << 20


@dataclass(frozen=True)
class Seal:
    """What a store's first bytes say of it: length of the whole file, hex SHA-256 of all after the seal."""

    n_bytes: int
    sha256: str

    def to_bytes(self) -> bytes:
        """Return the user block, `SEAL_BYTES` long, padded with NUL."""
        line = f"rvqprobe-seal 1 bytes {self.n_bytes} sha256 {self.sha256}\n"
        return line.encode("ascii").ljust(SEAL_BYTES, b"\0")


def read_seal(path: Path) -> Seal | None:
    """Return the seal of a file, or None where there is none: the file begins as HDF5 without a user block does.

    Raises
    ------
    StoreError
        When the file is missing, cannot be read or is of another kind, its seal is damaged, or its length is not the
        one sealed.
    """
    check_is_file(path)
    try:
        with path.open("rb") as file:
            begin = file.read(SEAL_BYTES)
            n_bytes = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror or error}); check its rights") from error
    if begin.startswith(_HDF5_SIGNATURE):
        return None
    found = _LINE.match(begin)
    if found is None:
        if begin.startswith(b"rvqprobe-seal"):
            raise StoreError(f"{path}: the seal at its beginning is damaged; get a whole copy or build it again")
        raise StoreError(f"{path}: expected a store (an HDF5 file), found a file of another kind; check the path")
    seal = Seal(int(found[1]), found[2].decode("ascii"))
    if begin != seal.to_bytes():
        raise StoreError(f"{path}: the seal at its beginning is damaged; get a whole copy or build it again")
    if n_bytes != seal.n_bytes:
        what = "truncated" if n_bytes < seal.n_bytes else "longer than it was when it was finished"
        way = "get a whole copy or build it again" if n_bytes < seal.n_bytes else _WAY_OUT
        raise StoreError(f"{path}: {what}: expected {seal.n_bytes:,} bytes, found {n_bytes:,}; {way}")
    return seal


def check_is_file(path: Path) -> None:
    """Raise StoreError unless `path` is a regular file: reading a pipe would wait for ever."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        found = "no file" if isinstance(error, FileNotFoundError) else error.strerror
        raise StoreError(f"{path}: expected a store, found {found}; build one with build-store") from error
    except ValueError as error:  # a NUL in the name
        raise StoreError(f"{str(path)!r}: expected the path of a store; check it") from error
    if not stat.S_ISREG(mode):
        found = "a folder" if stat.S_ISDIR(mode) else "no regular file"
        raise StoreError(f"{path}: expected a store, found {found}; build one with build-store")


def check_seal(path: Path, progress: Callable[[int, int], None] | None = None) -> object:
    """Read the whole file, or every file of a store in Zarr, and compare it with its seal; None where it has none.

    Parameters
    ----------
    path : Path
    progress : callable (n_done, n_total) or None
        Called with bytes hashed.

    Raises
    ------
    StoreError
        As `read_seal` does, and when the hash differs: a bit has changed since the store was finished.
    """
    if is_zarr(path):
        return check_folder_seal(path, progress)
    seal = read_seal(path)
    if seal is not None and _hash_after_seal(path, progress) != seal.sha256:
        raise StoreError(
            f"{path}: the file is not as it was when it was finished (its SHA-256 differs from the seal): damaged, or "
            f"changed by another program; {_WAY_OUT}"
        )
    return seal


def write_seal(path: Path) -> Seal:
    """Seal a closed HDF5 file that was made with a user block of `SEAL_BYTES`; the caller syncs it.

    Raises
    ------
    StoreError
        When the file has no such user block.
    """
    with path.open("rb") as file:
        begin = file.read(SEAL_BYTES + len(_HDF5_SIGNATURE))
        n_bytes = os.fstat(file.fileno()).st_size
    if begin[SEAL_BYTES:] != _HDF5_SIGNATURE:
        raise StoreError(f"{path}: expected an HDF5 file with a user block of {SEAL_BYTES} bytes; build it again")
    seal = Seal(n_bytes, _hash_after_seal(path))
    with path.open("r+b", buffering=0) as file:
        os.pwrite(file.fileno(), seal.to_bytes(), 0)
    return seal


def _hash_after_seal(path: Path, progress: Callable[[int, int], None] | None = None) -> str:
    digest, piece = hashlib.sha256(), bytearray(_PIECE_BYTES)
    with path.open("rb", buffering=0) as file:
        n_total = os.fstat(file.fileno()).st_size
        n_done = file.seek(SEAL_BYTES)
        while n_read := file.readinto(piece):
            digest.update(memoryview(piece)[:n_read])
            n_done += n_read
            if progress is not None:
                progress(n_done, n_total)
    return digest.hexdigest()
