"""Time one reader at one access, from a cold page cache and from a warm one."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.reading.readers import Reader, can
from benchmarks.reading.rows import Rows

ACCESSES = ("layer", "utterance", "random_frames")
COLD_REPEATS = 3
CAN_DROP = hasattr(os, "posix_fadvise")  # where it is not there, nothing is read cold


class Asked:
    """What is read at each access, the same for every reader.

    Parameters
    ----------
    rows : Rows
    n_utterances : int
        Drawn with repetition.
    n_batches, batch_frames : int
        Of scattered frames.
    seed : int
    """

    def __init__(self, rows: Rows, n_utterances: int, n_batches: int, batch_frames: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.utterances = rng.integers(0, rows.n_utterances, n_utterances).tolist()
        self.batches = list(rng.integers(0, rows.n_frames, (n_batches, batch_frames)))
        self._rows = rows
        self._expected = rows.layer()

    def read(self, reader: Reader, access: str, use: Callable[[NDArray[np.float32]], Any] = len) -> None:
        """Read what the access asks for; `use` is called with each array."""
        if access == "layer":
            use(reader.layer())
        elif access == "utterance":
            for place in self.utterances:
                use(reader.utterance(place))
        else:
            for frames in self.batches:
                use(reader.random_frames(frames))

    def check(self, reader: Reader, access: str) -> None:
        """Refuse to time a reader that returns anything but the rows."""
        places: list[Any] = {
            "layer": [slice(None)],
            "utterance": [self._rows.span(place) for place in self.utterances],
            "random_frames": self.batches,
        }[access]
        left = iter(places)

        def same(found: NDArray[np.float32]) -> None:
            if not np.array_equal(found, self._expected[next(left)]):
                raise AssertionError(f"{reader.layout}, {reader.method}: {access} returned other rows")

        self.read(reader, access, same)

    def most_rows(self, access: str) -> int:
        """Return the rows of the largest array that one read returns."""
        if access == "layer":
            return self._rows.n_frames
        return max(map(len, self.batches)) if access == "random_frames" else int(np.diff(self._rows.offsets).max())

    def megabytes(self, access: str) -> float:
        """Return how much the access reads: 10^6 bytes of float32 rows."""
        n_frames = {
            "layer": self._rows.n_frames,
            "utterance": sum(self._rows.offsets[place + 1] - self._rows.offsets[place] for place in self.utterances),
            "random_frames": sum(map(len, self.batches)),
        }[access]
        return float(n_frames * self._rows.dim * 4 / 1e6)


def time_reader(reader: Reader, asked: Asked, repeats: int) -> list[dict[str, Any]]:
    """Return a row for each access and state of the cache."""
    told = []
    for access in ACCESSES:
        if not can(type(reader), access):
            continue
        seconds_of = {"cold": _cold(reader, asked, access, min(repeats, COLD_REPEATS))} if CAN_DROP else {}
        for cache, seconds in (seconds_of | {"warm": _warm(reader, asked, access, repeats)}).items():
            told.append(
                {
                    "dim": reader.rows.dim,
                    "access": access.replace("_", "-"),
                    "layout": reader.layout,
                    "method": reader.method,
                    "cache": cache,
                    "seconds": float(f"{seconds:.4g}"),
                    "mb_per_second": float(f"{asked.megabytes(access) / seconds:.4g}"),
                }
            )
    return told


def drop_from_page_cache(path: Path) -> None:
    """Ask the kernel to forget a file's pages once they are on the disk: a hint, which Linux takes for clean pages."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _cold(reader: Reader, asked: Asked, access: str, repeats: int) -> float:
    """Time the best of some first reads, with opening."""
    reader.caller_s(asked.most_rows(access))  # is there before it is read into
    times = []
    for _ in range(repeats):
        for path in reader.files():
            drop_from_page_cache(path)
        started = time.perf_counter()
        reader.open()
        asked.read(reader, access)
        times.append(time.perf_counter() - started)
        reader.close()
    return min(times)


def _warm(reader: Reader, asked: Asked, access: str, repeats: int) -> float:
    """Time the best of later reads, opened before."""
    reader.open()
    asked.check(reader, access)
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        asked.read(reader, access)
        times.append(time.perf_counter() - started)
    reader.close()
    return min(times)
