"""What has to hold before HDF5 may parse a file in this process.

HDF5 was not made for files from strangers, and not for damaged ones either. A file that was neither written nor checked
here is compared with its seal, then parsed by a process of its own with limits on memory and time (`foreign`); then it
is remembered (`trust`).
"""

from pathlib import Path

from featstore import trust
from featstore.errors import StoreError
from featstore.foreign import check_foreign
from featstore.seal import check_seal, read_seal
from featstore.zarr_seal import is_zarr

# Read whole at first sight: seconds. Larger files are as large as they say, and `verify --full` reads every byte.
HASHED_AT_SIGHT_BYTES = 4 << 30


def admit(path: Path) -> None:
    """Let a file be opened by HDF5, or a folder as a store in Zarr, or refuse it.

    Raises
    ------
    StoreError
        When it is missing, no regular file, damaged, truncated, or breaks the rules for files from strangers.
    """
    if is_zarr(path):
        from featstore.zarr_rules import admit_folder  # only here: it is no part of reading HDF5

        admit_folder(path)
        return
    seal = read_seal(path)
    if trust.is_known(path):
        return
    identity = trust.identity_of(path)
    if seal is not None and seal.n_bytes <= HASHED_AT_SIGHT_BYTES:
        check_seal(path)
    check_foreign(path)
    if trust.identity_of(path) != identity:
        raise StoreError(f"{path}: was replaced while it was checked; open it again")
    trust.remember(path, identity)
