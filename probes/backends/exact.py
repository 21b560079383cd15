"""Our own backend: fits from counts and moments, without ever forming a frame's row."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from featstore.torch_device import torch_device
from probes.backends.answers import non_finite_fit, trivial_fit
from probes.backends.base import Availability, Problem
from probes.certificate import Certificate, certify
from probes.feature_space import FeatureSpace
from probes.least_squares import solve_least_squares
from probes.objective import LogisticObjective, mean_squared_error
from probes.problem import Fit, FitOptions, LeastSquaresProblem, LogisticProblem, Outcome
from probes.reduction import ReducedProblem, reduce_problem
from probes.solver import Limits, Solution, Space, evaluate_at, minimise
from probes.spaces import carry_over, solve

Array = NDArray[np.float64]
Solver = Callable[[ReducedProblem, Limits], tuple[Space, Solution]]

DEFAULT_TOL = 1e-7
DEFAULT_MAX_ITER = 10_000
# Relative gap that a fit is to prove, a little less than the 1e-6 that is promised; never sharper than the tolerance.
_PROVE = 8e-7
# The decrement is an estimate: gaps of several times it have been seen, of ten times it not.
_MARGIN = 0.1


class ExactBackend:
    """Preconditioned L-BFGS on the contingency table, on a device Newton's method; one factorisation for pitch."""

    name = "exact"

    def availability(self) -> Availability:
        """Say that it runs everywhere."""
        return Availability(True, np.__version__, "cpu")

    def refuses(self, problem: Problem, options: FitOptions) -> str | None:
        """Refuse nothing: dense rows and counts are the same problem."""
        return None

    def versions(self) -> dict[str, str]:
        """Return the versions of NumPy and SciPy."""
        import scipy

        return {"numpy": np.__version__, "scipy": scipy.__version__}

    def fit_logistic(self, problem: LogisticProblem, options: FitOptions) -> Fit:
        """Fit to a relative gap of `options.tol`, and prove what can be proved; see `Backend`.

        Raises
        ------
        FeatstoreError
            When torch or `options.device` is not there.
        """
        trivial = trivial_fit(problem)
        if trivial is not None:
            return trivial
        begin = time.perf_counter()
        tol = DEFAULT_TOL if options.tol is None else options.tol
        max_iter = DEFAULT_MAX_ITER if options.max_iter is None else options.max_iter
        limits = Limits(estimate=_MARGIN * tol, bound=max(tol, _PROVE), max_iter=max_iter)
        with np.errstate(all="ignore"), _one_thread():
            try:
                return _fit(problem, limits, _solver(options.device), begin)
            except (np.linalg.LinAlgError, ValueError, FloatingPointError):
                # Finite input that overflows when squared: LAPACK refuses the infinities.
                return non_finite_fit(problem, 0, time.perf_counter() - begin)

    def fit_least_squares(self, problem: LeastSquaresProblem, options: FitOptions) -> Fit:
        """Fit in one factorisation."""
        trivial = trivial_fit(problem)
        if trivial is not None:
            return trivial
        begin = time.perf_counter()
        with np.errstate(all="ignore"), _one_thread():
            try:
                coef, intercept, gap = solve_least_squares(problem)
            except (np.linalg.LinAlgError, ValueError):
                return non_finite_fit(problem, 0, time.perf_counter() - begin)
            value = mean_squared_error(problem, coef, intercept)
        seconds = time.perf_counter() - begin
        if not np.isfinite(value):
            return non_finite_fit(problem, 1, seconds)
        return Fit(coef, intercept, "converged", 1, value, seconds, gap_estimate=gap, gap_bound=gap)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep the linear algebra to one thread.

    The matrices are small: a second thread wins little on an idle machine, and on a busy one BLAS threads that wait for
    each other in turns made a fit of 2 s take 54 s (2 cores, load 4).
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1, user_api="blas"):
        yield


