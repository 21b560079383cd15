"""Linear regression from moments: the least-norm minimiser, by a rank-revealing factorisation.

With n_v frames of mean y_v at code v, the squared error is a constant plus sum_v n_v (w x_v + b - y_v)^2: a weighted
problem of n_codes rows. It is centred (which removes the free intercept), its rows are scaled by sqrt(n_v), and its
singular value decomposition gives w; singular values at rounding level, relative to the largest, count as zero. That
is LAPACK's gelsd as scikit-learn's ``LinearRegression`` calls it (until 1.8; from 1.9 on with ``tol`` set to that
level), so codes never seen in training get the same prediction too. Where no singular value can come near that level,
a QR factorisation gives the same minimiser in an eighth of the time (`probes.full_rank`).
"""

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import svd

from probes.full_rank import triangular
from probes.problem import LeastSquaresProblem

Array = NDArray[np.float64]


def solve_least_squares(problem: LeastSquaresProblem) -> tuple[Array, Array, float]:
    """Minimise the squared error.

    Returns
    -------
    coef : float64 array of shape (1, dim)
        The minimiser of least norm.
    intercept : float64 array of shape (1,)
    gap : float
        Mean squared error minus its minimum (Hz^2): the part of the residual, computed afresh at the rounded solution,
        that the centred codewords could still explain.

    Raises
    ------
    ValueError, numpy.linalg.LinAlgError
        When finite input overflows on the way.
    """
    used = problem.n > 0
    n = problem.n[used]
    codewords = np.asarray(problem.codewords, dtype=np.float64)[used]
    mean_y = problem.sum_y[used] / n
    share = n / n.sum()
    offset, y_offset = share @ codewords, float(share @ mean_y)
    # Scaling all rows alike changes nothing; shares rather than counts keep the numbers near one.
    root = np.sqrt(share)
    rows, wanted = (codewords - offset) * root[:, None], (mean_y - y_offset) * root
    # root is orthogonal to the centred rows: the intercept's own direction.
    factors = triangular(rows, root) or _Singular(rows)
    coef = factors.minimiser(wanted)
    intercept = y_offset - float(offset @ coef)
    residual = (mean_y - codewords @ coef - intercept) * root
    explainable = factors.explainable(residual)
    gap = float(explainable @ explainable) + float(root @ residual) ** 2
    return coef[None, :], np.array([intercept]), gap


class _Singular:
    """Singular value decomposition of the rows, without the singular values at rounding level."""

    def __init__(self, rows: Array) -> None:
        left, deviations, right = svd(rows, full_matrices=False)
        kept = deviations > max(rows.shape) * np.finfo(np.float64).eps * deviations.max(initial=0.0)
        self._left, self._deviations, self._right = left[:, kept], deviations[kept], right[kept]

    def minimiser(self, wanted: Array) -> Array:
        result: Array = self._right.T @ ((self._left.T @ wanted) / self._deviations)
        return result

    def explainable(self, residual: Array) -> Array:
        result: Array = self._left.T @ residual
        return result
