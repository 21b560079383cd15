"""The frames of one codec in a store: codes, labels and layers along one axis, and whose they are.

Layers count from 1, as the papers do; `Frames.layer` is the one place that maps them to array rows.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from featstore.errors import StoreError, UnknownNameError
from featstore.layer import Layer
from featstore.reading import BLOCK_FRAMES, frame_numbers, spans_of, take_from
from featstore.structure import plain_attributes
from featstore.zarr_folder import FolderGroup
from schemas.store import SPLITS, store_spec

if TYPE_CHECKING:
    from featstore.store import Store

_KEPT_OPEN = ("codes", "embeddings")  # see `Frames._dataset`


class Frames:
    """All frames of one codec: codes, embeddings and labels along one frame axis."""

    def __init__(self, store: "Store", name: str) -> None:
        self.store = store
        self.name = name
        group = self._group
        self.attributes = plain_attributes(group)
        self.sample_rate_hz = int(self.attributes["sample_rate_hz"])
        self.hop_samples = int(self.attributes["hop_samples"])
        self.frame_rate_hz = float(self.attributes["frame_rate_hz"])
        self.layout = str(self.attributes["layout"])
        self.weights = str(self.attributes["weights"])
        self.weights_sha256 = str(self.attributes["weights_sha256"])
        self.n_layers, self.n_codewords, self.dim = (int(size) for size in group["codebooks"].shape)
        self.n_frames = int(group["codes"].shape[1])
        self._spans: dict[str, list[tuple[str, int, int]]] = {}
        self._opened: dict[str, Any] = {}

    @property
    def _group(self) -> Any:
        return self.store._file["codecs"][self.name]

    def _dataset(self, path: str) -> Any:
        """Return codes or embeddings, opened once: HDF5 drops the chunks it holds (8 MiB) with the last handle.

        Other datasets are read from one end to the other, which takes no chunk twice, and are opened for each read.
        """
        file = self.store._file  # refuses a store that was closed
        if path in self._opened:
            return self._opened[path]
        dataset = file["codecs"][self.name][path]
        if not dataset.is_virtual:  # whose handle would hold the files of all parts open
            self._opened[path] = dataset
        return dataset

    def take_frames(self, path: str, lead: tuple[int, ...], frames: NDArray[np.int64]) -> NDArray[Any]:
        """Return a dataset's values at frames in any order; `lead` is the place along the axes before."""
        dtype = np.dtype(store_spec().dataset(path).dtype)
        return take_from(lambda index: self.read(path, index), dtype, lead, frames, BLOCK_FRAMES)

    def read(self, path: str, index: Any) -> NDArray[Any]:
        """Return a part of a dataset, by its path below the codec's group; StoreError where it cannot be decoded."""
        dataset = self._dataset(path) if path in _KEPT_OPEN else self._group[path]
        return self.store.read_of(dataset, f"codecs/{self.name}/{path}", index)

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """Frames of utterance u are ``offsets[u]`` up to ``offsets[u + 1]``; int64 (n_utterances + 1,)."""
        return self.read("offsets", ())

    @cached_property
    def codebooks(self) -> NDArray[np.float32]:
        """All codebooks, float32 (n_layers, n_codewords, dim)."""
        return self.read("codebooks", ())

    def layer(self, layer: int) -> Layer:
        """Return the embeddings of one RVQ layer, counted from 1, ready to be sliced.

        Raises
        ------
        UnknownNameError
            When the codec has no such layer.
        """
        if not 1 <= layer <= self.n_layers:
            raise UnknownNameError(
                f"{self.store.path}:/codecs/{self.name}: layers count from 1 to {self.n_layers}, asked was {layer}"
            )
        return Layer(self, layer - 1)

    def codes(self, start: int, stop: int) -> NDArray[np.uint16]:
        """Return the codes of frames start..stop, all layers: uint16 (n_layers, stop - start)."""
        self.check_present("codes", start, stop)
        return self.read("codes", (slice(None), slice(start, stop)))

    def labels(self, name: str, start: int, stop: int) -> NDArray[Any]:
        """Return a label track (``phoneme``, ``speaker``: indices; ``f0``: Hz, NaN unvoiced) of frames start..stop.

        Raises
        ------
        UnknownNameError
            When the store has no such track; the message lists those it has.
        """
        tracks = self._tracks
        if name not in tracks:
            raise UnknownNameError(
                f"{self.store.path}:/codecs/{self.name}/labels: no track {name!r}; it has {', '.join(tracks)}"
            )
        return self.read(f"labels/{name}", slice(start, stop))

    @cached_property
    def _tracks(self) -> list[str]:
        return sorted(self._group["labels"])

    def utterance_span(self, utterance: str | int) -> slice:
        """Return the frames of an utterance, by id or by place in the utterance table (counted from 0).

        Raises
        ------
        UnknownNameError
            When the store has no such utterance.
        """
        place = self._places.get(utterance, -1) if isinstance(utterance, str) else int(utterance)
        n_utterances = len(self.offsets) - 1
        if not 0 <= place < n_utterances:
            raise UnknownNameError(
                f"{self.store.path}: no utterance {utterance!r} among the {n_utterances} of this store; "
                "`utterances/id` lists them"
            )
        return slice(int(self.offsets[place]), int(self.offsets[place + 1]))

    @cached_property
    def _places(self) -> dict[str, int]:
        return {id_: place for place, id_ in enumerate(self.store.strings("utterances/id"))}

    def read_utterance(self, utterance: str | int, layers: Sequence[int] | None = None) -> NDArray[np.float32]:
        """Return an utterance's embeddings of some layers: float32 (n layers, n frames, dim).

        Parameters
        ----------
        utterance : str or int
            Id, or place in the utterance table. Many utterances are read fastest in the table's order.
        layers : sequence of int or None
            Counted from 1; None: all.
        """
        span = self.utterance_span(utterance)
        chosen = range(1, self.n_layers + 1) if layers is None else layers
        rows = np.empty((len(chosen), span.stop - span.start, self.dim), dtype=np.float32)
        for layer, out in zip(chosen, rows, strict=True):
            self.layer(layer).read_into(out, span.start, span.stop)
        return rows

    def of_split(self, split: Literal["train", "eval"]) -> NDArray[np.int64]:
        """Return the frames of a split as (start, stop) of each run of its utterances: int64 (n_spans, 2).

        `featstore.reading.frames_of` makes frame numbers of them.

        Raises
        ------
        UnknownNameError
            When it is neither ``train`` nor ``eval``.
        """
        if split not in SPLITS:
            raise UnknownNameError(f"{self.store.path}: no split {split!r}; it has {' and '.join(SPLITS)}")
        return spans_of(self.offsets, self._splits == SPLITS[split])

    def take_labels(self, name: str, frames: NDArray[Any]) -> NDArray[Any]:
        """Return a label track at frames in any order; as `labels`, of the shape of `frames`."""
        self.labels(name, 0, 0)  # refuses an unknown track
        return self.take_frames(f"labels/{name}", (), frame_numbers(frames, self.n_frames))

    def blocks(self, n: int = BLOCK_FRAMES) -> Iterator[tuple[int, int]]:
        """Yield (start, stop) over all frames in pieces of at most `n`."""
        for start in range(0, self.n_frames, n):
            yield start, min(start + n, self.n_frames)

    def frame_splits(self, start: int, stop: int) -> NDArray[np.int8]:
        """Return the split (0 train, 1 evaluation) of frames start..stop, int8 (stop - start,)."""
        return np.asarray(self.of_frames(self._splits, start, stop))

    def of_frames(self, values: NDArray[Any], start: int, stop: int) -> NDArray[Any]:
        """Return, for frames start..stop, the value of the utterance each belongs to.

        Parameters
        ----------
        values : array of shape (n_utterances,)
        """
        first = int(np.searchsorted(self.offsets, start, side="right")) - 1
        last = int(np.searchsorted(self.offsets, stop, side="left"))
        edges = np.clip(self.offsets[first : last + 1], start, stop)
        return np.repeat(values[first:last], np.diff(edges))

    @cached_property
    def _splits(self) -> NDArray[np.int8]:
        return self.store.numbers("utterances/split")

    def stored_bytes(self) -> int:
        """Return the bytes that this codec's datasets take in the file, compressed."""
        if isinstance(self._group, FolderGroup):
            return self._group.stored_bytes()
        total = 0

        def add(_: str, item: Any) -> None:
            nonlocal total
            total += item.id.get_storage_size() if isinstance(item, h5py.Dataset) else 0

        self._group.visititems(add)
        return total

    @property
    def has_latents(self) -> bool:
        """Whether the store holds the encoder's output before quantisation."""
        return "latents" in self._group

    def latents(self, start: int, stop: int) -> NDArray[np.float32]:
        """Return the encoder's output before quantisation of frames start..stop, float32 (stop - start, dim).

        Raises
        ------
        StoreError
            When the store has none: they are optional.
        """
        if not self.has_latents:
            raise StoreError(
                f"{self.store.path}:/codecs/{self.name}/latents: expected the encoder's output before quantisation, "
                "found none (the store format makes it optional); use codes or embeddings, or a store that has it"
            )
        self.check_present("latents", start, stop)
        return self.read("latents", slice(start, stop))

    def check_present(self, path: str, start: int, stop: int) -> None:
        """Refuse to read frames start..stop of a virtual store where the part that holds them is absent.

        HDF5 would read zeros, without a word.

        Raises
        ------
        StoreError
        """
        for name, first, last in self._absent_spans(path):
            if first < stop and start < last:
                raise StoreError(
                    f"{self.store.path}:/codecs/{self.name}/{path}: frames {first} to {last} lie in the part {name}, "
                    f"which {self.store.absent_parts[name]}; bring it back, or merge the parts again"
                )

    def _absent_spans(self, path: str) -> list[tuple[str, int, int]]:
        """Return (part, first frame, last frame) of what a dataset shows of parts that are absent."""
        if not self.store.absent_parts:
            return []
        if path not in self._spans:
            axis = store_spec().dataset(path).frame_axis
            spans = []
            for source in self._group[path].virtual_sources():
                if source.file_name in self.store.absent_parts:
                    low, high = source.vspace.get_select_bounds()
                    spans.append((source.file_name, int(low[axis]), int(high[axis]) + 1))
            self._spans[path] = spans
        return self._spans[path]

    @cached_property
    def _has_embeddings(self) -> bool:
        return "embeddings" in self._group

    def stored_embeddings(self) -> Any:
        """Return the HDF5 dataset of a dense store's embeddings; None in a factored one."""
        return self._dataset("embeddings") if self._has_embeddings else None

    def stored_codes(self) -> Any:
        """Return the HDF5 dataset of codes."""
        return self._dataset("codes")

    def check_frames_present(self, path: str, frames: NDArray[np.int64]) -> None:
        """Refuse scattered frames of a virtual store as `check_present` does a span of them."""
        for _, first, last in self._absent_spans(path):
            absent = frames[(first <= frames) & (frames < last)]
            if len(absent):
                self.check_present(path, int(absent[0]), int(absent[0]) + 1)
