"""The saturated parametrisation: the unknown is the table of logits Z itself, one row a code.

Where the n centred codewords are affinely independent (n <= dim + 1) every table Z can be reached, so W and b drop out:

    min_Z  sum_v r_v logsumexp(z_v) - <T, Z> + 1/2 tr(Z' Q Z),
    Q = l2 (G^-1 - G^-1 1 1' G^-1 / (1' G^-1 1)),    G = X X' + c 1 1'

Q 1 = 0, because the free intercept is already minimised over, and Q does not depend on c. An iteration costs one
product with Q. The loss acts on each code alone, so its Hessian is block diagonal over codes: the metric inverts
diag(r p + q) - r p p' exactly (Sherman and Morrison 1950, DOI 10.1214/aoms/1177729893), with q the diagonal of Q.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.lapack import dpotrf, dpotri

from probes.dual_point import dual_point
from probes.objective import cross_entropy, softmax
from probes.reduction import ReducedProblem
from probes.single import Matrix

Array = NDArray[np.float64]

# Pivots of the Cholesky factor below this share of the largest: half the digits of the inverse would be noise.
_SMALLEST_PIVOT = 1e-7
# The pivots of dependent codewords, zero but for rounding, reach 2e-5 of the largest, and those of independent ones
# fall to 7e-5: what tells the two apart is what the inverse leaves of random signs, under 1e-4 of independent ones and
# 0.1 and more of dependent ones (18 to 1024 codes).
_LARGEST_REST = 1e-2
_N_SIGNS = 4
# Largest penalty of a code, in units of its weight, whose products float32 does not drown in rounding noise.
_STIFFEST_SINGLE = 1e3
# What L-BFGS and softmax cost for each unknown of an iteration, in multiplications of a matrix product (measured).
_VECTOR_WORK = 3000


class LogitSpace:
    """Logits of the reduced problem's codes as the unknown, float64 array of shape (n_codes, n_classes).

    Parameters
    ----------
    problem : ReducedProblem
    invert : callable or None
        Makes of the codewords the inverse that Q is made of; None: `centred_inverse`, by the processor.

    Raises
    ------
    numpy.linalg.LinAlgError
        When the codewords are affinely dependent (to rounding), so that not every table of logits can be reached.
    """

    name = "logit"
    metric_is_hessian = False

    def __init__(self, problem: ReducedProblem, invert: Callable[[Array], Array] | None = None):
        n_codes, dim = problem.codewords.shape
        if n_codes > dim + 1:
            raise np.linalg.LinAlgError("more codes than dimensions")
        self.problem = problem
        self._n_codes = n_codes
        penalty = problem.l2_strength * (invert or centred_inverse)(problem.codewords)
        stiffness = float((np.diag(penalty) / problem.weights[:, 0]).max())
        self._penalty = Matrix(penalty, in_single=stiffness < _STIFFEST_SINGLE)
        self._codewords = Matrix(problem.codewords)
        self._penalty_diagonal = np.maximum(np.diag(self._penalty.values), np.finfo(float).tiny)[:, None]
        self._start: Array | None = None

    @property
    def features_and_penalty(self) -> tuple[None, Array]:
        """None, as logits are the unknown, and Q, float64 (n_codes, n_codes)."""
        return None, self._penalty.values

    @property
    def iteration_cost(self) -> float:
        """Multiplications of one iteration's products, per class."""
        return float(self._n_codes * (self._n_codes + _VECTOR_WORK))

    def start(self) -> Array:
        """Return the log of smoothed targets: the best of a few amounts of smoothing."""
        if self._start is None:
            self._start = self._smoothed_targets()
        return self._start

    def _smoothed_targets(self) -> Array:
        best, best_value = None, np.inf
        for amount in (0.1, 0.3, 1.0, 3.0):
            logits = np.log(self.problem.targets + amount * self._penalty_diagonal)
            logits -= logits.mean(axis=1, keepdims=True)
            _, log_sum_exp = softmax(logits)
            value = cross_entropy(logits, log_sum_exp, self.problem.targets)
            single = logits.astype(np.float32)  # to choose among four, that will do
            value += 0.5 * float(np.vdot(logits, self._penalty @ single))
            if value >= best_value:
                break
            best, best_value = logits, value
        return np.zeros_like(self.problem.targets) if best is None else best

    def logits(self, unknown: Array) -> Array:
        """Return the logits of the codes."""
        return unknown

    def penalty_product(self, unknown: Array) -> Array:
        """Return Q Z: the gradient of the penalty, linear in the unknown."""
        return self._penalty @ unknown

    def gradient(self, residual: Array, penalty_gradient: Array) -> Array:
        """Return the gradient from the loss's residual r p - T and `penalty_product`."""
        return residual + penalty_gradient

    def refresh(self, probabilities: Array) -> None:
        """Do nothing: this metric is rebuilt at every iterate anyway."""

    def is_stale(self, estimates: Sequence[float]) -> bool:
        """Say no: see `refresh`."""
        return False

    def metric(self, probabilities: Array) -> Callable[[Array], Array]:
        """Return the exact inverse of every code's own Hessian block at these probabilities."""
        q = self._penalty_diagonal
        inverse = 1.0 / (self.problem.weights * probabilities + q)
        pull = probabilities * inverse
        # 1 - sum_k r p^2 / (r p + q), written without the subtraction, which would cancel where q is small.
        scale = self.problem.weights / (pull.sum(axis=1, keepdims=True) * q)

        def apply(gradient: Array) -> Array:
            balanced = gradient - gradient.mean(axis=1, keepdims=True)
            step: Array = balanced * inverse
            step += pull * (scale * np.einsum("vk,vk->v", balanced, pull)[:, None])
            step -= step.mean(axis=1, keepdims=True)
            return step

        return apply

    def dual_point(self, probabilities: Array, gradient: Array) -> Array:
        """Return a dual point for a sharper bound, see `probes.dual_point`."""
        return dual_point(self.problem.weights, probabilities, gradient, self._kept(probabilities, gradient))

    def _kept(self, probabilities: Array, gradient: Array) -> Array | float:
        """Return what of the gradient the penalty holds at less cost than the frames."""
        return 0.0

    def gap_bound(self, gradient: Array) -> float:
        """Return ||X' g||^2 / (2 l2), which bounds the gap where the columns of g sum to zero (intercept solved)."""
        # A sum of squares may be rounded; the certificate repeats it in float64.
        pulled = self._codewords.transposed_times(gradient.astype(np.float32)).astype(np.float64)
        return float(np.vdot(pulled, pulled)) / (2.0 * self.problem.l2_strength)

    def coefficients(self, unknown: Array) -> tuple[Array, Array]:
        """Return W (n_classes, dim) and b (n_classes,) whose logits are `unknown`."""
        coef = (self._penalty @ unknown).T @ self.problem.codewords / self.problem.l2_strength
        # The codewords have weighted mean zero, so the weighted mean of the logits is the intercept.
        return coef, (self.problem.weights.T @ unknown)[0]

    def from_coefficients(self, coef: Array, intercept: Array) -> Array:
        """Return the unknown that W and b give."""
        logits: Array = self.problem.codewords @ coef.T + intercept
        logits -= logits.mean(axis=1, keepdims=True)
        return logits


