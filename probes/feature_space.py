"""The general parametrisation: coefficients of whitened features, for any number of codes and any rank.

With r the codes' weights, the features are rotated and scaled so that X' diag(r) X = I; the penalty becomes diagonal,
l2 / s_j^2 for a direction of standard deviation s_j, and the last row of the unknown is the free intercept. The
whitening may be inexact for the faintest directions without harm: the change of variables is exact, only the metric
suffers. The metric inverts each class's own Hessian block X' diag(r p (1 - p)) X + penalty on the directions that the
data can move, and the diagonal of it on those that the penalty holds.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh

from probes.class_blocks import apply_blocks, inverse_blocks, is_due, largest_block
from probes.reduction import ReducedProblem
from probes.single import Matrix

Array = NDArray[np.float64]

# A direction can lower f by no more than s^2 / l2; below this share of one it is rounding noise of a lost rank.
_SMALLEST_GAIN = 1e-13
# Penalty, in units of the typical loss curvature 1 / n_classes, from which the penalty holds a direction by itself.
_STIFF_PENALTY = 10.0
_SMOOTHING = 1e-3
# As in the logit space: what L-BFGS costs for each unknown of an iteration, in multiplications.
_VECTOR_WORK = 3000


class FeatureSpace:
    """Coefficients of whitened features as the unknown, float64 array of shape (n_directions + 1, n_classes)."""

    name = "feature"
    metric_is_hessian = False

    def __init__(self, problem: ReducedProblem):
        self.problem = problem
        self._rotation, deviation = _principal_directions(problem)
        self._scaling = 1.0 / deviation
        scores = problem.codewords @ self._rotation * self._scaling
        self._features = Matrix(np.hstack([scores, np.ones((len(scores), 1))]))
        self._strength = np.append(problem.l2_strength / deviation**2, 0.0)[:, None]
        n_classes = problem.targets.shape[1]
        soft = self._strength[:, 0] * n_classes < _STIFF_PENALTY
        self._in_block, self._on_diagonal = _split(soft, largest_block(len(scores), n_classes))
        self._blocks = np.empty((0, 0, 0), dtype=np.float32)
        self._diagonal = np.empty((0, 0))
        self._n_refreshes = 0

    @property
    def features_and_penalty(self) -> tuple[Array, Array]:
        """Features (n_codes, n_directions + 1), and the penalty's strength of each, (n_directions + 1, 1); float64."""
        return self._features.values, self._strength

    @property
    def iteration_cost(self) -> float:
        """Multiplications of one iteration's products, per class."""
        n_codes, n_directions = self._features.values.shape
        return float(2 * n_codes * n_directions + len(self._in_block) ** 2 + n_directions * _VECTOR_WORK)

    def start(self) -> Array:
        """Return the ridge regression of the log smoothed class shares of each code."""
        shares = np.log(self.problem.targets / self.problem.weights + _SMOOTHING)
        shares -= shares.mean(axis=1, keepdims=True)
        fitted: Array = self._features.transposed_times(self.problem.weights * shares) / (
            1.0 + self._strength * shares.shape[1]
        )
        return fitted

    def logits(self, unknown: Array) -> Array:
        """Return the logits of the codes."""
        return self._features @ unknown

    def penalty_product(self, unknown: Array) -> Array:
        """Return the gradient of the penalty, linear in the unknown."""
        return self._strength * unknown

    def gradient(self, residual: Array, penalty_gradient: Array) -> Array:
        """Return the gradient from the loss's residual r p - T and `penalty_product`."""
        return self._features.transposed_times(residual) + penalty_gradient

    def refresh(self, probabilities: Array) -> None:
        """Rebuild the metric's blocks at these probabilities (the expensive part, so not at every iterate)."""
        self._n_refreshes += 1
        curvature = self.problem.weights * probabilities * (1.0 - probabilities)
        block_features = np.ascontiguousarray(self._features.values[:, self._in_block])
        self._blocks = inverse_blocks(block_features, curvature, self._strength[self._in_block, 0])
        held = np.square(self._features.values[:, self._on_diagonal]).T @ curvature + self._strength[self._on_diagonal]
        self._diagonal = 1.0 / np.maximum(held, np.finfo(float).tiny)

    def is_stale(self, estimates: Sequence[float]) -> bool:
        """Ask for a refresh as `is_due` says."""
        size = len(self._in_block)
        refresh_cost = size**2 * (len(self._features.values) + size)
        return is_due(estimates, self._n_refreshes, refresh_cost / self.iteration_cost)

    def metric(self, probabilities: Array) -> Callable[[Array], Array]:
        """Return the inverse of the class blocks of the last `refresh`."""

        def apply(gradient: Array) -> Array:
            step = np.empty_like(gradient)
            step[self._in_block] = apply_blocks(self._blocks, gradient[self._in_block])
            step[self._on_diagonal] = self._diagonal * gradient[self._on_diagonal]
            step -= step.mean(axis=1, keepdims=True)
            return step

        return apply

    def dual_point(self, probabilities: Array, gradient: Array) -> None:
        """Return None: the plain bound is sharp enough where the frames hold most directions well."""

    def gap_bound(self, gradient: Array) -> float:
        """Return sum_j g_j^2 / (2 l_j), which bounds the gap where the intercept's gradient is zero."""
        return 0.5 * float(np.sum(gradient[:-1] ** 2 / self._strength[:-1]))

    def coefficients(self, unknown: Array) -> tuple[Array, Array]:
        """Return W (n_classes, dim) and b (n_classes,) on the reduced codewords."""
        return (self._rotation @ (self._scaling[:, None] * unknown[:-1])).T, unknown[-1].copy()

    def from_coefficients(self, coef: Array, intercept: Array) -> Array:
        """Return the unknown that W and b give (what lies outside the features' span is dropped)."""
        unknown = np.vstack([(self._rotation.T @ coef.T) / self._scaling[:, None], intercept])
        unknown -= unknown.mean(axis=1, keepdims=True)
        return unknown


def _principal_directions(problem: ReducedProblem) -> tuple[Array, Array]:
    """Return orthonormal directions (dim, n) that can matter and the standard deviation of the codewords along each."""
    covariance = (problem.codewords * problem.weights).T @ problem.codewords
    _, rotation = eigh(covariance, driver="evd")
    # Variances are taken again from the projections: eigenvalues are only right to 1e-16 of the largest.
    variance = np.einsum("vj,vj,v->j", *(2 * [problem.codewords @ rotation]), problem.weights[:, 0])
    keep = variance > _SMALLEST_GAIN * problem.l2_strength
    return np.ascontiguousarray(rotation[:, keep]), np.sqrt(variance[keep])


def _split(soft: NDArray[np.bool_], limit: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the rows that go into class blocks (the last `limit` soft ones, intercept included) and the others."""
    # eigh sorts variances upwards, so the last soft directions are those the data move most.
    in_block = np.flatnonzero(soft)[-limit:]
    return in_block, np.setdiff1d(np.arange(len(soft)), in_block)
