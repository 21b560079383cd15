"""Fit with scikit-learn, on weighted rows that state the same objective or on one row a frame.

Classifications can run on a device of torch (`probes.backends.array_api`); least squares is one factorisation on the
processor.
"""

import inspect
import time
import warnings
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probes.backends.answers import (
    collapsed_rows,
    graded_least_squares_fit,
    graded_logistic_fit,
    library_c,
    n_frames,
    symmetric_binary,
    trivial_fit,
)
from probes.backends.array_api import fit_on_device
from probes.backends.base import Availability, Problem
from probes.errors import BackendError
from probes.problem import Fit, FitOptions, LeastSquaresProblem, LogisticProblem, Outcome

Array = NDArray[np.float64]

DEFAULT_TOL = 1e-6
DEFAULT_MAX_ITER = 10_000
# Rough iterations of its two solvers, to compare their costs.
_LBFGS_ITERATIONS, _NEWTON_ITERATIONS = 1000, 10
_LARGEST_HESSIAN = 3000


class SklearnBackend:
    """``LogisticRegression`` and ``LinearRegression`` of scikit-learn, always in float64."""

    name = "sklearn"

    def availability(self) -> Availability:
        """Say whether scikit-learn is installed."""
        try:
            return Availability(True, version("scikit-learn"), "cpu")
        except PackageNotFoundError:
            return Availability(False, "", "", "scikit-learn is not installed", "pip install scikit-learn")

    def refuses(self, problem: Problem, options: FitOptions) -> str | None:
        """Refuse dense rows of a problem that has none."""
        if options.rows == "dense" and problem.dense_rows is None:
            return "this problem has no frame-by-frame rows"
        return None

    def versions(self) -> dict[str, str]:
        """Return the versions of scikit-learn, SciPy and NumPy."""
        return {name: version(name) for name in ("scikit-learn", "scipy", "numpy")}

    def fit_logistic(self, problem: LogisticProblem, options: FitOptions) -> Fit:
        """Fit ``LogisticRegression``; `tol` is its own, the largest entry of the mean loss's gradient."""
        trivial = trivial_fit(problem)
        if trivial is not None:
            return trivial
        if options.rows == "dense":
            X, y, weights = *load_dense_rows(problem), None
            class_weight, total = _class_weight(problem), float(problem.class_weights @ problem.counts.sum(axis=0))
        else:
            X, y, weights = collapsed_rows(problem)
            class_weight, total = None, float(weights.sum())
        begin = time.perf_counter()
        model = _logistic_model(problem, options, len(X), total, class_weight)
        outcome = _fit_quietly(model, X, y, weights, options.device)
        seconds = time.perf_counter() - begin
        coef, intercept = symmetric_binary(model.coef_.astype(np.float64), model.intercept_.astype(np.float64))
        return graded_logistic_fit(problem, coef, intercept, outcome, int(np.max(model.n_iter_)), seconds)

    def fit_least_squares(self, problem: LeastSquaresProblem, options: FitOptions) -> Fit:
        """Fit ``LinearRegression``; collapsed rows are the codes' means of y, weighted by their frames."""
        trivial = trivial_fit(problem)
        if trivial is not None:
            return trivial
        X, y, weights = (*load_dense_rows(problem), None) if options.rows == "dense" else mean_rows(problem)
        begin = time.perf_counter()
        model = _linear_model(X)
        _fit_quietly(model, X, y, weights)
        return graded_least_squares_fit(problem, model.coef_[None, :], np.atleast_1d(model.intercept_), begin)


def load_dense_rows(problem: Problem) -> tuple[Array, NDArray[np.generic]]:
    """Return the frames as float64 rows and their targets.

    Raises
    ------
    BackendError
        When the problem has none.
    """
    if problem.dense_rows is None:
        raise BackendError("dense rows were asked for, but this problem has none: use rows 'collapsed'")
    X, filled, values = np.empty((n_frames(problem), problem.codewords.shape[1])), 0, []
    for piece, y in problem.dense_rows():
        if len(y) == len(X):
            return np.asarray(piece, dtype=np.float64), y  # all at once: rows that are in memory already
        X[filled : filled + len(y)] = piece
        filled += len(y)
        values.append(y)
    return X, np.concatenate(values)


def mean_rows(problem: LeastSquaresProblem) -> tuple[Array, Array, Array]:
    """Return codewords (n_rows, dim), means of y (n_rows,) and frame counts (n_rows,) of the used codes."""
    used = problem.n > 0
    X = np.asarray(problem.codewords, dtype=np.float64)[used]
    return X, problem.sum_y[used] / problem.n[used], problem.n[used]


def _class_weight(problem: LogisticProblem) -> str | None:
    return None if problem.class_weight == "none" else problem.class_weight


def _logistic_model(
    problem: LogisticProblem, options: FitOptions, n_rows: int, total: float, class_weight: str | None
) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(
        C=library_c(problem, total),
        class_weight=class_weight,
        solver=choose_solver(n_rows, problem.codewords.shape[1], problem.counts.shape[1]),
        tol=DEFAULT_TOL if options.tol is None else options.tol,
        max_iter=DEFAULT_MAX_ITER if options.max_iter is None else options.max_iter,
    )


def _linear_model(X: Array) -> Any:
    from sklearn.linear_model import LinearRegression

    # From 1.9 on `tol` is also the dense solver's cut-off for singular values, 1e-6 by default, which is a ridge of
    # sorts on ill-conditioned codebooks; before, it was LAPACK's rounding level, which is what the problem asks for.
    cut_off = max(X.shape) * float(np.finfo(np.float64).eps)
    takes_tol = "tol" in inspect.signature(LinearRegression).parameters
    return LinearRegression(tol=cut_off) if takes_tol else LinearRegression()


def choose_solver(n_rows: int, dim: int, n_classes: int) -> str:
    """Return the cheaper of scikit-learn's ``lbfgs`` and ``newton-cholesky`` by their multiplications."""
    n_rows_of_coef = 1 if n_classes == 2 else n_classes
    n_unknowns = n_rows_of_coef * (dim + 1)
    pairs = n_rows_of_coef * (n_rows_of_coef + 1) / 2
    newton = _NEWTON_ITERATIONS * (pairs * n_rows * dim**2 + n_unknowns**3 / 3)
    lbfgs = _LBFGS_ITERATIONS * 2 * n_rows * n_unknowns
    return "newton-cholesky" if n_unknowns <= _LARGEST_HESSIAN and newton < lbfgs else "lbfgs"


def _fit_quietly(model: Any, X: Array, y: NDArray[np.generic], weights: Array | None, device: str = "cpu") -> Outcome:
    """Fit, and return the convergence warning, if any, as an outcome."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings(record=True) as caught, np.errstate(all="ignore"):
        warnings.simplefilter("always")
        if device == "cpu":
            model.fit(X, y, sample_weight=weights)
        else:
            fit_on_device(model, (X, y, weights), device)
    messages = [str(warning.message) for warning in caught if issubclass(warning.category, ConvergenceWarning)]
    if not messages:
        return "converged"
    return "stalled" if any("ABNORMAL" in message.upper() for message in messages) else "iteration_limit"
