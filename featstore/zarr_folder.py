"""A Zarr 3 folder with the small part of h5py's interface that reading a store takes.

`FolderGroup` and `FolderArray` stand where `h5py.Group` and `h5py.Dataset` stand for an HDF5 store, so that
`featstore.store` reads both. The package ``zarr`` is imported when a folder is opened, and not before. It works in an
event loop of its own, whose unfinished tasks would complain at the end of the process: so signals wait for its calls.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from featstore.errors import StoreError
from featstore.stopping import signals_held
from featstore.zarr_seal import METADATA_NAME

TEXT_ATTRIBUTE, TEXT_ENCODING = "encoding", "utf-8"
"""An array of uint8 with this attribute holds strings along its last axis, padded with NUL."""


class FolderArray:
    """An array of a folder, read by slices; strings come as NumPy's fixed-length bytes, as h5py returns them."""

    is_virtual = False

    def __init__(self, array: Any, where: str, folder: Path) -> None:
        self._array, self._where, self._folder = array, where, folder
        self.is_text = array.attrs.get(TEXT_ATTRIBUTE) == TEXT_ENCODING and array.dtype == np.uint8 and array.ndim > 1
        n_axes = array.ndim - self.is_text
        self.shape = tuple(int(size) for size in array.shape[:n_axes])
        self.chunks = tuple(int(side) for side in array.chunks[:n_axes])
        self.dtype = h5py.string_dtype("utf-8", int(array.shape[-1])) if self.is_text else array.dtype
        self.ndim = n_axes

    def __getitem__(self, place: Any) -> NDArray[Any]:
        try:
            with signals_held():
                values = np.asarray(self._array[place])
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            raise StoreError(
                f"{self._where}: does not decode ({error}): the file is damaged or gone; check the store with "
                "verify --full, and get a whole copy or export it again"
            ) from error
        if not self.is_text:
            return values
        texts: NDArray[Any] = np.ascontiguousarray(values).view(f"S{values.shape[-1]}")[..., 0]
        return texts

    def stored_bytes(self) -> int:
        """Return the bytes that its chunks take on disk."""
        chunks = self._folder / "c"
        return sum(os.path.getsize(Path(place, name)) for place, _, names in os.walk(chunks) for name in names)


class FolderGroup:
    """A group of a folder, or the whole folder; false once it is closed."""

    def __init__(self, group: Any, where: str, folder: Path) -> None:
        self._group, self._where, self._folder = group, where, folder
        self._items: dict[str, FolderGroup | FolderArray] = {}
        self._is_open = True
        self.attrs: dict[str, Any] = dict(group.attrs)

    def __bool__(self) -> bool:
        return self._is_open

    def __enter__(self) -> "FolderGroup":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Forget what is open below; no file is held open between reads."""
        self._items.clear()
        self._is_open = False

    def __contains__(self, path: str) -> bool:
        return (self._folder / path / METADATA_NAME).is_file()

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(entry.name for entry in os.scandir(self._folder) if entry.name in self))

    def __getitem__(self, path: str) -> Any:
        if path not in self._items:
            if path not in self:
                raise KeyError(path)
            with signals_held():
                item = self._group[path]
            kind: Any = FolderArray if hasattr(item, "dtype") else FolderGroup
            self._items[path] = kind(item, f"{self._where.rstrip('/')}/{path}", self._folder / path)
        return self._items[path]

    def get(self, path: str, default: Any = None) -> Any:
        """Return the group or array at a path below, or `default` where none is."""
        try:
            return self[path]
        except KeyError:
            return default

    def stored_bytes(self) -> int:
        """Return the bytes that all arrays below take on disk, compressed."""
        return sum(self[name].stored_bytes() for name in self)


def open_folder(path: Path) -> FolderGroup:
    """Open the root group of a Zarr 3 folder for reading.

    Raises
    ------
    StoreError
        When it is no Zarr 3 group.
    """
    import zarr

    try:
        store = _whole_store(path)
        with signals_held():
            root = zarr.open_group(store, mode="r", zarr_format=3, use_consolidated=False)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise StoreError(
            f"{path}: the Zarr folder does not open ({error}); it is damaged, get a whole copy or export it again"
        ) from error
    return FolderGroup(root, f"{path}:/", path)


def _whole_store(path: Path) -> Any:
    from zarr.storage import LocalStore

    class WholeStore(LocalStore):
        """A folder in which no chunk may be missing: Zarr would read its fill value, without a word."""

        async def get(self, key: str, *arguments: Any, **options: Any) -> Any:
            found = await super().get(key, *arguments, **options)
            if found is None and not key.endswith(METADATA_NAME):
                raise FileNotFoundError(f"no file {key}")
            return found

    return WholeStore(path, read_only=True)
