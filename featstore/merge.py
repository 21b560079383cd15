"""Merge stores of one format and the same codecs into one store, sorted by id."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, get_args

import numpy as np

from featstore.agreement import (
    builds_of,
    check_same_codecs,
    check_same_precision,
    check_same_splits,
    find_repeated,
    own_digests,
)
from featstore.atomic import discard_leftovers
from featstore.completeness import missing_shards, missing_utterances
from featstore.copying import copy_frames, copy_latents
from featstore.digest import utterance_digests
from featstore.errors import StoreError
from featstore.header import JSON_ATTRIBUTES, CodecHeader, ShardRow, StoreHeader, UtteranceRow, read_header
from featstore.lock import hold_lock
from featstore.preflight import check_room_for
from featstore.seal import check_seal
from featstore.store import Store
from featstore.verify import check_tables
from featstore.virtual import VirtualFrames, check_can_be_shown, part_rows
from featstore.writer import LAYOUT_OPTIONS, Compression, Layout, StoreWriter

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """One store to be merged; `repeated` holds ids of utterances that an earlier part brings."""

    path: Path
    header: StoreHeader
    layouts: Mapping[str, str]
    content_digest: str
    repeated: frozenset[str] = frozenset()

    @property
    def codecs(self) -> dict[str, CodecHeader]:
        """Codecs by name."""
        return {codec.name: codec for codec in self.header.codecs}

    @property
    def utterances(self) -> list[UtteranceRow]:
        """What this part brings to the merged store."""
        return [row for row in self.header.utterances if row.id not in self.repeated]


def merge_stores(
    parts: Sequence[Path],
    output: Path,
    layout: Layout | None = None,
    compression: Compression | None = None,
    *,
    virtual: bool = False,
    may_replace: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> bool:
    """Merge finished stores into `output`, which appears when it is whole.

    Parameters
    ----------
    parts : sequence of Path
        Stores of the same format and codecs, in any order. An utterance that stands in several is taken once where
        they agree on it, to the bit. Shards of one build of which some are missing are merged with a warning; so are
        parts of which some have no latents, and then none has.
    output : Path
    layout, compression : str or None
        None: what the parts' builds were asked for, else what the first part has. A virtual store has the layout that
        its parts have.
    may_replace : bool
        Whether another store may stand at `output`, which is then replaced.
    virtual : bool
        Write a small file that shows the parts' codes and embeddings where they are, instead of copying them.
    progress : callable (n_done, n_total) or None
        Called with utterances written, all codecs together.

    Returns
    -------
    bool
        False where `output` was this very merge already.

    Raises
    ------
    StoreError
        When there is nothing to merge, a part is damaged, or parts disagree: on an utterance, codecs, precision,
        split or options.
    """
    headers = _read_parts(parts, output)
    check_same_codecs(headers)
    check_same_precision(headers)
    check_same_splits(headers)
    headers = [replace(part, repeated=ids) for part, ids in zip(headers, find_repeated(headers), strict=True)]
    _warn_of_missing(headers)
    _warn_of_latents(headers)
    header = _merged_header(headers)
    if virtual:
        layout = check_can_be_shown(headers, output, layout)
        header = replace(header, parts=part_rows(headers, output))
    asked = headers[0].header.attributes["build_options"]
    layout = layout or _asked(asked, "embeddings", Layout)
    layout = layout or ("dense" if "dense" in headers[0].layouts.values() else "factored")
    compression = compression or _asked(asked, "compression", Compression) or "zstd"
    if _is_merged(output, headers, header, layout):
        return False
    if output.exists() and not may_replace:
        raise StoreError(f"{output}: stands there already; remove it or choose another --output")
    if not virtual:
        check_room_for(header, layout, compression, output)
    order = sorted(
        (row.id, place, index)
        for place, part in enumerate(headers)
        for index, row in enumerate(part.header.utterances)
        if row.id not in part.repeated
    )
    n_total = len(order) * len(header.codecs)
    shown = VirtualFrames() if virtual else None
    if shown is not None:
        for codec in header.codecs:
            for place, first, last in _runs(order):
                shown.add(headers[place], output, codec.name, first, last)
    with StoreWriter(output, header, layout, compression, shown) as writer:
        n_done = 0
        for codec in header.codecs:
            for place, first, last in _runs(order):
                _copy(writer, headers[place], codec, first, last, header.phonemes, with_latents=not virtual)
                n_done += last - first
                if progress is not None:
                    progress(n_done, n_total)
    return True


def merge_into(
    output: Path,
    parts: Sequence[Path],
    layout: Layout | None = None,
    compression: Compression | None = None,
    *,
    virtual: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> bool:
    """Merge stores into an output that is nobody else's: not there yet, or this very merge, finished before.

    The parameters are those of `merge_stores`.

    Raises
    ------
    StoreError
        As `merge_stores` does, and when another store stands there or another process writes it.
    """
    with hold_lock(output):
        discard_leftovers(output, is_alone=True)
        if output.exists() and any(output.samefile(part) for part in parts if part.exists()):
            raise StoreError(f"{output}: is one of the parts; choose another --output")
        return merge_stores(parts, output, layout, compression, virtual=virtual, may_replace=False, progress=progress)


def _runs(order: Sequence[tuple[str, int, int]]) -> Iterator[tuple[int, int, int]]:
    """Yield (part, first, last) for utterances that follow each other both in the result and in a part."""
    for _, run in groupby(enumerate(order), key=lambda item: (item[1][1], item[1][2] - item[0])):
        places = [entry for _, entry in run]
        yield places[0][1], places[0][2], places[-1][2] + 1


def _asked(options: Mapping[str, Any], name: str, choices: Any) -> Any:
    """Return what the parts' builds asked for, if it is one of the choices: a store from elsewhere may say anything."""
    value = options.get(name)
    return value if value in get_args(choices) else None


