"""Rows as quantised features are: 1024 codewords, unequally used, by utterances of unequal length."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from featstore.writer import CodecHeader, ShardRow, StoreHeader, StoreWriter, UtteranceRow

N_CODEWORDS = 1024
N_LAYERS = 2
LAYER = 2  # the one that is read, counted from 1
CODEC = "codec"
_EXPONENT = 0.7  # of the Zipf-like use: a perplexity near 580, as a trained codec's layers have
_FRAMES_OF_UTTERANCE = (300, 1200)


@dataclass(frozen=True, eq=False)
class Rows:
    """One layer's rows, and what makes them.

    Attributes
    ----------
    codebooks : float32 array of shape (2, 1024, dim)
    codes : uint16 array of shape (2, n_frames)
    offsets : int64 array of shape (n_utterances + 1,)
    """

    codebooks: NDArray[np.float32]
    codes: NDArray[np.uint16]
    offsets: NDArray[np.int64]

    @property
    def dim(self) -> int:
        """Numbers of a row."""
        return int(self.codebooks.shape[2])

    @property
    def n_frames(self) -> int:
        """Rows of the layer."""
        return int(self.codes.shape[1])

    @property
    def n_utterances(self) -> int:
        """Utterances that the rows belong to."""
        return len(self.offsets) - 1

    def layer(self) -> NDArray[np.float32]:
        """Return the layer that is read, float32 (n_frames, dim)."""
        return self.codebooks[LAYER - 1][self.codes[LAYER - 1]]

    def span(self, utterance: int) -> slice:
        """Return an utterance's frames."""
        return slice(int(self.offsets[utterance]), int(self.offsets[utterance + 1]))


def draw_rows(n_frames: int, dim: int, seed: int) -> Rows:
    """Draw codebooks and codes: each layer's codes Zipf-like, in an order of its own.

    Parameters
    ----------
    n_frames : int
        At least one utterance's; the last utterance takes what is left.
    dim : int
    seed : int
    """
    rng = np.random.default_rng([seed, dim])
    n_of = rng.integers(*_FRAMES_OF_UTTERANCE, size=n_frames // _FRAMES_OF_UTTERANCE[0] + 1)
    ends = np.cumsum(n_of)
    offsets = np.concatenate([[0], ends[ends < n_frames], [n_frames]]).astype(np.int64)
    share = np.arange(1, N_CODEWORDS + 1) ** -_EXPONENT
    ranks = rng.choice(N_CODEWORDS, (N_LAYERS, n_frames), p=share / share.sum())
    codes = np.stack([rng.permutation(N_CODEWORDS)[of_layer] for of_layer in ranks]).astype(np.uint16)
    codebooks = rng.standard_normal((N_LAYERS, N_CODEWORDS, dim)).astype(np.float32)
    return Rows(codebooks, codes, offsets)


def write_rows_store(path: Path, rows: Rows, layout: Literal["dense", "factored"]) -> None:
    """Write the rows as a store, one phoneme and no F0."""
    now = "2026-01-01T00:00:00+00:00"
    table = [UtteranceRow(f"u-{place:06d}", "u", 0, 16_000, 16_000, "00" * 32) for place in range(rows.n_utterances)]
    n_frames = np.diff(rows.offsets).tolist()
    header = StoreHeader(
        table,
        {},
        ["sil"],
        [ShardRow("synthetic", "none", now, now, "")],
        [CodecHeader(CODEC, 24_000, 320, "untrained", "00" * 32, rows.codebooks, n_frames)],
        {"corpus": {"synthetic": True}, "build_options": {}, "producer_versions": {}},
    )
    with StoreWriter(path, header, layout) as writer:
        for place, n in enumerate(n_frames):
            codes = rows.codes[:, rows.span(place)]
            writer.append(CODEC, codes, np.zeros(n, np.uint16), np.full(n, np.nan, np.float32))
