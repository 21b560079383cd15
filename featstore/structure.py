"""An open HDF5 file against the store format: attributes, dtypes and shapes, without reading a frame."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from featstore.errors import StoreError
from schemas.store import Contents, check_contents

_N_SHOWN = 5  # problems that a message spells out


def check_structure(file: Any, path: Path) -> None:
    """Refuse a file whose attributes, dtypes or shapes break the format.

    Parameters
    ----------
    file : h5py.File
        Open for reading.
    path : Path
        Names the file in the message.

    Raises
    ------
    StoreError
        With the violations found.
    """
    groups = file.get("codecs")
    codecs = dict(groups) if isinstance(groups, h5py.Group) else {}
    no_groups = [name for name, item in codecs.items() if not isinstance(item, h5py.Group)]
    problems = [f"/codecs/{name}: expected a group, found a dataset" for name in no_groups]
    problems += check_contents(
        _contents(file, leave_out="codecs"),
        {name: _contents(group) for name, group in codecs.items() if name not in no_groups},
    )
    raise_problems(path, problems, _advice(codecs))


def raise_problems(path: Path, problems: list[str], advice: Sequence[str] = ()) -> None:
    """Raise StoreError with the first few of `problems`, if there are any, and all of `advice`."""
    if problems:
        more = f" (and {len(problems) - _N_SHOWN} more)" if len(problems) > _N_SHOWN else ""
        next_steps = "; ".join([*advice, "rebuild the store"])
        raise StoreError(f"{path}: {'; '.join(problems[:_N_SHOWN])}{more}; {next_steps}")


def _advice(codecs: dict[str, Any]) -> list[str]:
    """Return what to do with stores of embeddings alone, as other programs write them."""
    alone = [name for name, item in codecs.items() if isinstance(item, h5py.Group) and "embeddings" in item]
    alone = [name for name in alone if "codes" not in codecs[name]]
    if not alone:
        return []
    return [
        f"embeddings without codes ({', '.join(alone)}) cannot be probed by any backend: fit them with scikit-learn "
        "itself, or write codes and codebooks as schemas/store-1.0.md says"
    ]


def plain_attributes(item: Any) -> dict[str, Any]:
    """Return HDF5 attributes as str, bool, int and float."""
    return {name: _plain(value) for name, value in item.attrs.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    return value.item() if isinstance(value, np.generic) else value


def _contents(group: Any, leave_out: str = "") -> Contents:
    datasets: dict[str, tuple[str, tuple[int, ...]]] = {}

    def add(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and not (leave_out and name.startswith(f"{leave_out}/")):
            is_text = h5py.check_string_dtype(item.dtype) is not None
            datasets[name] = ("string" if is_text else str(item.dtype), item.shape)

    group.visititems(add)
    return Contents(plain_attributes(group), datasets)
