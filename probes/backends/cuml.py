"""Fit with RAPIDS cuML on an NVIDIA GPU.

What has to be known of cuML, and what is done about it (read in the source of 26.10, cpp/src/glm/qn; never yet run):

- Its softmax loss never receives sample or class weights, without a word (issue 7298). A tiny fit with a known answer
  tells, once a process, whether the installed one does. Where it does, weighted rows state the problem exactly; where
  it does not, an integer design (`probes.backends.design`) approximates it, and the record says how well: the true
  objective at cuML's solution is compared with the optimum that `exact` proves.
- Its binary loss takes weights, but the penalty is scaled by the number of rows: weights are brought to a mean of one.
- Rows x classes is a 32-bit integer: more rows are a smaller design.
- It stops when max|g| <= tol * f, or when f changed by at most 0.01 tol f over ten iterations, and does not say which:
  its tol is set such that it goes as far as scikit-learn, and judged by the gradient at its solution.

``rows`` "dense" gives it the frames: without weights, or with weights that it honours. Where it would ignore the
weights, or the frames are too many for the index or the device, it gets what "collapsed" gets, and the record says so.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probes.backends.answers import (
    graded_least_squares_fit,
    graded_logistic_fit,
    library_c,
    symmetric_binary,
    trivial_fit,
    weighted_cells,
)
from probes.backends.base import Availability, Problem
from probes.backends.design import IntegerDesign, integer_design
from probes.backends.device import Device, device_name, guarded, why_no_device
from probes.backends.row_plan import plan_least_squares, plan_logistic
from probes.backends.sklearn import mean_rows
from probes.errors import BackendError, DeviceError, DeviceMemoryError
from probes.objective import LogisticObjective
from probes.problem import Design, Fit, FitOptions, LeastSquaresProblem, LogisticProblem, Outcome

Array = NDArray[np.float64]
Import = Callable[[str], Any]
LOG = logging.getLogger(__name__)

DEFAULT_TOL = 1e-6
DEFAULT_MAX_ITER = 10_000
# Codes up to which `exact` proves the optimum, in 0.1 to 3 s at 1024 of them; frames that are codes of their own are
# more.
_MOST_CODES_PROVED = 4096
_INSTALL = "pip install 'rvqprobe[cuml]' (driver 580 or newer) or 'rvqprobe[cuml-cu12]' (driver 535 or newer)"


class CumlBackend:
    """``LogisticRegression`` and ``LinearRegression`` of cuML, in float64.

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
        except Exception as error:  # noqa: BLE001 - its own imports ask for the driver, and raise whatever they like
            return Availability(False, "", "", why_no_device(error))
        version = str(cuml.__version__)
        try:
            if cupy.cuda.is_available():
                return Availability(True, version, device_name(cupy))
            return Availability(False, version, "", why_no_device(None))
        except Exception as error:  # noqa: BLE001 - a broken driver raises whatever it likes; any of it means no GPU
            return Availability(False, version, "", why_no_device(error))

    def refuses(self, problem: Problem, options: FitOptions) -> str | None:
        """Refuse what cuML would fit wrongly, or what not even a small design of would fit on the device.

        Raises
        ------
        DeviceError
            When the device does not answer.
        """
        try:
            self._plan(problem, options)
        except BackendError as error:
            if isinstance(error, DeviceError) and not isinstance(error, DeviceMemoryError):
                raise
            return str(error)
        return None

    def versions(self) -> dict[str, str]:
        """Return the versions of cuML and CuPy."""
        return {name: str(self._import(name).__version__) for name in ("cuml", "cupy")}

    def fit_logistic(self, problem: LogisticProblem, options: FitOptions) -> Fit:
        """Fit ``LogisticRegression``; `tol` is scikit-learn's, the largest entry of the mean loss's gradient.

        Raises
        ------
        BackendError
            When `refuses` does.
        DeviceError
            When the device or cuML fails on the way, or device memory runs out.
        """
        trivial = trivial_fit(problem)
        if trivial is not None:
            return trivial
        plan = self._plan(problem, options)
        design, solved = None, problem
        if plan.kind == "apportioned":
            design = integer_design(problem, plan.n_rows)
            solved = design.as_problem(problem)
        X, y, weights = self._logistic_rows(problem, plan, design)
        max_iter = DEFAULT_MAX_ITER if options.max_iter is None else options.max_iter
        tol = DEFAULT_TOL if options.tol is None else options.tol
        begin = time.perf_counter()
        with guarded():
            model = self._import("cuml").linear_model.LogisticRegression(
                C=library_c(problem, float(plan.n_rows)), tol=_library_tol(tol), max_iter=max_iter, output_type="numpy"
            )
            model.fit(X, y, sample_weight=weights)
            coef, intercept = np.atleast_2d(_on_host(model.coef_)), np.ravel(_on_host(model.intercept_))
            n_iter = int(np.max(_on_host(model.n_iter_)))
        seconds = time.perf_counter() - begin
        coef, intercept = symmetric_binary(coef, intercept)
        outcome = _outcome(solved, coef, intercept, tol, n_iter >= max_iter)
        fit = graded_logistic_fit(problem, coef, intercept, outcome, n_iter, seconds)
        return replace(_against_the_optimum(problem, fit), design=plan)

    def fit_least_squares(self, problem: LeastSquaresProblem, options: FitOptions) -> Fit:
        """Fit ``LinearRegression`` by singular values; its default, eigenvalues of the Gram matrix, halves the digits.

        Raises
        ------
        BackendError, DeviceError
            As `fit_logistic`.
        """
        trivial = trivial_fit(problem)
        if trivial is not None:
            return trivial
        plan = self._plan(problem, options)
        device, dim = Device(self._import("cupy")), problem.codewords.shape[1]
        # Any other order is copied once more on the device; so are rows that it may not write to.
        if plan.kind == "frames":
            assert problem.dense_rows is not None
            X, y = device.collect(problem.dense_rows(), plan.n_rows, dim, "F")
            weights = None
        else:
            rows, y, n = mean_rows(problem)
            X, _ = device.collect([(rows, y)], len(rows), dim, "F")
            weights = device.put(n / n.mean())
        y = device.put(np.asarray(y, dtype=np.float64))
        begin = time.perf_counter()
        with guarded():
            model = self._import("cuml").linear_model.LinearRegression(
                algorithm="svd", copy_X=False, output_type="numpy"
            )
            model.fit(X, y, sample_weight=weights)
            coef, intercept = np.ravel(_on_host(model.coef_))[None, :], np.ravel(_on_host(model.intercept_))
        return replace(graded_least_squares_fit(problem, coef, intercept, begin), design=plan)

    def _plan(self, problem: Problem, options: FitOptions) -> Design:
        """Choose the rows to give to cuML.

        Raises
        ------
        BackendError
            When there are none that it would fit rightly; DeviceError when the device fails.
        """
        if options.rows == "dense" and problem.dense_rows is None:
            raise BackendError("this problem has no frame-by-frame rows")
        room = Device(self._import("cupy")).usable_bytes()
        if isinstance(problem, LeastSquaresProblem):
            return plan_least_squares(problem, options, room)
        honours = problem.counts.shape[1] == 2 or self._honours_weights()
        return plan_logistic(problem, options, room, honours)

    def _honours_weights(self) -> bool:
        return _honours_weights(self._import("cuml"), self._import("cupy"))

    def _logistic_rows(
        self, problem: LogisticProblem, plan: Design, design: IntegerDesign | None
    ) -> tuple[Any, Any, Any]:
        """Return rows, class indices and weights with a mean of one or None, all on the device."""
        device = Device(self._import("cupy"))
        if plan.kind == "frames":
            assert problem.dense_rows is not None
            X, y = device.collect(problem.dense_rows(), plan.n_rows, problem.codewords.shape[1], "C")
            weights = None if problem.class_weight == "none" else problem.class_weights[y.astype(np.int64)]
        elif design is None:
            codes, y, weights = weighted_cells(problem)
            X = _gathered(device, problem, codes)
        else:
            y, weights = np.repeat(design.classes, design.n_rows), None
            X = _gathered(device, problem, np.repeat(design.codes, design.n_rows))
        on_device = None if weights is None else device.put(weights / weights.mean())
        return X, device.put(y.astype(np.float64)), on_device


