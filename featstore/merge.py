"""Merge stores of one format and the same codecs into one store, sorted by id."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from featstore.completeness import missing_shards, missing_utterances
from featstore.errors import StoreError
from featstore.store import BLOCK_FRAMES, Store
from featstore.writer import (
    LAYOUT_OPTIONS,
    CodecHeader,
    Compression,
    Layout,
    ShardRow,
    StoreHeader,
    StoreWriter,
    UtteranceRow,
    rows_of_chunk,
)

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Part:
    """The header of one store to be merged."""

    path: Path
    utterances: list[UtteranceRow]
    skipped: dict[str, str]
    phonemes: list[str]
    shards: list[ShardRow]
    codecs: dict[str, CodecHeader]
    layout: Layout
    attributes: dict[str, dict[str, Any]]


def merge_stores(
    parts: Sequence[Path],
    output: Path,
    layout: Layout | None = None,
    compression: Compression | None = None,
    inputs_sha256: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Merge finished stores into `output`, which appears when it is whole.

    Parameters
    ----------
    parts : sequence of Path
        Stores of the same format and codecs with disjoint utterances, in any order. Shards of one build of which
        some are missing are merged with a warning; so are parts of which some have no latents, and then none has.
    output : Path
    layout, compression : str or None
        None: what the parts' builds were asked for, else what the first part has.
    inputs_sha256 : str
        Recorded, where the parts are the shards of one build.
    progress : callable (n_done, n_total) or None
        Called with utterances written, all codecs together.

    Raises
    ------
    StoreError
        When there is nothing to merge, an utterance stands in two parts, or codecs or options differ.
    """
    headers = [_read_header(path) for path in parts]
    if not headers:
        raise StoreError(f"{output}: there is no store to merge")
    _check_codecs(headers)
    _check_disjoint(headers)
    _warn_of_missing(headers)
    _warn_of_latents(headers)
    asked = headers[0].attributes["build_options"]
    header = _merged_header(headers, inputs_sha256)
    order = sorted(
        (row.id, part, place) for part, head in enumerate(headers) for place, row in enumerate(head.utterances)
    )
    n_total = len(order) * len(header.codecs)
    with StoreWriter(
        output,
        header,
        layout or asked.get("embeddings") or headers[0].layout,
        compression or asked.get("compression", "zstd"),
    ) as writer:
        n_done = 0
        for codec in header.codecs:
            for part, first, last in _runs(order):
                _copy(writer, headers[part], codec, first, last, header.phonemes)
                n_done += last - first
                if progress is not None:
                    progress(n_done, n_total)


def _runs(order: Sequence[tuple[str, int, int]]) -> Iterator[tuple[int, int, int]]:
    """Yield (part, first, last) for utterances that follow each other both in the result and in a part."""
    for _, run in groupby(enumerate(order), key=lambda item: (item[1][1], item[1][2] - item[0])):
        places = [entry for _, entry in run]
        yield places[0][1], places[0][2], places[-1][2] + 1


def _copy(writer: StoreWriter, part: _Part, codec: CodecHeader, first: int, last: int, phonemes: Sequence[str]) -> None:
    place = {label: index for index, label in enumerate(phonemes)}
    renumber = np.array([place[label] for label in part.phonemes], dtype=np.uint16)
    with Store(part.path) as store:
        frames = store[codec.name]
        start, stop = int(frames.offsets[first]), int(frames.offsets[last])
        for a in range(start, stop, BLOCK_FRAMES):
            b = min(a + BLOCK_FRAMES, stop)
            writer.append(
                codec.name, frames.codes(a, b), renumber[frames.labels("phoneme", a, b)], frames.labels("f0", a, b)
            )
        if codec.has_latents:
            rows = rows_of_chunk(frames.dim)
            for a in range(start, stop, rows):
                writer.append_latents(codec.name, frames.latents(a, min(a + rows, stop)))