def _solver(device: str) -> Solver:
    """Return the processor's solver, or that of a device; torch is loaded for a device alone."""
    if device == "cpu":
        return solve
    there = torch_device(device)
    from probes.torch_newton import solve_on_device

    return partial(solve_on_device, device=there)


def _fit(problem: LogisticProblem, limits: Limits, solver: Solver, begin: float) -> Fit:
    objective = LogisticObjective.of(problem)
    reduced = reduce_problem(problem)
    if not np.isfinite(reduced.codewords).all():
        return non_finite_fit(problem, 0, time.perf_counter() - begin)
    if len(reduced.codewords) == 1:
        answer = _shares_alone(objective, reduced)
    else:
        answer = _solved(objective, reduced, limits, solver)
    if not np.isfinite(answer.certificate.objective):
        return non_finite_fit(problem, answer.n_iter, time.perf_counter() - begin)
    return Fit(
        answer.coef,
        answer.certificate.intercept,
        answer.outcome,
        answer.n_iter,
        answer.certificate.objective,
        time.perf_counter() - begin,
        gap_estimate=answer.gap_estimate,
        gap_bound=answer.certificate.gap_bound,
    )


@dataclass(frozen=True)
class _Answer:
    """Weights on the original rows with what is known of them; `gap_estimate` is absolute."""

    coef: Array
    certificate: Certificate
    outcome: Outcome
    n_iter: int
    gap_estimate: float


def _shares_alone(objective: LogisticObjective, reduced: ReducedProblem) -> _Answer:
    """Answer where all frames have one code: the intercept is the log of the classes' shares."""
    no_weights = np.zeros((reduced.n_classes, reduced.codewords.shape[1]))
    coef, intercept = reduced.restore(no_weights, np.log(reduced.targets[0]))
    return _Answer(coef, certify(objective, coef, intercept), "converged", 0, 0.0)


def _solved(objective: LogisticObjective, reduced: ReducedProblem, limits: Limits, solver: Solver) -> _Answer:
    """Solve and certify; where weights lose the proof that their logits had, go on over features, which are weights.

    Weights are got from logits through the inverse of the codewords' Gram matrix, and two codewords that nearly agree
    leave it few digits.
    """
    space, solution = solver(reduced, limits)
    answer = _answer(objective, reduced, space, solution, limits)
    is_proved = answer.certificate.gap_bound <= limits.bound * abs(solution.value)
    if is_proved or solution.outcome != "converged" or isinstance(space, FeatureSpace):
        return answer
    features = FeatureSpace(reduced)
    left = replace(limits, max_iter=max(limits.max_iter - solution.n_iter, 0))
    start, afresh = carry_over(solution.unknown, space, features), features.start()
    if not evaluate_at(features, start).value <= evaluate_at(features, afresh).value:  # all its digits may be lost
        start = afresh
    polished = minimise(features, start, left)
    polished = replace(polished, n_iter=solution.n_iter + polished.n_iter)
    other = _answer(objective, reduced, features, polished, limits)
    return other if other.certificate.gap_bound < answer.certificate.gap_bound else answer


def _answer(
    objective: LogisticObjective, reduced: ReducedProblem, space: Space, solution: Solution, limits: Limits
) -> _Answer:
    coef, intercept = reduced.restore(*space.coefficients(solution.unknown))
    dual = None if solution.dual is None else solution.dual[reduced.group]
    certificate = certify(objective, coef, intercept, dual)
    # What rounding has cost between the unknown and the weights is a gap as well.
    estimate = max(solution.gap_estimate, certificate.objective - solution.value)
    outcome = _outcome(solution)
    if outcome == "converged" and estimate > limits.estimate / _MARGIN * abs(solution.value):
        outcome = "stalled"
    return _Answer(coef, certificate, outcome, solution.n_iter, estimate)


def _outcome(solution: Solution) -> Outcome:
    """Return the record's word for a solver's outcome; a solver still slow at its limit has run out of iterations."""
    return "iteration_limit" if solution.outcome == "slow" else solution.outcome
