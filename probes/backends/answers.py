"""Answers every backend shares: those that need no solver, and the grading of a library's solution."""

import time

import numpy as np
from numpy.typing import NDArray

from probes.backends.base import Problem
from probes.certificate import certify
from probes.objective import LogisticObjective, mean_squared_error
from probes.problem import Fit, LeastSquaresProblem, LogisticProblem, Outcome

Array = NDArray[np.float64]


def trivial_fit(problem: Problem) -> Fit | None:
    """Return the answer where no fit is needed (one class) or possible (input not finite), else None."""
    if not _is_finite(problem):
        return non_finite_fit(problem)
    if isinstance(problem, LogisticProblem) and problem.counts.shape[1] == 1:
        return Fit(np.zeros((1, problem.codewords.shape[1])), np.zeros(1), "converged", 0, 0.0, 0.0, 0.0, 0.0)
    return None


def non_finite_fit(problem: Problem, n_iter: int = 0, seconds: float = 0.0) -> Fit:
    """Return the answer to input that is not finite or overflowed on the way: NaN throughout."""
    n_outputs = 1 if isinstance(problem, LeastSquaresProblem) else problem.counts.shape[1]
    coef = np.full((n_outputs, problem.codewords.shape[1]), np.nan)
    return Fit(coef, np.full(n_outputs, np.nan), "non_finite", n_iter, float("nan"), seconds)


def graded_logistic_fit(
    problem: LogisticProblem, coef: Array, intercept: Array, outcome: Outcome, n_iter: int, seconds: float
) -> Fit:
    """Return a library's solution with our objective and a proved gap, both at its own intercept.

    Parameters
    ----------
    coef : float64 array of shape (n_classes, dim)
    intercept : float64 array of shape (n_classes,)
    """
    if not (np.isfinite(coef).all() and np.isfinite(intercept).all()):
        return non_finite_fit(problem, n_iter, seconds)
    objective = LogisticObjective.of(problem)
    value = objective.value(coef, intercept)
    certificate = certify(objective, coef, intercept)
    # The certificate speaks of the best intercept; what the library's own one costs beyond it is known exactly.
    bound = certificate.gap_bound + max(value - certificate.objective, 0.0)
    return Fit(coef, intercept, outcome, n_iter, value, seconds, gap_bound=bound)


def graded_least_squares_fit(problem: LeastSquaresProblem, coef: Array, intercept: Array, begin: float) -> Fit:
    """Return a least-squares solution with its mean squared error.

    Parameters
    ----------
    coef : float64 array of shape (1, dim)
    intercept : float64 array of shape (1,)
    begin : float
        `time.perf_counter()` when the fit began.
    """
    seconds = time.perf_counter() - begin
    if not (np.isfinite(coef).all() and np.isfinite(intercept).all()):
        return non_finite_fit(problem, 1, seconds)
    return Fit(coef, intercept, "converged", 1, mean_squared_error(problem, coef, intercept), seconds)


def symmetric_binary(coef: Array, intercept: Array) -> tuple[Array, Array]:
    """Turn the one row a library fits for two classes into our two: half of it each, with opposite signs."""
    if len(coef) > 1:
        return coef, intercept
    return np.vstack([-0.5 * coef, 0.5 * coef]), np.concatenate([-0.5 * intercept, 0.5 * intercept])


def library_c(problem: LogisticProblem, total_weight: float) -> float:
    """Return the C with which a library's objective is ours, for sample weights that sum to `total_weight`.

    A library minimises sum of weighted losses + ||w||^2 / (2 C). For two classes it fits one row w, the difference of
    our two, and ||W||^2 = ||w||^2 / 2.
    """
    c = 1.0 / (problem.l2_strength * total_weight)
    return 2.0 * c if problem.counts.shape[1] == 2 else c


def n_frames(problem: Problem) -> int:
    """Return the number of training frames."""
    return int(problem.n.sum() if isinstance(problem, LeastSquaresProblem) else problem.counts.sum())


def weighted_cells(problem: LogisticProblem) -> tuple[NDArray[np.int64], NDArray[np.int64], Array]:
    """Return code, class and weight (frames times class weight) of each pair of code and class that occurs."""
    codes, classes = np.nonzero(problem.counts)
    return codes, classes.astype(np.int64), problem.counts[codes, classes] * problem.class_weights[classes]


def collapsed_rows(problem: LogisticProblem) -> tuple[Array, NDArray[np.int64], Array]:
    """Return one weighted row for each pair of code and class that occurs.

    Returns
    -------
    X : float64 array of shape (n_rows, dim)
    y : int64 array of shape (n_rows,), class indices
    sample_weight : float64 array of shape (n_rows,), counts times class weight
    """
    codes, classes, weights = weighted_cells(problem)
    return np.asarray(problem.codewords, dtype=np.float64)[codes], classes, weights


def _is_finite(problem: Problem) -> bool:
    if isinstance(problem, LogisticProblem):
        arrays = [problem.codewords, problem.counts]
    else:
        arrays = [problem.codewords, problem.n, problem.sum_y, problem.sum_y2]
    return all(bool(np.isfinite(array).all()) for array in arrays)
