"""The rules for a Zarr folder from a stranger, and what has to hold before a store in one is opened.

The counterpart of `featstore.foreign_child`, with the same bounds. No process of its own is needed here: the folder is
JSON, read with a limit, and the chunks are decoded by two libraries (zlib, Zstandard) and one checksum, none of which
may be handed a chunk before the size that it decodes to has been compared with its own. Nothing else is decoded: codecs
are taken from a short list, and what the format does not know is never opened.
"""

import hashlib
import itertools
import json
import logging
import math
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore.errors import StoreError
from featstore.foreign_child import (
    _CHUNK_BYTES,
    _CODEC_NAME,
    _LIMITS,
    _N_CHUNKS,
    _TABLE_BYTES,
    _ZSTD_HEADER_BYTES,
    _is_table,
    _longest,
    _zstd_content_bytes,
    check_decodes,
)
from featstore.json_file import NotJsonError, read_json_object
from featstore.safe_text import printable
from featstore.structure import check_structure, plain_attributes, raise_problems
from featstore.trust import cache_folder
from featstore.zarr_folder import TEXT_ATTRIBUTE, TEXT_ENCODING, open_folder
from featstore.zarr_seal import METADATA_NAME, check_folder_seal, list_files, read_folder_seal
from schemas.errors import RvqprobeError
from schemas.store import DatasetSpec, check_store_version, store_spec

LOG = logging.getLogger(__name__)
HASHED_AT_SIGHT_BYTES = 4 << 30  # as for an HDF5 store
_METADATA_BYTES = 16 << 20
_CHECKSUM_BYTES = 4
_MISSING = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
_COMPRESSORS = ("zstd", "gzip")
_ADVICE = ("no writer of stores makes such a folder, so it is damaged or was made to do harm: get a whole copy",)


def admit_folder(path: Path) -> None:
    """Let a folder be opened as a store, or refuse it: the counterpart of `featstore.admission.admit`.

    Raises
    ------
    SchemaError
        When it is of another format or of an unknown major version.
    StoreError
        When it is damaged, lacks a file or has one too many, or breaks the rules for stores from strangers.
    """
    sealed = read_folder_seal(path)
    identity = folder_identity(path)
    if _is_known(path, identity):
        return
    if sealed is not None and sum(file.n_bytes for file in sealed.values()) <= HASHED_AT_SIGHT_BYTES:
        check_folder_seal(path)
    check_foreign_folder(path)
    if folder_identity(path) != identity:
        raise StoreError(f"{path}: was changed while it was checked; open it again")
    remember_folder(path, identity)


def check_foreign_folder(path: Path) -> None:
    """Check that a folder follows the rules and the format, and that what is read first decodes.

    Raises
    ------
    SchemaError
        When it is of another format or of an unknown major version.
    StoreError
        When it breaks the rules or the format, or does not decode.
    """
    try:
        attributes = _metadata(path, "").get("attributes")
        attributes = attributes if isinstance(attributes, dict) else {}
        check_store_version(attributes.get("format"), attributes.get("format_version"), str(path))
        raise_problems(path, _find_odd(path), _ADVICE)
        with open_folder(path) as folder:
            if plain_attributes(folder).get("complete") is not True:
                raise StoreError(f"{path}: the store was never finished; export it again")
            check_structure(folder, path)
            raise_problems(path, check_decodes(folder))
    except RvqprobeError:
        raise
    except Exception as error:  # whatever a hostile folder makes zarr or NumPy raise
        what = printable(f"{type(error).__name__}: {error}", 300)
        raise StoreError(
            f"{path}: it does not read ({what}), so it is damaged; get a whole copy or export it again"
        ) from error


def remember_folder(path: Path, identity: str) -> None:
    """Note that a folder was written or checked here (see `featstore.trust`); nothing where no note can be kept.

    Parameters
    ----------
    path : Path
    identity : str
        `folder_identity` before it was checked.
    """
    with suppress(OSError):
        note = _note(path)
        note.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary = note.with_name(f"{note.name}.{os.getpid()}")
        temporary.write_text(identity, encoding="utf-8")
        temporary.replace(note)


def _is_known(path: Path, identity: str) -> bool:
    try:
        return _note(path).read_text(encoding="utf-8") == identity
    except (OSError, UnicodeDecodeError):
        return False


