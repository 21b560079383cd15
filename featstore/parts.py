"""The parts over which a virtual store lies: which they are, and whether they are still there."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from featstore.admission import admit
from featstore.errors import StoreError
from featstore.foreign_child import odd_part
from featstore.seal import read_seal


@dataclass(frozen=True)
class PartRow:
    """A file whose frames a virtual store shows: its name relative to the store's folder, and what it has to be."""

    path: str
    n_bytes: int
    sha256: str
    content_digest: str


def part_path(store: Path, name: str) -> Path:
    """Return where a part of a virtual store lies: HDF5 looks beside the file itself, not beside a link to it."""
    return store.resolve().parent / name


def find_absent(store: Path, parts: Sequence[PartRow]) -> dict[str, str]:
    """Return the names of parts that are missing or not what they were, and in words what is wrong.

    Those that are there are let in as any store is (`admission.admit`), since HDF5 will parse them too.
    """
    absent = {}
    for part in parts:
        path = part_path(store, part.path)
        if odd_part(part.path, store):
            absent[part.path] = "does not lie in or below the store's folder"
        elif not path.exists():
            absent[part.path] = "is missing"
        else:
            try:
                seal = read_seal(path)
                if seal is None or (seal.n_bytes, seal.sha256) != (part.n_bytes, part.sha256):
                    absent[part.path] = "has changed since"
                else:
                    admit(path)
            except StoreError as error:
                absent[part.path] = f"cannot be used ({error})"
    return absent
