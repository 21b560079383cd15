"""Fit with RAPIDS cuML on an NVIDIA GPU, for the problems that it fits rightly.

What is asked of cuML here, and why (cuML 26.10, cpp/src/glm/qn): its softmax loss ignores sample and class weights
without a word (issue 7298), so a weighted multinomial problem is refused; its binary loss takes weights, but the
penalty is scaled by the number of rows, so weights are brought to a mean of one; rows x classes must stay under 2^31;
it stops on max|grad| <= tol * loss of the sum, so scikit-learn's meaning of tol needs tol / n_rows (issue 3645).
"""

import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probes.backends.answers import (
    collapsed_rows,
    graded_least_squares_fit,
    graded_logistic_fit,
    library_c,
    symmetric_binary,
    trivial_fit,
)
from probes.backends.base import Availability, Problem
from probes.backends.sklearn import load_dense_rows, mean_rows
from probes.errors import BackendError
from probes.problem import Fit, FitOptions, LeastSquaresProblem, LogisticProblem, Outcome

Array = NDArray[np.float64]
Import = Callable[[str], Any]

DEFAULT_TOL = 1e-6
DEFAULT_MAX_ITER = 10_000
_INDEX_LIMIT = 2**31
_INSTALL = "pip install 'rvqprobe[cuml]' (driver 580 or newer) or 'rvqprobe[cuml-cu12]' (driver 535 or newer)"


class CumlBackend:
    """``LogisticRegression`` and ``LinearRegression`` of cuML.

    Parameters
    ----------
    import_library : callable (name: str) -> module
        Gives ``cuml`` and ``cupy``; tests put a stand-in here.
    """

    name = "cuml"

    def __init__(self, import_library: Import = import_module):
        self._import = import_library

    def availability(self) -> Availability:
        """Say whether cuML is installed and a GPU answers (cuML itself imports without one and fails at the fit)."""
        try:
            cuml, cupy = self._import("cuml"), self._import("cupy")
        except ImportError as error:
            return Availability(False, "", "", f"cuML cannot be imported ({error})", _INSTALL)
        try:
            if cupy.cuda.is_available():
                return Availability(True, str(cuml.__version__), _device_name(cupy))
            reason = "cuML is installed, but no usable NVIDIA GPU was found"
        except Exception as error:  # noqa: BLE001 - a broken driver raises whatever it likes; any of it means no GPU
            reason = f"cuML is installed, but the GPU does not answer ({type(error).__name__}: {error})"
        return Availability(False, str(cuml.__version__), "", reason)

    def refuses(self, problem: Problem, options: FitOptions) -> str | None:
        """Refuse what cuML would fit wrongly."""
        if options.rows == "dense" and problem.dense_rows is None:
            return "this problem has no frame-by-frame rows"
        if isinstance(problem, LeastSquaresProblem) or problem.counts.shape[1] <= 2:
            return None
        if problem.class_weight != "none":
            return "cuML ignores class weights in multinomial fits (rapidsai/cuml issue 7298)"
        if options.rows == "collapsed":
            return "cuML ignores the weights of collapsed rows in multinomial fits (rapidsai/cuml issue 7298)"
        n_cells = int(problem.counts.sum()) * problem.counts.shape[1]
        if n_cells >= _INDEX_LIMIT:
            return f"cuML indexes rows x classes with 32 bits, and {n_cells} is not under {_INDEX_LIMIT}"
        return None

    def versions(self) -> dict[str, str]:
        """Return the versions of cuML and CuPy."""
        return {name: str(self._import(name).__version__) for name in ("cuml", "cupy")}

    def fit_logistic(self, problem: LogisticProblem, options: FitOptions) -> Fit:
        """Fit ``LogisticRegression``.

        Raises
        ------
        BackendError
            When `refuses` does.
        """
        trivial = trivial_fit(problem)
        if trivial is not None:
            return trivial
        self._check(problem, options)
        X, y, weights = self._logistic_rows(problem, options)
        max_iter = DEFAULT_MAX_ITER if options.max_iter is None else options.max_iter
        tol = DEFAULT_TOL if options.tol is None else options.tol
        begin = time.perf_counter()
        model = self._import("cuml").linear_model.LogisticRegression(
            C=library_c(problem, float(len(X))), tol=tol / len(X), max_iter=max_iter, output_type="numpy"
        )
        model.fit(X, y.astype(np.float64), sample_weight=weights)
        seconds = time.perf_counter() - begin
        coef, intercept = symmetric_binary(np.atleast_2d(_on_host(model.coef_)), np.ravel(_on_host(model.intercept_)))
        n_iter = int(np.max(_on_host(model.n_iter_)))
        # cuML warns of nothing: the iteration count is the only sign.
        outcome: Outcome = "iteration_limit" if n_iter >= max_iter else "converged"
        return graded_logistic_fit(problem, coef, intercept, outcome, n_iter, seconds)

    def fit_least_squares(self, problem: LeastSquaresProblem, options: FitOptions) -> Fit:
        """Fit ``LinearRegression`` by singular values; its default, eigenvalues of the Gram matrix, halves the digits.

        Raises
        ------
        BackendError
            When `refuses` does.
        """
        trivial = trivial_fit(problem)
        if trivial is not None:
            return trivial
        self._check(problem, options)
        X, y, weights = (*load_dense_rows(problem), None) if options.rows == "dense" else mean_rows(problem)
        begin = time.perf_counter()
        model = self._import("cuml").linear_model.LinearRegression(algorithm="svd", output_type="numpy")
        model.fit(np.asfortranarray(X), y, sample_weight=weights)
        coef = np.ravel(_on_host(model.coef_))[None, :]
        return graded_least_squares_fit(problem, coef, np.ravel(_on_host(model.intercept_)), begin)

    def _check(self, problem: Problem, options: FitOptions) -> None:
        reason = self.refuses(problem, options)
        if reason is not None:
            raise BackendError(f"{reason}; use the sklearn or exact backend")

    def _logistic_rows(
        self, problem: LogisticProblem, options: FitOptions
    ) -> tuple[Array, NDArray[np.generic], Array | None]:
        """Return rows, class indices and, for two classes, weights with a mean of one."""
        if options.rows == "dense":
            X, y = load_dense_rows(problem)
            weights = problem.class_weights[y.astype(np.int64)]
        else:
            X, y, weights = collapsed_rows(problem)
        uniform = problem.class_weight == "none" and options.rows == "dense"
        return X, y, None if uniform else weights / weights.mean()


def _device_name(cupy: Any) -> str:
    properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
    name = properties["name"]
    return name.decode() if isinstance(name, bytes) else str(name)


def _on_host(array: Any) -> Array:
    """Return a NumPy copy of what may be an array on the device."""
    return np.asarray(array.get() if hasattr(array, "get") else array, dtype=np.float64)
