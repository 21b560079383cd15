"""Read a store: format 1.0, both layouts, identical values.

    with Store("store.h5") as store:
        store["encodec"].layer(3)[a:b]        # float32 (b - a, dim), dense or factored

Layers count from 1, as the papers do; `Frames` is the one place that maps them to array rows.
"""

import json
import logging
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import h5py
import hdf5plugin  # noqa: F401  (registers the Zstandard filter with HDF5)
import numpy as np
from numpy.typing import NDArray

from featstore.admission import admit
from featstore.errors import StoreError, UnknownNameError
from featstore.parts import PartRow, find_absent
from featstore.reading import check_rows, check_span, frame_numbers, gather_rows, spans_of, take_from
from featstore.safe_text import printable
from featstore.structure import check_structure, plain_attributes
from featstore.zarr_folder import FolderGroup, open_folder
from featstore.zarr_seal import is_zarr
from schemas.store import SPLITS, check_store_version, store_spec

LOG = logging.getLogger(__name__)
_KEPT_OPEN = ("codes", "embeddings")  # see `Frames._dataset`
_N_WARNED = 5  # absent parts that are named
BLOCK_FRAMES = 65_536  # frames read or written at once; a multiple of every chunk's length


class Store:
    """A finished store, open for reading; a context manager.

    Parameters
    ----------
    path : Path or str
        An HDF5 file, or a folder in Zarr 3 (`featstore.zarr_store`).

    Raises
    ------
    StoreError
        When the file is missing, no HDF5 file, truncated, unfinished, or breaks the format.
    SchemaError
        When it is of another format or of an unknown major version.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        admit(self.path)
        self._open()

    @classmethod
    def of_own(cls, path: Path) -> "Store":
        """Open a file that this process has just written, before it is sealed and has its name."""
        store = cls.__new__(cls)
        store.path = path
        store._open()
        return store

    def _open(self) -> None:
        self._opened = _open(self.path)
        try:
            self._check()
        except BaseException:
            self._opened.close()
            raise

    def _check(self) -> None:
        attributes = self.attributes
        check_store_version(attributes.get("format"), attributes.get("format_version"), str(self.path))
        if not attributes.get("complete"):
            raise StoreError(f"{self.path}: the store was never finished; build it again")
        check_structure(self._file, self.path)
        if self.parts and os.environ.get("HDF5_VDS_PREFIX"):
            raise StoreError(
                f"{self.path}: HDF5_VDS_PREFIX is set, so HDF5 would read other files than its parts; unset it"
            )
        for name, problem in list(self.absent_parts.items())[:_N_WARNED]:
            LOG.warning(
                "warning: %s: its part %s %s; reading frames of it is refused (%d of %d parts are there)",
                self.path,
                name,
                problem,
                len(self.parts) - len(self.absent_parts),
                len(self.parts),
            )

    def __enter__(self) -> "Store":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; arrays already read stay valid."""
        self._opened.close()

    @property
    def _file(self) -> Any:
        """The HDF5 file, or StoreError once it is closed: HDF5's own errors do not say so."""
        if not self._opened:
            raise StoreError(f"{self.path}: the store was closed; read within its `with` block, or open it again")
        return self._opened

    @cached_property
    def attributes(self) -> dict[str, Any]:
        """Root attributes as plain Python values."""
        return plain_attributes(self._file)

    @property
    def content_digest(self) -> str:
        """Hex SHA-256 over the content, independent of layout, compression and how the store was built."""
        return str(self.attributes["content_digest"])

    def json_attribute(self, name: str) -> dict[str, Any]:
        """Return a root attribute that holds JSON (``corpus``, ``build_options``, ``producer_versions``)."""
        value: dict[str, Any] = json.loads(self.attributes[name])
        return value

    @cached_property
    def parts(self) -> list[PartRow]:
        """The files over which a virtual store lies; none for any other store."""
        if "parts/path" not in self._file:
            return []
        columns = self.strings("parts/path"), self.numbers("parts/n_bytes").tolist()
        texts = self.strings("parts/sha256"), self.strings("parts/content_digest")
        return [PartRow(*row) for row in zip(*columns, *texts, strict=True)]

    @cached_property
    def absent_parts(self) -> dict[str, str]:
        """Parts of a virtual store that are missing or have changed, and what is wrong with each."""
        return find_absent(self.path, self.parts)

    def strings(self, path: str) -> list[str]:
        """Return a dataset of strings, e.g. ``utterances/id`` or ``vocab/phonemes``."""
        return [value.decode("utf-8") for value in self.read(path, ())]

    def numbers(self, path: str) -> NDArray[Any]:
        """Return a dataset of numbers from the root groups, e.g. ``utterances/split``."""
        return self.read(path, ())

    def read(self, path: str, index: Any) -> NDArray[Any]:
        """Return a part of a dataset, by its path below the root.

        Raises
        ------
        StoreError
            When there is none, or what is stored there cannot be decoded.
        """
        return self.read_of(self._dataset(path), path, index)

    def read_of(self, dataset: Any, path: str, index: Any) -> NDArray[Any]:
        """Return a part of an open dataset; `path` names it in the error."""
        try:
            return np.asarray(dataset[index])
        except OSError as error:
            reason = printable(str(error).splitlines()[0] if str(error) else type(error).__name__, 200)
            raise StoreError(
                f"{self.path}:/{path}: cannot be read ({reason}); the file or its disk is damaged: see what "
                "verify --full finds, and get a whole copy or build it again"
            ) from error

    def _dataset(self, path: str) -> Any:
        try:
            return self._file[path]
        except KeyError as error:
            raise StoreError(f"{self.path}:/{path}: expected a dataset, found none; rebuild the store") from error

    @property
    def n_utterances(self) -> int:
        """Number of utterances in the store."""
        return int(self._dataset("utterances/id").shape[0])

    @cached_property
    def codec_names(self) -> list[str]:
        """Names of the codecs in the store, sorted."""
        return sorted(self._file["codecs"]) if "codecs" in self._file else []

    def __getitem__(self, codec: str) -> "Frames":
        """Return the frames of one codec.

        Raises
        ------
        UnknownNameError
            When the store has no such codec; the message lists those it has.
        """
        if codec not in self.codec_names:
            has = ", ".join(self.codec_names) or "none"
            raise UnknownNameError(f"{self.path}: no codec {codec!r} in this store; it has {has}")
        return Frames(self, codec)