def _copy(
    writer: StoreWriter,
    part: Part,
    codec: CodecHeader,
    first: int,
    last: int,
    phonemes: Sequence[str],
    *,
    with_latents: bool,
) -> None:
    place = {label: index for index, label in enumerate(phonemes)}
    renumber = np.array([place[label] for label in part.header.phonemes], dtype=np.uint16)
    with Store(part.path) as store:
        frames = store[codec.name]
        start, stop = int(frames.offsets[first]), int(frames.offsets[last])
        copy_frames(writer, frames, start, stop, renumber)
        if codec.has_latents and with_latents:
            copy_latents(writer, frames, start, stop)


def _read_parts(paths: Sequence[Path], output: Path) -> list[Part]:
    if not paths:
        raise StoreError(f"{output}: there is no store to merge")
    parts = list[Part]()
    for path in paths:
        check_seal(path)  # a damaged part would get a seal of its own in the merged store
        with Store(path) as store:
            check_tables(store)
            layouts = {name: store[name].layout for name in store.codec_names}
            header = read_header(store)
            if parts:
                header = replace(header, codecs=[_shared(codec, parts[0]) for codec in header.codecs])
            parts.append(Part(path, header, layouts, store.content_digest))
    return parts


def _shared(codec: CodecHeader, first: Part) -> CodecHeader:
    """Return a header with the first part's codebooks in place of equal ones: each has megabytes of them."""
    known = first.codecs.get(codec.name)
    if known is None or not np.array_equal(known.codebooks, codec.codebooks):
        return codec
    return replace(codec, codebooks=known.codebooks)


def _is_merged(output: Path, parts: Sequence[Part], header: StoreHeader, layout: str) -> bool:
    """Tell whether `output` was made from these very parts: by the digests of shards, else of utterances."""
    if not output.exists():
        return False
    with Store(output) as store:
        there = read_header(store)
        layouts = {store[name].layout for name in store.codec_names}
        same = list(there.shards) == list(header.shards) and list(there.parts) == list(header.parts)
        same = same and layouts == {layout} and list(there.utterances) == list(header.utterances)
        same = same and there.skipped == header.skipped
        latents = [[codec.has_latents for codec in head.codecs] for head in (there, header)]
        if not same or latents[0] != latents[1]:
            return False
        if all(row.content_digest for row in header.shards):
            return True
        digests = dict(zip((row.id for row in there.utterances), utterance_digests(store), strict=True))
    return all(digests[id_] == digest for part in parts for id_, digest in own_digests(part).items())