def _gathered(device: Device, problem: LogisticProblem, codes: NDArray[np.integer]) -> Any:
    """Return a row of the codebook for each code, made on the device: the host never holds them."""
    table = device.put(np.asarray(problem.codewords, dtype=np.float64))
    return device.gather(table, device.put(codes.astype(np.int32)))


def _library_tol(tol: float) -> float:
    """Return cuML's tol with which it goes as far as scikit-learn with `tol`.

    Near the optimum a change of the objective is quadratic in the gradient, so its change rule, at 0.01 of its tol,
    needs the square. At 1e-7 for 1e-6 L-BFGS under both rules left gradients of 0.4 to 0.8 of `tol` in five problems of
    condition 1e3 to 1e4; a tenth of that, which is taken here, costs a fifth more iterations.
    """
    return min(0.01 * tol, 1e4 * tol**2)


def _outcome(solved: LogisticProblem, coef: Array, intercept: Array, tol: float, out_of_iterations: bool) -> Outcome:
    """Judge cuML's solution by the gradient of what it was given to solve, for it warns of nothing.

    Of a design that is the design's objective: how far its optimum is from the true one is the gap's to say.
    """
    with np.errstate(all="ignore"):
        gradients = LogisticObjective.of(solved).gradient(coef, intercept)
        largest = max(float(np.abs(part).max()) for part in gradients)
    if largest <= tol:
        return "converged"
    return "iteration_limit" if out_of_iterations else "stalled"


