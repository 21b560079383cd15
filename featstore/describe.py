"""A store in words and numbers, for people and scripts."""

import json
from collections import Counter
from typing import Any

from featstore.header import read_shards
from featstore.safe_text import printable
from featstore.sizes import in_bytes
from featstore.store import Store
from featstore.wording import changes_text, counted
from featstore.zarr_seal import is_zarr, list_files

_BASELINE_CODEC = "melrvq"  # all its learning is the fit of its codebooks: it is no untrained network


def describe(store: Store) -> dict[str, Any]:
    """Return what ``inspect`` shows: versions, counts, digest, and per codec sizes, clock, layout and weights."""
    codecs = {}
    for name in store.codec_names:
        frames = store[name]
        codecs[name] = {
            "n_frames": frames.n_frames,
            "n_layers": frames.n_layers,
            "n_codewords": frames.n_codewords,
            "dim": frames.dim,
            "sample_rate_hz": frames.sample_rate_hz,
            "hop_samples": frames.hop_samples,
            "frame_rate_hz": frames.frame_rate_hz,
            "layout": frames.layout,
            "has_latents": frames.has_latents,
            "weights": frames.weights,
            "weights_sha256": frames.weights_sha256,
            "bytes": frames.stored_bytes(),
        }
    split = store.numbers("utterances/split")
    sizes = [status.st_size for status in (list_files(store.path).values() if is_zarr(store.path) else ())]
    return {
        "path": str(store.path),
        "container": "zarr" if sizes else "hdf5",
        "format_version": store.attributes["format_version"],
        "complete": bool(store.attributes["complete"]),
        "content_digest": store.content_digest,
        "created": store.attributes["created"],
        "producer": store.attributes["producer"],
        "corpus": store.json_attribute("corpus"),
        "build_options": store.json_attribute("build_options"),
        "encodings": _encodings(store),
        "n_utterances": store.n_utterances,
        "n_train_utterances": int((split == 0).sum()),
        "n_eval_utterances": int((split == 1).sum()),
        "n_skipped": len(store.strings("skipped/id")),
        "skipped": dict(zip(store.strings("skipped/id"), store.strings("skipped/reason"), strict=True)),
        "n_speakers": len(store.strings("vocab/speakers")),
        "n_phonemes": len(store.strings("vocab/phonemes")),
        "bytes": sum(sizes) if sizes else store.path.stat().st_size,
        "n_files": max(1, len(sizes)),
        "parts": [part.path for part in store.parts],
        "absent_parts": store.absent_parts,
        "codecs": codecs,
    }


def weights_text(codec: str, weights: str) -> str:
    """Return what a codec's weights are, for people: the format calls whatever was made from the corpus untrained."""
    if codec == _BASELINE_CODEC and weights == "untrained":
        return "codebooks fitted to the corpus"
    if weights == "checkpoint":
        return "weights of an own checkpoint"
    return f"{'UNTRAINED' if weights == 'untrained' else weights} weights"


def _encodings(store: Store) -> list[dict[str, Any]]:
    """Return each way in which shards were encoded, and of how many; for the usual one that number alone."""
    ways = Counter(row.encoding for row in read_shards(store))
    return [_json_object(way) | {"n_shards": n} for way, n in ways.items()]


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):  # a store may come from anyone
        return {}
    return value if isinstance(value, dict) else {}


def _encoding_lines(encodings: list[dict[str, Any]]) -> list[str]:
    lines = []
    for way in encodings:
        if way.keys() == {"n_shards"}:
            continue
        together = f", {way['batch_s']:g} s of audio together" if _is_small(way.get("batch_s")) else ""
        which = f" ({counted(way['n_shards'], 'shard')})" if len(encodings) > 1 else ""
        precision = way.get("precision", "float32")
        lines.append(f"  encoded         in {precision}{together}{which}")
        changed = way.get("changed_codes")
        for codec, shares in (changed if isinstance(changed, dict) else {}).items():
            if isinstance(shares, list) and all(map(_is_small, shares)):
                lines.append(f"                  {changes_text(codec, precision, shares)}")
    return lines


def _is_small(value: Any) -> bool:
    return isinstance(value, (int, float)) and 0 <= value <= 1e6


def _container(found: dict[str, Any]) -> str:
    return f", Zarr 3, {counted(found['n_files'], 'file')}" if found["container"] == "zarr" else ""


def describe_text(store: Store) -> str:
    """Return what ``inspect`` prints for a person."""
    found = describe(store)
    corpus = found["corpus"]
    lines = [
        f"{found['path']}  ({in_bytes(found['bytes'])}, format {found['format_version']}{_container(found)})",
        f"  made            {found['created']} by {found['producer']}",
        f"  content digest  {found['content_digest']}",
        f"  corpus          {corpus.get('split', 'merged')}: {counted(found['n_utterances'], 'utterance')} "
        f"({found['n_train_utterances']} train, {found['n_eval_utterances']} evaluation), "
        f"{counted(found['n_speakers'], 'speaker')}, {counted(found['n_phonemes'], 'phone label')}",
    ]
    for name, codec in found["codecs"].items():
        lines.append(
            f"  {name:15} {codec['n_frames']:,} frames at {codec['frame_rate_hz']:g} Hz, "
            f"{counted(codec['n_layers'], 'layer')} of {codec['n_codewords']} x {codec['dim']}, "
            f"{codec['layout']}{' with latents' if codec['has_latents'] else ''}, {in_bytes(codec['bytes'])}, "
            f"{weights_text(name, codec['weights'])}"
        )
    lines += _encoding_lines(found["encodings"])
    if found["parts"]:
        absent = f", of which {len(found['absent_parts'])} are not there" if found["absent_parts"] else ""
        lines.append(f"  virtual         over {counted(len(found['parts']), 'part')}{absent}: {found['parts'][0]}, ...")
    if found["n_skipped"]:
        lines.append(f"  skipped         {counted(found['n_skipped'], 'utterance')}:")
        shown = list(found["skipped"].items())[:10]
        lines += [f"    {name}: {reason}" for name, reason in shown]
        if found["n_skipped"] > len(shown):
            lines.append(f"    ... and {found['n_skipped'] - len(shown)} more, listed by --json")
    return "\n".join(map(printable, lines))  # a store may come from anyone, and a terminal obeys escape sequences
