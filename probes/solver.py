"""Preconditioned L-BFGS for the logistic objective, in whichever parametrisation (`Space`) it is given.

The solver keeps the logits and the penalty's image of its iterate, both linear in the unknown, so a trial step costs a
softmax and no matrix product. Directions and their images are float32: no harm, since the iterate, its value and its
gradient are float64, and the images are computed anew every few steps and before the end. Its metric is the space's, at
the current probabilities; L-BFGS corrects what that leaves out. It stops on the quasi-Newton decrement -g.d / 2, an
estimate of the gap, and on the space's own bound.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from probes.certificate import divergence, intercept_step
from probes.lbfgs import CurvatureMemory
from probes.line_search import Trial, search
from probes.objective import cross_entropy, softmax
from probes.reduction import ReducedProblem

Array = NDArray[np.float64]
SolverOutcome = Literal["converged", "iteration_limit", "stalled", "slow", "non_finite"]

# Relative to the objective: below this the estimate is rounding noise and no further step can be told from none.
NOISE = 1e-15
_WINDOW = 10
# Steps after which logits and penalty, carried along by products in single precision, are computed from the unknown.
_OLDEST_IMAGES = 20
# The bound is looked at again after so many iterations, or earlier, at so many times the estimate that should do.
_LONGEST_WAIT = 8
_EARLY = 2.0


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
        """Say whether to refresh, from the gap's estimates since the last refresh and at present; the goal is 1."""
        ...

    def metric(self, probabilities: Array) -> Callable[[Array], Array]:
        """Return a symmetric positive map that approximates the inverse Hessian; zero-sum over classes."""
        ...

    def gap_bound(self, gradient: Array) -> float:
        """Return a bound on f - f*, valid once the intercept's gradient is zero."""
        ...

    def dual_point(self, probabilities: Array, gradient: Array) -> Array | None:
        """Return probabilities (n_codes, n_classes) that make the bound sharper; None where the space knows none."""
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
    dual : float64 array of shape (n_codes, n_classes) or None
        The dual point of the proof; None where the probabilities at `unknown` serve.
    """

    unknown: Array
    outcome: SolverOutcome
    n_iter: int
    value: float
    gap_estimate: float
    iterations_ahead: float
    dual: Array | None = None


@dataclass
class Point:
    """An iterate with its linear images; `age` counts the steps since these were last computed from it."""

    unknown: Array
    logits: Array
    penalty_gradient: Array
    probabilities: Array
    value: float
    gradient: Array
    age: int = 0


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
        return _Run(space, start, limits).to_the_end()


class _Run:
    """One minimisation."""

    def __init__(self, space: Space, start: Array, limits: Limits) -> None:
        self._space, self._limits = space, limits
        self._point = evaluate_at(space, start)
        self._memory = CurvatureMemory(start.shape, dtype=np.float32)
        self._estimates: list[float] = []  # one an iteration
        self._progress: list[float] = []  # the same, as the present metric would have had them
        self._since_refresh: list[float] = []
        self._bound_due = _DueBound()
        self._dual: Array | None = None

    def to_the_end(self) -> Solution:
        """Iterate until there is a reason to stop."""
        if not self._is_finite():
            return self._solution("non_finite", 0)
        self._refresh()
        for n_iter in range(self._limits.max_iter + 1):
            direction, slope = self._descend()
            outcome = self._verdict(n_iter)
            if outcome == "converged" and self._point.age:
                # What rounding has gathered in the images is no proof: once more from the iterate itself.
                self._point = evaluate_at(self._space, self._point.unknown)
                direction, slope = self._descend(again=True)
                outcome = self._verdict(n_iter)
            if outcome is not None:
                return self._solution(outcome, n_iter)
            following = _step(self._space, self._point, direction, slope)
            if following is not None:
                step, change = following.unknown - self._point.unknown, following.gradient - self._point.gradient
                self._memory.store(step, change)
                self._point = following
            elif len(self._since_refresh) > 1 or self._point.age or not self._memory.is_empty:
                # The memory, an old metric or the images may be to blame: once more without them.
                self._point = evaluate_at(self._space, self._point.unknown)
                self._memory.forget()
                self._refresh()
            else:
                return self._solution("stalled", n_iter)
            if not self._is_finite():
                return self._solution("non_finite", n_iter + 1)
        raise AssertionError("the verdict at max_iter ends the loop")

    def _descend(self, again: bool = False) -> tuple[Array, float]:
        """Return the quasi-Newton direction and the slope of f along it; note what gap it tells."""
        if again:
            for estimates in (self._estimates, self._progress, self._since_refresh):
                estimates.pop()
        direction, slope = self._direction()
        if self._since_refresh and self._is_stale(-0.5 * slope):
            before = _estimate(slope, self._point)
            if self._space.metric_is_hessian:
                self._memory.forget()
            self._refresh()
            direction, slope = self._direction()
            self._splice(before, _estimate(slope, self._point))
        estimate = _estimate(slope, self._point)
        for estimates in (self._estimates, self._progress, self._since_refresh):
            estimates.append(estimate)
        return direction, slope

    def _splice(self, before: float, after: float) -> None:
        """Note what two metrics think of one iterate: a step up at a refresh is no lack of progress."""
        ratio = after / before if 0 < before < np.inf and 0 < after < np.inf else 1.0
        self._progress = [ratio * estimate for estimate in self._progress]

    def _direction(self) -> tuple[Array, float]:
        metric = self._space.metric(self._point.probabilities)
        direction = self._memory.direction(self._point.gradient, metric)
        return direction, float(np.vdot(self._point.gradient, direction))

    def _is_stale(self, estimate: float) -> bool:
        target = max(self._limits.estimate * abs(self._point.value), np.finfo(float).tiny)
        return self._space.is_stale([value / target for value in (*self._since_refresh, estimate)])

    def _refresh(self) -> None:
        self._space.refresh(self._point.probabilities)
        self._since_refresh = []

    def _is_finite(self) -> bool:
        return bool(np.isfinite(self._point.value) and np.isfinite(self._point.gradient).all())

    def _verdict(self, n_iter: int) -> SolverOutcome | None:
        """Return why to stop here, or None to go on."""
        scale, estimate = abs(self._point.value), self._estimates[-1]
        if estimate <= self._limits.estimate * scale and (estimate <= NOISE * scale or self._is_proved()):
            return "converged"
        if n_iter >= self._limits.max_iter:
            return "iteration_limit"
        return "slow" if self._iterations_ahead() > self._limits.patience else None

    def _is_proved(self) -> bool:
        """Say whether the bound holds; it costs as much as half an iteration, so only where it may be expected."""
        limit = self._limits.bound * abs(self._point.value)
        if self._point.age and not self._bound_due.is_due(self._estimates):
            return False
        bound, self._dual = proved_bound(self._space, self._point, limit)
        if bound <= limit:
            return True
        self._bound_due.missed(limit / bound, self._estimates)
        return False

    def _iterations_ahead(self) -> float:
        return _iterations_ahead(self._progress, self._limits.estimate * abs(self._point.value))

    def _solution(self, outcome: SolverOutcome, n_iter: int) -> Solution:
        estimate = self._estimates[-1] if self._estimates and outcome != "non_finite" else np.nan
        ahead = self._iterations_ahead() if outcome != "non_finite" else np.inf
        return Solution(self._point.unknown, outcome, n_iter, self._point.value, estimate, ahead, self._dual)


class _DueBound:
    """Foretell from the last miss when the bound will hold: it shrinks about as the estimate does."""

    def __init__(self) -> None:
        self._n_wait, self._estimate = 0, float("inf")

    def is_due(self, estimates: Sequence[float]) -> bool:
        """Say whether to look at the bound at the iteration that gave the last of `estimates`."""
        return len(estimates) >= self._n_wait or estimates[-1] <= self._estimate

    def missed(self, shrink_to: float, estimates: Sequence[float]) -> None:
        """Note to what share of itself the bound has to shrink."""
        self._n_wait = len(estimates) + _LONGEST_WAIT
        self._estimate = _EARLY * estimates[-1] * shrink_to


def _estimate(slope: float, point: Point) -> float:
    """Return the gap's estimate; infinite where the direction does not descend, which tells nothing of the gap."""
    if slope < 0:
        return -0.5 * slope
    return float("inf") if point.gradient.any() else 0.0


