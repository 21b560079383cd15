"""An approximate inverse Hessian for stacked rows, from a sample of the frames.

The Hessian's block of class k is sum_i r_i p_ik (1 - p_ik) x~_i x~_i' + l2, with x~ the row and a one for the
intercept: a second moment of the rows near class k. Three approximations, each a step cheaper:

- rows are rotated to the principal directions of their second moment, of variance s_j^2 (one rotation for all of a row,
  or one for each layer's part where a joint one would cost too much);
- along the directions of largest variance a class's moment is estimated from some hundreds of frames (see
  `curvature_sample`) and mixed with the mean of all classes to stay regular;
- along the others the moment is the mean one: a_k s_j^2 + l2 on the diagonal, a_k = sum_i r_i p_ik (1 - p_ik).

Classes are not coupled: L-BFGS learns what that leaves out.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.lapack import spotrf, spotri

from probes.stacked.curvature_sample import CurvatureSample
from probes.stacked.directions import Directions
from probes.stacked.problem import StackedLogisticProblem

Array = NDArray[np.float64]
Single = NDArray[np.float32]

# Frames drawn for the moment of a class with q directions: at least this many, and so many for each direction.
_DRAWN_AT_LEAST, _DRAWN_PER_DIRECTION = 1024, 5
OWN_SHARE = 0.9  # of a class's own moment in the mixture
# Blocks may take as long as this many passes over the frames; below the least time they always may.
_WORTH_PASSES, _WORTH_SECONDS = 8.0, 0.05
MAX_BLOCK_BYTES = 1_000_000_000
# Seconds (measured, one core, float32): of a class and a frame in a pass beside the lookups, of a multiplication of an
# inverse and of a product, and of reading an element of the blocks in each of the iterations that are expected.
_SECONDS_SOFTMAX, _SECONDS_LOOKUP = 3e-9, 6e-10
_SECONDS_INVERSE, SECONDS_PRODUCT, _SECONDS_READ, _EXPECTED_ITERATIONS = 1e-10, 4e-11, 8e-10, 60


class Metric(Protocol):
    """A symmetric positive map that approximates the inverse Hessian."""

    def __call__(self, gradient: Array) -> Array:
        """Return the map's image of a gradient, both float64 (dim + 1, n_classes); it sums to zero over classes."""
        ...


class DiagonalMetric:
    """The mean moment for every class: a_k + l2 / s_j^2 along each direction.

    Parameters
    ----------
    directions : Directions
    curvature : float64 array of shape (n_classes,)
        a_k.
    """

    def __init__(self, directions: Directions, curvature: Array) -> None:
        self._directions = directions
        curvature = np.maximum(curvature, 1e-12 * curvature.max())
        self._inverse = 1.0 / (np.append(directions.strength, 0.0)[:, None] + curvature)

    def __call__(self, gradient: Array) -> Array:
        """Return the image of a gradient (see `Metric`)."""
        projected = np.vstack([self._directions.project(gradient[:-1]), gradient[-1:]])
        step = self.apply(projected)
        step -= step.mean(axis=1, keepdims=True)
        return np.vstack([self._directions.restore(step[:-1]), step[-1:]])

    def apply(self, projected: Array) -> Array:
        """Return the step in coefficients of directions, the intercept's in the last row."""
        step: Array = self._inverse * projected
        return step


class BlockMetric(DiagonalMetric):
    """A moment of each class's own along the directions of largest variance, `DiagonalMetric` along the others.

    Parameters
    ----------
    problem : StackedLogisticProblem
    directions : Directions
    curvature : float64 array of shape (n_classes,)
    unknown : float64 array of shape (dim + 1, n_classes)
        Where the moments are taken.
    """

    def __init__(
        self, problem: StackedLogisticProblem, directions: Directions, curvature: Array, unknown: Array
    ) -> None:
        super().__init__(directions, curvature)
        softest = np.argsort(directions.strength, kind="stable")[: largest_block(problem, len(directions.strength))]
        self._rows = np.append(np.sort(softest), len(directions.strength))
        strength = np.append(directions.strength, 0.0)[self._rows]
        sample = CurvatureSample(problem, directions, self._rows[:-1], unknown)
        n_drawn = max(_DRAWN_AT_LEAST, _DRAWN_PER_DIRECTION * len(softest))
        self._blocks = np.stack(
            [
                mixed_inverse(sample.moment(k, n_drawn), max(curvature[k], 1e-12 * curvature.max()), strength)
                for k in range(problem.n_classes)
            ]
        )

    def apply(self, projected: Array) -> Array:
        """Return the step in coefficients of directions (see `DiagonalMetric`)."""
        step = super().apply(projected)
        by_class = np.ascontiguousarray(projected[self._rows].T, dtype=np.float32)[:, :, None]
        step[self._rows] = np.matmul(self._blocks, by_class)[:, :, 0].T
        return step


def largest_block(problem: StackedLogisticProblem, n_directions: int) -> int:
    """Return how many directions the class blocks may have, so that they pay (the same on every machine)."""
    return largest_affordable(problem, n_directions, problem.n_classes, 0, _WORTH_PASSES)


def largest_affordable(
    problem: StackedLogisticProblem,
    n_directions: int,
    n_blocks: int,
    n_rows: int,
    worth_passes: float,
    more_seconds: float = 0.0,
) -> int:
    """Return how many directions, at most `n_directions`, `n_blocks` blocks may have, each made from `n_rows` rows.

    They may take as long as `worth_passes` passes, each `more_seconds` beside lookups and softmax; 0 rows: as many as
    are drawn for a class.
    """
    in_pass = problem.n_frames * problem.n_classes * (_SECONDS_SOFTMAX + problem.stack.n_layers * _SECONDS_LOOKUP)
    worth = max(worth_passes * (in_pass + more_seconds), _WORTH_SECONDS)
    size = np.arange(1, n_directions + 1, dtype=np.float64)
    drawn = n_rows if n_rows else np.maximum(_DRAWN_AT_LEAST, _DRAWN_PER_DIRECTION * size)
    seconds = size**3 * _SECONDS_INVERSE + drawn * size**2 * SECONDS_PRODUCT
    seconds += _EXPECTED_ITERATIONS * size**2 * _SECONDS_READ
    fits = (n_blocks * seconds <= worth) & (4.0 * n_blocks * size**2 <= MAX_BLOCK_BYTES)
    return int(fits.sum())


def mixed_inverse(moment: Single, curvature: float, strength: Array) -> Single:
    """Return (a (share * moment + (1 - share) * identity) + diag(strength))^-1, or its diagonal's where that fails."""
    block = (OWN_SHARE * curvature) * moment
    if not block.size:
        return block  # a layer of one code has no direction, and LAPACK takes no empty matrix
    diagonal = block.reshape(-1)[:: len(block) + 1]
    diagonal += (1.0 - OWN_SHARE) * curvature + strength
    factor, failed = spotrf(block.T, lower=1)
    if failed:
        return np.diag(1.0 / diagonal)
    lower, _ = spotri(factor, lower=1)
    inverse: Single = np.tril(lower) + np.tril(lower, -1).T
    return inverse
