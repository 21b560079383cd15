"""One symmetric matrix a class, inverted in single precision: the expensive half of the metrics.

Neither the loss nor its gradient ever sees these, so their rounding costs at most an iteration.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.lapack import spotrf, spotri

Array = NDArray[np.float64]

# Added to blocks of unit diagonal: what float32 can still invert.
_BLOCK_JITTER = 1e-6
_FEWEST_ITERATIONS = 4
_SETTLING_ITERATIONS = 8
# The proof takes a gap smaller than the estimate's goal by about e to this power.
_PROOF_E = 6.0
# Multiplications to spend on one set of blocks.
_BUDGET = 1.2e10


def inverse_blocks(features: Array, curvature: Array, strength: Array) -> NDArray[np.float32]:
    """Return the inverses of X' diag(curvature[:, k]) X + diag(strength), float32 array (n_classes, size, size).

    Parameters
    ----------
    features : float64 array of shape (n_codes, size), X
    curvature : float64 array of shape (n_codes, n_classes), not negative
    strength : float64 array of shape (size,), not negative

    Notes
    -----
    A metric need not be exact, and float32 takes half the time and memory. Each block is scaled to a unit diagonal
    first, so that classes and directions of very different curvature lose no more than others.
    """
    size, n_classes = features.shape[1], curvature.shape[1]
    blocks = np.empty((n_classes, size, size), dtype=np.float32)
    diagonals = np.square(features).T @ curvature + strength[:, None]
    scales = 1.0 / np.sqrt(np.maximum(diagonals, np.finfo(float).tiny))
    single = features.astype(np.float32)
    weighted = np.empty_like(single)
    for k, (root, scale) in enumerate(zip(np.sqrt(curvature).T, scales.T, strict=True)):
        np.multiply(single, root[:, None].astype(np.float32), out=weighted)
        weighted *= scale.astype(np.float32)
        block = weighted.T @ weighted
        diagonal = block.reshape(-1)[:: size + 1]
        diagonal += (strength * scale**2 + _BLOCK_JITTER).astype(np.float32)
        blocks[k] = _symmetric_inverse(block)
        blocks[k] *= np.outer(scale, scale).astype(np.float32)
    return blocks


def regular_inverse(matrix: Array) -> NDArray[np.float32]:
    """Return the inverse of a symmetric positive definite matrix in single precision."""
    scale = 1.0 / np.sqrt(np.diag(matrix))
    single = (matrix * scale * scale[:, None]).astype(np.float32)
    single.reshape(-1)[:: len(single) + 1] += np.float32(_BLOCK_JITTER)
    inverse = _symmetric_inverse(single)
    scale = scale.astype(np.float32)
    inverse *= scale
    inverse *= scale[:, None]
    return inverse


def apply_blocks(blocks: NDArray[np.float32], unknown: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return each class's block times its column of `unknown` (size, n_classes), in the same shape."""
    by_class = unknown.T.astype(np.float32, order="C")[:, :, None]
    image: NDArray[np.float32] = np.matmul(blocks, by_class)[:, :, 0].T
    return image


def largest_block(n_codes: int, n_classes: int) -> int:
    """Return how many directions a block may have within the budget of multiplications."""
    return max(int(np.sqrt(_BUDGET / (n_codes * n_classes))), 1)


def is_due(estimates: Sequence[float], n_refreshes: int, iterations_worth: float) -> bool:
    """Say whether the blocks should be made anew.

    Soon after the start, which is far from the optimum; then once the iterations since have cost as much as that would,
    then twice, four times as much: near the optimum the curvature hardly changes any more. Never where fewer iterations
    seem to be ahead than it costs.

    Parameters
    ----------
    estimates : sequence of float
        Of the gap, since the last refresh, in units of the one to reach.
    n_refreshes : int
        So far.
    iterations_worth : float
        Iterations that cost as much as a refresh.
    """
    worth = max(_FEWEST_ITERATIONS, iterations_worth)
    least = min(worth, _SETTLING_ITERATIONS) if n_refreshes == 1 else worth * 2.0 ** (n_refreshes - 2)
    if len(estimates) <= least:
        return False
    if not 0.0 < estimates[-1] < estimates[0]:
        return True
    iterations_per_e = (len(estimates) - 1) / math.log(estimates[0] / estimates[-1])
    return iterations_per_e * (math.log(max(estimates[-1], 1.0)) + _PROOF_E) > iterations_worth


def _symmetric_inverse(matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the inverse of a positive definite matrix, or of its diagonal where rounding has spoiled it."""
    diagonal = np.diag(matrix).copy()  # the failed factorisation leaves pivots there, one of them not positive
    factor, failed = spotrf(matrix.T, lower=1, overwrite_a=1)
    if failed:
        return np.diag(1.0 / diagonal)
    # `clean` has zeroed the upper triangle, so both triangles add up with the diagonal counted once too often.
    lower, _ = spotri(factor, lower=1, overwrite_c=1)
    inverse: NDArray[np.float32] = lower + lower.T
    inverse.reshape(-1)[:: len(inverse) + 1] *= 0.5
    return inverse
