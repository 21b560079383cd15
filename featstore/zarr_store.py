"""Write a store as a folder in Zarr 3: the same tree of arrays and attributes as the HDF5 file, in few, large files.

Every array is sharded: a shard is a file of up to `SHARD_BYTES` before compression that holds chunks as large as those
of the HDF5 store, one after the other along the frame axis; so a layer's slice is a sequential read of one file or two.
Every chunk and every shard's index ends with a CRC32C, and the folder has a seal (`featstore.zarr_seal`). Arrays are
read from the source and written one shard at a time, so memory holds one or two of them, whatever the size.
"""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore.atomic import write_folder_once
from featstore.digest import content_digest
from featstore.errors import StoreError
from featstore.frames import Frames
from featstore.header import JSON_ATTRIBUTES
from featstore.preflight import space_error
from featstore.progress import Progress
from featstore.reading import BLOCK_FRAMES
from featstore.stopping import signals_held
from featstore.store import Store
from featstore.writer import Compression, Layout, embedding_chunk, rows_of_chunk
from featstore.zarr_folder import TEXT_ATTRIBUTE, TEXT_ENCODING
from featstore.zarr_rules import folder_identity, remember_folder
from featstore.zarr_seal import write_folder_seal
from schemas.store import STORE_FORMAT, STORE_FORMAT_VERSION, DatasetSpec, store_spec

SHARD_BYTES = 256 << 20
_TABLE_CHUNK_BYTES = 1 << 20
_ZSTD_LEVEL = 3
_GZIP_LEVEL = 5
_N_CHUNKS_OF_SHARD = 1024  # its index, 16 kB then, is read with every slice


