"""Which rows to give to cuML: those asked for where they fit its index and the device, else a smaller design.

The device memory a fit takes is predicted from what cuML allocates (26.10, python/cuml/cuml/solvers/qn.pyx and
linear_regression.pyx, cpp/src/glm), always in float64; the prediction was never compared with a real device.
"""

import numpy as np

from featstore.sizes import in_bytes
from probes.backends.answers import n_frames
from probes.backends.design import rows_wanted
from probes.errors import BackendError, DeviceMemoryError
from probes.problem import Design, FitOptions, LeastSquaresProblem, LogisticProblem

_INDEX_LIMIT = 2**31
_DOUBLE = 8
_IGNORED = "cuML ignores class weights in multinomial fits (rapidsai/cuml issue 7298)"


def plan_least_squares(problem: LeastSquaresProblem, options: FitOptions, room: int) -> Design:
    """Take frames where they were asked for and fit, else the codes' means, which have the same minimum.

    Parameters
    ----------
    room : int
        Bytes of device memory that may be taken.

    Raises
    ------
    BackendError
        When no rows fit.
    """
    dim, n_codes, n_all = problem.codewords.shape[1], int(np.count_nonzero(problem.n)), n_frames(problem)
    asked = n_all if options.rows == "dense" else n_codes
    note = ""
    if options.rows == "dense":
        if least_squares_bytes(n_all, dim) <= room:
            return Design("frames", n_all, n_all)
        note = _too_large(n_all, dim, least_squares_bytes(n_all, dim), room)
    if n_codes < 2:
        raise BackendError(f"cuML's LinearRegression needs at least two distinct rows, found {n_codes}")
    if least_squares_bytes(n_codes, dim) > room:
        raise DeviceMemoryError(_too_large(n_codes, dim, least_squares_bytes(n_codes, dim), room))
    return Design("weighted", n_codes, asked, note)


def plan_logistic(problem: LogisticProblem, options: FitOptions, room: int, honours: bool) -> Design:
    """Take what states the problem exactly and fits; else apportion as many rows as are useful and fit.

    Parameters
    ----------
    room : int
        Bytes of device memory that may be taken.
    honours : bool
        Whether weights are honoured.

    Raises
    ------
    DeviceMemoryError
        When not even a row for each class would fit.
    """
    (n_codes, dim), n_classes, n_all = problem.codewords.shape, problem.counts.shape[1], n_frames(problem)
    n_indexed = (_INDEX_LIMIT - 1) // n_classes
    notes = []
    if options.rows == "dense":
        why = _why_not(n_all, dim, n_classes, 0, room)
        if problem.class_weight != "none" and not honours:
            why = _IGNORED
        if why is None:
            return Design("frames", n_all, n_all)
        notes.append(why)
    if honours:
        n_cells = int(np.count_nonzero(problem.counts))
        why = _why_not(n_cells, dim, n_classes, n_codes, room)
        if why is None:
            return Design("weighted", n_cells, n_all if options.rows == "dense" else n_cells, "; ".join(notes))
        notes.append(why)
    asked = rows_wanted(problem)
    per_row = logistic_bytes(2, dim, n_classes, n_codes) - logistic_bytes(1, dim, n_classes, n_codes)
    n_held = (room - logistic_bytes(0, dim, n_classes, n_codes)) // per_row
    n_rows = min(asked, n_indexed, n_held)
    if n_rows < n_classes:
        raise DeviceMemoryError(_too_large(n_classes, dim, logistic_bytes(n_classes, dim, n_classes, n_codes), room))
    if n_rows < asked:
        notes.append(_why_not(asked, dim, n_classes, n_codes, room) or "")
    return Design("apportioned", n_rows, asked, "; ".join(dict.fromkeys(notes)))


def _why_not(n_rows: int, dim: int, n_classes: int, n_codes: int, room: int) -> str | None:
    """Return why cuML cannot take so many rows, or None where it can."""
    if n_rows * n_classes >= _INDEX_LIMIT:
        return f"cuML indexes rows x classes with 32 bits, and {n_rows:,} x {n_classes:,} is not under {_INDEX_LIMIT:,}"
    needed = logistic_bytes(n_rows, dim, n_classes, n_codes)
    return None if needed <= room else _too_large(n_rows, dim, needed, room)


def _too_large(n_rows: int, dim: int, needed: int, room: int) -> str:
    return (
        f"{n_rows:,} rows of {dim:,} numbers need about {in_bytes(needed)} of device memory, {in_bytes(room)} can be "
        "taken"
    )


def logistic_bytes(n_rows: int, dim: int, n_classes: int, n_codes: int = 0) -> int:
    """Return about how many bytes of device memory cuML's ``LogisticRegression`` takes in float64.

    Of each row: its numbers, one table of rows by classes, and its class as given, sorted, and as float64, its weight
    and its code, with room to sort them. Of each coefficient: five pairs of the quasi-Newton memory and the iterates.
    The check that rows are finite takes a byte a number.

    Parameters
    ----------
    n_codes : int
        Rows of the table from which rows are gathered, 0 where they are not.
    """
    of_row = dim * (_DOUBLE + 1) + n_classes * _DOUBLE + 6 * _DOUBLE
    return n_rows * of_row + n_codes * dim * _DOUBLE + 2 * 8 * n_classes * (dim + 1) * _DOUBLE


def least_squares_bytes(n_rows: int, dim: int) -> int:
    """Return about how many bytes ``LinearRegression`` by singular values takes in float64.

    Rows, their left singular vectors and the factorisation's own copy, and a few squares of the dimension.
    """
    return n_rows * (3 * dim * _DOUBLE + dim + 4 * _DOUBLE) + 6 * dim**2 * _DOUBLE
