"""Everything of a store but its frames: the tables and identities that a writer is given and a merge reads back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featstore.parts import PartRow
from featstore.store import Store
from schemas.store import store_spec

JSON_ATTRIBUTES = ("corpus", "build_options", "producer_versions")
SHARD_OPTIONAL = ("encoding",)  # columns that are absent where every row has the default


class InputHashes(NamedTuple):
    """Hex SHA-256 of an utterance's audio and alignment file; empty where it is absent, unreadable or not known."""

    audio: str = ""
    alignment: str = ""


@dataclass(frozen=True)
class UtteranceRow:
    """One line of the utterance table; `shard` is an index into `StoreHeader.shards`."""

    id: str
    speaker: str
    split: int
    n_samples: int
    sample_rate_hz: int
    sha256: str
    shard: int = 0
    alignment_sha256: str = ""

    @property
    def inputs(self) -> InputHashes:
        """Hashes of the files that it was made from."""
        return InputHashes(self.sha256, self.alignment_sha256)


@dataclass(frozen=True)
class SkippedRow:
    """Why an utterance could not be used, and what its files were then."""

    reason: str
    sha256: str = ""
    alignment_sha256: str = ""

    @property
    def inputs(self) -> InputHashes:
        """Hashes of the files that could not be used."""
        return InputHashes(self.sha256, self.alignment_sha256)


@dataclass(frozen=True)
class ShardRow:
    """Where and when a range of utterances was made; times in ISO 8601, UTC.

    `content_digest` is that of the shard as it was merged; empty in the shard itself, and where not all of the shard
    is in the store. `seconds_by_stage` is a JSON object: what its build spent its time on; so is `encoding`: how, where
    it was not one utterance at a time in float32.
    """

    host: str
    device: str
    started: str
    finished: str
    job_id: str
    content_digest: str = ""
    seconds_by_stage: str = "{}"
    encoding: str = "{}"


@dataclass(frozen=True)
class CodecHeader:
    """One codec's identity and how many frames each utterance has, in the order of the utterance table.

    `has_latents`: the store gets the encoder's output before quantisation too.
    """

    name: str
    sample_rate_hz: int
    hop_samples: int
    weights: str
    weights_sha256: str
    codebooks: NDArray[np.float32]
    n_frames: Sequence[int]
    has_latents: bool = False


@dataclass(frozen=True)
class StoreHeader:
    """Everything of a store but its frames. `attributes` holds the JSON-valued root attributes as dictionaries."""

    utterances: Sequence[UtteranceRow]
    skipped: Mapping[str, SkippedRow]
    phonemes: Sequence[str]
    shards: Sequence[ShardRow]
    codecs: Sequence[CodecHeader]
    attributes: Mapping[str, Mapping[str, Any]]
    parts: Sequence[PartRow] = field(default=())


def read_header(store: Store) -> StoreHeader:
    """Return the header of an open store."""
    return StoreHeader(
        utterances=read_utterances(store),
        skipped=read_skipped(store),
        phonemes=store.strings("vocab/phonemes"),
        shards=read_shards(store),
        codecs=[_codec_header(store, name) for name in store.codec_names],
        attributes={name: store.json_attribute(name) for name in JSON_ATTRIBUTES},
        parts=store.parts,
    )


def read_utterances(store: Store) -> list[UtteranceRow]:
    """Return the utterance table of an open store."""
    speakers = store.strings("vocab/speakers")
    columns = {name: _column(store, f"utterances/{name}") for name in UtteranceRow.__dataclass_fields__}
    columns["speaker"] = [speakers[index] for index in columns["speaker"]]
    return [UtteranceRow(*row) for row in zip(*columns.values(), strict=True)]


def read_skipped(store: Store) -> dict[str, SkippedRow]:
    """Return the skipped utterances of an open store, by id."""
    rows = _rows(store, "skipped", SkippedRow)
    return {id_: SkippedRow(*row) for id_, row in zip(store.strings("skipped/id"), rows, strict=True)}


def read_shards(store: Store) -> list[ShardRow]:
    """Return where and how each part of an open store was made."""
    columns = {
        name: _column(store, f"shards/{name}")
        for name in ShardRow.__dataclass_fields__
        if name not in SHARD_OPTIONAL or store.has(f"shards/{name}")
    }
    rows = zip(*columns.values(), strict=True)
    return [ShardRow(**dict(zip(columns, row, strict=True))) for row in rows]


def _rows(store: Store, group: str, kind: Any) -> list[tuple[Any, ...]]:
    return list(zip(*(_column(store, f"{group}/{name}") for name in kind.__dataclass_fields__), strict=True))


def _column(store: Store, path: str) -> list[Any]:
    is_text = store_spec().dataset(path).dtype == "string"
    return store.strings(path) if is_text else store.numbers(path).tolist()


def _codec_header(store: Store, name: str) -> CodecHeader:
    frames = store[name]
    return CodecHeader(
        name,
        frames.sample_rate_hz,
        frames.hop_samples,
        frames.weights,
        frames.weights_sha256,
        frames.codebooks,
        np.diff(frames.offsets).tolist(),
        frames.has_latents,
    )
