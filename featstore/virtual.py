"""Virtual stores: a small file that shows the codes and embeddings of its parts where they lie.

Labels are copied, because their numbers depend on all parts' vocabularies; codes, embeddings and latents, which are
nearly all of a store, are HDF5 virtual datasets. HDF5 reads zeros where a source is missing, without a word; so a
virtual store lists its parts with length and hash, and whoever opens it compares (`parts.find_absent`).
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import h5py

from featstore.errors import StoreError
from featstore.foreign_child import odd_part
from featstore.parts import PartRow
from featstore.seal import read_seal
from schemas.store import store_spec

if TYPE_CHECKING:
    from featstore.merge import Part

SHOWN = ("codes", "embeddings", "latents")
"""Datasets of a codec that a virtual store does not copy."""


class VirtualFrames:
    """Which frames of which part each frame of a virtual store is; made run by run, in the merged order."""

    def __init__(self) -> None:
        self._runs: dict[str, list[tuple[str, dict[str, tuple[int, ...]], int, int]]] = {}

    def add(self, part: "Part", output: Path, codec: str, first: int, last: int) -> None:
        """Append utterances `first` up to `last` of a part."""
        header = part.codecs[codec]
        n_layers, _, dim = header.codebooks.shape
        n_frames, start = sum(header.n_frames), sum(header.n_frames[:first])
        shapes = {"codes": (n_layers, n_frames), "embeddings": (n_layers, n_frames, dim), "latents": (n_frames, dim)}
        span = start, start + sum(header.n_frames[first:last])
        self._runs.setdefault(codec, []).append((relative_name(part.path, output), shapes, *span))

    def layout(self, codec: str, path: str, shape: tuple[int, ...]) -> Any:
        """Return the ``h5py.VirtualLayout`` of one dataset of a codec."""
        spec, n_done = store_spec().dataset(path), 0
        layout = h5py.VirtualLayout(shape, spec.dtype)
        lead = (slice(None),) * spec.frame_axis
        for name, shapes, start, stop in self._runs.get(codec, []):
            if stop == start:
                continue
            source = h5py.VirtualSource(name, f"codecs/{codec}/{path}", shapes[path], spec.dtype)
            there, here = slice(start, stop), slice(n_done, n_done + stop - start)
            layout[(*lead, here)] = source[(*lead, there)]
            n_done += stop - start
        return layout


def relative_name(part: Path, output: Path) -> str:
    """Return a part's name as a virtual store at `output` has it: relative, with forward slashes."""
    return Path(os.path.relpath(part.resolve(), output.parent.resolve())).as_posix()


def check_can_be_shown(
    parts: "Sequence[Part]", output: Path, layout: Literal["dense", "factored"] | None
) -> Literal["dense", "factored"]:
    """Return the layout that a virtual store over `parts` has.

    Raises
    ------
    StoreError
        When a part lies outside the output's folder, is virtual itself or has no seal, or is not in the layout asked.
    """
    for part in parts:
        if found := odd_part(relative_name(part.path, output), output):
            raise StoreError(
                f"{part.path}: cannot be shown by {output} ({found}); the parts of a virtual store lie in its own "
                "folder or below it, so that they move together: choose another --output"
            )
        if part.header.parts:
            raise StoreError(f"{part.path}: is a virtual store itself; give its parts, or merge without --virtual")
        if read_seal(part.path) is None:
            raise StoreError(f"{part.path}: has no seal to tell a changed part by; export it or merge it alone first")
    factored = [part.path for part in parts if "factored" in part.layouts.values()]
    if layout == "dense" and factored:
        raise StoreError(f"{factored[0]}: is factored: a virtual store cannot show its embeddings; leave out --virtual")
    return layout or ("factored" if factored else "dense")


def part_rows(parts: "Sequence[Part]", output: Path) -> list[PartRow]:
    """Return the table of a virtual store's parts."""
    rows = []
    for part in parts:
        seal = read_seal(part.path)
        assert seal is not None, part.path
        rows.append(PartRow(relative_name(part.path, output), seal.n_bytes, seal.sha256, part.content_digest))
    return rows
