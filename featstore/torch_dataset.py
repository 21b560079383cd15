"""Datasets for a PyTorch training loop: the utterances of a store, or its frames in shuffled batches.

    dataset = FrameBatches("store.h5", "encodec", layers=[1], labels=["phoneme"], split="train", batch_size=4096)
    for epoch in range(10):
        dataset.set_epoch(epoch)
        for batch in DataLoader(dataset, batch_size=None):
            rows, phoneme = batch["embeddings"][0], batch["phoneme"]

Making a batch takes less than sending it from a worker (0.1 ms against 5 for 4,096 rows of 128 numbers), so workers pay
where something slow is done with it; they are safe either way.

No HDF5 handle crosses from one process to another. A dataset opens its store at the first item that a process asks of
it; what is pickled for a spawned worker is the path and the options; and before a fork every open one is closed, so
that a child finds none. A worker opens the file for itself.
"""

import os
import threading
import weakref
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from featstore.errors import StoreError
from featstore.frames import Frames
from featstore.layer import Layer
from featstore.reading import frames_of
from featstore.store import Store
from schemas.store import SPLITS

Item = dict[str, Any]
Split = Literal["train", "eval"]
_READING = threading.RLock()  # held over a fork, so that no read is cut in two by it


class _StoreDataset(Dataset[Item]):
    """What both datasets share: options, and a store that each process opens for itself.

    Parameters
    ----------
    path : Path or str
    codec : str
    layers : sequence of int or None
        Counted from 1; None: all.
    labels : sequence of str
        Tracks among ``phoneme``, ``speaker`` (int64 tensors of indices) and ``f0`` (float32, Hz, NaN where unvoiced).
    split : {"train", "eval"} or None
        None: both.
    hold : bool
        Keep codes and labels in memory, in each process that reads: 2 bytes a frame and layer, 2 (phoneme) or 4 a frame
        and track. Without, an item decompresses the chunks that it meets. Read one item before workers are forked, and
        they share what is held.

    Raises
    ------
    StoreError, SchemaError
        When the file is no store that can be read.
    UnknownNameError
        When it has no such codec, layer, track or split.
    """

    def __init__(
        self,
        path: Path | str,
        codec: str,
        *,
        layers: Sequence[int] | None = None,
        labels: Sequence[str] = ("phoneme",),
        split: Split | None = None,
        hold: bool = True,
    ) -> None:
        self.path, self.codec, self.split, self.hold = Path(path).absolute(), codec, split, hold
        self.labels = tuple(labels)
        with Store(self.path) as store:  # closed again: whoever reads opens it
            frames = store[codec]
            self.layers = tuple(range(1, frames.n_layers + 1) if layers is None else layers)
            for layer in self.layers:
                frames.layer(layer)
            for name in self.labels:
                frames.labels(name, 0, 0)
            if split is not None:
                frames.of_split(split)
            self._content_digest = store.content_digest
            self._set_up(frames)
        self._forget()

    def _set_up(self, frames: Frames) -> None:
        """Read what the number of items depends on."""
        raise NotImplementedError

    def _forget(self) -> None:
        self._store: Store | None = None
        self._codes: dict[int, NDArray[np.uint16]] = {}
        self._tracks: dict[str, NDArray[Any]] = {}

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        for name in ("_store", "_codes", "_tracks", "_frames", "_layers", *self._tables):
            state.pop(name, None)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    _tables: tuple[str, ...] = ()
    """Names of what `_set_up` leaves and a pickle need not carry."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the store in this process; the next item opens it again."""
        with _READING:
            if self._store is not None:
                self._store.close()
                self._store = None

    def _open(self) -> tuple[Frames, list[Layer]]:
        """Return the codec's frames and the asked layers, from a store that this process has opened."""
        if self._store is None:
            with ExitStack() as stack:
                store = stack.enter_context(Store(self.path))
                self._start(store)
                stack.pop_all()
            self._store = store
            _OPEN.add(self)
        return self._frames, self._layers

    def _start(self, store: Store) -> None:
        if store.content_digest != self._content_digest:
            raise StoreError(
                f"{self.path}: expected the content that this dataset was made with ({self._content_digest[:12]}), "
                f"found {store.content_digest[:12]}; make the dataset again"
            )
        self._frames = store[self.codec]
        if any(name not in self.__dict__ for name in self._tables):
            self._set_up(self._frames)
        self._layers = [self._frames.layer(layer) for layer in self.layers]
        if self.hold:
            self._hold()

    def _hold(self) -> None:
        for layer in self._layers:
            self._codes[layer.number] = layer.hold_codes(self._codes.get(layer.number))
        for name in self.labels:
            if name not in self._tracks:
                self._tracks[name] = self._frames.labels(name, 0, self._frames.n_frames)

    def _labels(self, frames: slice | NDArray[np.int64]) -> Item:
        """Return the label tracks of a span of frames, or of some in any order, as torch's losses take them."""
        found = {}
        for name in self.labels:
            if name in self._tracks:
                labels = self._tracks[name][frames]
            elif isinstance(frames, slice):
                labels = self._frames.labels(name, frames.start, frames.stop)
            else:
                labels = self._frames.take_labels(name, frames)
            # copied in any case: what is held must not change through a tensor
            found[name] = torch.from_numpy(labels.astype(np.float32 if labels.dtype.kind == "f" else np.int64))
        return found


