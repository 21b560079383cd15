"""Fit a logistic probe on stacked rows, and prove how far it is from the optimum."""

import time

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from probes.problem import Fit, FitOptions
from probes.stacked.certify import certify_stacked
from probes.stacked.passes import make_pass
from probes.stacked.problem import StackedLogisticProblem
from probes.stacked.solver import minimise

Array = NDArray[np.float64]

DEFAULT_TOL = 1e-6
DEFAULT_MAX_ITER = 1000


def fit_stacked_logistic(
    problem: StackedLogisticProblem,
    options: FitOptions,
    n_threads: int = 1,
    device: str = "cpu",
) -> Fit:
    """Fit to a relative gap of `options.tol` (default 1e-6), by estimate; the proved bound comes with the answer.

    Parameters
    ----------
    problem : StackedLogisticProblem
    options : FitOptions
        `rows` is ignored: a frame is a row here.
    n_threads : int
        Threads that share the passes over frames.
    device : str
        Where the passes run: ``cpu``, or a device of torch such as ``cuda``.

    Raises
    ------
    BackendError
        When torch or its device is not there, or has too little memory.
    """
    begin = time.perf_counter()
    if problem.n_classes == 1:
        return Fit(np.zeros((1, problem.stack.dim)), np.zeros(1), "converged", 0, 0.0, 0.0, 0.0, 0.0)
    centred, mean = problem.centred()
    tol = DEFAULT_TOL if options.tol is None else options.tol
    max_iter = DEFAULT_MAX_ITER if options.max_iter is None else options.max_iter
    with threadpool_limits(limits=1, user_api="blas"), np.errstate(all="ignore"):
        chosen = make_pass(centred, n_threads, device)
        start = np.zeros((problem.stack.dim + 1, problem.n_classes))
        start[-1] = np.log(problem.shares) - np.log(problem.shares).mean()
        try:
            solution = minimise(centred, chosen, start, tol, max_iter)
        except (np.linalg.LinAlgError, ValueError):
            return _non_finite(problem, 0, begin)  # finite rows that overflow when squared
        if solution.outcome == "non_finite":
            return _non_finite(problem, solution.n_iter, begin)
        unknown, certificate = certify_stacked(centred, chosen, solution.unknown)
    coef = unknown[:-1].T - unknown[:-1].T.mean(axis=0)
    intercept = unknown[-1] - coef @ mean
    return Fit(
        coef,
        intercept - intercept.mean(),
        solution.outcome,
        solution.n_iter,
        certificate.objective,
        time.perf_counter() - begin,
        gap_estimate=solution.gap_estimate,
        gap_bound=certificate.gap_bound,
    )


def _non_finite(problem: StackedLogisticProblem, n_iter: int, begin: float) -> Fit:
    coef = np.full((problem.n_classes, problem.stack.dim), np.nan)
    seconds = time.perf_counter() - begin
    return Fit(coef, np.full(problem.n_classes, np.nan), "non_finite", n_iter, float("nan"), seconds)
