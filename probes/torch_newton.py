"""Newton's method for the logistic objective on a device of torch, in float64, from the counts alone.

With A the features of a space (the identity for logits), S its penalty and h_k = r p_k (1 - p_k), the Hessian's block
of class k is A' diag(h_k) A + S. A device inverts all of them at once (`torch_blocks`), and what couples the classes
within a code, -r p_k p_l, is left to conjugate gradients, each step of which is two products (Nocedal and Wright 2006,
algorithm 7.1, DOI 10.1007/978-0-387-40065-5). Blocks are kept until conjugate gradients need too many steps.

The space with its start and its proof is the processor's own (`probes.spaces`): whatever a device has computed is
evaluated again and proved in NumPy.
"""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from probes.feature_space import FeatureSpace
from probes.line_search import Trial, search
from probes.logit_space import LogitSpace
from probes.reduction import ReducedProblem
from probes.shared_space import SharedSpace
from probes.solver import NOISE, Limits, Solution, SolverOutcome, Space, evaluate_at, proved_bound
from probes.spaces import logit_space, solve
from probes.torch_blocks import ClassBlocks, SharedBlock, centred_inverse
from probes.torch_errors import device_errors

Array = NDArray[np.float64]

# Steps of conjugate gradients: from so many on the blocks are made anew, and with so many a direction has to do.
_MANY_STEPS, _MOST_STEPS = 30, 100
# What they may leave of the residual, in the blocks' norm; less where the gap is small, so that the end is Newton's.
_LARGEST_REST = 0.1


def solve_on_device(problem: ReducedProblem, limits: Limits, device: torch.device) -> tuple[Space, Solution]:
    """Minimise the reduced problem, as `probes.spaces.solve` does and to the same limits.

    Where no step lowers the objective any more although the limits are not met, the processor's solver begins again.

    Parameters
    ----------
    problem : ReducedProblem
    limits : Limits
        `max_iter` counts Newton's steps.
    device : torch.device
        One that has float64.

    Raises
    ------
    BackendError
        When the device has too little memory, or fails.
    """
    with device_errors(device, "the Hessian of this probe", "free some, or use --device cpu"):
        logit = logit_space(problem, partial(centred_inverse, device=device))
        space: LogitSpace | FeatureSpace = FeatureSpace(problem) if logit is None else logit
        solution = _Newton(space, limits, device).to_the_end()
    if solution.outcome != "stalled":
        return space, solution
    last, again = solve(problem, limits)
    return last, replace(again, n_iter=solution.n_iter + again.n_iter)


@dataclass
class _Point:
    """An iterate, its images and derivatives."""

    unknown: torch.Tensor
    logits: torch.Tensor
    penalty_gradient: torch.Tensor
    probabilities: torch.Tensor
    value: float
    gradient: torch.Tensor


