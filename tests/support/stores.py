"""Small stores made directly from random codes and labels, without audio."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

from featstore import trust
from featstore.digest import content_digest
from featstore.header import CodecHeader, ShardRow, SkippedRow, StoreHeader, UtteranceRow
from featstore.seal import write_seal
from featstore.store import Store
from featstore.writer import StoreWriter

PHONEMES = ["", "AA1", "AH0", "S", "sil", "spn"]
ATTRIBUTES = {
    "corpus": {"split": "train-clean-100", "n_scanned": 8},
    "build_options": {"seed": 42, "f0": "yin"},
    "producer_versions": {"python": "3"},
}


@dataclass
class StoreRecipe:
    """What a random store holds; equal recipes give equal content."""

    n_utterances: int = 12
    n_speakers: int = 3
    n_layers: int = 3
    n_codewords: int = 16
    dim: int = 5
    codecs: tuple[str, ...] = ("alpha", "beta")
    frames_per_utterance: tuple[int, int] = (40, 160)
    seed: int = 0
    skipped: dict[str, str] = field(default_factory=dict)
    weights: str = "untrained"
    eval_every: int = 4
    unvoiced: bool = False


def write_store(
    path: Path, recipe: StoreRecipe = StoreRecipe(), layout="factored", compression="zstd", only=None
) -> Path:
    """Write the store of a recipe, or the utterances whose places are in `only`. Codes follow the phone labels."""
    rng = np.random.default_rng(recipe.seed)
    speakers = [f"s{index % recipe.n_speakers}" for index in range(recipe.n_utterances)]
    rows, data = [], []
    codebooks = {
        name: rng.standard_normal((recipe.n_layers, recipe.n_codewords, recipe.dim)).astype("f4")
        for name in recipe.codecs
    }
    for place in range(recipe.n_utterances):
        of_speaker = place // recipe.n_speakers
        split = int(of_speaker % recipe.eval_every == recipe.eval_every - 1)
        rows.append(UtteranceRow(f"{speakers[place]}-1-{place:04d}", speakers[place], split, 16_000, 16_000, "ab" * 32))
        data.append({name: _frames(rng, recipe, place % recipe.n_speakers) for name in recipe.codecs})
    order = sorted(range(len(rows)) if only is None else only, key=lambda place: rows[place].id)
    header = StoreHeader(
        utterances=[rows[place] for place in order],
        skipped={id_: SkippedRow(reason) for id_, reason in recipe.skipped.items()},
        phonemes=PHONEMES,
        shards=[ShardRow("host", "cpu", "2026-01-01T00:00:00+00:00", "2026-01-01T00:00:01+00:00", "")],
        codecs=[
            CodecHeader(
                name,
                16_000,
                320 + 80 * index,
                recipe.weights,
                "cd" * 32,
                codebooks[name],
                [data[place][name][0].shape[1] for place in order],
            )
            for index, name in enumerate(recipe.codecs)
        ],
        attributes=ATTRIBUTES,
    )
    with StoreWriter(path, header, layout, compression) as writer:
        for place in order:
            for name in recipe.codecs:
                writer.append(name, *data[place][name])
    return path


@contextmanager
def edited(path: Path, *, is_sound: bool = False) -> Iterator[h5py.File]:
    """Open a finished store to change it, and seal it again: it is then as its writer might have left it.

    `is_sound`: give it the digest of its new content too.
    """
    with h5py.File(path, "r+") as file:
        yield file
    if is_sound:
        with Store.of_own(path) as store:
            digest = content_digest(store)
        with h5py.File(path, "r+") as file:
            file.attrs["content_digest"] = np.bytes_(digest)
    write_seal(path)
    trust.remember(path, trust.identity_of(path))


def _frames(rng, recipe, speaker):
    n = int(rng.integers(*recipe.frames_per_utterance))
    phoneme = rng.integers(0, len(PHONEMES), n).astype(np.uint16)
    noise = rng.integers(0, recipe.n_codewords, (recipe.n_layers, n))
    told = rng.random((recipe.n_layers, n)) < 0.7 / np.arange(1, recipe.n_layers + 1)[:, None]
    codes = np.where(told, (2 * phoneme + speaker) % recipe.n_codewords, noise).astype(np.uint16)
    f0 = (100 + 40 * speaker + 5 * codes[0] + rng.standard_normal(n)).astype(np.float32)
    f0[(rng.random(n) < 0.4) | recipe.unvoiced] = np.nan
    return codes, phoneme, f0
