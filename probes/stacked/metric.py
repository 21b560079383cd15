"""An approximate inverse Hessian for stacked rows, from a sample of the frames.

The Hessian's block of class k is sum_i r_i p_ik (1 - p_ik) x~_i x~_i' + l2, with x~ the row and a one for the
intercept: a second moment of the rows near class k. Three approximations, each a step cheaper:

- rows are rotated to the principal directions of their second moment, of variance s_j^2 (one rotation for all of a row,
  or one for each layer's part where a joint one would cost too much);
- along the directions of largest variance a class's moment is estimated from some hundreds of frames, drawn in
  proportion to their share in it, and mixed with the mean of all classes to stay regular;
- along the others the moment is the mean one: a_k s_j^2 + l2 on the diagonal, a_k = sum_i r_i p_ik (1 - p_ik).

Classes are not coupled: L-BFGS learns what that leaves out.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.linalg.lapack import spotrf, spotri

from probes.stacked.cooccurrence import code_sums, second_moment
from probes.stacked.maps import LookupMap
from probes.stacked.passes import probabilities
from probes.stacked.problem import StackedLogisticProblem

Array = NDArray[np.float64]
Single = NDArray[np.float32]

# A direction can lower f by no more than s^2 / l2; below this share of one it is rounding noise of a lost rank.
_SMALLEST_GAIN = 1e-13
_MAX_JOINT_DIM = 512  # longest row of layers side by side that gets one rotation for all of it
_MOMENT_FRAMES = 1 << 18
_SAMPLE_FRAMES = 50_000
_SAMPLE_CELLS = 1 << 23  # of the sample's table of probabilities
# Frames drawn for the moment of a class with q directions: at least this many, and so many for each direction.
_DRAWN_AT_LEAST, _DRAWN_PER_DIRECTION = 1024, 5
OWN_SHARE = 0.9  # of a class's own moment in the mixture
# Blocks may take as long as this many passes over the frames; below the least time they always may.
_WORTH_PASSES, _WORTH_SECONDS = 8.0, 0.05
_MAX_BLOCK_BYTES = 1e9
# Seconds (measured, one core, float32): of a class and a frame in a pass beside the lookups, of a multiplication of an
# inverse and of a product, and of reading an element of the blocks in each of the iterations that are expected.
_SECONDS_SOFTMAX, _SECONDS_LOOKUP = 3e-9, 6e-10
_SECONDS_INVERSE, SECONDS_PRODUCT, _SECONDS_READ, _EXPECTED_ITERATIONS = 1e-10, 4e-11, 8e-10, 60


class Metric(Protocol):
    """A symmetric positive map that approximates the inverse Hessian."""

    def __call__(self, gradient: Array) -> Array:
        """Return the map's image of a gradient, both float64 (dim + 1, n_classes); it sums to zero over classes."""
        ...


@dataclass(frozen=True)
class Directions:
    """Orthogonal directions of rows, of unit variance: a rotation and scaling for each part of the row.

    Attributes
    ----------
    parts : list of (slice, float32 array of shape (length of the slice, n_directions of the part))
        Where a part stands in the row, and its directions, each divided by the standard deviation along it.
    strength : float64 array of shape (n_directions,)
        l2 / s_j^2: the penalty on a coefficient of each direction.
    """

    parts: list[tuple[slice, Single]]
    strength: Array

    def project(self, gradient: Array) -> Array:
        """Return a gradient over coefficients of rows (dim, n) as one over those of directions (n_directions, n)."""
        single = gradient.astype(np.float32)
        return np.concatenate([basis.T @ single[part] for part, basis in self.parts]).astype(np.float64)

    def restore(self, step: Array) -> Array:
        """Return a step in coefficients of directions as one in those of rows: the transpose of `project`."""
        single, pieces, first = step.astype(np.float32), [], 0
        for _, basis in self.parts:
            pieces.append(basis @ single[first : first + basis.shape[1]])
            first += basis.shape[1]
        return np.concatenate(pieces).astype(np.float64)


