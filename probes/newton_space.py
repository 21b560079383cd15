"""The saturated parametrisation with the exact inverse Hessian as its metric, for the problems that defeat the others.

Where codebooks have steep spectra and frames are few, penalty and loss share all directions: neither the code's own
blocks (`LogitSpace`) nor the classes' (`FeatureSpace`) come near the Hessian, and thousands of iterations follow. With
n codes and K classes the Hessian over the table of logits Z has n K unknowns, but it is

    H = blockdiag_k(diag(r p_k) + Q)  -  P P',        P = (r_v^1/2 p_vk) in row (v, k), column v,

one n x n matrix for each class, less n rank-one terms that couple the classes within a code. By the identity of
Sherman, Morrison and Woodbury (Hager 1989, DOI 10.1137/1031049), with B_k = (diag(r p_k) + Q)^-1,

    H^-1 = B + B P (I - P' B P)^-1 P' B,    (P' B P)_vw = sum_k (r_v r_w)^1/2 p_vk p_wk B_k[v, w],

so an exact Newton step costs K factorisations of an n x n matrix and one more: n^3 K, where a dense one would cost
(n K)^3 / 3. I - P' B P has one null vector, r^1/2: adding the same constant to every logit changes nothing.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.linalg.blas import dsymv
from scipy.linalg.lapack import dpotrf, dpotri

from probes.logit_space import LogitSpace
from probes.reduction import ReducedProblem

Array = NDArray[np.float64]

MAX_BYTES = 1.5e9
# Newton's method squares the error: a decrease of the estimate by less than this says that the metric has aged.
_GOOD_DECREASE = 6.0
# Refreshes that a fit takes, by experience.
_REFRESHES = 10.0
_JITTER = 1e-13


class NewtonSpace(LogitSpace):
    """`LogitSpace` whose metric is the inverse Hessian at the last `refresh`.

    Raises
    ------
    numpy.linalg.LinAlgError
        As `LogitSpace`; also in `refresh`, where a block is singular to rounding.
    """

    name = "newton"
    metric_is_hessian = True

    def __init__(self, problem: ReducedProblem):
        super().__init__(problem)
        n_codes, n_classes = problem.targets.shape
        self._inverses = np.empty((n_classes, n_codes, n_codes))
        self._pull = np.empty_like(problem.targets)
        self._coupling: tuple[Array, bool] = (np.empty((0, 0)), False)

    @staticmethod
    def fits_memory(problem: ReducedProblem) -> bool:
        """Say whether the class blocks stay within `MAX_BYTES`."""
        n_codes, n_classes = problem.targets.shape
        return bool(8.0 * n_codes * n_codes * n_classes <= MAX_BYTES)

    @staticmethod
    def total_cost(problem: ReducedProblem) -> float:
        """Return the multiplications of a whole fit, per class."""
        return _REFRESHES * 0.5 * float(len(problem.targets)) ** 3

    def is_stale(self, estimates: Sequence[float]) -> bool:
        """Ask for a refresh as soon as convergence is slower than Newton's."""
        return len(estimates) > 1 and estimates[-1] * _GOOD_DECREASE > estimates[-2]

    def refresh(self, probabilities: Array) -> None:
        """Factorise the blocks and their coupling at these probabilities."""
        weights = self.problem.weights
        self._pull = np.sqrt(weights) * probabilities
        curvature = weights * probabilities + _JITTER * self._penalty_diagonal.mean()
        null = np.sqrt(weights[:, 0])
        coupling = np.eye(len(null)) + np.outer(null, null)
        for block, diagonal, pull in zip(self._inverses, curvature.T, self._pull.T, strict=True):
            _invert(self._penalty.values, diagonal, block)
            coupling -= block * pull[:, None] * pull
        try:
            # only the upper triangles of the blocks are filled
            self._coupling = cho_factor(coupling, lower=False, overwrite_a=True)
        except ValueError as error:
            raise np.linalg.LinAlgError("the coupling of the classes is not finite") from error

    def metric(self, probabilities: Array) -> Callable[[Array], Array]:
        """Return the inverse Hessian at the last refresh, whatever the probabilities are now."""

        def apply(gradient: Array) -> Array:
            step = self._apply_blocks(gradient - gradient.mean(axis=1, keepdims=True))
            shares = cho_solve(self._coupling, np.einsum("vk,vk->v", self._pull, step))
            step += self._apply_blocks(self._pull * shares[:, None])
            step -= step.mean(axis=1, keepdims=True)
            return step

        return apply

    def _apply_blocks(self, gradient: Array) -> Array:
        columns = np.ascontiguousarray(gradient.T)
        image = [dsymv(1.0, block.T, column, lower=1) for block, column in zip(self._inverses, columns, strict=True)]
        return np.stack(image, axis=1)


def _invert(penalty: Array, diagonal: Array, out: Array) -> None:
    """Write (penalty + diag(diagonal))^-1 into the upper triangle of `out`; the lower one is left undefined."""
    out[:] = penalty
    out.reshape(-1)[:: len(out) + 1] += diagonal
    # `out` in C order is its transpose in LAPACK's, so both work in place.
    _, failed = dpotrf(out.T, lower=1, clean=0, overwrite_a=1)
    if not failed:
        _, failed = dpotri(out.T, lower=1, overwrite_c=1)
    if failed:
        raise np.linalg.LinAlgError("a class's curvature has died out")
