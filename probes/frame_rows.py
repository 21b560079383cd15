"""Frames as rows in memory, in the form that every backend takes: a problem whose codewords are the frames.

Each frame is a codeword of its own, with one count in the column of its class, so that a library's solution is graded
(objective, proved gap) by the same code as any other.
"""

import numpy as np
from numpy.typing import NDArray

from featstore.memory import available_bytes
from featstore.sizes import in_bytes
from probes.errors import BackendError
from probes.problem import ClassWeight, LeastSquaresProblem, LogisticProblem

Array = NDArray[np.float64]

# What a fit holds at once, in float64: rows and a library's copy of them, and tables of frames by classes (counts,
# targets, probabilities, gradients). A linear regression copies rows to centre, to scale and to factorise them.
_COPIES_OF_ROWS, _COPIES_OF_TABLES, _COPIES_OF_LINEAR_ROWS = 2, 8, 4


def check_memory(n_frames: int, dim: int, n_classes: int | None, what: str) -> None:
    """Refuse rows that would not fit.

    Parameters
    ----------
    n_frames, dim : int
    n_classes : int or None
        None for least squares.
    what : str
        Names the probe in the message.

    Raises
    ------
    BackendError
    """
    if n_classes is None:
        a_frame = _COPIES_OF_LINEAR_ROWS * dim
    else:
        a_frame = _COPIES_OF_ROWS * dim + _COPIES_OF_TABLES * n_classes
    needed, there = 8 * n_frames * a_frame, available_bytes()
    if there is not None and needed > there:
        n_fitting = there // (16 * a_frame)  # half of what is there, for what else may come
        raise BackendError(
            f"{what}: {n_frames:,} rows of {dim:,} numbers need about {in_bytes(needed)} of memory, "
            f"{in_bytes(there)} are free; sample with --max-train-frames {max(1000, n_fitting // 1000 * 1000)}"
        )


def logistic_problem(
    X: Array, y: NDArray[np.integer], n_classes: int, class_weight: ClassWeight, C: float
) -> LogisticProblem:
    """Return classification of rows X, float64 (n_frames, dim), into classes y (n_frames,), each of which occurs."""
    counts = np.zeros((len(y), n_classes))
    counts[np.arange(len(y)), y] = 1.0
    return LogisticProblem(X, counts, class_weight, C, lambda: [(X, y.astype(np.int64))])


def least_squares_problem(X: Array, y: Array) -> LeastSquaresProblem:
    """Return regression of y (n_frames,) on rows X, float64 (n_frames, dim)."""
    return LeastSquaresProblem(X, np.ones(len(y)), y, np.square(y), lambda: [(X, y)])
