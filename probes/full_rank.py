"""Least squares with rows of full rank but for one known direction: by Householder QR, without singular values.

Centred rows are orthogonal to the weights they were centred with, so their rank is at most min(n_rows - 1, dim). A
Householder reflection (Golub and Van Loan 2013, *Matrix Computations*, section 5.1) turns that direction into a row
of zeros, which is left out. Of what remains, tall rows are factored as Q R (section 5.3.3), wide ones as R' Q', which
gives the least-norm solution (section 5.6.2).

Whether the rank is full is told from R: LAPACK's trcon estimates the inverse condition number in the 1-norm (Higham
1988, doi:10.1145/50063.214386), which is the inverse of that in the 2-norm within a factor of the number of columns.
Rows whose estimate is not far above rounding are refused: singular values have to say what their rank is.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import qr, solve_triangular
from scipy.linalg.lapack import dormqr, dtrcon

Array = NDArray[np.float64]

# Inverse condition numbers above this many times eps times the square of the size are a rank beyond doubt: one factor
# of the size is the cut for singular values itself, the other lies between the norms.
_BEYOND_DOUBT = 10.0
_WORK = 64 * 66  # numbers of LAPACK's workspace for a single vector, at its largest block


class Triangular:
    """Rows of full rank, factored.

    Parameters
    ----------
    reflector : float64 array of shape (n_rows,)
        Of the reflection that turns the left-out direction into the first axis.
    reflections : (float64 array, float64 array)
        LAPACK's raw form of Q.
    upper : float64 array of shape (rank, rank), R
    is_wide : bool
        Whether Q R are of the transposed rows.
    """

    def __init__(self, reflector: Array, reflections: tuple[Array, Array], upper: Array, is_wide: bool) -> None:
        self._reflector, self._reflections, self._upper, self._is_wide = reflector, reflections, upper, is_wide

    def minimiser(self, wanted: Array) -> Array:
        """Return the least-norm minimiser of the squared error, float64 (dim,)."""
        wanted = _reflect(self._reflector, wanted)[1:]
        rank = len(self._upper)
        if not self._is_wide:
            tall: Array = solve_triangular(self._upper, self._times_q(wanted, "T")[:rank], check_finite=False)
            return tall
        inner = np.zeros(len(self._reflections[0]))
        inner[:rank] = solve_triangular(self._upper, wanted, trans="T", check_finite=False)
        return self._times_q(inner, "N")

    def explainable(self, residual: Array) -> Array:
        """Return the coordinates of the part of `residual`, (n_rows,), that rows can explain: float64 (rank,)."""
        residual = _reflect(self._reflector, residual)[1:]
        return residual if self._is_wide else self._times_q(residual, "T")[: len(self._upper)]

    def _times_q(self, vector: Array, trans: str) -> Array:
        product, _, _ = dormqr("L", trans, *self._reflections, vector[:, None], _WORK)
        result: Array = product[:, 0]
        return result


def triangular(rows: Array, direction: Array) -> Triangular | None:
    """Factor `rows` of full rank; None where their rank is in doubt.

    Parameters
    ----------
    rows : float64 array of shape (n_rows, dim)
    direction : float64 array of shape (n_rows,)
        Of length 1 and orthogonal to every column of `rows`; its first number is not negative.

    Raises
    ------
    ValueError
        When a number is not finite.
    """
    reflector = direction.copy()
    reflector[0] += 1.0
    reflector /= np.linalg.norm(reflector)
    turned = _reflect(reflector, rows)[1:]
    is_wide = turned.shape[0] < turned.shape[1]
    if not turned.size:
        return None
    reflections, upper = qr(turned.T if is_wide else turned, mode="raw", overwrite_a=True)
    rank = min(turned.shape)
    upper = upper[:rank]
    rcond, _ = dtrcon(upper)
    if not rcond > _BEYOND_DOUBT * max(turned.shape) ** 2 * np.finfo(np.float64).eps:
        return None
    return Triangular(reflector, reflections, upper, is_wide)


def _reflect(reflector: Array, values: Array) -> Array:
    """Return (I - 2 v v') values for a reflector v of length 1."""
    result: Array = values - np.multiply.outer(2.0 * reflector, reflector @ values)
    return result
