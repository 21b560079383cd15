"""Read a store: format 1.0, both layouts, identical values.

    with Store("store.h5") as store:
        store["encodec"].layer(3)[a:b]        # float32 (b - a, dim), dense or factored

Layers count from 1, as the papers do; `Frames` is the one place that maps them to array rows.
"""

import json
import logging
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import hdf5plugin  # noqa: F401  (registers the Zstandard filter with HDF5)
import numpy as np
from numpy.typing import NDArray

from featstore.admission import admit
from featstore.errors import StoreError, UnknownNameError
from featstore.parts import PartRow, find_absent
from featstore.structure import check_structure, plain_attributes
from schemas.store import check_store_version, store_spec

LOG = logging.getLogger(__name__)
_N_WARNED = 5  # absent parts that are named
BLOCK_FRAMES = 65_536  # frames read or written at once; a multiple of every chunk's length


class Store:
    """A finished store, open for reading; a context manager.

    Parameters
    ----------
    path : Path or str

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
        return [value.decode("utf-8") for value in self._dataset(path)[()]]

    def numbers(self, path: str) -> NDArray[Any]:
        """Return a dataset of numbers from the root groups, e.g. ``utterances/split``."""
        return np.asarray(self._dataset(path)[()])

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

    @property
    def _group(self) -> Any:
        return self.store._file["codecs"][self.name]

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """Frames of utterance u are ``offsets[u]`` up to ``offsets[u + 1]``; int64 (n_utterances + 1,)."""
        return np.asarray(self._group["offsets"][()])

    @cached_property
    def codebooks(self) -> NDArray[np.float32]:
        """All codebooks, float32 (n_layers, n_codewords, dim)."""
        return np.asarray(self._group["codebooks"][()])

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
        return np.asarray(self._group["codes"][:, start:stop])

    def labels(self, name: str, start: int, stop: int) -> NDArray[Any]:
        """Return a label track (``phoneme``, ``speaker``: indices; ``f0``: Hz, NaN unvoiced) of frames start..stop.

        Raises
        ------
        UnknownNameError
            When the store has no such track; the message lists those it has.
        """
        tracks = self._group["labels"]
        if name not in tracks:
            raise UnknownNameError(
                f"{self.store.path}:/codecs/{self.name}/labels: no track {name!r}; it has {', '.join(sorted(tracks))}"
            )
        return np.asarray(tracks[name][start:stop])

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
        return np.asarray(self._group["latents"][start:stop])

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
            axis = store_spec().dataset(path).shape.index("n_frames")
            spans = []
            for source in self._group[path].virtual_sources():
                if source.file_name in self.store.absent_parts:
                    low, high = source.vspace.get_select_bounds()
                    spans.append((source.file_name, int(low[axis]), int(high[axis]) + 1))
            self._spans[path] = spans
        return self._spans[path]

    def stored_embeddings(self) -> Any:
        """Return the HDF5 dataset of a dense store's embeddings; None in a factored one."""
        return self._group.get("embeddings")

    def stored_codes(self) -> Any:
        """Return the HDF5 dataset of codes."""
        return self._group["codes"]


class Layer:
    """One layer's embeddings, (n_frames, dim) float32, read by slices of frames."""

    def __init__(self, frames: Frames, row: int) -> None:
        self._frames = frames
        self._row = row
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
        self._frames.check_present("codes", start, stop)
        return np.asarray(self._frames.stored_codes()[self._row, start:stop])

    def __getitem__(self, frames: slice) -> NDArray[np.float32]:
        """Return the embeddings of a slice of frames; the same values from either layout."""
        if not isinstance(frames, slice):
            raise TypeError(f"a layer is read by slices of frames, such as [0:1000], not by {frames!r}")
        start, stop, step = frames.indices(len(self))
        stop = max(start, stop) if step > 0 else stop
        if step < 1:
            raise ValueError(f"a layer is read forwards: step {step} is not positive")
        dense = self._frames.stored_embeddings()
        if dense is not None:
            self._frames.check_present("embeddings", start, stop)
            return np.asarray(dense[self._row, start:stop:step])
        rows: NDArray[np.float32] = self.codebook[self.codes(start, stop)[::step]]
        return rows


def _open(path: Path) -> Any:
    try:
        # A finished store never changes, so nobody has to be kept away; and some network file systems have no locks.
        return h5py.File(path, "r", locking=False)
    except OSError as error:
        raise StoreError(f"{path}: the HDF5 file does not open ({error}); it is damaged, build it again") from error
