"""The rules for an HDF5 file from a stranger, and the process of its own that applies them (`foreign` starts it).

The rules go from the outside in: links before objects, storage before shapes, shapes before bytes. Nothing is read
whose size has not been bounded, no link is followed that leads out of the file, and only low-level calls are used whose
cost does not depend on what the file claims. What the format does not know is never read by rvqprobe; of such datasets
only the storage is looked at, for it may name other files.
"""

import errno
import json
import math
import os
import re
import resource
import sys
import zlib
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
from h5py import h5, h5a, h5d, h5g, h5l, h5o, h5s, h5t, h5z
from numpy.typing import NDArray

from featstore.errors import StoreError
from featstore.safe_text import printable
from featstore.structure import check_structure, plain_attributes, raise_problems
from schemas.errors import SchemaError
from schemas.store import DatasetSpec, check_store_version, store_spec

# Two tables of 1 GiB at once (the largest that the rules let pass, and a copy of it), a chunk of 64 MiB before and
# after each filter, and the interpreter with its libraries (0.2 GiB).
MEMORY_BYTES = 3 << 30

_N_LINKS = 10_000
_DEPTH = 16
_NAME_BYTES = 1024
_N_ATTRIBUTES = 1000
_ATTRIBUTE_BYTES = 16 << 20  # all of one object; HDF5 reads an attribute whole
_CHUNK_BYTES = 64 << 20
_N_CHUNKS = 1 << 22
_TABLE_BYTES = 1 << 30  # of all that is read whole
_ID_BYTES, _TEXT_BYTES = 1024, 65_536  # of one string: ids and vocabularies; reasons, hosts and the like
_READ_BYTES = 16 << 20
_MESSAGE_CHARS = 8192  # it may quote what the file says
_LIMITS = {
    "n_layers": 1024,
    "n_codewords": 65_536,
    "dim": 8192,  # a reader takes 65,536 frames at once
    "n_frames": 1 << 40,
    "n_phonemes": 65_536,
    "n_utterances": 1 << 24,
    "n_skipped": 1 << 24,
    "n_speakers": 1 << 24,
    "n_shards": 65_536,
    "n_parts": 4096,
}
_CODEC_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DEFLATE, _SHUFFLE, _FLETCHER32, _ZSTD = 1, 2, 3, 32_015
_LZF = 32_000
_COMPRESSORS = (_DEFLATE, _ZSTD)
_FILTER_NAMES = {_DEFLATE: "deflate", _SHUFFLE: "shuffle", _FLETCHER32: "fletcher32", _ZSTD: "Zstandard"}
_CHECKSUM_BYTES = 4
_ZSTD_MAGIC, _ZSTD_HEADER_BYTES = b"\x28\xb5\x2f\xfd", 18
_VIRTUAL = ("codes", "embeddings", "latents")  # what a virtual store takes from its parts
_PARTS = "parts/path"
_ADVICE = ("no writer of stores makes such a file, so it is damaged or was made to do harm: get a whole copy",)


def find_outside(file: Any, path: Path, *, is_part: bool = False) -> list[str]:
    """Find everything by which a file reaches, or makes its reader reach, beyond itself and beyond bounds.

    Links other than hard ones, cycles, too many or too deeply nested groups, external and virtual storage, unknown
    filters, variable-length data, chunks that are absent or decode to another size than they should, tables and
    dimensions beyond all reason. A virtual dataset may lie over the files that ``/parts/path`` lists, which are held
    to the same rules.

    Parameters
    ----------
    file : h5py.File
        Open for reading.
    path : Path
        Where `file` is.
    is_part : bool
        The file is one over which a virtual store lies; it may not be virtual itself.

    Returns
    -------
    list of str
        Every violation, as ``/path: expected ..., found ...``; empty for a file that is safe to read.

    Raises
    ------
    OSError, KeyError, RuntimeError
        What h5py raises where HDF5 cannot parse the file.
    """
    groups, datasets, problems = _walk(file)
    if problems:
        return problems
    problems = _codec_names(groups)
    for name in ("", *_codec_groups(groups)):
        problems += _attributes(groups[name], f"/{name}")
    for name, dataset in datasets.items():
        problems += _storage_kind(dataset, name, is_part)
    if problems:
        return problems
    known = {name: spec for name in datasets if (spec := _spec(name)) is not None}
    virtual = [name for name, item in datasets.items() if item.get_create_plist().get_layout() == h5d.VIRTUAL]
    here = {name: spec for name, spec in known.items() if name not in virtual}
    problems = _sizes(datasets, here)
    for name, spec in known.items():
        problems += _type(datasets[name], name, spec)
    problems = problems or _stored_data(datasets, list(here), path)
    # HDF5 opens the sources of a virtual dataset when it is asked for the shape, so they come first.
    problems = problems or _sources(datasets, virtual, path)
    if not problems and virtual:
        problems = _sizes(datasets, {name: known[name] for name in virtual})
        for name in virtual:
            problems += _mapped(datasets[name], name)
    return problems


