"""Limited-memory BFGS where every evaluation is a pass over the frames.

One pass gives value and gradient together, so a step that needs a second trial costs as much as a second iteration.
The metric is therefore scaled by the last pair's curvature, s.y / (y' M y) (Nocedal and Wright 2006, equation 7.20,
with M in place of the identity; DOI 10.1007/978-0-387-40065-5), so that the unit step nearly always stands, and the
line search is content with a slope that has not grown.

Passes are single precision until the gap's estimate comes near their rounding, then double.

The estimate is what the metric believes. Before the word "converged" stands, Newton's step (`newton_step`), a handful
of passes, has to say so too; it is then taken, whatever it says, and its conjugate steps enter the memory.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probes.lbfgs import CurvatureMemory
from probes.line_search import Trial, search
from probes.problem import Outcome
from probes.stacked.directions import principal_directions
from probes.stacked.layer_metric import LayerMetric
from probes.stacked.metric import BlockMetric, DiagonalMetric, Metric
from probes.stacked.newton_step import newton_step
from probes.stacked.passes import FramePass
from probes.stacked.problem import StackedLogisticProblem

Array = NDArray[np.float64]

# Iterations at which the metric is made anew: once p has left its start, once more near the end of the way.
_REFRESHES = (6, 24)
_SLOPE_SHARE = 0.9
_MEMORY = 12
# Gap, relative to the objective, below which single precision no longer tells steps apart.
_SINGLE_REACH = 2e-6
_NOISE = {False: 2e-7, True: 1e-14}  # rounding of a value, relative, in single and double precision
_SCALE_RANGE = (1e-4, 4.0)
# Newton's decrement over the metric's: from here on the metric is out of date.
_MISLED = 5.0


@dataclass(frozen=True)
class StackedSolution:
    """Where the solver stopped, and why.

    Attributes
    ----------
    unknown : float64 array of shape (dim + 1, n_classes)
        W' above the intercept.
    outcome : {"converged", "iteration_limit", "stalled", "non_finite"}
    n_iter, n_passes : int
    value : float
    gap_estimate : float
        Absolute: where converged, what Newton's last step promised, which has been taken; else the quasi-Newton
        decrement.
    """

    unknown: Array
    outcome: Outcome
    n_iter: int
    n_passes: int
    value: float
    gap_estimate: float


@dataclass
class _Point:
    unknown: Array
    value: float
    gradient: Array
    curvature: Array


class _Run:
    """One minimisation: the point, the memory and the metric."""

    def __init__(self, problem: StackedLogisticProblem, frame_pass: FramePass, start: Array) -> None:
        self._problem, self._pass = problem, frame_pass
        self._directions = principal_directions(problem)
        self._memory = CurvatureMemory(start.shape, _MEMORY, dtype=np.float32)  # directions need not be exact
        self._scale = 1.0
        self.precise = False
        self.n_passes = 0
        self.point = self._evaluate(start)
        self._metric: Metric = DiagonalMetric(self._directions, self.point.curvature)

    def _evaluate(self, unknown: Array) -> _Point:
        self.n_passes += 1
        loss = self._pass.loss(unknown, self.precise)
        coef, l2 = unknown[:-1], self._problem.l2_strength
        loss.gradient[:-1] += l2 * coef
        return _Point(unknown, loss.value + 0.5 * l2 * float(np.vdot(coef, coef)), loss.gradient, loss.curvature)

    def refresh(self) -> None:
        """Make the metric anew at the present point."""
        point = self.point
        del self._metric  # up to a gigabyte, of which there need not be two
        if len(self._directions.parts) > 1:
            self._metric = LayerMetric(self._problem, self._directions, point.unknown)
        else:
            self._metric = BlockMetric(self._problem, self._directions, point.curvature, point.unknown)

    def sharpen(self) -> None:
        """Go on in double precision."""
        self.precise = True
        self.point = self._evaluate(self.point.unknown)

    def forget(self) -> None:
        """Drop the curvature learnt."""
        self._memory.forget()
        self._scale = 1.0

    def direction(self) -> tuple[Array, float]:
        """Return the quasi-Newton direction and the slope of f along it."""
        direction = self._memory.direction(self.point.gradient, lambda gradient: self._scale * self._metric(gradient))
        return direction, float(np.vdot(self.point.gradient, direction))

    def gap_estimate(self) -> float:
        """Return the quasi-Newton decrement with the metric as it is: scaled it would be too hopeful."""
        direction = self._memory.direction(self.point.gradient, self._metric)
        return self.decrement(float(np.vdot(self.point.gradient, direction)))

    def decrement(self, slope: float) -> float:
        """Return the decrement of a direction; infinite where it does not descend, which tells nothing of the gap."""
        if slope < 0:
            return -0.5 * slope
        return float("inf") if self.point.gradient.any() else 0.0

    def newton(self, goal: float) -> tuple[Array, float, float]:
        """Return Newton's direction, the slope of f along it and its decrement; conjugate steps stay in memory."""
        point, l2 = self.point, self._problem.l2_strength

        def curved(direction: Array) -> Array:
            self.n_passes += 1
            image = self._pass.curved(point.unknown, direction)
            image[:-1] += l2 * direction[:-1]
            return image

        def precondition(residual: Array) -> NDArray[np.floating]:
            return self._memory.direction(np.negative(residual), self._metric)

        found = newton_step(point.gradient, curved, precondition, goal)
        for pair in found.pairs:
            self._memory.store(*pair)
        return found.direction, float(np.vdot(point.gradient, found.direction)), found.decrement

    def step(self, direction: Array, slope: float) -> bool:
        """Move along `direction` to a lower point; False where there is none."""
        if not slope < 0:
            return False
        before = self.point

        def evaluate(step: float) -> Trial[_Point]:
            point = self._evaluate(before.unknown + step * direction)
            return Trial(step, point.value, float(np.vdot(point.gradient, direction)), point)

        noise = _NOISE[self.precise] * (1.0 + abs(before.value))
        found = search(evaluate, before.value, slope, noise, _SLOPE_SHARE)
        if found is None:
            return False
        self.point = found.kept
        step, change = self.point.unknown - before.unknown, self.point.gradient - before.gradient
        self._memory.store(step, change)
        image = float(np.vdot(change, self._metric(change)))
        if image > 0:
            self._scale = float(np.clip(np.vdot(step, change) / image, *_SCALE_RANGE))
        return True


