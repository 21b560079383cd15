"""Read a small .npz that may be damaged or hostile: whole, or refused in words; nothing in it is executed."""

import io
import math
import zipfile
from typing import Any

from numpy.lib import format as npy
from numpy.typing import NDArray

from featstore.zip_bounds import check_zip

MAX_BYTES = 4 << 30  # that its arrays may have in all


def read_npz(content: bytes, max_bytes: int = MAX_BYTES) -> dict[str, NDArray[Any]]:
    """Return the arrays of an .npz file by name, given its bytes.

    Members are read to their end, so that their checksums are compared, and an array is allocated only when its bytes
    are there: a header alone may ask for any size.

    Raises
    ------
    ValueError
        Whatever is wrong with the file, in words that follow "found".
    """
    check_zip(io.BytesIO(content), max_bytes, is_packed=True)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return {name.removesuffix(".npy"): _array(archive, name) for name in archive.namelist()}
    except Exception as error:  # zipfile, its decompressors and NumPy raise a dozen kinds on damaged bytes
        raise ValueError(f"no whole .npz file ({type(error).__name__}: {error})") from error


def _array(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    file = io.BytesIO(archive.read(name))
    version = npy.read_magic(file)
    read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read_header(file)
    n_bytes = len(file.getbuffer()) - file.tell()
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != n_bytes:
        raise ValueError(f"{name} says {dtype} of shape {shape} but has {n_bytes} bytes")
    file.seek(0)
    array: NDArray[Any] = npy.read_array(file, allow_pickle=False)
    return array