class Frames:
    """All frames of one codec: codes, embeddings and labels along one frame axis."""

    def __init__(self, store: Store, name: str) -> None:
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

    def _take(self, path: str, lead: tuple[int, ...], frames: NDArray[np.int64]) -> NDArray[Any]:
        dtype = np.dtype(store_spec().dataset(path).dtype)
        return take_from(lambda index: self._read(path, index), dtype, lead, frames, BLOCK_FRAMES)

    def _read(self, path: str, index: Any) -> NDArray[Any]:
        dataset = self._dataset(path) if path in _KEPT_OPEN else self._group[path]
        return self.store.read_of(dataset, f"codecs/{self.name}/{path}", index)

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """Frames of utterance u are ``offsets[u]`` up to ``offsets[u + 1]``; int64 (n_utterances + 1,)."""
        return self._read("offsets", ())

    @cached_property
    def codebooks(self) -> NDArray[np.float32]:
        """All codebooks, float32 (n_layers, n_codewords, dim)."""
        return self._read("codebooks", ())

    def layer(self, layer: int) -> "Layer":
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
        return self._read("codes", (slice(None), slice(start, stop)))

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
        return self._read(f"labels/{name}", slice(start, stop))

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
        return self._take(f"labels/{name}", (), frame_numbers(frames, self.n_frames))

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
        return self._read("latents", slice(start, stop))

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