def minimise(
    problem: StackedLogisticProblem, frame_pass: FramePass, start: Array, tol: float, max_iter: int
) -> StackedSolution:
    """Minimise the objective of `problem` until the gap's estimate is at most `tol` times the objective.

    Parameters
    ----------
    problem : StackedLogisticProblem
    frame_pass : FramePass
        Of this problem.
    start : float64 array of shape (dim + 1, n_classes)
    tol : float
    max_iter : int

    Returns
    -------
    StackedSolution
        ``stalled`` where no step lowers the objective any more, ``non_finite`` where it overflows at `start`.
    """
    with np.errstate(all="ignore"):
        run = _Run(problem, frame_pass, start)
        return _minimise(run, tol, max_iter)


def _minimise(run: _Run, tol: float, max_iter: int) -> StackedSolution:
    fresh = True
    for n_iter in range(max_iter + 1):
        if n_iter in _REFRESHES:
            run.refresh()
            fresh = True
        if not np.isfinite(run.point.value) or not np.isfinite(run.point.gradient).all():
            return _solution(run, "non_finite", n_iter, np.nan)
        direction, slope = run.direction()
        estimate = run.decrement(slope)
        if estimate <= max(tol, 0.0 if run.precise else _SINGLE_REACH) * abs(run.point.value):
            estimate = max(estimate, run.gap_estimate())
        if not run.precise and estimate <= _SINGLE_REACH * abs(run.point.value):
            run.sharpen()
            direction, slope = run.direction()
            estimate = max(run.decrement(slope), run.gap_estimate())
        settled = misled = False
        if estimate <= tol * abs(run.point.value):
            believed = estimate
            goal = tol * abs(run.point.value)
            direction, slope, estimate = run.newton(goal)
            settled, misled = estimate <= goal, estimate > _MISLED * believed
        if settled or n_iter == max_iter:
            if settled and n_iter < max_iter:
                run.step(direction, slope)  # it is known, and leaves less than was to be left
            return _solution(run, "converged" if settled else "iteration_limit", n_iter, estimate)
        if run.step(direction, slope):
            fresh = misled
            if misled:
                run.refresh()
        elif not run.precise:
            run.sharpen()
        elif fresh:
            return _solution(run, "stalled", n_iter, estimate)
        else:
            run.forget()
            run.refresh()
            fresh = True
    raise AssertionError("max_iter ends the loop")


def _solution(run: _Run, outcome: Outcome, n_iter: int, estimate: float) -> StackedSolution:
    return StackedSolution(run.point.unknown, outcome, n_iter, run.n_passes, run.point.value, estimate)
