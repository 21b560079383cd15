"""Write a store in another layout, compression or container, without encoding: same content, same content digest.

To HDF5 through `StoreWriter`, to a Zarr 3 folder through `featstore.zarr_store`; from either. What a virtual store
shows of its parts is copied, so the result stands by itself. Dense rows are made anew from codes and codebooks.
"""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from featstore.atomic import discard_leftovers
from featstore.copying import copy_frames, copy_latents
from featstore.errors import StoreError
from featstore.header import StoreHeader, read_header
from featstore.lock import hold_lock
from featstore.parts import part_path
from featstore.preflight import check_room_for
from featstore.progress import Progress
from featstore.reading import BLOCK_FRAMES
from featstore.seal import check_seal
from featstore.store import Store
from featstore.verify import check_tables
from featstore.writer import Compression, Layout, StoreWriter
from featstore.zarr_seal import is_zarr

Container = Literal["hdf5", "zarr"]


def export_store(
    path: Path,
    output: Path,
    layout: Layout | None = None,
    format: Container | None = None,
    compression: Compression | None = None,
    progress: Progress | None = None,
) -> bool:
    """Write the content of a store anew at `output`, which appears when it is whole.

    Parameters
    ----------
    path : Path
        A finished store: HDF5, virtual or not, or a Zarr folder.
    output : Path
        Nothing may stand there but this very export, finished before.
    layout : {"dense", "factored"} or None
        None: that of the source; dense where its codecs differ.
    format : {"hdf5", "zarr"} or None
        None: Zarr where `output` ends in ``.zarr``, else HDF5.
    compression : {"zstd", "gzip", "none"} or None
        None: Zstandard.
    progress : callable (n_done, n_total, what) or None
        Called with bytes of the source read ("hash"), then with blocks of frames, or shards, written ("export").

    Returns
    -------
    bool
        False where `output` was there already, with equal content digest and layout.

    Raises
    ------
    StoreError
        When the source is damaged or lacks a part, something else stands at `output` or another process writes it,
        there is no room, or the source's content is not what its digest says.
    """
    container = format or ("zarr" if output.suffix.lower() == ".zarr" else "hdf5")
    with hold_lock(output):
        discard_leftovers(output, is_alone=True)
        if output.is_symlink() and not output.exists():
            raise StoreError(f"{output}: is a link to nothing; remove it or choose another output")
        if output.exists() and path.exists() and output.samefile(path):
            raise StoreError(f"{output}: is the store itself; choose another output")
        # a damaged store would get a seal of its own in the export
        check_seal(path, None if progress is None else lambda done, total: progress(done, total, "hash"))
        with Store(path) as source:
            check_tables(source)
            _check_parts(source)
            layout = layout or _layout_of(source)
            if output.exists():
                _check_is_export(output, source, layout, container)
                return False
            header = replace(read_header(source), parts=())
            check_room_for(header, layout, compression or "zstd", output)
            if container == "zarr":
                from featstore.zarr_store import write_zarr

                write_zarr(source, output, layout, compression or "zstd", progress)
            else:
                _write_hdf5(source, header, output, layout, compression or "zstd", progress)
    return True


def _check_parts(source: Store) -> None:
    for name, problem in source.absent_parts.items():
        raise StoreError(f"{source.path}: its part {name} {problem}; bring it back, or merge the parts again")
    for part in source.parts:
        check_seal(part_path(source.path, part.path))


def _layout_of(source: Store) -> Layout:
    layouts = {source[name].layout for name in source.codec_names}
    return "dense" if "dense" in layouts else "factored"


def _check_is_export(output: Path, source: Store, layout: Layout, container: Container) -> None:
    """Refuse whatever stands at `output` unless it is the export that is asked for."""
    if is_zarr(output) == (container == "zarr") and (is_zarr(output) or output.is_file()):
        with Store(output) as there:
            is_same = there.content_digest == source.content_digest and not there.parts
            if is_same and {there[name].layout for name in there.codec_names} <= {layout}:
                return
    raise StoreError(f"{output}: stands there already; remove it or choose another output")


def _write_hdf5(
    source: Store,
    header: StoreHeader,
    output: Path,
    layout: Layout,
    compression: Compression,
    progress: Progress | None,
) -> None:
    as_they_are = np.arange(len(header.phonemes), dtype=np.uint16)
    n_done, n_total = 0, sum(-(-source[name].n_frames // BLOCK_FRAMES) for name in source.codec_names)
    with StoreWriter(output, header, layout, compression, expected_digest=source.content_digest) as writer:
        for name in source.codec_names:
            frames = source[name]
            for start, stop in frames.blocks():
                copy_frames(writer, frames, start, stop, as_they_are)
                if frames.has_latents:
                    copy_latents(writer, frames, start, stop)
                n_done += 1
                if progress is not None:
                    progress(n_done, n_total, "export")