class Layer:
    """One layer's embeddings, (n_frames, dim) float32, read by slices of frames.

    Rows are rebuilt from codes in either layout, which is many times faster than reading those of a dense store; that
    the two are equal is a rule of the format, which ``verify --full`` checks.
    """

    def __init__(self, frames: Frames, row: int) -> None:
        self._frames = frames
        self._row = row
        self._held: NDArray[np.uint16] | None = None
        self.number = row + 1
        self.shape = (frames.n_frames, frames.dim)
        self.dtype = np.dtype(np.float32)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def codebook(self) -> NDArray[np.float32]:
        """Codebook of this layer, float32 (n_codewords, dim)."""
        result: NDArray[np.float32] = self._frames.codebooks[self._row]
        return result

    def codes(self, start: int, stop: int) -> NDArray[np.uint16]:
        """Return this layer's codes of frames start..stop, uint16."""
        if self._held is not None:
            return self._held[start:stop]
        self._frames.check_present("codes", start, stop)
        return self._frames._read("codes", (self._row, slice(start, stop)))

    def hold_codes(self, codes: NDArray[np.uint16] | None = None) -> NDArray[np.uint16]:
        """Keep this layer's codes in memory, 2 bytes a frame, for many reads of scattered frames; return them.

        Parameters
        ----------
        codes : uint16 array of shape (n_frames,) or None
            What this returned of the same store before; None: read them.
        """
        if self._held is None:
            held = self.codes(0, len(self)) if codes is None else codes
            held.flags.writeable = False
            self._held = held
        return self._held

    def read_into(self, out: NDArray[np.float32], start: int, stop: int) -> None:
        """Write the embeddings of frames start..stop into an array of the caller's, whatever the layout.

        Parameters
        ----------
        out : float32 array of shape (stop - start, dim)
            C-contiguous; ``tensor.numpy()`` of a torch tensor will do.
        start, stop : int
            0 <= start <= stop <= n_frames.

        Raises
        ------
        ValueError
            When `out` is of another shape, dtype or order.
        IndexError
            When the span is not within the codec's frames.
        StoreError
            When the part of a virtual store that holds them is absent, or a code is none of the codebook's.
        """
        check_span(start, stop, len(self))
        check_rows(out, stop - start, self.shape[1])
        first = start
        while first < stop:  # to the end of a chunk, so that none is decompressed twice
            last = min(stop, (first // BLOCK_FRAMES + 1) * BLOCK_FRAMES)
            self._gather(self.codes(first, last), out[first - start : last - start])
            first = last

    def take(self, frames: NDArray[Any], out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Return the embeddings of frames in any order, repeated or not.

        Parameters
        ----------
        frames : array of int of shape (n,)
        out : float32 array of shape (n, dim) or None
            C-contiguous; written to and returned when given.

        Returns
        -------
        float32 array of shape (n, dim)

        Raises
        ------
        TypeError, IndexError
            When frames are no integers, or not within the codec's.
        ValueError, StoreError
            As `read_into`.
        """
        numbers = frame_numbers(frames, len(self))
        rows = np.empty((len(numbers), self.shape[1]), dtype=np.float32) if out is None else out
        check_rows(rows, len(numbers), self.shape[1])
        self._gather(self._codes_at(numbers), rows)
        return rows

    def _codes_at(self, frames: NDArray[np.int64]) -> NDArray[np.uint16]:
        if self._held is not None:
            return self._held[frames]
        self._frames.check_frames_present("codes", frames)
        return self._frames._take("codes", (self._row,), frames)

    def _gather(self, codes: NDArray[np.uint16], out: NDArray[np.float32]) -> None:
        try:
            gather_rows(self.codebook, codes, out)
        except IndexError as error:
            raise StoreError(
                f"{self._frames.store.path}:/codecs/{self._frames.name}/codes: {error}; the file is damaged, build it "
                "again"
            ) from error

    def __getitem__(self, frames: slice) -> NDArray[np.float32]:
        """Return the embeddings of a slice of frames; the same values from either layout."""
        if not isinstance(frames, slice):
            raise TypeError(f"a layer is read by slices of frames, such as [0:1000], not by {frames!r}")
        start, stop, step = frames.indices(len(self))
        stop = max(start, stop) if step > 0 else stop
        if step < 1:
            raise ValueError(f"a layer is read forwards: step {step} is not positive")
        rows = np.empty((len(range(start, stop, step)), self.shape[1]), dtype=np.float32)
        if step == 1:
            self.read_into(rows, start, stop)
        else:
            self._gather(self.codes(start, stop)[::step], rows)
        return rows

    def stored_rows(self, start: int, stop: int) -> NDArray[np.float32] | None:
        """Return the rows that a dense store holds of frames start..stop, float32 (stop - start, dim); else None.

        They equal ``layer[start:stop]``, which is faster: only a check of that has to read them.
        """
        if self._frames.stored_embeddings() is None:
            return None
        self._frames.check_present("embeddings", start, stop)
        return self._frames._read("embeddings", (self._row, slice(start, stop)))


def _open(path: Path) -> Any:
    if is_zarr(path):
        return open_folder(path)
    try:
        # A finished store never changes, so nobody has to be kept away; and some network file systems have no locks.
        return h5py.File(path, "r", locking=False)
    except OSError as error:
        raise StoreError(f"{path}: the HDF5 file does not open ({error}); it is damaged, build it again") from error