class _Newton:
    """One minimisation."""

    def __init__(self, space: LogitSpace | FeatureSpace, limits: Limits, device: torch.device) -> None:
        self._space, self._limits, self._device = space, limits, device
        features, penalty = space.features_and_penalty
        self._features = None if features is None else self._there(features)
        self._penalty = self._there(penalty)
        self._targets, self._weights = self._there(space.problem.targets), self._there(space.problem.weights)
        is_shared = isinstance(space, LogitSpace) and SharedSpace(space).is_promising
        self._blocks = SharedBlock(self._penalty) if is_shared else ClassBlocks(self._features, self._penalty)

    def to_the_end(self) -> Solution:
        """Iterate until there is a reason to stop."""
        point, n_steps = self._evaluate(self._there(self._space.start())), _MANY_STEPS
        for n_iter in range(self._limits.max_iter + 1):
            if not np.isfinite(point.value):
                return self._solution(point, "non_finite", n_iter, np.nan)
            if n_steps >= _MANY_STEPS:
                self._blocks.refresh(self._weights * point.probabilities * (1.0 - point.probabilities))
            direction, n_steps = self._direction(point)
            slope = _dot(point.gradient, direction)
            estimate = -0.5 * slope if slope < 0 or not point.gradient.any() else np.inf
            proved = self._proved(point, n_iter, estimate)
            if proved is not None:
                return proved
            if n_iter == self._limits.max_iter:
                return self._solution(point, "iteration_limit", n_iter, estimate)
            following = self._step(point, direction, slope) if slope < 0 else None
            if following is None:
                return self._solution(point, "stalled", n_iter, estimate)
            point = following
        raise AssertionError("the limit ends the loop")

    def _proved(self, point: _Point, n_iter: int, estimate: float) -> Solution | None:
        """Return the solution where the processor finds that it meets the limits."""
        if not estimate <= self._limits.estimate * abs(point.value):
            return None
        at, limit = evaluate_at(self._space, point.unknown.cpu().numpy()), self._limits.bound * abs(point.value)
        bound, dual = proved_bound(self._space, at, limit)
        if not (bound <= limit or estimate <= NOISE * abs(point.value)):
            return None
        return replace(self._solution(point, "converged", n_iter, estimate), value=at.value, dual=dual)

    def _solution(self, point: _Point, outcome: SolverOutcome, n_iter: int, estimate: float) -> Solution:
        return Solution(point.unknown.cpu().numpy(), outcome, n_iter, point.value, estimate, np.inf)

    def _direction(self, point: _Point) -> tuple[torch.Tensor, int]:
        """Return about -H^-1 g, and how many steps of conjugate gradients it took."""
        direction, residual = torch.zeros_like(point.gradient), -point.gradient
        along, energy, goal = torch.zeros_like(residual), 0.0, 0.0
        for n_steps in range(_MOST_STEPS):
            image = self._blocks(residual)
            image = image - image.mean(dim=1, keepdim=True)
            energy, before = _dot(residual, image), energy
            if n_steps == 0:
                # the first energy is about twice the gap
                goal = energy * min(_LARGEST_REST**2, energy / max(abs(point.value), np.finfo(float).tiny))
            if not energy > goal:
                return direction, n_steps
            along = image + (energy / before) * along if n_steps else image
            change = self._curved(point, along)
            curvature = _dot(along, change)
            if not curvature > 0:
                return direction, n_steps  # rounding noise
            direction += (energy / curvature) * along
            residual -= (energy / curvature) * change
        return direction, _MOST_STEPS

    def _curved(self, point: _Point, along: torch.Tensor) -> torch.Tensor:
        """Return the Hessian's image."""
        change = self._logits(along)
        change = change - (point.probabilities * change).sum(dim=1, keepdim=True)
        return self._pulled(self._weights * point.probabilities * change) + self._penalty_product(along)

    def _step(self, point: _Point, direction: torch.Tensor, slope: float) -> _Point | None:
        """Move along `direction` to a lower point; None where there is none."""
        logit_change, penalty_change = self._logits(direction), self._penalty_product(direction)
        penalty_0 = 0.5 * _dot(point.unknown, point.penalty_gradient)
        penalty_1, penalty_2 = _dot(point.unknown, penalty_change), _dot(direction, penalty_change)

        def trial(step: float) -> Trial[None]:
            loss, probabilities = self._loss(point.logits + step * logit_change)
            along = _dot(self._weights * probabilities - self._targets, logit_change)
            value = loss + penalty_0 + step * penalty_1 + 0.5 * step * step * penalty_2
            return Trial(step, value, along + penalty_1 + step * penalty_2, None)

        found = search(trial, point.value, slope, noise=10 * NOISE * (1.0 + abs(point.value)))
        return None if found is None else self._evaluate(point.unknown + found.step * direction)

    def _evaluate(self, unknown: torch.Tensor) -> _Point:
        logits, penalty_gradient = self._logits(unknown), self._penalty_product(unknown)
        loss, probabilities = self._loss(logits)
        value = loss + 0.5 * _dot(unknown, penalty_gradient)
        gradient = self._pulled(self._weights * probabilities - self._targets) + penalty_gradient
        return _Point(unknown, logits, penalty_gradient, probabilities, value, gradient)

    def _loss(self, logits: torch.Tensor) -> tuple[float, torch.Tensor]:
        """Return the cross-entropy and the probabilities."""
        log_p = torch.log_softmax(logits, dim=1)
        return -_dot(self._targets, log_p), log_p.exp()

    def _there(self, values: Array) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self._device)

    def _logits(self, unknown: torch.Tensor) -> torch.Tensor:
        return unknown if self._features is None else self._features @ unknown

    def _penalty_product(self, unknown: torch.Tensor) -> torch.Tensor:
        return self._penalty @ unknown if self._features is None else self._penalty * unknown

    def _pulled(self, residual: torch.Tensor) -> torch.Tensor:
        return residual if self._features is None else self._features.T @ residual


def _dot(left: torch.Tensor, right: torch.Tensor) -> float:
    return float((left * right).sum())