def centred_inverse(codewords: Array) -> Array:
    """Return G^-1 - G^-1 1 1' G^-1 / (1' G^-1 1) of the docstring above, float64 array of shape (n_codes, n_codes).

    Raises
    ------
    numpy.linalg.LinAlgError
        When the codewords are affinely dependent, to rounding.
    """
    gram = codewords @ codewords.T
    gram += np.trace(gram) / len(gram)
    factor, failed = dpotrf(gram, lower=1)
    check_pivots(np.diag(factor), failed)
    lower, _ = dpotri(factor, lower=1)
    inverse: Array = np.tril(lower) + np.tril(lower, -1).T
    signs = random_signs(len(gram))
    check_inverse(gram @ (inverse @ signs), signs)
    ones_image = inverse.sum(axis=1)
    inverse -= np.outer(ones_image, ones_image) / ones_image.sum()
    return inverse


def check_pivots(pivots: Array, failed: int) -> None:
    """Refuse a Cholesky factor with this diagonal, or one that failed: its inverse would be noise.

    Raises
    ------
    numpy.linalg.LinAlgError
    """
    pivots = np.abs(pivots)
    if failed or not np.isfinite(pivots).all() or pivots.min() <= _SMALLEST_PIVOT * pivots.max():
        raise np.linalg.LinAlgError("codewords are affinely dependent")


def random_signs(n: int) -> Array:
    """Return columns of random signs, float64 (n, few), to try an inverse on: seeded."""
    return np.random.default_rng(0).choice([-1.0, 1.0], size=(n, _N_SIGNS))


def check_inverse(image: Array, signs: Array) -> None:
    """Refuse an inverse that does not bring `random_signs` back; `image` is the matrix times the inverse times them.

    Raises
    ------
    numpy.linalg.LinAlgError
    """
    if not np.abs(image - signs).max() <= _LARGEST_REST:
        raise np.linalg.LinAlgError("codewords are affinely dependent")
