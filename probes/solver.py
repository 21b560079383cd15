"""Preconditioned L-BFGS for the logistic objective, in whichever parametrisation (`Space`) it is given.

The solver keeps the logits and the penalty's image of its iterate, both linear in the unknown, so a trial step costs a
softmax and no matrix product. Its metric is the space's, at the current probabilities; L-BFGS corrects what that
leaves out. It stops on the quasi-Newton decrement -g.d / 2, an estimate of the gap, and on the space's own bound.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from probes.lbfgs import CurvatureMemory
from probes.line_search import Trial, search
from probes.objective import cross_entropy, softmax
from probes.reduction import ReducedProblem

Array = NDArray[np.float64]
SolverOutcome = Literal["converged", "iteration_limit", "stalled", "slow", "non_finite"]

# Relative to the objective: below this the estimate is rounding noise and no further step can be told from none.
_NOISE = 1e-15
_WINDOW = 10


class Space(Protocol):
    """A parametrisation of the logistic problem: linear maps to logits and penalty, a metric, and the way back."""

    name: str
    problem: ReducedProblem
    metric_is_hessian: bool  # right after `refresh`, so that older curvature pairs would only spoil it

    @property
    def iteration_cost(self) -> float:
        """Multiplications of one iteration's products, per class."""
        ...

    def start(self) -> Array:
        """Return a first iterate, made from the counts."""
        ...

    def logits(self, unknown: Array) -> Array:
        """Return the logits, shape (n_codes, n_classes), linear in the unknown."""
        ...

    def penalty_product(self, unknown: Array) -> Array:
        """Return the penalty's gradient, linear in the unknown."""
        ...

    def gradient(self, residual: Array, penalty_gradient: Array) -> Array:
        """Return the gradient from the loss's residual r p - T and the penalty's gradient."""
        ...

    def refresh(self, probabilities: Array) -> None:
        """Rebuild what is expensive in the metric."""
        ...

    def is_stale(self, estimates: Sequence[float]) -> bool:
        """Say whether the metric has aged, from the gap's estimates since the last refresh and at present."""
        ...

    def metric(self, probabilities: Array) -> Callable[[Array], Array]:
        """Return a symmetric positive map that approximates the inverse Hessian; zero-sum over classes."""
        ...

    def gap_bound(self, gradient: Array) -> float:
        """Return a bound on f - f*, valid once the intercept's gradient is zero."""
        ...

    def coefficients(self, unknown: Array) -> tuple[Array, Array]:
        """Return W and b on the reduced codewords."""
        ...

    def from_coefficients(self, coef: Array, intercept: Array) -> Array:
        """Return the unknown of W and b."""
        ...


@dataclass(frozen=True)
class Limits:
    """When to stop.

    Attributes
    ----------
    estimate, bound : float
        Gap to reach, relative to the objective, by estimate and by bound; both must hold.
    max_iter : int
    patience : float
        Give up with outcome ``slow`` when more iterations than this seem to be ahead.
    """

    estimate: float
    bound: float
    max_iter: int
    patience: float = float("inf")


@dataclass(frozen=True)
class Solution:
    """Value, outcome and statistics of a solve.

    Attributes
    ----------
    unknown : float64 array, the space's unknown
    outcome : {"converged", "iteration_limit", "stalled", "slow", "non_finite"}
    n_iter : int
    value : float
        f at `unknown`.
    gap_estimate : float
        Quasi-Newton decrement there, absolute.
    iterations_ahead : float
        Iterations that the measured rate of decrease predicts until the estimate is reached; infinite without one.
    """

    unknown: Array
    outcome: SolverOutcome
    n_iter: int
    value: float
    gap_estimate: float
    iterations_ahead: float


@dataclass
class _Point:
    """An iterate with its linear images."""

    unknown: Array
    logits: Array
    penalty_gradient: Array
    probabilities: Array
    value: float
    gradient: Array


def minimise(space: Space, start: Array, limits: Limits) -> Solution:
    """Minimise the logistic objective from `start`.

    Parameters
    ----------
    space : Space
    start : float64 array, an unknown of `space`
    limits : Limits

    Returns
    -------
    Solution
        With outcome ``stalled`` where no step lowers the objective any more although the gap's estimate is above the
        limit, and ``non_finite`` where the objective overflows at `start`.
    """
    with np.errstate(all="ignore"):
        return _minimise(space, start, limits)


