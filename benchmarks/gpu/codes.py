"""Codes made on the device against codes made by the processor, of the same utterances and weights.

Where a frame's codes differ, the first layer that differs has chosen another codeword for the same rest; later layers
then quantise other rests, and differ by right. So of each such frame the two candidates of that first layer are
compared: with d and d' the squared distances of the processor's rest to its own and to the device's codeword, the tie's
gap is (d' - d) / d. Rounding can only exchange codewords whose gap is of its own size.
"""

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from benchmarks.gpu.piece import Asked, significant, timed
from benchmarks.gpu.speech import checkpoints, load, utterances
from featstore.codecs.base import Checkpoint, LatentCodec

_UTTERANCES, _DURATION_S = 12, 8.0
_SMALL_UTTERANCES, _SMALL_DURATION_S = 2, 3.0
_QUANTILES = (0.5, 0.9, 0.99)

Codes = NDArray[np.uint16]
Array = NDArray[np.float64]


def run(asked: Asked) -> dict[str, Any]:
    """Encode by both and return the record."""
    told: dict[str, Any] = {"weights": "untrained, codebooks by k-means on synthetic speech"}
    for name, found in checkpoints(asked):
        told[name] = {"skipped": found} if isinstance(found, str) else compare(asked, name, found)
        asked.keep(told)
    return told


def compare(asked: Asked, name: str, found: Checkpoint) -> dict[str, Any]:
    """Return what is told of a codec."""
    here, there = (cast(LatentCodec, load(name, found, device)) for device in ("cpu", asked.torch_device))
    n, duration_s = (_SMALL_UTTERANCES, _SMALL_DURATION_S) if asked.small else (_UTTERANCES, _DURATION_S)
    speech = utterances(n, duration_s, here.sample_rate_hz)
    with timed(asked) as on_processor:
        expected = [here.encode_with_latents(samples) for samples in speech]
    with timed(asked) as on_device:
        codes = [there.encode(samples) for samples in speech]
    again = [there.encode(samples) for samples in speech]
    pairs = [(ours, theirs) for (ours, _), theirs in zip(expected, codes, strict=True)]
    ties = [tie_gaps(ours, theirs, rest, here.codebooks) for (ours, rest), theirs in zip(expected, codes, strict=True)]
    layer, gap = (np.concatenate([getattr(one, name) for one in ties]) for name in ("layer", "gap"))
    return {
        "n_utterances": n,
        "n_frames": sum(ours.shape[1] for ours, _ in pairs),
        "share_equal_by_layer": np.mean(np.hstack([a == b for a, b in pairs]), axis=1).round(6).tolist(),
        "share_of_frames_equal": significant(float(np.mean(np.hstack([(a == b).all(axis=0) for a, b in pairs]))), 6),
        "is_repeatable": all(np.array_equal(a, b) for a, b in zip(codes, again, strict=True)),
        "n_frames_different": len(gap),
        "first_different_layer": np.bincount(layer, minlength=len(here.codebooks) + 1)[1:].tolist(),
        "tie_gap": tie_summary(gap),
        "seconds_processor": round(on_processor.seconds, 2),
        "seconds_device": round(on_device.seconds, 2),
    }


class Ties:
    """The frames of an utterance that differ.

    Attributes
    ----------
    layer : int64 array of shape (n_different,)
        The first that differs, counted from 1.
    gap : float64 array of shape (n_different,)
        (d' - d) / d there.
    """

    def __init__(self, layer: NDArray[np.int64], gap: Array) -> None:
        self.layer, self.gap = layer, gap


def tie_gaps(ours: Codes, theirs: Codes, latents: NDArray[np.float32], codebooks: NDArray[np.float32]) -> Ties:
    """Return the first differing layer of each frame that differs, and how far from a tie its two codewords were.

    Parameters
    ----------
    ours, theirs : uint16 arrays of shape (n_layers, n_frames)
    latents : float32 array of shape (n_frames, dim)
        What the processor quantised.
    codebooks : float32 array of shape (n_layers, n_codewords, dim)
    """
    frames = np.flatnonzero((ours != theirs).any(axis=0))
    first = (ours != theirs)[:, frames].argmax(axis=0)
    gaps = np.empty(len(frames))
    for place, (frame, layer) in enumerate(zip(frames, first, strict=True)):
        rest = latents[frame].astype(np.float64)
        rest -= sum(codebooks[below, ours[below, frame]].astype(np.float64) for below in range(layer))
        own, other = (np.square(rest - codebooks[layer, codes[layer, frame]]).sum() for codes in (ours, theirs))
        gaps[place] = (other - own) / max(own, np.finfo(float).tiny)
    return Ties(first + 1, gaps)


def tie_summary(gap: Array) -> dict[str, float | None] | None:
    """Return quantiles and the largest of the gaps' sizes; None where no frame differs."""
    if not len(gap):
        return None
    told = {f"q{100 * q:g}": significant(float(np.quantile(np.abs(gap), q)), 3) for q in _QUANTILES}
    return told | {"largest": significant(float(np.abs(gap).max()), 3)}
