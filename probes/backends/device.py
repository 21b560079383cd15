"""The NVIDIA GPU as CuPy shows it: what is there, what is free, and rows brought to it in pieces.

CuPy's current device is used: with several, CUDA_VISIBLE_DEVICES chooses.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore.safe_text import first_line
from probes.errors import DeviceError, DeviceMemoryError

# Of the free memory, what a fit may be predicted to take: allocators round up, and fragments stay.
_SHARE = 0.9
# What cuML takes besides arrays of the fit's size: kernels, workspaces of cuBLAS and cuSOLVER (426 MiB in
# rapidsai/cuml issue 4485).
_FIXED_BYTES = 1 << 29
# As RMM, CUDA and cuBLAS say it where they raise no MemoryError.
_OUT_OF_MEMORY = ("out of memory", "out_of_memory", "bad_alloc", "memoryallocation", "alloc_failed")


def device_name(cupy: Any) -> str:
    """Return the name of the current device, with its place where there are several."""
    number, n_devices = int(cupy.cuda.Device().id), int(cupy.cuda.runtime.getDeviceCount())
    name = cupy.cuda.runtime.getDeviceProperties(number)["name"]
    name = name.decode() if isinstance(name, bytes) else str(name)
    return name if n_devices == 1 else f"{name} (GPU {number} of {n_devices}, chosen by CUDA_VISIBLE_DEVICES)"


def why_no_device(error: Exception | None) -> str:
    """Return in one line why no GPU can be used, from what asking for one raised, or None where there is none."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    text = "" if error is None else " ".join(f"{type(error).__name__}: {error}".split())
    if "InsufficientDriver" in text or "driver version is insufficient" in text:
        return (
            f"the NVIDIA driver is too old for this cuML ({text}); install a newer one: 580 for rvqprobe[cuml], "
            "535 for rvqprobe[cuml-cu12]"
        )
    if visible is not None and visible.split(",")[0].strip() in ("", "-1"):
        return f"CUDA_VISIBLE_DEVICES={visible!r} hides every GPU; unset it, or set it to the number of one"
    if error is None:
        return "cuML is installed, but no usable NVIDIA GPU was found"
    return f"cuML is installed, but the GPU does not answer ({text})"


class Device:
    """Memory of the current device.

    Parameters
    ----------
    cupy : module
    """

    def __init__(self, cupy: Any) -> None:
        self._cupy = cupy

    def usable_bytes(self) -> int:
        """Return the bytes that the arrays of a fit may take."""
        with guarded():
            self._cupy.get_default_memory_pool().free_all_blocks()
            free, _ = self._cupy.cuda.runtime.memGetInfo()
        return max(0, int(_SHARE * free) - _FIXED_BYTES)

    def put(self, array: NDArray[Any]) -> Any:
        """Return a copy of an array on the device."""
        with guarded():
            return self._cupy.asarray(array)

    def gather(self, table: Any, places: Any) -> Any:
        """Return rows of a table on the device at places on the device, C-ordered."""
        with guarded():
            return table[places]

    def collect(
        self, pieces: Iterable[tuple[NDArray[Any], NDArray[Any]]], n_rows: int, dim: int, order: str
    ) -> tuple[Any, NDArray[Any]]:
        """Bring rows to the device piece by piece; the host never holds more than one.

        Parameters
        ----------
        pieces : iterable of (X, y)
            X of shape (n, dim), y of shape (n,); together `n_rows` rows.
        order : {"C", "F"}
            Memory order on the device.

        Returns
        -------
        X : float64 array of shape (n_rows, dim), on the device
        y : array of shape (n_rows,), on the host
        """
        with guarded():
            X = self._cupy.empty((n_rows, dim), dtype=np.float64, order=order)
        filled, values = 0, []
        for piece, y in pieces:
            with guarded():
                X[filled : filled + len(y)] = self._cupy.asarray(piece)
            values.append(y)
            filled += len(y)
        assert filled == n_rows, (filled, n_rows)
        return X, np.concatenate(values)


@contextmanager
def guarded() -> Iterator[None]:
    """Turn what CuPy, RMM and cuML raise into one error of ours.

    Raises
    ------
    DeviceMemoryError
        Where device memory ran out (CuPy's OutOfMemoryError and RMM's are MemoryErrors).
    DeviceError
        Where the device failed, or a cuML of another version than is known here refused what it was asked.
    """
    try:
        yield
    except Exception as error:
        text = first_line(error)
        if isinstance(error, MemoryError) or any(words in str(error).lower() for words in _OUT_OF_MEMORY):
            raise DeviceMemoryError(f"the GPU has too little free memory for this fit ({text})") from error
        raise DeviceError(f"the GPU or cuML failed during a fit ({text})") from error
