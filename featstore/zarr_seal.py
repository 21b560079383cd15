"""The seal of a store in a Zarr folder: name, length and hash of every file, in one file of the folder's root.

It does for a folder what the user block of an HDF5 store does for a file (`featstore.seal`): a missing, further, longer
or shorter file is seen whenever the store is opened, a changed bit by ``verify --full``. It is no signature either.
"""

import json
import os
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from featstore.atomic import rename, sync
from featstore.errors import StoreError
from featstore.hashing import file_sha256
from featstore.json_file import NotJsonError, read_json_object
from featstore.safe_text import printable

SEAL_NAME = "rvqprobe-seal.json"
METADATA_NAME = "zarr.json"
_SEAL_BYTES = 64 << 20
_N_FILES = 1 << 18  # a store of all of LibriSpeech, dense, has some 40,000
_DEPTH = 16
_WAY_OUT = (
    "get a whole copy or export it again, or, if the change was meant, check and seal it anew with "
    "verify --full --reseal"
)


@dataclass(frozen=True)
class SealedFile:
    """What a file of the folder was when the store was finished: length in bytes and hex SHA-256."""

    n_bytes: int
    sha256: str


def is_zarr(path: Path) -> bool:
    """Tell whether a path is a folder that holds, or held, a store in Zarr."""
    try:
        return any((path / name).is_file() for name in (METADATA_NAME, SEAL_NAME))
    except (OSError, ValueError):  # no right to look, or a NUL in the name: told by whoever opens it
        return False


def list_files(folder: Path) -> dict[str, os.stat_result]:
    """Return the status of every file below a folder, by its name relative to it with forward slashes; sorted.

    Raises
    ------
    StoreError
        When there is something else than files and folders (a link could lead out of the store), or too many of them.
    """
    found: dict[str, os.stat_result] = {}
    waiting = [("", 0)]
    while waiting:
        place, depth = waiting.pop()
        with os.scandir(folder / place) as entries:
            for entry in entries:
                name, status = f"{place}{entry.name}", entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode) and depth < _DEPTH:
                    waiting.append((f"{name}/", depth + 1))
                elif stat.S_ISREG(status.st_mode):
                    found[name] = status
                else:
                    kind = "a link" if stat.S_ISLNK(status.st_mode) else "something else (a device, or too deep)"
                    raise StoreError(
                        f"{folder}: expected files and folders only, found {kind}: {printable(name, 200)}; "
                        "get a whole copy or export it again"
                    )
                if len(found) + len(waiting) > _N_FILES:
                    raise StoreError(f"{folder}: expected at most {_N_FILES:,} files, found more; check the path")
    return dict(sorted(found.items()))


def write_folder_seal(folder: Path) -> None:
    """Hash every file of a finished folder and write the seal; whole or not at all."""
    names = [name for name in list_files(folder) if name != SEAL_NAME]
    files = {name: SealedFile((folder / name).stat().st_size, file_sha256(folder / name)) for name in names}
    temporary = folder.with_name(f".{folder.name}.{SEAL_NAME}")  # outside: a further file in it would break the seal
    try:
        temporary.write_bytes(_to_bytes(files))
        sync(temporary)
        rename(temporary, folder / SEAL_NAME)
    finally:
        temporary.unlink(missing_ok=True)


def read_folder_seal(folder: Path) -> Mapping[str, SealedFile] | None:
    """Return what the seal says of each file, compared with the names and lengths that are there; None without a seal.

    Raises
    ------
    StoreError
        When the seal is damaged, or a file is missing, further, or of another length.
    """
    there = list_files(folder)
    if SEAL_NAME not in there:
        return None
    sealed = _parse(folder / SEAL_NAME)
    del there[SEAL_NAME]
    missing, further = sorted(sealed.keys() - there), sorted(there.keys() - sealed)
    other = [name for name, file in sealed.items() if name in there and there[name].st_size != file.n_bytes]
    if missing:
        what = f"lacks {_some(missing)}"
    elif further:
        what = f"holds {_some(further)}, which was not there when it was finished"
    elif other:
        expected, found = sealed[other[0]].n_bytes, there[other[0]].st_size
        what = f"{_some(other)}: expected {expected:,} bytes, found {found:,}"
    else:
        return sealed
    raise StoreError(f"{folder}: is not as it was when it was finished: {what}; {_WAY_OUT}")


def check_folder_seal(
    folder: Path, progress: Callable[[int, int], None] | None = None
) -> Mapping[str, SealedFile] | None:
    """Read every file and compare it with the seal; None where there is none.

    Parameters
    ----------
    folder : Path
    progress : callable (n_done, n_total) or None
        Called with bytes hashed.

    Raises
    ------
    StoreError
        As `read_folder_seal` does, and when a hash differs.
    """
    sealed = read_folder_seal(folder)
    if sealed is None:
        return None
    n_done, n_total = 0, sum(file.n_bytes for file in sealed.values())
    for name, file in sealed.items():
        if file_sha256(folder / name) != file.sha256:
            raise StoreError(
                f"{folder}: {printable(name, 200)} is not as it was when the store was finished (its SHA-256 differs "
                f"from the seal): damaged, or changed by another program; {_WAY_OUT}"
            )
        n_done += file.n_bytes
        if progress is not None:
            progress(n_done, n_total)
    return sealed


def _parse(path: Path) -> dict[str, SealedFile]:
    try:
        content = read_json_object(path, _SEAL_BYTES)
        files = {name: SealedFile(n_bytes, sha256) for name, (n_bytes, sha256) in content["files"].items()}
        # The one way to write it: so no bit of the seal itself can change unseen.
        is_whole = _to_bytes(files) == path.read_bytes() and all(
            isinstance(file.sha256, str) and re.fullmatch("[0-9a-f]{64}", file.sha256) for file in files.values()
        )
    except (NotJsonError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise StoreError(f"{path}: the seal is damaged ({printable(error, 200)}); {_WAY_OUT}") from error
    if not is_whole:
        raise StoreError(f"{path}: the seal is damaged; {_WAY_OUT}")
    return files


def _to_bytes(files: Mapping[str, SealedFile]) -> bytes:
    content = {"rvqprobe_seal": 1, "files": {name: [file.n_bytes, file.sha256] for name, file in files.items()}}
    return f"{json.dumps(content, indent=0, sort_keys=True)}\n".encode("ascii")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{printable(names[0], 200)}{more}"