def _warn_of_missing(parts: Sequence[Part]) -> None:
    """Say what is missing: a part of a build is a store too, and merging some of them can be meant."""
    sizes = [
        (
            part.header.attributes["corpus"],
            part.header.attributes["build_options"],
            len(part.utterances) + len(part.header.skipped),
        )
        for part in parts
    ]
    for warning in missing_shards(part.path for part in parts) or missing_utterances(sizes):
        LOG.warning("warning: %s", warning)


def _warn_of_latents(parts: Sequence[Part]) -> None:
    """Say whose latents are left out: the format has those of all frames or none."""
    for name in parts[0].codecs:
        without = [part.path for part in parts if not part.codecs[name].has_latents]
        if without and len(without) < len(parts):
            LOG.warning(
                "warning: the merged store lacks the latents of %s: %d of %d parts have none (%s)",
                name,
                len(without),
                len(parts),
                without[0],
            )


def _merged_header(parts: Sequence[Part]) -> StoreHeader:
    rows, shards = [], list[ShardRow]()
    for part in parts:
        rows += [replace(row, shard=row.shard + len(shards)) for row in part.utterances]
        shards += _shard_rows(part)
    frames = {
        (codec.name, row.id): n
        for part in reversed(parts)
        for codec in part.header.codecs
        for row, n in zip(part.header.utterances, codec.n_frames, strict=True)
    }
    rows.sort(key=lambda row: row.id)
    done = {row.id for row in rows}
    codecs = [
        replace(
            codec,
            n_frames=[frames[codec.name, row.id] for row in rows],
            has_latents=all(part.codecs[codec.name].has_latents for part in parts),
        )
        for codec in parts[0].header.codecs
    ]
    skipped = {id_: row for part in parts for id_, row in part.header.skipped.items() if id_ not in done}
    return StoreHeader(
        utterances=rows,
        skipped=dict(sorted(skipped.items())),
        phonemes=sorted({label for part in parts for label in part.header.phonemes}),
        shards=shards,
        codecs=codecs,
        attributes=_merged_attributes(parts),
    )


def _shard_rows(part: Part) -> list[ShardRow]:
    """Return a part's shards with the digest by which `verify` proves that the merged store says what they said."""
    rows = list(part.header.shards)
    if len(rows) == 1 and not rows[0].content_digest:
        rows = [replace(rows[0], content_digest=part.content_digest)]
    lacking = {row.shard for row in part.header.utterances if row.id in part.repeated}
    return [replace(row, content_digest="") if place in lacking else row for place, row in enumerate(rows)]


def _merged_attributes(parts: Sequence[Part]) -> dict[str, Mapping[str, Any]]:
    f0_methods = {str(part.header.attributes["build_options"].get("f0")): part.path for part in parts}
    if len(f0_methods) > 1:
        found = "; ".join(f"{method} in {path}" for method, path in f0_methods.items())
        raise StoreError(f"F0 was measured in different ways ({found}); build them with one --f0 before merging")
    merged: dict[str, Mapping[str, Any]] = {}
    for name in JSON_ATTRIBUTES:
        values: list[dict[str, Any]] = []
        for build in (build for part in parts for build in builds_of(part.header.attributes[name])):
            value = {key: item for key, item in build.items() if key not in LAYOUT_OPTIONS}
            if value not in values:
                values.append(value)
        merged[name] = (
            values[0]
            if len(values) == 1
            else {"merged": values, **({"f0": next(iter(f0_methods))} if name == "build_options" else {})}
        )
    return merged
