"""Store format 1.0: what is in the file, in one table that writer, reader and validator share.

The machine-readable specification is ``store-1.0.json``, the rules in words are in ``store-1.0.md``. This module opens
no file: a validator describes a file as plain shapes, dtypes and attributes (`Contents`) and asks `check_contents`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from schemas.errors import SchemaError
from schemas.versions import check_version

STORE_FORMAT = "rvqprobe-store"
STORE_FORMAT_VERSION = "1.0"
TRAIN, EVAL = 0, 1
SPLITS = {"train": TRAIN, "eval": EVAL}


@dataclass(frozen=True)
class DatasetSpec:
    """One dataset: path below its group, dtype (``string`` is fixed-length UTF-8), symbolic shape."""

    path: str
    dtype: str
    shape: tuple[str, ...]
    required: bool
    description: str
    layout: str | None = None

    @property
    def frame_axis(self) -> int:
        """Which axis counts frames; ValueError for a dataset without one."""
        return self.shape.index("n_frames")


@dataclass(frozen=True)
class AttributeSpec:
    """One attribute: name, type (``json`` is a string holding a JSON object), allowed values where they are few."""

    name: str
    type: str
    required: bool
    description: str
    values: tuple[str, ...] = ()


@dataclass(frozen=True)
class StoreSpec:
    """The whole format: attributes and datasets of the root and of each group under ``/codecs``."""

    dimensions: Mapping[str, str]
    root_attributes: tuple[AttributeSpec, ...]
    datasets: tuple[DatasetSpec, ...]
    codec_attributes: tuple[AttributeSpec, ...]
    codec_datasets: tuple[DatasetSpec, ...]

    def dataset(self, path: str) -> DatasetSpec:
        """Return the specification of a dataset by its path below the root or below a codec's group."""
        return next(spec for spec in self.datasets + self.codec_datasets if spec.path == path)


@dataclass(frozen=True)
class Contents:
    """What a validator found in one group: attributes, and (dtype, shape) of each dataset below it by path."""

    attributes: Mapping[str, Any]
    datasets: Mapping[str, tuple[str, tuple[int, ...]]]


@cache
def store_spec() -> StoreSpec:
    """Return the specification of format 1.0."""
    text = json.loads(files("schemas").joinpath("store-1.0.json").read_text(encoding="utf-8"))

    def attributes(key: str) -> tuple[AttributeSpec, ...]:
        return tuple(AttributeSpec(**{**spec, "values": tuple(spec.get("values", ()))}) for spec in text[key])

    def datasets(key: str) -> tuple[DatasetSpec, ...]:
        return tuple(DatasetSpec(**{**spec, "shape": tuple(spec["shape"])}) for spec in text[key])

    return StoreSpec(
        text["dimensions"],
        attributes("root_attributes"),
        datasets("datasets"),
        attributes("codec_attributes"),
        datasets("codec_datasets"),
    )


def check_store_version(format_name: object, version: object, where: str) -> None:
    """Refuse a file of another format or of an unknown major version.

    Raises
    ------
    SchemaError
        Naming the file, what was expected and what was found.
    """
    if format_name != STORE_FORMAT:
        found = "names no format" if format_name is None else f"names the format {format_name!r}"
        raise SchemaError(
            f"{where}: not an rvqprobe store: the file {found}, expected {STORE_FORMAT!r}; build one with build-store"
        )
    check_version(version, STORE_FORMAT_VERSION, f"{where}: format_version")


def check_contents(root: Contents, codecs: Mapping[str, Contents]) -> list[str]:
    """Compare a store's attributes, dtypes and shapes with the format.

    Parameters
    ----------
    root : Contents
        The root group, without ``codecs``.
    codecs : mapping of str to Contents
        Each group under ``/codecs``.

    Returns
    -------
    list of str
        Every violation, as ``path: expected ..., found ...``; empty for a store that follows the format. Attributes
        and datasets the format does not know are no violation.
    """
    spec, sizes = store_spec(), dict[str, int]()
    problems = _check_attributes("/", spec.root_attributes, root.attributes)
    problems += _check_datasets("/", spec.datasets, root.datasets, sizes, layout=None)
    for name, found in codecs.items():
        group = f"/codecs/{name}/"
        problems += _check_attributes(group, spec.codec_attributes, found.attributes)
        own = {key: int(found.attributes[key]) for key in ("n_layers", "dim") if _is_size(found.attributes.get(key))}
        layout = found.attributes.get("layout")
        problems += _check_datasets(group, spec.codec_datasets, found.datasets, sizes | own, layout)
    return problems


def _check_attributes(group: str, specs: tuple[AttributeSpec, ...], found: Mapping[str, Any]) -> list[str]:
    problems = []
    for spec in specs:
        if spec.name not in found:
            if spec.required:
                problems.append(f"{group}@{spec.name}: expected an attribute ({spec.type}), found none")
        elif not _has_type(found[spec.name], spec.type):
            problems.append(f"{group}@{spec.name}: expected {spec.type}, found {found[spec.name]!r}")
        elif spec.values and found[spec.name] not in spec.values:
            problems.append(
                f"{group}@{spec.name}: expected one of {', '.join(spec.values)}, found {found[spec.name]!r}"
            )
    return problems


def _is_size(value: Any) -> bool:
    return _has_type(value, "int") and value >= 0


def _has_type(value: Any, type_name: str) -> bool:
    if type_name == "json":
        try:
            return isinstance(json.loads(value), dict)
        except (TypeError, ValueError):
            return False
    python: dict[str, type | tuple[type, ...]] = {"string": str, "bool": bool, "int": int, "float": (int, float)}
    if type_name == "int" and isinstance(value, int) and not -(2**63) <= value < 2**63:
        return False
    return isinstance(value, python[type_name]) and (type_name == "bool" or not isinstance(value, bool))


def _check_datasets(
    group: str,
    specs: tuple[DatasetSpec, ...],
    found: Mapping[str, tuple[str, tuple[int, ...]]],
    sizes: dict[str, int],
    layout: str | None,
) -> list[str]:
    problems = []
    for spec in specs:
        if spec.path not in found:
            if spec.required or (spec.layout is not None and spec.layout == layout):
                problems.append(f"{group}{spec.path}: expected a dataset, found none")
            continue
        dtype, shape = found[spec.path]
        if dtype != spec.dtype:
            problems.append(f"{group}{spec.path}: expected dtype {spec.dtype}, found {dtype}")
        if len(shape) != len(spec.shape):
            problems.append(f"{group}{spec.path}: expected shape ({', '.join(spec.shape)}), found {shape}")
            continue
        for symbol, size in zip(spec.shape, shape, strict=True):
            name, _, extra = symbol.partition(" + ")
            expected = sizes.setdefault(name, size - int(extra or 0)) + int(extra or 0)
            if size != expected:
                problems.append(f"{group}{spec.path}: expected {symbol} = {expected}, found shape {shape}")
    return problems