def principal_directions(problem: StackedLogisticProblem) -> Directions:
    """Return the principal directions of the rows, weighted as the loss weights them, from a sample of the frames."""
    stack, chosen = problem.stack, _every(problem.n_frames, _MOMENT_FRAMES)
    codes, weights = problem.codes[:, chosen], problem.weight_of_class[problem.y[chosen]]
    weights = weights / weights.sum()
    if stack.dim <= _MAX_JOINT_DIM or stack.representation == "cumulative":
        moments = [(slice(0, stack.dim), second_moment(stack, codes, weights))]
    else:
        of_codes = code_sums(codes, stack.n_codewords, weights)
        moments = [
            (stack.part(layer), (table * n[:, None]).T @ table)
            for layer, (table, n) in enumerate(zip(stack.tables, of_codes, strict=True))
        ]
    parts, strengths = [], []
    for part, moment in moments:
        variance, rotation = eigh(moment, driver="evd")
        keep = variance > max(_SMALLEST_GAIN * problem.l2_strength, 1e-14 * variance[-1])
        parts.append((part, (rotation[:, keep] / np.sqrt(variance[keep])).astype(np.float32)))
        strengths.append(problem.l2_strength / variance[keep])
    return Directions(parts, np.concatenate(strengths))


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
        sample = _Sample(problem, directions, self._rows[:-1], unknown)
        self._blocks = np.stack(
            [
                mixed_inverse(sample.moment(k), max(curvature[k], 1e-12 * curvature.max()), strength)
                for k in range(problem.n_classes)
            ]
        )

    def apply(self, projected: Array) -> Array:
        """Return the step in coefficients of directions (see `DiagonalMetric`)."""
        step = super().apply(projected)
        by_class = np.ascontiguousarray(projected[self._rows].T, dtype=np.float32)[:, :, None]
        step[self._rows] = np.matmul(self._blocks, by_class)[:, :, 0].T
        return step


class _Sample:
    """A sample of frames along some directions, and each frame's share in each class's curvature."""

    def __init__(
        self, problem: StackedLogisticProblem, directions: Directions, rows: NDArray[np.intp], unknown: Array
    ) -> None:
        n = min(_SAMPLE_FRAMES, max(1, _SAMPLE_CELLS // problem.n_classes))
        chosen = _every(problem.n_frames, n)
        codes = problem.codes[:, chosen]
        p = probabilities(problem.stack, codes, unknown)
        p *= 1.0 - p
        p *= problem.weight_of_class.astype(np.float32)[problem.y[chosen]][:, None]
        self._share_so_far = np.cumsum(p, axis=0, dtype=np.float64)
        selector = np.zeros((len(directions.strength), len(rows)))
        selector[rows, np.arange(len(rows))] = 1.0
        lookups = LookupMap(problem.stack)
        # No more columns than chosen directions: the sample's rows are never formed in full.
        features = lookups.logits(
            lookups.encode(codes, np.float32), lookups.prepare(directions.restore(selector), np.float32)
        )
        self._features = np.hstack([features, np.ones((len(features), 1), np.float32)])
        self._n_drawn = max(_DRAWN_AT_LEAST, _DRAWN_PER_DIRECTION * len(rows))

    def moment(self, k: int) -> Single:
        """Return the mean of x~ x~' over frames drawn in proportion to their share in the curvature of class k."""
        so_far = self._share_so_far[:, k]
        # Evenly spaced in the cumulated share: less noise than independent draws, and no random numbers.
        at = (np.arange(self._n_drawn) + 0.5) / self._n_drawn * so_far[-1]
        drawn, times = np.unique(np.minimum(np.searchsorted(so_far, at), len(so_far) - 1), return_counts=True)
        features = self._features[drawn] * np.sqrt(times / self._n_drawn).astype(np.float32)[:, None]
        moment: Single = features.T @ features
        return moment


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
    fits = (n_blocks * seconds <= worth) & (4.0 * n_blocks * size**2 <= _MAX_BLOCK_BYTES)
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


def _every(n: int, at_most: int) -> NDArray[np.intp]:
    """Return at most `at_most` of n places, evenly spaced."""
    return np.linspace(0, n - 1, min(n, at_most)).astype(np.intp)
