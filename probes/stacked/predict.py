"""What a fitted probe on stacked rows says of frames, block by block."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from probes.problem import Fit
from probes.stacked.maps import LookupMap
from probes.stacked.stack import Stack

Array = NDArray[np.float64]
_BLOCK_CELLS = 1 << 20  # frames times classes of one block of logits


def frame_sums(stack: Stack, codes: NDArray[np.uint16], coef: Array) -> Array:
    """Return w x_i of every frame, float64 (n_frames,), for coef w (dim,) and codes (n_layers, n_frames)."""
    by_layer = stack.spread(coef[:, None]).reshape(stack.n_layers, stack.n_codewords)
    total = np.zeros(codes.shape[1])
    for answers, row in zip(by_layer, codes, strict=True):
        total += answers[row]
    return total


def predicted_hz(stack: Stack, fit: Fit, codes: NDArray[np.uint16]) -> Array:
    """Return a regression probe's prediction for every frame, float64 (n_frames,), Hz.

    Parameters
    ----------
    stack : Stack
        The one it was fitted on.
    fit : Fit
    codes : uint16 array of shape (n_layers, n_frames)
    """
    predicted: Array = frame_sums(stack, codes, fit.coef[0]) + fit.intercept[0]
    return predicted


def logit_blocks(stack: Stack, fit: Fit, codes: NDArray[np.uint16]) -> Iterator[tuple[slice, Array]]:
    """Yield (frames, logits) over all frames, logits float64 (n_frames of the block, n_classes); see `predicted_hz`."""
    lookups = LookupMap(stack)
    prepared = lookups.prepare(fit.coef.T, np.float64)
    n = max(1, _BLOCK_CELLS // len(fit.coef))
    for start in range(0, codes.shape[1], n):
        block = slice(start, min(start + n, codes.shape[1]))
        yield block, lookups.logits(lookups.encode(codes[:, block], np.float64), prepared) + fit.intercept