_OPEN: "weakref.WeakSet[_StoreDataset]" = weakref.WeakSet()


class Utterances(_StoreDataset):
    """Map-style dataset of utterances, in the order of the utterance table; parameters as above.

    Item i is a dictionary: ``id`` (str), ``embeddings`` (float32 tensor (n layers, n frames, dim)) and each label track
    (n frames,). They differ in length: load them with ``batch_size=None``, or ``collate_fn=join_utterances``.
    """

    _tables = ("_ids", "_spans")

    def _set_up(self, frames: Frames) -> None:
        ids, offsets = frames.store.strings("utterances/id"), frames.offsets
        splits = frames.store.numbers("utterances/split")
        chosen = np.arange(len(ids)) if self.split is None else np.flatnonzero(splits == SPLITS[self.split])
        self._ids = [ids[place] for place in chosen]
        self._spans = np.stack([offsets[chosen], offsets[chosen + 1]], axis=1)
        self._n_items = len(chosen)

    def __len__(self) -> int:
        return self._n_items

    def __getitem__(self, index: int) -> Item:
        place = _checked(index, len(self))
        with _READING:
            frames, layers = self._open()
            start, stop = map(int, self._spans[place])
            rows = np.empty((len(layers), stop - start, frames.dim), dtype=np.float32)
            for layer, out in zip(layers, rows, strict=True):
                layer.read_into(out, start, stop)
            labels = self._labels(slice(start, stop))
            return {"id": self._ids[place], "embeddings": torch.from_numpy(rows), **labels}


class FrameBatches(_StoreDataset):
    """Map-style dataset of batches of frames, shuffled over the whole store, or in its order.

    Item i is batch i, a dictionary: ``frames`` (int64 tensor (batch_size,), their numbers in the store),
    ``embeddings`` (float32 tensor (n layers, batch_size, dim)) and each label track (batch_size,). Load it with
    ``batch_size=None`` and without a sampler: the shuffle is the dataset's. It holds 4 bytes a frame in each process.

    Parameters
    ----------
    batch_size : int
        The last batch may be smaller.
    shuffle : bool
    seed : int
        With the epoch it fixes the order.
    **options
        ``layers``, ``labels``, ``split`` and ``hold`` as above.
    """

    _tables = ("_spans",)

    def __init__(
        self,
        path: Path | str,
        codec: str,
        *,
        batch_size: int,
        shuffle: bool = True,
        seed: int = 0,
        **options: Any,
    ) -> None:
        if batch_size < 1 or seed < 0:
            raise ValueError(f"expected batch_size from 1 and seed from 0 on, found {batch_size} and {seed}")
        self.batch_size, self.shuffle, self.seed, self.epoch = batch_size, shuffle, seed, 0
        super().__init__(path, codec, **options)

    def _set_up(self, frames: Frames) -> None:
        whole = np.array([[0, frames.n_frames]])
        self._spans = whole if self.split is None else frames.of_split(self.split)
        self._n_frames = int(np.diff(self._spans).sum())

    def _forget(self) -> None:
        super()._forget()
        self._order: NDArray[np.uint32] | None = None

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        state.pop("_order", None)
        return state

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch, before its `DataLoader` is gone through, so that workers are told.

        Not with ``persistent_workers=True``: they are told once, and would keep the first order.
        """
        if epoch != self.epoch:
            self.epoch, self._order = epoch, None

    def __len__(self) -> int:
        return -(-self._n_frames // self.batch_size)

    def __getitem__(self, index: int) -> Item:
        batch = _checked(index, len(self))
        with _READING:
            frames, layers = self._open()
            chosen = self._in_order()[batch * self.batch_size : (batch + 1) * self.batch_size].astype(np.int64)
            rows = np.empty((len(layers), len(chosen), frames.dim), dtype=np.float32)
            for layer, out in zip(layers, rows, strict=True):
                layer.take(chosen, out)
            labels = self._labels(chosen)
            return {"frames": torch.from_numpy(chosen), "embeddings": torch.from_numpy(rows), **labels}

    def _in_order(self) -> NDArray[np.uint32]:
        """Return the numbers of all frames in this epoch's order, uint32 (n,)."""
        if self._order is None:
            order = frames_of(self._spans, np.uint32)
            if self.shuffle:
                np.random.default_rng([self.seed, self.epoch]).shuffle(order)
            self._order = order
        return self._order


def join_utterances(items: Sequence[Item]) -> Item:
    """Join items of `Utterances` along their frames: a ``collate_fn``.

    Returns
    -------
    dict
        ``id`` (list of str), ``n_frames`` (int64 tensor (n items,)), ``embeddings`` (float32 tensor (n layers, all
        frames, dim)) and each label track (all frames,).
    """
    told = {
        name: torch.cat([item[name] for item in items], dim=1 if name == "embeddings" else 0)
        for name in items[0]
        if name != "id"
    }
    n_frames = torch.tensor([item["embeddings"].shape[1] for item in items])
    return {"id": [item["id"] for item in items], "n_frames": n_frames, **told}


def _checked(index: int, n: int) -> int:
    """Return an index from 0 on; IndexError ends a loop over the dataset, as Python's protocol has it."""
    if not -n <= index < n:
        raise IndexError(f"expected an item from 0 to {n - 1}, found {index}")
    return index % n


def _before_fork() -> None:
    _READING.acquire()
    for dataset in list(_OPEN):
        dataset.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_READING.release, after_in_child=_READING.release)
