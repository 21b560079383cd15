"""Arrays read back from an .npz file that may be damaged: whole, or refused in words; nothing is unpickled."""

import io
from typing import Any
from zipfile import ZipFile

from numpy.lib import format as npy
from numpy.typing import NDArray


def read_arrays(content: bytes) -> dict[str, NDArray[Any]]:
    """Return the arrays of an .npz file by name.

    Each member is read to its end, so that its CRC-32 is checked, before NumPy sees a byte of it.

    Raises
    ------
    ValueError
        Whatever is wrong with the bytes, in words that follow "found".
    """
    try:
        with ZipFile(io.BytesIO(content)) as file:
            members = {name.removesuffix(".npy"): file.read(name) for name in file.namelist()}
        return {name: npy.read_array(io.BytesIO(data), allow_pickle=False) for name, data in members.items()}
    except Exception as error:  # zipfile, its decompressors and NumPy raise a dozen kinds on damaged bytes
        raise ValueError(f"no whole .npz file ({type(error).__name__}: {error})") from error