def _minimise(space: Space, start: Array, limits: Limits) -> Solution:
    point = _evaluate(space, start)
    memory = CurvatureMemory(start.shape)
    estimates: list[float] = []
    refreshed_at, fresh = 0, True
    for n_iter in range(limits.max_iter + 1):
        if not np.isfinite(point.value) or not np.isfinite(point.gradient).all():
            return Solution(point.unknown, "non_finite", n_iter, point.value, np.nan, np.inf)
        if n_iter == 0:
            space.refresh(point.probabilities)
        direction, slope = _direction(space, point, memory)
        if not fresh and space.is_stale([*estimates[refreshed_at:], -0.5 * slope]):
            if space.metric_is_hessian:
                memory.forget()
            space.refresh(point.probabilities)
            refreshed_at, fresh = n_iter, True
            direction, slope = _direction(space, point, memory)
        estimates.append(max(-0.5 * slope, 0.0))
        ahead = _iterations_ahead(estimates, limits.estimate * abs(point.value))
        outcome = _verdict(space, point, estimates, ahead, limits, n_iter)
        following = _step(space, point, direction, slope) if outcome is None else None
        if outcome is None and following is None and not fresh:
            # The memory or an old metric may be to blame: once more from the metric alone.
            memory.forget()
            space.refresh(point.probabilities)
            refreshed_at, fresh = n_iter, True
            continue
        if following is None:
            return Solution(point.unknown, outcome or "stalled", n_iter, point.value, estimates[-1], ahead)
        memory.store(following.unknown - point.unknown, following.gradient - point.gradient)
        point, fresh = following, False
    raise AssertionError("the verdict at max_iter ends the loop")


def _direction(space: Space, point: _Point, memory: CurvatureMemory) -> tuple[Array, float]:
    """Return the quasi-Newton direction and the slope of f along it."""
    direction = memory.direction(point.gradient, space.metric(point.probabilities))
    return direction, float(np.vdot(point.gradient, direction))


def _evaluate(space: Space, unknown: Array) -> _Point:
    logits, penalty_gradient = space.logits(unknown), space.penalty_product(unknown)
    probabilities, log_sum_exp = softmax(logits)
    value = cross_entropy(logits, log_sum_exp, space.problem.targets) + 0.5 * float(np.vdot(unknown, penalty_gradient))
    residual = space.problem.weights * probabilities - space.problem.targets
    gradient = space.gradient(residual, penalty_gradient)
    return _Point(unknown, logits, penalty_gradient, probabilities, value, gradient)


def _step(space: Space, point: _Point, direction: Array, slope: float) -> _Point | None:
    """Move along `direction` to a lower point; None where there is none."""
    if not slope < 0:
        return None
    targets, weights = space.problem.targets, space.problem.weights
    logit_change, penalty_change = space.logits(direction), space.penalty_product(direction)
    penalty_0 = 0.5 * float(np.vdot(point.unknown, point.penalty_gradient))
    penalty_1 = float(np.vdot(point.unknown, penalty_change))
    penalty_2 = float(np.vdot(direction, penalty_change))

    def evaluate(step: float) -> Trial[tuple[Array, Array, Array]]:
        logits = point.logits + step * logit_change
        probabilities, log_sum_exp = softmax(logits)
        residual = weights * probabilities - targets
        value = cross_entropy(logits, log_sum_exp, targets)
        value += penalty_0 + step * penalty_1 + 0.5 * step * step * penalty_2
        along = float(np.vdot(residual, logit_change)) + penalty_1 + step * penalty_2
        return Trial(step, value, along, (logits, probabilities, residual))

    found = search(evaluate, point.value, slope, noise=10 * _NOISE * (1.0 + abs(point.value)))
    if found is None:
        return None
    logits, probabilities, residual = found.kept
    penalty_gradient = point.penalty_gradient + found.step * penalty_change
    gradient = space.gradient(residual, penalty_gradient)
    unknown = point.unknown + found.step * direction
    return _Point(unknown, logits, penalty_gradient, probabilities, found.value, gradient)


def _verdict(
    space: Space, point: _Point, estimates: list[float], ahead: float, limits: Limits, n_iter: int
) -> SolverOutcome | None:
    """Return why to stop here, or None to go on."""
    scale = abs(point.value)
    if estimates[-1] <= limits.estimate * scale and (
        estimates[-1] <= _NOISE * scale or space.gap_bound(point.gradient) <= limits.bound * scale
    ):
        return "converged"
    if n_iter >= limits.max_iter:
        return "iteration_limit"
    return "slow" if ahead > limits.patience else None


def _iterations_ahead(estimates: list[float], target: float) -> float:
    """Extrapolate the decrease of the last window of estimates to `target`; 0 while it is too early to tell."""
    if len(estimates) < 2 * _WINDOW:
        return 0.0
    before, now = min(estimates[-2 * _WINDOW : -_WINDOW]), min(estimates[-_WINDOW:])
    if now <= target:
        return 0.0
    if now >= before:
        return float("inf")
    return float(np.log(now / max(target, np.finfo(float).tiny)) / np.log(before / now) * _WINDOW)