def evaluate_at(space: Space, unknown: Array) -> Point:
    """Return the iterate `unknown` of `space` with its images, value and gradient."""
    logits, penalty_gradient = space.logits(unknown), space.penalty_product(unknown)
    probabilities, log_sum_exp = softmax(logits)
    value = cross_entropy(logits, log_sum_exp, space.problem.targets) + 0.5 * float(np.vdot(unknown, penalty_gradient))
    residual = space.problem.weights * probabilities - space.problem.targets
    gradient = space.gradient(residual, penalty_gradient)
    return Point(unknown, logits, penalty_gradient, probabilities, value, gradient)


def _step(space: Space, point: Point, direction: Array, slope: float) -> Point | None:
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

    found = search(evaluate, point.value, slope, noise=10 * NOISE * (1.0 + abs(point.value)))
    if found is None:
        return None
    unknown = point.unknown + found.step * direction
    if point.age + 1 >= _OLDEST_IMAGES:
        return evaluate_at(space, unknown)
    logits, probabilities, residual = found.kept
    penalty_gradient = point.penalty_gradient + found.step * penalty_change
    gradient = space.gradient(residual, penalty_gradient)
    return Point(unknown, logits, penalty_gradient, probabilities, found.value, gradient, point.age + 1)


def proved_bound(space: Space, point: Point, limit: float) -> tuple[float, Array | None]:
    """Return a bound on the gap at `point`; with the dual point that it takes, where the plain one is over `limit`."""
    bound = _gap_bound(space, point)
    return (bound, None) if bound <= limit else _sharper_bound(space, point, bound)


def _gap_bound(space: Space, point: Point) -> float:
    """Return the space's bound where the intercept is solved for, to first order: the certificate solves it too."""
    weights, probabilities = space.problem.weights, point.probabilities
    residual = weights * probabilities - space.problem.targets
    step = intercept_step(probabilities, weights[:, 0], residual.sum(axis=0))
    residual += weights * probabilities * (step - (probabilities @ step)[:, None])
    return space.gap_bound(space.gradient(residual, point.penalty_gradient))


def _sharper_bound(space: Space, point: Point, bound: float) -> tuple[float, Array | None]:
    """Return the bound that the space's dual point gives, with that point; what is known already where it has none."""
    dual = space.dual_point(point.probabilities, point.gradient)
    if dual is None:
        return bound, None
    weights = space.problem.weights
    kept = point.gradient + weights * (dual - point.probabilities)
    return divergence(weights, dual, point.probabilities) + space.gap_bound(kept), dual


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