def _against_the_optimum(problem: LogisticProblem, fit: Fit) -> Fit:
    """Return the fit with its gap to the optimum, which `exact` brackets: no less than its objective less its bound."""
    from probes.backends.exact import ExactBackend

    if fit.outcome == "non_finite" or len(problem.codewords) > _MOST_CODES_PROVED:
        return fit
    best = ExactBackend().fit_logistic(problem, FitOptions())
    if best.gap_bound is None or best.gap_estimate is None or not np.isfinite(best.objective):
        return fit
    above = fit.objective - best.objective
    bound = max(above + best.gap_bound, 0.0)
    bound = bound if fit.gap_bound is None else min(bound, fit.gap_bound)
    return replace(fit, gap_bound=bound, gap_estimate=min(max(above + best.gap_estimate, 0.0), bound))


@cache
def _honours_weights(cuml: Any, cupy: Any) -> bool:
    """Find out whether this cuML's multinomial fits take weights, by one whose answer is known.

    Two opposite rows for each of three classes: the coefficients are zero whatever the penalty, and the intercepts are
    the logarithms of the classes' shares, so those of the first and the last differ by log 8, or by 0 without weights.

    Raises
    ------
    BackendError
        When the answer is neither.
    """
    device = Device(cupy)
    X, y = device.put(np.array([[-1.0], [1.0]] * 3)), device.put(np.array([0.0, 0.0, 1.0, 1.0, 2.0, 2.0]))
    weights = device.put(np.array([8.0, 8.0, 3.0, 3.0, 1.0, 1.0]) / 4.0)  # their mean is one
    with guarded():
        model = cuml.linear_model.LogisticRegression(C=1.0, tol=1e-8, max_iter=1000, output_type="numpy")
        model.fit(X, y, sample_weight=weights)
        intercept = np.ravel(_on_host(model.intercept_))
    difference = float(intercept[0] - intercept[2]) if len(intercept) == 3 else float("nan")
    for honoured, expected in ((True, np.log(8.0)), (False, 0.0)):
        if abs(difference - expected) < 1e-2:
            verdict = "takes" if honoured else "ignores"
            LOG.info("a test fit tells that cuML %s %s weights in multinomial fits", cuml.__version__, verdict)
            return honoured
    raise BackendError(
        f"cuML {cuml.__version__} answers a weighted problem of three classes with {difference:.3g}, where "
        f"{np.log(8.0):.3g} is right, and 0 is expected of one that ignores weights"
    )


def _on_host(array: Any) -> Array:
    """Return a NumPy copy of what may be an array on the device."""
    return np.asarray(array.get() if hasattr(array, "get") else array, dtype=np.float64)