def _note(path: Path) -> Path:
    name = hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()
    return cache_folder() / "checked-stores" / f"{name}-zarr.txt"


def folder_identity(path: Path) -> str:
    """Return a hash over name, inode, size and times of every file: none of them stays as it is in a copy or edit."""
    digest = hashlib.sha256(os.fsencode(os.path.realpath(path)))
    for name, status in list_files(path).items():
        stamp = [name, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
        digest.update(json.dumps(stamp).encode("ascii"))
    return digest.hexdigest()


def _metadata(path: Path, place: str) -> dict[str, Any]:
    name = f"{place}/{METADATA_NAME}".lstrip("/")
    try:
        return read_json_object(path / name, _METADATA_BYTES)
    except NotJsonError as error:
        raise StoreError(
            f"{path}: expected Zarr metadata in {name}, found {error}; get a whole copy or export it again"
        ) from error


def _find_odd(path: Path) -> list[str]:
    """Find everything by which a folder reaches, or makes its reader reach, beyond bounds; stops at the first array."""
    files = {name: status.st_size for name, status in list_files(path).items()}
    names = sorted({name.split("/")[1] for name in files if name.startswith("codecs/") and name.count("/") > 1})
    problems = [
        f"/codecs/{printable(name, 100)}: expected a codec's name of at most 64 letters, digits, '.', '_' or '-'"
        for name in names
        if not _CODEC_NAME.fullmatch(name)
    ]
    places = [("", spec) for spec in store_spec().datasets]
    places += [(f"codecs/{name}/", spec) for name in names for spec in store_spec().codec_datasets]
    known = {f"{prefix}{spec.path}": spec for prefix, spec in places}
    known = {name: spec for name, spec in known.items() if f"{name}/{METADATA_NAME}" in files}
    groups = {str(parent) for name in known for parent in Path(name).parents} - {"."}
    for group in ["", "codecs", *sorted(groups)]:
        problems += _odd_group(path, group) if not problems else []
    n_table_bytes = 0
    for name, spec in known.items():
        if problems:
            return problems
        metadata = _metadata(path, name)
        problems = _odd_array(metadata, spec, name)
        n_table_bytes += _array_bytes(metadata, spec) if not problems and _is_table(spec) else 0
        problems = problems or _odd_chunks(path, files, _Chunks.of(metadata, spec), name)
    if n_table_bytes > _TABLE_BYTES:
        problems.append(
            f"/: expected at most {_TABLE_BYTES:,} bytes in all tables and codebooks, found {n_table_bytes:,}"
        )
    return problems


def _odd_group(path: Path, group: str) -> list[str]:
    found = _metadata(path, group)
    is_group = found.get("node_type") == "group" and found.get("zarr_format") == 3
    if not is_group or not isinstance(found.get("attributes", {}), dict) or found.get("consolidated_metadata"):
        return [f"/{group}: expected a Zarr 3 group without consolidated metadata, found something else"]
    return []


def _odd_array(found: Mapping[str, Any], spec: DatasetSpec, name: str) -> list[str]:
    """Compare an array's metadata with what a store's array may be: type, rank, sizes, chunks, codecs."""
    is_text = spec.dtype == "string"
    dtype = "uint8" if is_text else spec.dtype
    expected = {
        "zarr_format": 3,
        "node_type": "array",
        "data_type": dtype,
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
    }
    for key, value in expected.items():
        if found.get(key) != value:
            return [f"/{name}: expected {key} {value}, found {printable(repr(found.get(key)), 200)}"]
    if found.get("storage_transformers") not in (None, []):
        return [f"/{name}: expected no storage transformers, found some"]
    if is_text and dict(found.get("attributes", {})).get(TEXT_ATTRIBUTE) != TEXT_ENCODING:
        return [f"/{name}: expected the attribute {TEXT_ATTRIBUTE!r}, {TEXT_ENCODING!r}: it holds strings"]
    shape, n_axes = found.get("shape"), len(spec.shape) + is_text
    if not _are_sizes(shape, n_axes, least=0):
        return [f"/{name}: expected a shape of {n_axes} whole numbers, found {printable(repr(shape), 200)}"]
    assert isinstance(shape, list)
    for symbol, size in zip(spec.shape, shape, strict=False):
        most = _LIMITS[symbol.split(" ")[0]] + symbol.count("+")
        if size > most:
            return [f"/{name}: expected {symbol} of at most {most:,}, found {size:,}"]
    if is_text and not 1 <= shape[-1] <= _longest(name):
        return [f"/{name}: expected strings of at most {_longest(name):,} bytes, found a length of {shape[-1]:,}"]
    return _odd_codecs(found, n_axes, np.dtype(dtype).itemsize, name)


def _odd_codecs(found: Mapping[str, Any], n_axes: int, itemsize: int, name: str) -> list[str]:
    grid, codecs = found.get("chunk_grid", {}), found.get("codecs")
    outer = grid["configuration"].get("chunk_shape") if _is_named(grid, "regular") else None
    sharding: Any = codecs[0] if isinstance(codecs, list) and len(codecs) == 1 else None
    if not _is_named(sharding, "sharding_indexed"):
        return [f"/{name}: expected the one codec sharding_indexed, found {printable(repr(codecs), 200)}"]
    settings: dict[str, Any] = sharding["configuration"]
    inner, chain, index = settings.get("chunk_shape"), settings.get("codecs"), settings.get("index_codecs")
    if not _are_sizes(outer, n_axes) or not _are_sizes(inner, n_axes):
        return [f"/{name}: expected shards and chunks of {n_axes} axes, found {printable(repr((outer, inner)), 200)}"]
    assert isinstance(outer, list)
    assert isinstance(inner, list)
    if any(whole % part for whole, part in zip(outer, inner, strict=True)):
        return [f"/{name}: expected shards of whole chunks, found {outer} of {inner}"]
    if math.prod(inner) * itemsize > _CHUNK_BYTES:
        return [f"/{name}: expected chunks of at most {_CHUNK_BYTES:,} bytes, found {math.prod(inner) * itemsize:,}"]
    if math.prod(whole // part for whole, part in zip(outer, inner, strict=True)) > _N_CHUNKS:
        return [f"/{name}: expected at most {_N_CHUNKS:,} chunks in a shard, found more"]
    if not _is_chain(index, ("bytes", "crc32c"), 8) or settings.get("index_location", "end") != "end":
        return [f"/{name}: expected an index with a CRC32C at the end of a shard, found another"]
    if not any(_is_chain(chain, names, itemsize) for names in _chains()):
        return [
            f"/{name}: expected the codecs bytes, then zstd, gzip or neither, then crc32c, found "
            f"{printable(repr(chain), 300)}"
        ]
    return []


def _chains() -> list[tuple[str, ...]]:
    return [("bytes", "crc32c"), *(("bytes", name, "crc32c") for name in _COMPRESSORS)]


def _is_named(codec: Any, name: str) -> bool:
    return isinstance(codec, dict) and codec.get("name") == name and isinstance(codec.get("configuration"), dict)


def _is_chain(codecs: Any, names: Sequence[str], itemsize: int) -> bool:
    if not isinstance(codecs, list) or not all(isinstance(codec, dict) for codec in codecs):
        return False
    if [codec.get("name") for codec in codecs] != list(names):
        return False
    settings = codecs[0].get("configuration", {})
    return isinstance(settings, dict) and (itemsize == 1 or settings.get("endian") == "little")


def _are_sizes(found: Any, n: int, least: int = 1) -> bool:
    return isinstance(found, list) and len(found) == n and all(type(size) is int and size >= least for size in found)


def _array_bytes(found: Mapping[str, Any], spec: DatasetSpec) -> int:
    return math.prod(found["shape"]) * (1 if spec.dtype == "string" else np.dtype(spec.dtype).itemsize)


class _Chunks:
    """Shards and chunks of an array whose metadata follow the rules."""

    def __init__(self, shape: list[int], outer: list[int], inner: list[int], itemsize: int, codec: str) -> None:
        self.shape, self.outer, self.inner = shape, outer, inner
        self.chunk_bytes, self.compressor = math.prod(inner) * itemsize, codec
        self.n_along = [whole // part for whole, part in zip(outer, inner, strict=True)]
        self.grid = [-(-size // side) for size, side in zip(shape, outer, strict=True)]

    @classmethod
    def of(cls, found: Mapping[str, Any], spec: DatasetSpec) -> "_Chunks":
        settings = found["codecs"][0]["configuration"]
        names = [codec["name"] for codec in settings["codecs"]]
        return cls(
            found["shape"],
            found["chunk_grid"]["configuration"]["chunk_shape"],
            settings["chunk_shape"],
            1 if spec.dtype == "string" else np.dtype(spec.dtype).itemsize,
            names[1] if len(names) == 3 else "",
        )

    def shards(self) -> Iterator[tuple[int, ...]]:
        return itertools.product(*map(range, self.grid))

    def needed(self, shard: tuple[int, ...]) -> NDArray[np.bool_]:
        """Return which chunks of a shard hold something of the array; bool of the shard's chunks in row-major order."""
        needed = np.ones(self.n_along, dtype=bool)
        for axis, (place, size) in enumerate(zip(shard, self.shape, strict=True)):
            starts = place * self.outer[axis] + self.inner[axis] * np.arange(self.n_along[axis])
            sides = [1] * len(self.shape)
            sides[axis] = -1
            needed &= (starts < size).reshape(sides)
        return needed.ravel()


def _odd_chunks(path: Path, files: Mapping[str, int], chunks: _Chunks, name: str) -> list[str]:
    """Check that every shard is there, and that every chunk in it is stored and decodes to its own size."""
    there, n_expected = [file for file in files if file.startswith(f"{name}/c/")], math.prod(chunks.grid)
    if len(there) != n_expected:
        return [f"/{name}: expected {n_expected:,} shards for shape {chunks.shape}, found {len(there):,} files"]
    for shard in chunks.shards():
        file = "/".join([name, "c", *map(str, shard)])
        if file not in files:
            return [f"/{name}: expected the shard {file}, found no such file"]
        if found := _odd_shard(path / file, chunks, shard):
            return [f"/{name}: expected chunks that decode to {chunks.chunk_bytes:,} bytes, found {found} in {file}"]
    return []


def _odd_shard(path: Path, chunks: _Chunks, shard: tuple[int, ...]) -> str:
    n_chunks = math.prod(chunks.n_along)
    with path.open("rb") as file:
        n_data = os.fstat(file.fileno()).st_size - 16 * n_chunks - _CHECKSUM_BYTES
        if n_data < 0:
            return "a file too short for its index"
        index = np.frombuffer(os.pread(file.fileno(), 16 * n_chunks, n_data), "<u8").reshape(n_chunks, 2)
        index = index[chunks.needed(shard)]
        if (index == _MISSING).any():
            return "one missing"
        starts, sizes = index[:, 0], index[:, 1]
        limit = np.uint64(n_data)
        # Each within the data, and together no more than it: one chunk may not stand for a thousand.
        if (sizes > limit).any() or (starts > limit - sizes).any() or int(sizes.sum()) > n_data:
            return "one beyond its data"
        for start, n_stored in index.tolist():
            if found := _odd_chunk(file.fileno(), start, n_stored, chunks):
                return found
    return ""


def _odd_chunk(descriptor: int, start: int, n_stored: int, chunks: _Chunks) -> str:
    n_stored -= _CHECKSUM_BYTES
    found: int | None = n_stored
    if chunks.compressor == "zstd":
        found = _zstd_content_bytes(os.pread(descriptor, max(0, min(n_stored, _ZSTD_HEADER_BYTES)), start))
    elif chunks.compressor == "gzip":
        is_plausible = 0 <= n_stored <= 2 * chunks.chunk_bytes + 1024
        found = _gunzipped_bytes(os.pread(descriptor, n_stored, start), chunks.chunk_bytes) if is_plausible else None
    if found == chunks.chunk_bytes:
        return ""
    return "a damaged one" if found is None else "a larger one" if found > chunks.chunk_bytes else "a smaller one"


def _gunzipped_bytes(data: bytes, n_most: int) -> int | None:
    """Return how many bytes the one member of a gzip stream holds, at most one more than `n_most`."""
    stream = zlib.decompressobj(wbits=31)
    try:
        n_bytes = len(stream.decompress(data, n_most + 1))
    except zlib.error:
        return None
    return n_bytes if (stream.eof and not stream.unused_data) or n_bytes > n_most else None
