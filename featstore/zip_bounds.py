"""What a zip archive would unpack to, asked of its central directory before anything is unpacked."""

import os
import zipfile
from pathlib import Path
from typing import BinaryIO

_MOST_MEMBERS = 10_000  # a torch archive has one a tensor, the largest codec here under 1000


def check_zip(source: Path | BinaryIO, max_bytes: int, *, is_packed: bool = False) -> None:
    """Refuse an archive that is damaged or would fill the memory.

    Parameters
    ----------
    source : Path or binary file
        An archive, or a file that begins as one.
    max_bytes : int
        That its members may have in all, unpacked.
    is_packed : bool
        Whether its writer compresses. Otherwise the members cannot have more bytes than the file; those of a bomb do,
        be they compressed or overlapping.

    Raises
    ------
    ValueError
        What is wrong with it, in words that follow "found".
    """
    try:
        with zipfile.ZipFile(source) as archive:
            members = archive.infolist()
    except Exception as error:  # on damaged bytes zipfile raises half a dozen kinds
        raise ValueError(f"a damaged archive ({type(error).__name__}: {error})") from error
    n_bytes = sum(member.file_size for member in members)
    if len(members) > _MOST_MEMBERS:
        raise ValueError(f"an archive of {len(members)} members, expected at most {_MOST_MEMBERS}")
    if n_bytes > max_bytes:
        raise ValueError(f"an archive that unpacks to {n_bytes} bytes, expected at most {max_bytes}")
    if is_packed:
        return
    size = source.stat().st_size if isinstance(source, Path) else source.seek(0, os.SEEK_END)
    if n_bytes > size:
        raise ValueError(f"an archive of {size} bytes that unpacks to {n_bytes}: its writer makes none")
