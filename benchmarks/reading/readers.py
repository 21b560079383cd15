"""One class for each way to keep a layer's rows on disk and to read them: all of them, an utterance's, scattered ones.

`write` makes the files and returns them; `open` what a reader keeps open while it reads. The rows that are read are new
arrays, unless the method's name says that they are the caller's.
"""
# ruff: noqa: D102  (what each method does is told once, in Reader)

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from benchmarks.reading.rows import CODEC, LAYER, Rows, write_rows_store
from featstore.store import Store
from featstore.writer import rows_of_chunk

Array = NDArray[np.float32]


class Reader:
    """A layout on disk and a method of reading it.

    Parameters
    ----------
    folder : Path
    rows : Rows
        Where utterances lie; their embeddings come from the files.
    """

    layout: str
    method: str

    def __init__(self, folder: Path, rows: Rows) -> None:
        self.folder, self.rows = folder, rows
        self.path = folder / f"{self.layout}-{rows.dim}"
        self._array = np.empty((0, rows.dim), np.float32)

    def caller_s(self, n: int) -> Array:
        """Return the first `n` rows of an array that is there already, its pages too."""
        if len(self._array) < n:
            self._array = np.zeros((n, self.rows.dim), np.float32)
            self._array.fill(0)
        return self._array[:n]

    def write(self) -> None:
        """Write the files, once for all readers of a layout."""
        raise NotImplementedError

    def files(self) -> list[Path]:
        """Return the files that hold the rows."""
        return sorted(path for path in self.path.rglob("*") if path.is_file()) if self.path.is_dir() else [self.path]

    def open(self) -> None:
        """Open what stays open between reads."""

    def close(self) -> None:
        """Close it."""

    def layer(self) -> Array:
        """Return all rows, float32 (n_frames, dim)."""
        raise NotImplementedError

    def utterance(self, place: int) -> Array:
        """Return an utterance's rows."""
        raise NotImplementedError

    def random_frames(self, frames: NDArray[np.int64]) -> Array:
        """Return scattered rows."""
        raise NotImplementedError


class Npy(Reader):
    """One contiguous array, loaded whole."""

    layout, method = "npy", "np.load"

    def __init__(self, folder: Path, rows: Rows) -> None:
        super().__init__(folder, rows)
        self.path = self.path.with_suffix(".npy")

    def write(self) -> None:
        np.save(self.path, self.rows.layer())

    def layer(self) -> Array:
        return np.load(self.path)


class NpyInto(Npy):
    """The same, read into an array of the caller's."""

    method = "readinto, caller's array"

    def layer(self) -> Array:
        with open(self.path, "rb", buffering=0) as file:
            np.lib.format.read_magic(file)
            np.lib.format.read_array_header_1_0(file)
            out = self.caller_s(self.rows.n_frames)
            left = memoryview(out.reshape(-1).view(np.uint8))
            while len(left):
                left = left[file.readinto(left) :]
        return out


class NpyMapped(Npy):
    """The same, mapped, and copied out: a map alone has read nothing."""

    method = "np.memmap"

    def open(self) -> None:
        self._map = np.load(self.path, mmap_mode="r")

    def close(self) -> None:
        del self._map

    def layer(self) -> Array:
        return np.array(self._map)

    def utterance(self, place: int) -> Array:
        return np.array(self._map[self.rows.span(place)])

    def random_frames(self, frames: NDArray[np.int64]) -> Array:
        return np.array(self._map[frames])


class Npz(Reader):
    """One NPZ for each utterance, with this layer alone: whoever keeps all layers in one array reads all of them."""

    layout, method = "npz", "np.load"

    def write(self) -> None:
        self.path.mkdir()
        embeddings = self.rows.layer()
        for place in range(self.rows.n_utterances):
            np.savez(self._name(place), embeddings=embeddings[self.rows.span(place)])

    def _name(self, place: int) -> Path:
        return self.path / f"u-{place:06d}.npz"

    def layer(self) -> Array:
        return np.concatenate([self.utterance(place) for place in range(self.rows.n_utterances)])

    def utterance(self, place: int) -> Array:
        with np.load(self._name(place)) as arrays:
            embeddings: Array = arrays["embeddings"]
            return embeddings

    def random_frames(self, frames: NDArray[np.int64]) -> Array:
        return by_utterance(self.rows, frames, self.utterance)


class Grouped(Reader):
    """One HDF5 group for each utterance, as h5features keeps them; contiguous, without compression."""

    layout, method = "hdf5-groups", "h5py"

    def write(self) -> None:
        embeddings = self.rows.layer()
        with h5py.File(self.path, "w") as file:
            for place in range(self.rows.n_utterances):
                file[f"items/u-{place:06d}/features"] = embeddings[self.rows.span(place)]

    def open(self) -> None:
        self._file = h5py.File(self.path, "r", locking=False)

    def close(self) -> None:
        self._file.close()

    def layer(self) -> Array:
        return np.concatenate([self.utterance(place) for place in range(self.rows.n_utterances)])

    def utterance(self, place: int) -> Array:
        return np.asarray(self._file[f"items/u-{place:06d}/features"][()])

    def random_frames(self, frames: NDArray[np.int64]) -> Array:
        return by_utterance(self.rows, frames, self.utterance)


