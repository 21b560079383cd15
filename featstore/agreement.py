"""Whether stores may become one: where they differ and a union is right, where it is not and they are refused."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featstore.digest import utterance_digests
from featstore.errors import StoreError
from featstore.frames import Frames
from featstore.header import UtteranceRow
from featstore.store import Store
from featstore.wording import counted

if TYPE_CHECKING:
    from featstore.merge import Part

_SAME_CLOCK = ("sample_rate_hz", "hop_samples", "weights", "weights_sha256")
_SAME_ROW = ("split", "speaker", "n_samples", "sample_rate_hz", "sha256")


def check_same_codecs(parts: "Sequence[Part]") -> None:
    """Refuse parts with other codecs than the first, or the same with other weights.

    Raises
    ------
    StoreError
    """
    first = parts[0]
    for part in parts[1:]:
        if part.codecs.keys() != first.codecs.keys():
            found, expected = ", ".join(part.codecs), ", ".join(first.codecs)
            raise StoreError(f"{part.path}: expected the codecs of {first.path} ({expected}), found {found}")
        for name, codec in part.codecs.items():
            other = first.codecs[name]
            for field in _SAME_CLOCK:
                if getattr(codec, field) != getattr(other, field):
                    raise StoreError(
                        f"{part.path}:/codecs/{name}: {field} is {getattr(codec, field)}, in {first.path} it is "
                        f"{getattr(other, field)}; stores of different codecs do not merge"
                    )
            if not np.array_equal(codec.codebooks, other.codebooks):
                raise StoreError(f"{part.path}:/codecs/{name}: codebooks differ from those in {first.path}")


def check_same_precision(parts: "Sequence[Part]") -> None:
    """Refuse parts that were encoded in different precisions: their codes differ by more than near ties.

    Raises
    ------
    StoreError
    """
    seen = [
        (str(options.get("precision", "float32")), part.path)
        for part in parts
        for options in builds_of(part.header.attributes["build_options"])
    ]
    for precision, path in seen:
        if precision != seen[0][0]:
            raise StoreError(
                f"{path}: was encoded in {precision}, {seen[0][1]} in {seen[0][0]}; build one of them again with the "
                "other's --precision"
            )


def check_same_splits(parts: "Sequence[Part]") -> None:
    """Refuse parts of one corpus that were split in different ways: an utterance here would train, there evaluate.

    Different corpora may each have a split of their own.

    Raises
    ------
    StoreError
    """
    seen: dict[str, tuple[tuple[Any, Any], Path]] = {}
    for part in parts:
        for corpus, options in _builds_of(part):
            split, found = str(corpus.get("split")), (options.get("seed"), options.get("eval_frac"))
            known, path = seen.setdefault(split, (found, part.path))
            if known != found:
                raise StoreError(
                    f"{part.path}: {split} was split with seed {found[0]} and eval_frac {found[1]}, in {path} with "
                    f"seed {known[0]} and eval_frac {known[1]}; build one of them again with the other's split"
                )


def find_repeated(parts: "Sequence[Part]") -> list[frozenset[str]]:
    """Return, for each part, the ids of utterances that an earlier part brings, the same to the last bit.

    Raises
    ------
    StoreError
        When two parts say different things of one utterance; the message names it and what differs.
    """
    first_with: dict[str, int] = {}
    repeated: list[set[str]] = [set() for _ in parts]
    for place, part in enumerate(parts):
        for row in part.header.utterances:
            if first_with.setdefault(row.id, place) != place:
                repeated[place].add(row.id)
    for place, ids in enumerate(repeated):
        for other in sorted({first_with[id_] for id_ in ids}):
            _check_equal(parts[other], parts[place], {id_ for id_ in ids if first_with[id_] == other})
    return [frozenset(ids) for ids in repeated]


def _check_equal(one: "Part", other: "Part", ids: set[str]) -> None:
    """Raise StoreError for the first of `ids` on which two parts differ."""
    rows = [{row.id: row for row in part.header.utterances if row.id in ids} for part in (one, other)]
    for id_ in sorted(ids):
        problem = _difference(rows[0][id_], rows[1][id_])
        if problem:
            raise _refusal(id_, one, other, problem, len(ids))
    digests = [_digests(part, ids) for part in (one, other)]
    for id_ in sorted(ids):
        if digests[0][id_] != digests[1][id_]:
            raise _refusal(id_, one, other, "their codes or labels differ", len(ids))
    with Store(one.path) as first, Store(other.path) as second:
        for name in one.codecs:
            if not (first[name].has_latents and second[name].has_latents):
                continue
            places = [{row.id: place for place, row in enumerate(part.header.utterances)} for part in (one, other)]
            for id_ in sorted(ids):
                latents = [_latents(store[name], at[id_]) for store, at in zip((first, second), places, strict=True)]
                if latents[0] != latents[1]:
                    raise _refusal(id_, one, other, f"the latents of {name} differ", len(ids))


def _difference(one: UtteranceRow, other: UtteranceRow) -> str:
    for name in _SAME_ROW:
        values = getattr(one, name), getattr(other, name)
        if values[0] != values[1]:
            return f"{name} is {values[0]} there, {values[1]} here"
    return ""


def own_digests(part: "Part") -> dict[str, bytes]:
    """Return the digests of the utterances that a part brings to a merged store."""
    return _digests(part, {row.id for row in part.utterances})


def _latents(frames: Frames, place: int) -> bytes:
    return frames.latents(*frames.offsets[place : place + 2].tolist()).tobytes()


def _digests(part: "Part", ids: set[str]) -> dict[str, bytes]:
    with Store(part.path) as store:
        digests = utterance_digests(store)
    return {row.id: digest for row, digest in zip(part.header.utterances, digests, strict=True) if row.id in ids}


def _refusal(id_: str, one: "Part", other: "Part", problem: str, n_shared: int) -> StoreError:
    more = f" ({counted(n_shared, 'utterance')} stand in both)" if n_shared > 1 else ""
    return StoreError(
        f"{other.path}: utterance {id_} stands in {one.path} too{more}, and {problem}; merge one of the two, or build "
        "both with the same options"
    )


def _builds_of(part: "Part") -> list[tuple[Any, Any]]:
    """Return (corpus, build_options) of the builds that made a part, as far as it tells which belong together."""
    corpora, options = (builds_of(part.header.attributes[name]) for name in ("corpus", "build_options"))
    return [(corpus, options[0]) for corpus in corpora] if len(options) == 1 else []


def builds_of(value: Any) -> list[Any]:
    """Return an attribute of each build: of several, where a store was merged from different ones."""
    merged = value.get("merged")
    if not isinstance(merged, list):
        return [value]
    return [build for entry in merged if isinstance(entry, dict) for build in builds_of(entry)]