class _Bytes:
    """The bytes of the file below HDF5."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)
        self.size = os.fstat(self._descriptor).st_size

    def at(self, start: int, n: int) -> bytes:
        return os.pread(self._descriptor, n, start)

    def close(self) -> None:
        os.close(self._descriptor)


def _walk(file: Any) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """Return groups and datasets by path (the root is ""), and problems; stops at the first bound that is passed."""
    root = h5o.open(file.id, b"/")
    groups: dict[str, Any] = {"": root}
    datasets: dict[str, Any] = {}
    problems: list[str] = []
    seen, waiting, n_links = {h5o.get_info(root).addr: ""}, [("", 0)], 0
    while waiting:
        place, depth = waiting.pop()
        links = _links(groups[place], _N_LINKS + 1 - n_links)
        n_links += len(links)
        if n_links > _N_LINKS:
            problems.append(f"/{printable(place, 200)}: expected at most {_N_LINKS:,} links in the file, found more")
            return groups, datasets, problems
        for raw, kind in links:
            name = f"{place}/{raw.decode('utf-8', 'backslashreplace')}".lstrip("/")
            shown = f"/{printable(name, 200)}"
            if len(raw) > _NAME_BYTES:
                problems.append(f"{shown}: expected a name of at most {_NAME_BYTES} bytes, found {len(raw):,}")
                continue
            if kind != h5l.TYPE_HARD:
                found = {h5l.TYPE_SOFT: "a soft", h5l.TYPE_EXTERNAL: "an external"}.get(kind, "a user-defined")
                problems.append(f"{shown}: expected a group or dataset of this file, found {found} link")
                continue
            item = h5o.open(groups[place], raw)
            address = h5o.get_info(item).addr
            if address in seen:
                other = printable(seen[address], 200)
                problems.append(f"{shown}: expected one name for each object, found /{other} again")
            elif isinstance(item, h5d.DatasetID):
                datasets[name] = item
            elif not isinstance(item, h5g.GroupID):
                problems.append(f"{shown}: expected a group or dataset, found a named datatype")
            elif depth + 1 > _DEPTH:
                problems.append(f"{shown}: expected at most {_DEPTH} groups within each other, found more")
            else:
                groups[name] = item
                waiting.append((name, depth + 1))
            seen.setdefault(address, name)
    return groups, datasets, problems


def _links(group: Any, n_most: int) -> list[tuple[bytes, int]]:
    """Return name and type of at most `n_most` links of a group."""
    links: list[tuple[bytes, int]] = []

    def add(name: bytes, info: Any) -> bool | None:
        links.append((name, info.type))
        return True if len(links) >= n_most else None

    group.links.iterate(add, info=True, order=h5.ITER_NATIVE)  # any other order reads all links first, to sort them
    return sorted(links)


def _codec_groups(groups: Mapping[str, Any]) -> list[str]:
    return [name for name in groups if name.startswith("codecs/") and name.count("/") == 1]


def _codec_names(groups: Mapping[str, Any]) -> list[str]:
    names = [name.removeprefix("codecs/") for name in _codec_groups(groups)]
    return [
        f"/codecs/{printable(name, 100)}: expected a codec's name of at most 64 letters, digits, '.', '_' or '-'"
        for name in names
        if not _CODEC_NAME.fullmatch(name)
    ]


def _attributes(group: Any, place: str) -> list[str]:
    spec = store_spec()
    known = {attribute.name for attribute in (spec.root_attributes if place == "/" else spec.codec_attributes)}
    n_attributes = h5a.get_num_attrs(group)
    if n_attributes > _N_ATTRIBUTES:
        return [f"{place}: expected at most {_N_ATTRIBUTES:,} attributes, found {n_attributes:,}"]
    problems, n_bytes = [], 0
    for index in range(n_attributes):
        attribute = h5a.open(group, index=index)
        n_bytes += attribute.get_storage_size()
        name = attribute.name.decode("utf-8", "backslashreplace")
        if name in known and (found := _odd_type(attribute.get_type())):
            problems.append(f"{place}@{name}: expected a number or a string of fixed length, found {found}")
    if n_bytes > _ATTRIBUTE_BYTES:
        problems.append(f"{place}: expected at most {_ATTRIBUTE_BYTES:,} bytes of attributes, found {n_bytes:,}")
    return problems


def _odd_type(type_id: Any) -> str:
    """Return what a type is that holds more, or points elsewhere, than a plain number or fixed string; else ""."""
    if isinstance(type_id, h5t.TypeStringID):
        return "strings of variable length" if type_id.is_variable_str() else ""
    if type_id.get_class() in (h5t.INTEGER, h5t.FLOAT, h5t.ENUM):
        return "" if type_id.get_size() <= 16 else f"numbers of {type_id.get_size():,} bytes"
    names = {
        h5t.VLEN: "data of variable length",
        h5t.REFERENCE: "references",
        h5t.COMPOUND: "a compound type",
        h5t.ARRAY: "arrays in each entry",
        h5t.OPAQUE: "opaque bytes",
    }
    return names.get(type_id.get_class(), "another type")


def _storage_kind(dataset: Any, name: str, is_part: bool) -> list[str]:
    """Refuse data that lie in other files, but for the virtual datasets of the format."""
    settings = dataset.get_create_plist()
    if settings.get_external_count():
        return [f"/{name}: expected its data in this file, found them in another (external storage)"]
    if settings.get_layout() == h5d.VIRTUAL and (is_part or not _may_be_virtual(name)):
        return [f"/{name}: expected its data in this file, found a virtual dataset over others"]
    return []


def _may_be_virtual(name: str) -> bool:
    return len(parts := name.split("/")) == 3 and parts[0] == "codecs" and parts[2] in _VIRTUAL


def _spec(name: str) -> DatasetSpec | None:
    """Return the specification of a dataset of the format; None for one that the format does not know."""
    spec, parts = store_spec(), name.split("/", 2)
    in_codec = len(parts) == 3 and parts[0] == "codecs"
    looked_for, specs = (parts[2], spec.codec_datasets) if in_codec else (name, spec.datasets)
    return next((one for one in specs if one.path == looked_for), None)


def _type(dataset: Any, name: str, spec: DatasetSpec) -> list[str]:
    type_id = dataset.get_type()
    if found := _odd_type(type_id):
        return [f"/{name}: expected {spec.dtype} of fixed size, found {found}"]
    most = _longest(name)
    if isinstance(type_id, h5t.TypeStringID) and type_id.get_size() > most:
        return [f"/{name}: expected strings of at most {most:,} bytes, found a length of {type_id.get_size():,}"]
    return []


def _longest(name: str) -> int:
    return _ID_BYTES if name == "utterances/id" or name.startswith("vocab/") else _TEXT_BYTES


def _is_table(spec: DatasetSpec) -> bool:
    """Tell whether a reader takes the whole dataset at once."""
    return "n_frames" not in spec.shape


def _sizes(datasets: Mapping[str, Any], known: Mapping[str, DatasetSpec]) -> list[str]:
    problems, n_table_bytes = [], 0
    for name, spec in known.items():
        shape = datasets[name].shape
        if shape is None or datasets[name].get_space().get_simple_extent_type() == h5s.NULL:
            problems.append(f"/{name}: expected an array, found an empty dataspace")
            continue
        for symbol, size in zip(spec.shape, shape, strict=False):  # another rank is a matter of structure
            most = _LIMITS[symbol.split(" ")[0]] + symbol.count("+")
            if size > most:
                problems.append(f"/{name}: expected {symbol} of at most {most:,}, found {size:,}")
        if _is_table(spec):
            n_table_bytes += math.prod(shape) * datasets[name].get_type().get_size()
    if n_table_bytes > _TABLE_BYTES:
        problems.append(
            f"/: expected at most {_TABLE_BYTES:,} bytes in all tables and codebooks, found {n_table_bytes:,}"
        )
    return problems


def _stored_data(datasets: Mapping[str, Any], names: list[str], path: Path) -> list[str]:
    """Check storage of all datasets named, and that together they do not exceed the file; stops at the first."""
    n_stored = 0
    with closing(_Bytes(path)) as content:
        for name in names:
            if problems := _stored(datasets[name], name, content):
                return problems
            n_stored += datasets[name].get_storage_size()
        if n_stored > content.size:
            return [f"/: expected at most the file's {content.size:,} bytes of data, found {n_stored:,}"]
    return []


def _stored(dataset: Any, name: str, content: _Bytes) -> list[str]:
    """Check that every byte that a dataset claims is stored in the file, and decodes to its own size."""
    settings, n_bytes = dataset.get_create_plist(), math.prod(dataset.shape) * dataset.get_type().get_size()
    layout = settings.get_layout()
    if n_bytes == 0:
        return []
    if layout == h5d.CHUNKED:
        return _chunked(dataset, settings, name, content)
    found = dataset.get_storage_size()
    start = dataset.get_offset() if layout == h5d.CONTIGUOUS else 0
    if found != n_bytes or start is None or start + found > content.size:
        return [f"/{name}: expected {n_bytes:,} bytes in the file, found {_stored_bytes(start, found, content)}"]
    return []


def _stored_bytes(start: int | None, n: int, content: _Bytes) -> str:
    return f"{n:,}" if start is not None and start + n <= content.size else f"{n:,} beyond its end"


def _chunked(dataset: Any, settings: Any, name: str, content: _Bytes) -> list[str]:
    filters = [settings.get_filter(index)[0] for index in range(settings.get_nfilters())]
    if problems := _filters(filters, name):
        return problems
    sides = settings.get_chunk()
    n_chunk_bytes = math.prod(sides) * dataset.get_type().get_size()
    if n_chunk_bytes > _CHUNK_BYTES:
        return [f"/{name}: expected chunks of at most {_CHUNK_BYTES:,} bytes, found {n_chunk_bytes:,}"]
    n_along = [-(-size // side) for size, side in zip(dataset.shape, sides, strict=True)]
    n_expected = math.prod(n_along)
    if n_expected > min(_N_CHUNKS, content.size):
        most = f"at most {min(_N_CHUNKS, content.size):,} chunks in a file of {content.size:,} bytes"
        return [f"/{name}: expected {most}, found a shape of {n_expected:,}"]
    chunks = _chunks(dataset, sides, n_along, n_expected)
    if len(chunks) != n_expected or len(np.unique(chunks[:, 0])) != n_expected:
        return [f"/{name}: expected {n_expected:,} chunks for shape {dataset.shape}, found {len(chunks):,} stored"]
    outside = (chunks[:, 2] < 0) | (chunks[:, 3] < 0) | (chunks[:, 2] > content.size - chunks[:, 3])
    if outside.any():
        return [f"/{name}: expected its chunks within the file's {content.size:,} bytes, found one beyond"]
    for _, mask, start, n_stored in chunks[np.argsort(chunks[:, 2])].tolist():  # in the file's order: one sweep
        if found := _odd_chunk(filters, n_chunk_bytes, mask, start, n_stored, content):
            return [f"/{name}: expected chunks that decode to {n_chunk_bytes:,} bytes, found {found} at byte {start:,}"]
    return []


def _chunks(dataset: Any, sides: tuple[int, ...], n_along: list[int], n_most: int) -> NDArray[np.int64]:
    """Return place in row-major order, filter mask, first byte and bytes of each stored chunk; at most one too many."""
    found = np.empty((n_most + 1, 4), np.int64)
    n_found = 0

    def add(chunk: Any) -> bool | None:
        nonlocal n_found
        place = 0
        for start, side, n in zip(chunk.chunk_offset, sides, n_along, strict=True):
            place = place * n + min(start // side, n - 1)
        found[n_found] = place, chunk.filter_mask, min(chunk.byte_offset or 0, 1 << 62), chunk.size
        n_found += 1
        return True if n_found > n_most else None

    dataset.chunk_iter(add)
    return found[:n_found]


def _filters(filters: list[int], name: str) -> list[str]:
    unknown = [number for number in filters if number not in _FILTER_NAMES]
    if unknown:
        allowed = ", ".join(_FILTER_NAMES.values())
        return [f"/{name}: expected no filters but {allowed}, found number {unknown[0]}"]
    compressors = [number for number in filters if number in _COMPRESSORS]
    is_shuffled_last = (
        _SHUFFLE in filters and bool(compressors) and filters.index(_SHUFFLE) > filters.index(compressors[0])
    )
    if len(set(filters)) < len(filters) or len(compressors) > 1 or is_shuffled_last:
        names = ", ".join(_FILTER_NAMES[number] for number in filters[:10])
        return [f"/{name}: expected shuffle and then one compression at most, each filter once, found {names}"]
    return []


def _odd_chunk(filters: list[int], n_bytes: int, mask: int, start: int, n_stored: int, content: _Bytes) -> str:
    """Return what is wrong with a stored chunk; "" where it decodes to `n_bytes`, before HDF5's filters allocate any.

    HDF5 2.0 takes what a compressor returns: a chunk that is too short leaves the reader with bytes of other memory,
    one that is too long fills the memory.
    """
    compressor = 0
    for place, number in enumerate(filters):
        if mask >> place & 1:  # left out where it would not have made this chunk smaller
            continue
        if number == _FLETCHER32:
            if compressor:
                n_stored -= _CHECKSUM_BYTES
            else:
                n_bytes += _CHECKSUM_BYTES
        compressor = number if number in _COMPRESSORS else compressor
    if compressor == _ZSTD:
        found = _zstd_content_bytes(content.at(start, min(n_stored, _ZSTD_HEADER_BYTES)))
    elif compressor == _DEFLATE:
        found = _inflated_bytes(content.at(start, min(n_stored, 2 * n_bytes + 1024)), n_bytes)
    else:
        found = n_stored
    if found == n_bytes:
        return ""
    return "a damaged one" if found is None else "a larger one" if found > n_bytes else "a smaller one"


def _zstd_content_bytes(header: bytes) -> int | None:
    """Return the decoded size that a Zstandard frame states (RFC 8878, 3.1.1.1); Zstandard holds the frame to it."""
    if len(header) < 6 or header[:4] != _ZSTD_MAGIC:
        return None
    descriptor = header[4]
    is_single_segment, size_flag = descriptor >> 5 & 1, descriptor >> 6
    n_size = (is_single_segment, 2, 4, 8)[size_flag]
    first = 5 + (1 - is_single_segment) + (0, 1, 2, 4)[descriptor & 3]
    if n_size == 0 or len(header) < first + n_size:
        return None
    return int.from_bytes(header[first : first + n_size], "little") + (256 if n_size == 2 else 0)


def _inflated_bytes(data: bytes, n_most: int) -> int | None:
    """Return how many bytes a zlib stream holds, at most one more than `n_most`."""
    stream = zlib.decompressobj()
    try:
        n_bytes = len(stream.decompress(data, n_most + 1))
    except zlib.error:
        return None
    return n_bytes if stream.eof or n_bytes > n_most else None


def _sources(datasets: Mapping[str, Any], virtual: list[str], path: Path) -> list[str]:
    """Check where virtual datasets lie: over the same dataset of the parts listed, below the folder of the store."""
    if not virtual:
        return []
    table = datasets.get(_PARTS)
    if table is None or len(table.shape) != 1 or not isinstance(table.get_type(), h5t.TypeStringID):
        return [f"/{virtual[0]}: expected the files of a virtual dataset in /{_PARTS}, found no such table"]
    parts = {value.decode("utf-8", "backslashreplace") for value in h5py.Dataset(table)[()]}
    problems = [f"/{_PARTS}: {found}" for part in sorted(parts) if (found := odd_part(part, path))]
    for name in virtual:
        problems += _mappings(datasets[name], name, parts)
    # One that is missing is no danger: the reader tells, and refuses its frames.
    there = [part for part in sorted(parts) if (path.parent / part).exists()]
    for part in there if not problems else []:
        problems += [f"part {printable(part, 200)}: {problem}" for problem in _outside_of_part(path.parent / part)]
    return problems


def odd_part(part: str, path: Path) -> str:
    """Return why the name of a part of the virtual store at `path` is refused; "" for one in or below its folder."""
    shown, steps = printable(part, 200), part.split("/")
    if not part or part.startswith("/") or {"..", ".", ""} & set(steps) or "\\" in part or not part.isprintable():
        return f"expected a file in or below the store's folder, found {shown!r}"
    if "%" in part:
        return f"expected a file name without '%', which HDF5 takes for a pattern, found {shown!r}"
    target, folder = (path.parent / part).resolve(), path.parent.resolve()
    if not target.is_relative_to(folder):
        return f"expected a file in or below the store's folder, found {shown!r}, a link to elsewhere"
    if target == path.resolve():
        return f"expected files other than the store itself, found {shown!r}"
    return f"expected a file, found the folder {shown!r}" if target.is_dir() else ""


def _mappings(dataset: Any, name: str, parts: set[str]) -> list[str]:
    settings = dataset.get_create_plist()
    for index in range(settings.get_virtual_count()):
        source, inner = settings.get_virtual_filename(index), settings.get_virtual_dsetname(index)
        if source not in parts:
            return [f"/{name}: expected data from the files in /{_PARTS}, found {printable(source, 200)!r}"]
        if inner.lstrip("/") != name:
            return [f"/{name}: expected data from the same dataset of its parts, found {printable(inner, 200)!r}"]
    return []


def _mapped(dataset: Any, name: str) -> list[str]:
    """Check that the parts make up the whole of a virtual dataset: HDF5 fills in zeros where they do not."""
    settings, n_expected = dataset.get_create_plist(), math.prod(dataset.shape)
    spaces = [settings.get_virtual_vspace(index) for index in range(settings.get_virtual_count())]
    n_mapped = sum(space.get_select_npoints() for space in spaces)
    if n_mapped != n_expected:
        return [f"/{name}: expected parts with {n_expected:,} numbers, found {n_mapped:,}"]
    return []


def _outside_of_part(path: Path) -> list[str]:
    try:
        with h5py.File(path, "r", locking=False) as file:
            return find_outside(file, path, is_part=True)
    except OSError as error:
        return [f"/: expected an HDF5 file, found one that does not open ({printable(error, 200)})"]


def check_decodes(file: Any) -> list[str]:
    """Read every table, and the first and last chunk of every frame dataset, of a file that follows the rules.

    Parameters
    ----------
    file : h5py.File
        Of which `find_outside` and `featstore.structure.check_structure` find nothing.

    Returns
    -------
    list of str
        Text that is no UTF-8, offsets that do not rise.

    Raises
    ------
    OSError
        When HDF5 cannot decode what is stored.
    """
    codecs = [f"codecs/{name}/" for name in file.get("codecs", ())]
    spec, problems = store_spec(), list[str]()
    places = [("", one) for one in spec.datasets] + [(codec, one) for codec in codecs for one in spec.codec_datasets]
    for group, one in places:
        dataset = file.get(group + one.path)
        if dataset is None:
            continue
        try:
            if not _is_table(one):
                _read_ends(dataset)
            elif one.dtype == "string":
                problems += _text(dataset, group + one.path)
            elif one.path == "offsets":
                problems += _offsets(dataset[()], file[f"{group}codes"].shape[1], group + one.path)
            else:
                for _ in _blocks(dataset):
                    pass
        except OSError as error:
            raise OSError(f"/{group}{one.path}: {error}") from error
    return problems


def _blocks(dataset: Any) -> Iterator[NDArray[Any]]:
    """Yield a table in pieces of whole chunks."""
    n_rows = dataset.shape[0]
    bytes_of_row = max(1, math.prod(dataset.shape[1:]) * dataset.dtype.itemsize)
    step = max(1, _READ_BYTES // bytes_of_row)
    if dataset.chunks is not None:
        step = max(1, step // dataset.chunks[0]) * dataset.chunks[0]
    for first in range(0, n_rows, step):
        yield dataset[first : first + step]


def _read_ends(dataset: Any) -> None:
    if 0 in dataset.shape:
        return
    sides = dataset.chunks or (*(1,) * (dataset.ndim - 1), min(65_536, dataset.shape[-1]))
    first = tuple(slice(0, side) for side in sides)
    last = tuple(slice((size - 1) // side * side, size) for size, side in zip(dataset.shape, sides, strict=True))
    for place in (first, last):
        dataset[place]


def _text(dataset: Any, name: str) -> list[str]:
    for block in _blocks(dataset):
        raw = np.ascontiguousarray(block)
        letters = raw.view(np.uint8).reshape(len(raw), raw.dtype.itemsize)
        if ((letters[:, :-1] == 0) & (letters[:, 1:] != 0)).any():
            return [f"/{name}: expected text, found a NUL within a string"]
        if (letters < 128).all():
            continue
        for value in raw.tolist():
            try:
                value.decode("utf-8")
            except UnicodeDecodeError:
                return [f"/{name}: expected UTF-8, found {printable(value[:60])}"]
    return []


def _offsets(offsets: NDArray[Any], n_frames: int, name: str) -> list[str]:
    if not len(offsets) or offsets[0] != 0 or offsets[-1] != n_frames or (np.diff(offsets) < 0).any():
        return [f"/{name}: expected to rise from 0 to {n_frames}"]
    return []


def check_here(path: Path) -> None:
    """Apply all rules to a file in this process, and read what a reader of stores reads first.

    Raises
    ------
    SchemaError
        When the file is of another format or of an unknown major version.
    StoreError
        When it does not open or decode, was never finished, or breaks the rules or the format.
    """
    try:
        opened = h5py.File(path, "r", locking=False)
    except OSError as error:
        raise StoreError(f"{path}: the HDF5 file does not open ({error}); it is damaged, build it again") from error
    with opened as file:
        attributes = plain_attributes(file)
        check_store_version(attributes.get("format"), attributes.get("format_version"), str(path))
        if not attributes.get("complete"):
            raise StoreError(f"{path}: the store was never finished; build it again")
        raise_problems(path, find_outside(file, path), _ADVICE)
        check_structure(file, path)
        raise_problems(path, check_decodes(file))


def main(path: str, cpu_s: int) -> None:
    """Check one file under limits; print ``{}`` or ``{"error": kind, "message": text}`` in JSON."""
    _limit(cpu_s)
    print(json.dumps(_answer(Path(path))))  # noqa: T201  (the answer to the process that asked)
    sys.stdout.flush()


def _answer(path: Path) -> dict[str, str]:
    try:
        check_here(path)
    except (StoreError, SchemaError) as error:
        return {"error": type(error).__name__, "message": printable(error, _MESSAGE_CHARS)}
    except MemoryError:
        return {"error": "MemoryError", "message": ""}
    except Exception as error:  # noqa: BLE001  (whatever a hostile file makes HDF5, h5py or NumPy raise)
        if (isinstance(error, OSError) and error.errno == errno.ENOMEM) or "allocat" in str(error):
            return {"error": "MemoryError", "message": ""}
        what = printable(f"{type(error).__name__}: {error}", 300)
        return {
            "error": "StoreError",
            "message": f"{path}: it does not read ({what}), so it is damaged; get a whole copy or build it again",
        }
    return {}


def _limit(cpu_s: int) -> None:
    """Bound memory and time; forbid writing, core files, further processes and all filters that stores do not use."""
    for kind, soft, hard in (
        (resource.RLIMIT_AS, MEMORY_BYTES, MEMORY_BYTES),
        (resource.RLIMIT_CPU, cpu_s, cpu_s + 5),  # the first ends with SIGXCPU, which tells why
        (resource.RLIMIT_FSIZE, 0, 0),
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_NPROC, 0, 0),
    ):
        most = resource.getrlimit(kind)[1]
        if most != resource.RLIM_INFINITY:
            soft, hard = min(soft, most), min(hard, most)
        with suppress(OSError, ValueError):  # macOS refuses some
            resource.setrlimit(kind, (soft, hard))
    # A dataset's filters can be seen; those of a large group's own index cannot, so none may be there to be called.
    for number in {*hdf5plugin.FILTERS.values(), _LZF} - {_ZSTD}:
        with suppress(RuntimeError, ValueError):
            h5z.unregister_filter(number)