def _read_header(path: Path) -> _Part:
    with Store(path) as store:
        speakers = store.strings("vocab/speakers")
        names = ("split", "n_samples", "sample_rate_hz", "shard")
        columns = [store.strings("utterances/id"), [speakers[index] for index in store.numbers("utterances/speaker")]]
        numbers = [store.numbers(f"utterances/{name}").tolist() for name in names]
        hashes = store.strings("utterances/sha256")
        rows = zip(*columns, *numbers[:3], hashes, numbers[3], strict=True)
        shards = (store.strings(f"shards/{name}") for name in ("host", "device", "started", "finished", "job_id"))
        codecs = {}
        for name in store.codec_names:
            frames = store[name]
            n_frames = np.diff(frames.offsets).tolist()
            codecs[name] = CodecHeader(
                name,
                frames.sample_rate_hz,
                frames.hop_samples,
                frames.weights,
                frames.weights_sha256,
                frames.codebooks,
                n_frames,
                frames.has_latents,
            )
        layouts = {store[name].layout for name in store.codec_names}
        return _Part(
            path=path,
            utterances=[UtteranceRow(*row) for row in rows],
            skipped=dict(zip(store.strings("skipped/id"), store.strings("skipped/reason"), strict=True)),
            phonemes=store.strings("vocab/phonemes"),
            shards=[ShardRow(*row) for row in zip(*shards, strict=True)],
            codecs=codecs,
            layout="dense" if "dense" in layouts else "factored",
            attributes={name: store.json_attribute(name) for name in ("corpus", "build_options", "producer_versions")},
        )


def _check_codecs(parts: Sequence[_Part]) -> None:
    first = parts[0]
    for part in parts[1:]:
        if part.codecs.keys() != first.codecs.keys():
            found, expected = ", ".join(part.codecs), ", ".join(first.codecs)
            raise StoreError(f"{part.path}: expected the codecs of {first.path} ({expected}), found {found}")
        for name, codec in part.codecs.items():
            other = first.codecs[name]
            for field in ("sample_rate_hz", "hop_samples", "weights", "weights_sha256"):
                if getattr(codec, field) != getattr(other, field):
                    raise StoreError(
                        f"{part.path}:/codecs/{name}: {field} is {getattr(codec, field)}, in {first.path} it is "
                        f"{getattr(other, field)}; stores of different codecs do not merge"
                    )
            if not np.array_equal(codec.codebooks, other.codebooks):
                raise StoreError(f"{part.path}:/codecs/{name}: codebooks differ from those in {first.path}")


def _check_disjoint(parts: Sequence[_Part]) -> None:
    seen: dict[str, Path] = {}
    for part in parts:
        for row in part.utterances:
            if row.id in seen:
                raise StoreError(f"utterance {row.id} stands both in {seen[row.id]} and in {part.path}; merge it once")
            seen[row.id] = part.path


def _warn_of_missing(parts: Sequence[_Part]) -> None:
    """Say what is missing: a part of a build is a store too, and merging some of them can be meant."""
    sizes = [
        (part.attributes["corpus"], part.attributes["build_options"], len(part.utterances) + len(part.skipped))
        for part in parts
    ]
    for warning in missing_shards(part.path for part in parts) or missing_utterances(sizes):
        LOG.warning("warning: %s", warning)


def _warn_of_latents(parts: Sequence[_Part]) -> None:
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


def _merged_header(parts: Sequence[_Part], inputs_sha256: str) -> StoreHeader:
    rows, shards = [], list[ShardRow]()
    for part in parts:
        rows += [replace(row, shard=row.shard + len(shards)) for row in part.utterances]
        shards += part.shards
    frames = {
        (codec.name, row.id): n
        for part in parts
        for codec in part.codecs.values()
        for row, n in zip(part.utterances, codec.n_frames, strict=True)
    }
    rows.sort(key=lambda row: row.id)
    codecs = [
        replace(
            codec,
            n_frames=[frames[codec.name, row.id] for row in rows],
            has_latents=all(part.codecs[codec.name].has_latents for part in parts),
        )
        for codec in parts[0].codecs.values()
    ]
    return StoreHeader(
        utterances=rows,
        skipped=dict(sorted({id_: reason for part in parts for id_, reason in part.skipped.items()}.items())),
        phonemes=sorted({label for part in parts for label in part.phonemes}),
        shards=shards,
        codecs=codecs,
        attributes=_merged_attributes(parts),
        inputs_sha256=inputs_sha256,
    )


def _merged_attributes(parts: Sequence[_Part]) -> dict[str, Mapping[str, Any]]:
    f0_methods = {part.attributes["build_options"].get("f0"): part.path for part in parts}
    if len(f0_methods) > 1:
        found = "; ".join(f"{method} in {path}" for method, path in f0_methods.items())
        raise StoreError(f"F0 was measured in different ways ({found}); build them with one --f0 before merging")
    merged: dict[str, Mapping[str, Any]] = {}
    for name in ("corpus", "build_options", "producer_versions"):
        values: list[dict[str, Any]] = []
        for part in parts:
            value = {key: item for key, item in part.attributes[name].items() if key not in LAYOUT_OPTIONS}
            if value not in values:
                values.append(value)
        merged[name] = (
            values[0]
            if len(values) == 1
            else {"merged": values, **({"f0": next(iter(f0_methods))} if name == "build_options" else {})}
        )
    return merged
