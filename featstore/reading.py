"""Rows of embeddings from codes, spans of splits, and scattered frames: what `Frames` and `Layer` read with.

The format promises ``embeddings == codebooks[l][codes[l]]`` bit for bit, and `verify --full` proves it. So rows are
rebuilt from codes in either layout: a code is 2 bytes where a row is 512 or 4096, and copying rows out of a codebook
that lies in the cache is faster than any way of reading them (`benchmarks/bench_read.py` measures it). Decompressing
the rows' own chunks outside of HDF5's lock was tried: faster than HDF5, still slower than `np.load`.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Rows gathered at once. NumPy widens the codes to 8 bytes each: 16 KB, which stay in the first-level cache. From 1,024
# to 16,384 rows it makes no difference; 256 take a quarter longer.
BLOCK_FRAMES = 65_536  # frames read or written at once; a multiple of every chunk's length
PIECE_ROWS = 2048


def gather_rows(codebook: NDArray[np.float32], codes: NDArray[np.uint16], out: NDArray[np.float32]) -> None:
    """Write ``codebook[codes]`` into `out`, in bounded pieces.

    Parameters
    ----------
    codebook : float32 array of shape (n_codewords, dim)
    codes : uint16 array of shape (n,)
    out : float32 array of shape (n, dim)
        C-contiguous.

    Raises
    ------
    IndexError
        When a code is none of the codebook's; nothing has been written then.
    """
    if len(codes) and int(codes.max()) >= len(codebook):
        raise IndexError(f"expected codes from 0 to {len(codebook) - 1}, found {int(codes.max())}")
    for first in range(0, len(codes), PIECE_ROWS):
        piece = slice(first, first + PIECE_ROWS)
        # checked above, so nothing is clipped; mode "raise" would write to a buffer first, and takes twice as long
        np.take(codebook, codes[piece], axis=0, out=out[piece], mode="clip")


def check_rows(out: NDArray[np.float32], n: int, dim: int) -> None:
    """Refuse a caller's array that cannot take `n` rows as they are.

    Raises
    ------
    ValueError
        Unless it is float32, C-contiguous, writeable and of shape (n, dim).
    """
    fits = isinstance(out, np.ndarray) and out.dtype == np.float32 and out.shape == (n, dim)
    if not fits or not out.flags.c_contiguous or not out.flags.writeable:
        found = f"{out.dtype} {out.shape}" if isinstance(out, np.ndarray) else type(out).__name__
        kind = "" if not fits else " that is not contiguous or not writeable"
        raise ValueError(
            f"expected a C-contiguous, writeable float32 array of shape ({n}, {dim}), found {found}{kind}; "
            "make it with np.empty"
        )


def check_span(start: int, stop: int, n_frames: int) -> None:
    """Refuse a span of frames that is not within the codec's.

    Raises
    ------
    IndexError
    """
    if not 0 <= start <= stop <= n_frames:
        raise IndexError(f"expected 0 <= start <= stop <= {n_frames} frames, found start {start} and stop {stop}")


def frame_numbers(frames: Any, n_frames: int) -> NDArray[np.int64]:
    """Return frame numbers as int64 (n,).

    Raises
    ------
    TypeError
        When they are not integers.
    IndexError
        When one is not of the codec, or they are not along one axis.
    """
    given = np.asarray(frames)
    if given.size == 0:
        given = given.astype(np.int64)
    if given.dtype.kind not in "iu":
        raise TypeError(f"expected frame numbers, integers, found {given.dtype}")
    if given.ndim != 1:
        raise IndexError(f"expected frame numbers along one axis, found shape {given.shape}")
    if given.size and not 0 <= int(given.min()) <= int(given.max()) < n_frames:
        raise IndexError(f"expected frames from 0 to {n_frames - 1}, found {int(given.min())} to {int(given.max())}")
    return given.astype(np.int64, copy=False)


def take_from(
    read: Callable[[Any], NDArray[Any]],
    dtype: np.dtype[Any],
    lead: tuple[int, ...],
    frames: NDArray[np.int64],
    block: int,
) -> NDArray[Any]:
    """Return ``dataset[*lead, frames]`` for frames in any order, repeated or not.

    HDF5 takes a list of places one by one. Here each block that is met is read once, from the first to the last frame
    wanted of it, and the frames are picked in memory.

    Parameters
    ----------
    read : callable (index) -> array
        Reads ``dataset[index]``; frames lie along its last axis.
    dtype : dtype
        Of the dataset.
    lead : tuple of int
        Place along the axes before it.
    frames : int64 array of shape (n,)
    block : int
        Frames of a chunk, so that no chunk is decompressed twice.

    Returns
    -------
    array of shape (n,), of the dataset's dtype
    """
    order = np.argsort(frames, kind="stable")
    in_order = frames[order]
    found = np.empty(len(frames), dtype=dtype)
    for first, last in _runs(in_order // block):
        wanted = in_order[first:last]
        start = int(wanted[0])
        found[order[first:last]] = read((*lead, slice(start, int(wanted[-1]) + 1)))[wanted - start]
    return found


def spans_of(offsets: NDArray[np.int64], is_in: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the frames of the chosen utterances as spans, neighbours joined.

    Parameters
    ----------
    offsets : int64 array of shape (n_utterances + 1,)
    is_in : bool array of shape (n_utterances,)

    Returns
    -------
    int64 array of shape (n_spans, 2)
        Start and stop of each, in order, none empty.
    """
    edges = np.flatnonzero(np.diff(is_in.astype(np.int8), prepend=0, append=0))
    spans = offsets[edges].reshape(-1, 2)
    return spans[spans[:, 0] < spans[:, 1]]


def frames_of(spans: NDArray[np.int64], dtype: type[np.int64] | type[np.uint32] = np.int64) -> NDArray[Any]:
    """Return the numbers of all frames in spans, one after the other; `dtype` (n,).

    Parameters
    ----------
    spans : int64 array of shape (n_spans, 2)
    dtype : type
        uint32 takes half the memory.
    """
    frames, n_done = np.empty(int(np.diff(spans, axis=1).sum()), dtype=dtype), 0
    for start, stop in spans.tolist():
        frames[n_done : n_done + stop - start] = np.arange(start, stop, dtype=dtype)
        n_done += stop - start
    return frames


def _runs(values: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Yield (first, last) of each run of equal values."""
    if not len(values):
        return
    edges = np.flatnonzero(np.diff(values)) + 1
    yield from zip([0, *edges.tolist()], [*edges.tolist(), len(values)], strict=True)
