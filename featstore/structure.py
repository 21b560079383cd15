"""An open HDF5 file or Zarr folder against the store format: attributes, dtypes and shapes, without reading a frame.

Only what the format names is looked up, and only through hard links: a soft or external link leads to another place or
file and counts as nothing, and what the format does not know is never opened. Sizes are not bounded here: a file from a
stranger passes `featstore.foreign.check_foreign` first.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from featstore.errors import StoreError
from featstore.safe_text import printable
from featstore.zarr_folder import FolderArray, FolderGroup
from schemas.store import Contents, DatasetSpec, check_contents, store_spec

_N_SHOWN = 5  # problems that a message spells out
_GROUPS = (h5py.Group, FolderGroup)


def check_structure(file: Any, path: Path) -> None:
    """Refuse a file whose attributes, dtypes or shapes break the format.

    Parameters
    ----------
    file : h5py.File or FolderGroup
        Open for reading.
    path : Path
        Names the file in the message.

    Raises
    ------
    StoreError
        With the violations found.
    """
    spec, groups = store_spec(), _item(file, "codecs")
    names = list(groups) if isinstance(groups, _GROUPS) else []
    items = {name: _item(groups, name) for name in names}
    codecs = {name: item for name, item in items.items() if isinstance(item, _GROUPS)}
    problems = [
        f"/codecs/{printable(name, 100)}: expected a group, found {'a link' if item is None else 'a dataset'}"
        for name, item in items.items()
        if name not in codecs
    ]
    problems += check_contents(
        _contents(file, spec.datasets),
        {name: _contents(group, spec.codec_datasets) for name, group in codecs.items()},
    )
    raise_problems(path, problems, _advice(codecs))


def raise_problems(path: Path, problems: list[str], advice: Sequence[str] = ()) -> None:
    """Raise StoreError with the first few of `problems`, if there are any, and all of `advice`."""
    if problems:
        more = f" (and {len(problems) - _N_SHOWN} more)" if len(problems) > _N_SHOWN else ""
        next_steps = "; ".join([*advice, "rebuild the store"])
        raise StoreError(f"{path}: {'; '.join(problems[:_N_SHOWN])}{more}; {next_steps}")


def plain_attributes(item: Any) -> dict[str, Any]:
    """Return the attributes that the format knows as str, bool, int and float; others are not read."""
    spec = store_spec()
    known = {attribute.name for attribute in spec.root_attributes + spec.codec_attributes}
    return {name: _plain(item.attrs[name]) for name in sorted(known) if name in item.attrs}


def _advice(codecs: dict[str, Any]) -> list[str]:
    """Return what to do with stores of embeddings alone, as other programs write them."""
    alone = [name for name, item in codecs.items() if "embeddings" in item and "codes" not in item]
    if not alone:
        return []
    return [
        f"embeddings without codes ({', '.join(alone)}) cannot be probed by any backend: fit them with scikit-learn "
        "itself, or write codes and codebooks as schemas/store-1.0.md says"
    ]


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    return value.item() if isinstance(value, np.generic) else value


def _contents(group: Any, specs: tuple[DatasetSpec, ...]) -> Contents:
    datasets: dict[str, tuple[str, tuple[int, ...]]] = {}
    for spec in specs:
        item = _item(group, spec.path)
        if isinstance(item, (h5py.Dataset, FolderArray)):
            is_text = h5py.check_string_dtype(item.dtype) is not None
            datasets[spec.path] = ("string" if is_text else str(item.dtype), item.shape or ())
    return Contents(plain_attributes(group), datasets)


def _item(group: Any, path: str) -> Any:
    """Return what lies at `path` below `group` by hard links alone; None where nothing does."""
    for name in path.split("/"):
        if not isinstance(group, _GROUPS) or not _is_of_it(group, name):
            return None
        group = group[name]
    return group


def _is_of_it(group: Any, name: str) -> bool:
    if isinstance(group, FolderGroup):  # of which the rules refuse links before it is opened
        return name in group
    return isinstance(group.get(name, getlink=True), h5py.HardLink)