class Zarr(Reader):
    """A Zarr 3 array in its default compression, in chunks of as many rows as a dense store's."""

    layout, method = "zarr", "default pipeline"
    pipeline = "zarr.core.codec_pipeline.BatchedCodecPipeline"

    def write(self) -> None:
        import zarr

        shape = (self.rows.n_frames, self.rows.dim)
        chunks = (min(rows_of_chunk(self.rows.dim), self.rows.n_frames), self.rows.dim)
        zarr.create_array(self.path, shape=shape, chunks=chunks, dtype="float32")[:] = self.rows.layer()

    def open(self) -> None:
        import zarr

        zarr.config.set({"codec_pipeline.path": self.pipeline})
        self._zarr: Any = zarr.open_array(self.path, mode="r")

    def layer(self) -> Array:
        return np.asarray(self._zarr[:])

    def utterance(self, place: int) -> Array:
        return np.asarray(self._zarr[self.rows.span(place)])

    def random_frames(self, frames: NDArray[np.int64]) -> Array:
        return np.asarray(self._zarr.oindex[frames, slice(None)])


class Zarrs(Zarr):
    """The same files through the `zarrs` pipeline."""

    method = "zarrs pipeline"
    pipeline = "zarrs.ZarrsCodecPipeline"

    def open(self) -> None:
        import zarrs  # noqa: F401

        super().open()


class Rebuilt(Reader):
    """A store, by `read_into` and `take`: rows rebuilt from codes. Its chunks of codes are held by HDF5's cache."""

    method = "store.read_into, caller's array"

    def write(self) -> None:
        assert self.layout in ("dense", "factored")
        write_rows_store(self.path, self.rows, self.layout)

    def open(self) -> None:
        self._store = Store(self.path)
        self._frames = self._store[CODEC]
        self._layer = self._frames.layer(LAYER)

    def close(self) -> None:
        self._store.close()

    def layer(self) -> Array:
        out = self.caller_s(self.rows.n_frames)
        self._layer.read_into(out, 0, self.rows.n_frames)
        return out

    def utterance(self, place: int) -> Array:
        span = self._frames.utterance_span(place)
        out = self.caller_s(span.stop - span.start)
        self._layer.read_into(out, span.start, span.stop)
        return out

    def random_frames(self, frames: NDArray[np.int64]) -> Array:
        return self._layer.take(frames, self.caller_s(len(frames)))


class RebuiltDense(Rebuilt):
    """From a dense store."""

    layout = "dense"


class RebuiltFactored(Rebuilt):
    """From a factored one."""

    layout = "factored"


class Missed(RebuiltFactored):
    """The same where HDF5's cache (4 million codes) holds no chunk that is needed, as in a store of true size."""

    method = "store.read_into, caller's array, no chunk in HDF5's cache"

    def _drop(self) -> None:
        self._frames._opened.clear()  # with its last handle a dataset's cache goes

    def layer(self) -> Array:
        self._drop()
        return super().layer()

    def utterance(self, place: int) -> Array:
        self._drop()
        return super().utterance(place)

    def random_frames(self, frames: NDArray[np.int64]) -> Array:
        self._drop()
        return super().random_frames(frames)


class Held(RebuiltFactored):
    """The same with all codes of the layer in memory, as `featstore.torch_dataset` keeps them."""

    method = "store.read_into, caller's array, codes held"

    def open(self) -> None:
        super().open()
        self._layer.hold_codes()


class Stored(Rebuilt):
    """A store, by slices: the rows of a dense one as they were written, decompressed by HDF5."""

    layout, method = "dense", "store.layer[a:b]"

    def layer(self) -> Array:
        return self._layer[:]

    def utterance(self, place: int) -> Array:
        return self._layer[self._frames.utterance_span(place)]

    random_frames = Reader.random_frames


class Sliced(Stored):
    """Slices of a factored store."""

    layout = "factored"


READERS = (
    Npy, NpyInto, NpyMapped, Npz, Grouped, Zarr, Zarrs, Stored, RebuiltDense, Sliced, RebuiltFactored, Missed, Held,
)  # fmt: skip
NEEDS = {Zarr: ("zarr",), Zarrs: ("zarr", "zarrs")}
"""Packages without which a reader is left out."""


def missing(reader: type[Reader]) -> list[str]:
    """Return the packages that a reader needs and that are not installed."""
    return [name for name in NEEDS.get(reader, ()) if importlib.util.find_spec(name) is None]


def can(reader: type[Reader], access: str) -> bool:
    """Tell whether a method reads this way at all."""
    return getattr(reader, access) is not getattr(Reader, access)


def by_utterance(rows: Rows, frames: NDArray[np.int64], read: Any) -> Array:
    """Return scattered rows where each utterance lies for itself: every one that is met is read once, whole."""
    found = np.empty((len(frames), rows.dim), np.float32)
    owners = np.searchsorted(rows.offsets, frames, side="right") - 1
    for owner, wanted in _groups(owners):
        found[wanted] = read(owner)[frames[wanted] - rows.offsets[owner]]
    return found


def _groups(owners: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    order = np.argsort(owners, kind="stable")
    present, firsts = np.unique(owners[order], return_index=True)
    yield from zip(present.tolist(), np.split(order, firsts[1:]), strict=True)
