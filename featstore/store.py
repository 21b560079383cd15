"""Read a store: format 1.0, both layouts, identical values.

    with Store("store.h5") as store:
        store["encodec"].layer(3)[a:b]        # float32 (b - a, dim), dense or factored

`featstore.frames` has what a store says of a codec, `featstore.layer` how embeddings are read.
"""

import json
import logging
import os
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
from featstore.frames import Frames
from featstore.parts import PartRow, find_absent
from featstore.safe_text import printable
from featstore.structure import check_structure, plain_attributes
from featstore.zarr_folder import open_folder
from featstore.zarr_seal import is_zarr
from schemas.store import check_store_version

LOG = logging.getLogger(__name__)
_N_WARNED = 5  # absent parts that are named


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

    def has(self, path: str) -> bool:
        """Tell whether there is a dataset at a path below the root."""
        return path in self._file

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

    def __getitem__(self, codec: str) -> Frames:
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


def _open(path: Path) -> Any:
    if is_zarr(path):
        return open_folder(path)
    try:
        # A finished store never changes, so nobody has to be kept away; and some network file systems have no locks.
        return h5py.File(path, "r", locking=False)
    except OSError as error:
        raise StoreError(f"{path}: the HDF5 file does not open ({error}); it is damaged, build it again") from error