@dataclass(frozen=True)
class _Array:
    """An array to be written: its name below the root, shape without the bytes of strings, and where values come from.

    `read` returns rows `start` to `stop` along `axis`, at one place of the axes before it.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    axis: int
    read: Callable[[tuple[int, ...], int, int], NDArray[Any]]
    dimensions: tuple[str, ...]
    text_bytes: int = 0

    @property
    def shard(self) -> tuple[int, ...]:
        """Sides of a shard: whole chunks, as many along `axis` as there is room for, and all of the axes after it."""
        n_all = [max(1, -(-size // side)) for size, side in zip(self.shape, self.chunk, strict=True)]
        n_across = math.prod(n_all[self.axis + 1 :])
        size = 1 if self.text_bytes else np.dtype(self.dtype).itemsize
        chunk_bytes = math.prod(self.chunk) * size * max(1, self.text_bytes)
        n_along = min(n_all[self.axis], SHARD_BYTES // (chunk_bytes * n_across), _N_CHUNKS_OF_SHARD // n_across)
        n_of_shard = (*(1 for _ in self.chunk[: self.axis]), max(1, n_along), *n_all[self.axis + 1 :])
        return tuple(n * side for n, side in zip(n_of_shard, self.chunk, strict=True))

    def spans(self) -> Iterator[tuple[tuple[int, ...], int, int]]:
        """Yield (place in the axes before, start, stop) of every shard."""
        step = self.shard[self.axis]
        for place in np.ndindex(*self.shape[: self.axis]):
            for start in range(0, self.shape[self.axis], step):
                yield place, start, min(start + step, self.shape[self.axis])


def write_zarr(
    source: Store,
    output: Path,
    layout: Layout,
    compression: Compression = "zstd",
    progress: Progress | None = None,
) -> None:
    """Write what an open store says as a Zarr 3 folder, which appears when it is whole.

    Parameters
    ----------
    source : Store
        Its dense rows are made anew from codes and codebooks, as `StoreWriter` does.
    output : Path
        Nothing may stand there.
    layout : {"dense", "factored"}
    compression : {"zstd", "gzip", "none"}
        Of all chunks: Zstandard at level 3 or gzip at level 5.
    progress : callable (n_done, n_total, "export") or None
        Called with shards written.

    Raises
    ------
    StoreError
        When what was written has another content digest than the source claims, or there is no room for it.
    """
    try:
        _write(source, output, layout, compression, progress)
    except OSError as error:
        no_room = space_error(output, error)
        if no_room is None:
            raise
        raise no_room from error
    remember_folder(output, folder_identity(output))


def _write(source: Store, output: Path, layout: Layout, compression: Compression, progress: Progress | None) -> None:
    arrays = [*_tables(source)]
    for codec in source.codec_names:
        arrays += _arrays_of_codec(source[codec], layout)
    n_done, n_total = 0, sum(sum(1 for _ in array.spans()) for array in arrays)
    with write_folder_once(output) as folder:
        with signals_held():
            root = _make_groups(folder, source, layout)
        for array in arrays:
            with signals_held():
                target = _create(root, array, compression)
            for place, start, stop in array.spans():
                where = (*(slice(index, index + 1) for index in place), slice(start, stop))
                values = _values(array, place, start, stop)
                with signals_held():  # else Zarr's threads would put a shard into a folder that is being removed
                    target[where] = values
                n_done += 1
                if progress is not None:
                    progress(n_done, n_total, "export")
        finished = {"complete": True, "created": datetime.now(UTC).isoformat(timespec="seconds")}
        with signals_held():
            root.update_attributes(finished)
        with Store.of_own(folder) as written:
            digest = content_digest(written)
        if digest != source.content_digest:
            raise StoreError(
                f"{source.path}: its content has the digest {digest}, but it claims {source.content_digest}: it was "
                "changed after it was built; check it with verify --full"
            )
        write_folder_seal(folder)


def _values(array: _Array, place: tuple[int, ...], start: int, stop: int) -> NDArray[Any]:
    values = array.read(place, start, stop)
    if array.text_bytes:
        values = np.ascontiguousarray(values).view(np.uint8).reshape(stop - start, array.text_bytes)
    return values.reshape((*(1,) * len(place), *values.shape))


def _make_groups(folder: Path, source: Store, layout: str) -> Any:
    import zarr

    from featstore import __version__

    attributes: dict[str, Any] = {
        "format": STORE_FORMAT,
        "format_version": STORE_FORMAT_VERSION,
        "complete": False,
        "content_digest": source.content_digest,
        "created": "",
        "producer": f"rvqprobe {__version__}",
        **{name: json.dumps(source.json_attribute(name), sort_keys=True) for name in JSON_ATTRIBUTES},
    }
    root = zarr.create_group(folder, zarr_format=3, attributes=attributes)
    root.create_group("codecs")
    for codec in source.codec_names:
        root.create_group(f"codecs/{codec}", attributes=source[codec].attributes | {"layout": layout})
    return root


def _create(root: Any, array: _Array, compression: Compression) -> Any:
    from zarr.codecs import Crc32cCodec, GzipCodec, ZstdCodec

    tail = [array.text_bytes] if array.text_bytes else []
    names: list[str | None] = [*array.dimensions, *(None for _ in tail)]
    packing: dict[str, list[Any]] = {
        "zstd": [ZstdCodec(level=_ZSTD_LEVEL)],
        "gzip": [GzipCodec(level=_GZIP_LEVEL)],
        "none": [],
    }
    return root.create_array(
        array.name,
        shape=(*array.shape, *tail),
        dtype="uint8" if array.text_bytes else array.dtype,
        chunks=(*array.chunk, *tail),
        shards=(*array.shard, *tail),
        filters=None,
        compressors=[*packing[compression], Crc32cCodec()],
        fill_value=0,
        attributes={TEXT_ATTRIBUTE: TEXT_ENCODING} if array.text_bytes else {},
        dimension_names=names,
        config={"write_empty_chunks": True},  # a chunk of zeros is data, and a missing one is damage
    )


def _tables(source: Store) -> Iterator[_Array]:
    for spec in store_spec().datasets:
        # the parts of a virtual store are left out: their frames are copied
        if spec.required or (source.has(spec.path) and not spec.path.startswith("parts/")):
            yield _table(spec.path, spec, _whole(source, spec))


def _whole(source: Store, spec: DatasetSpec) -> NDArray[Any]:
    if spec.dtype != "string":
        return source.numbers(spec.path)
    values = [value.encode("utf-8") for value in source.strings(spec.path)]
    return np.asarray(values, dtype=f"S{max([1, *map(len, values)])}")


def _table(name: str, spec: DatasetSpec, values: NDArray[Any]) -> _Array:
    text_bytes = values.dtype.itemsize if spec.dtype == "string" else 0
    bytes_of_row = max(1, math.prod(values.shape[1:]) * values.dtype.itemsize)
    rows = max(1, min(len(values), _TABLE_CHUNK_BYTES // bytes_of_row))
    chunk = (rows, *(max(1, size) for size in values.shape[1:]))
    return _Array(
        name, spec.dtype, values.shape, chunk, 0, lambda _, start, stop: values[start:stop], spec.shape, text_bytes
    )


def _arrays_of_codec(frames: Frames, layout: str) -> Iterator[_Array]:
    prefix = f"codecs/{frames.name}"
    rows, numbers = embedding_chunk(frames.dim)
    # by dataset: frames in a chunk, numbers of each where it has any, and what reads it
    readers: dict[str, tuple[int, int, Callable[[tuple[int, ...], int, int], NDArray[Any]]]] = {
        "codes": (BLOCK_FRAMES, 0, lambda place, start, stop: frames.layer(place[0] + 1).codes(start, stop)),
        "embeddings": (rows, numbers, lambda place, start, stop: _rows(frames, place[0] + 1, start, stop)),
        "latents": (rows_of_chunk(frames.dim), frames.dim, lambda _, start, stop: frames.latents(start, stop)),
        "labels/phoneme": (BLOCK_FRAMES, 0, lambda _, start, stop: frames.labels("phoneme", start, stop)),
        "labels/speaker": (BLOCK_FRAMES, 0, lambda _, start, stop: frames.labels("speaker", start, stop)),
        "labels/f0": (BLOCK_FRAMES, 0, lambda _, start, stop: frames.labels("f0", start, stop)),
    }
    sizes = {"n_layers": frames.n_layers, "n_frames": frames.n_frames, "dim": frames.dim}
    for spec in store_spec().codec_datasets:
        is_left_out = spec.layout not in (None, layout) or (spec.path == "latents" and not frames.has_latents)
        if is_left_out:
            continue
        name = f"{prefix}/{spec.path}"
        if spec.path in readers:
            n, numbers_here, read = readers[spec.path]
            axis, shape = spec.frame_axis, tuple(sizes[symbol] for symbol in spec.shape)
            # One layer in a chunk; and no chunk longer than the track, as in the HDF5 store.
            one_each, rest = (1,) * axis, (numbers_here,) * (len(shape) - axis - 1)
            chunk = (*one_each, max(1, min(n, frames.n_frames)), *rest)
            yield _Array(name, spec.dtype, shape, chunk, axis, read, spec.shape)
        else:
            yield _table(name, spec, frames.offsets if spec.path == "offsets" else frames.codebooks)


def _rows(frames: Frames, layer: int, start: int, stop: int) -> NDArray[np.float32]:
    """Return dense rows made from codes, so that what is written is equal to codebook[code] for sure."""
    rows = np.empty((stop - start, frames.dim), dtype=np.float32)
    frames.layer(layer).read_into(rows, start, stop)
    return rows
