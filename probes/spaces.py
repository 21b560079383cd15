"""Choose the parametrisation by measured progress.

Which space converges fast depends on how the penalty and the loss share the directions of the problem, and no single
number tells it beforehand. So the iterate is handed on like a baton: each cheap space in turn, the more promising one
first, until it converges or too many iterations seem to be ahead; then the cheaper of them by these predictions, for
no more than half of what Newton's method would cost; then Newton's method. Predictions are sometimes far too hopeful,
so what has been spent counts as well.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from probes.feature_space import FeatureSpace
from probes.logit_space import LogitSpace
from probes.newton_space import NewtonSpace
from probes.reduction import ReducedProblem
from probes.shared_space import SharedSpace
from probes.solver import Limits, Solution, Space, minimise
from probes.stiff_space import StiffSpace

Array = NDArray[np.float64]

# Stiff directions per code below which the plain saturated metric is tried.
_FEW_STIFF = 0.03
# Iterations that may seem to be ahead before the next space is tried.
_PATIENCE = 800.0


def solve(problem: ReducedProblem, limits: Limits, first: str | None = None) -> tuple[Space, Solution]:
    """Minimise the reduced problem.

    Parameters
    ----------
    problem : ReducedProblem
        Non-degenerate: at least two codes and two classes.
    limits : Limits
        `max_iter` counts the iterations of all spaces together.
    first : {"logit", "feature"} or None
        Space to begin in, where it exists; None lets the cost model choose.

    Returns
    -------
    space : Space
        The one that was used last.
    solution : Solution
        Its unknown, with the iterations of all spaces.
    """
    logit = logit_space(problem)
    relay = _Relay(limits)
    tried: list[tuple[float, Space]] = []
    for space in _cheap_spaces(problem, logit, first):
        tried.append((relay.run(space, patience=_PATIENCE), space))
        if relay.is_over:
            return relay.result()
    cost, best = min(tried, key=lambda pair: pair[0])
    is_newton_open = logit is not None and NewtonSpace.fits_memory(problem)
    newton_cost = NewtonSpace.total_cost(problem) if is_newton_open else math.inf
    if cost < newton_cost or newton_cost == math.inf:
        relay.run(best, most=newton_cost / 2 / best.iteration_cost)
    if not relay.is_over and newton_cost < math.inf:
        with contextlib.suppress(np.linalg.LinAlgError):
            relay.run(NewtonSpace(problem))
    if not relay.is_over:
        relay.run(best)  # what Newton's method could not finish
    return relay.result()


class _Relay:
    """An iterate on its way through several spaces, within one limit of iterations."""

    def __init__(self, limits: Limits):
        self._limits = limits
        self._space: Space | None = None
        self._solution: Solution | None = None
        self._n_iter = 0

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do: converged, not finite, or out of iterations."""
        if self._solution is None:
            return False
        return self._solution.outcome in ("converged", "non_finite") or self._n_iter >= self._limits.max_iter

    def run(self, space: Space, patience: float = math.inf, most: float = math.inf) -> float:
        """Go on in `space`; return the cost that seems to be ahead there."""
        if self._solution is None or self._space is None:
            start = space.start()
        else:
            start = carry_over(self._solution.unknown, self._space, space)
        n_most = math.ceil(min(most, self._limits.max_iter - self._n_iter))
        self._solution = minimise(space, start, replace(self._limits, max_iter=n_most, patience=patience))
        self._space = space
        self._n_iter += self._solution.n_iter
        is_stuck = self._solution.outcome == "stalled"
        return math.inf if is_stuck else self._solution.iterations_ahead * space.iteration_cost

    def result(self) -> tuple[Space, Solution]:
        """Return the last space and its solution, with the iterations of all."""
        assert self._space is not None and self._solution is not None, "run first"  # noqa: PT018
        return self._space, replace(self._solution, n_iter=self._n_iter)


def carry_over(unknown: Array, source: Space, target: Space) -> Array:
    """Return the iterate of `source` as an unknown of `target`."""
    return unknown if source is target else target.from_coefficients(*source.coefficients(unknown))


def logit_space(problem: ReducedProblem, invert: Callable[[Array], Array] | None = None) -> LogitSpace | None:
    """Return the saturated space, see `LogitSpace`; None where not every table of logits can be reached."""
    try:
        return LogitSpace(problem, invert)
    except np.linalg.LinAlgError:
        return None


def _cheap_spaces(problem: ReducedProblem, logit: LogitSpace | None, first: str | None) -> Iterator[Space]:
    """Yield the spaces to try, the more promising one first, each made when its turn comes.

    Classes of like curvature need one inverse only. Few stiff directions hardly disturb the plain saturated metric;
    many are better left to the features, where they are cheap.
    """
    if logit is None:
        yield FeatureSpace(problem)
        return
    shared = SharedSpace(logit)
    if first is None and shared.is_promising:
        yield shared
    stiff = StiffSpace(logit)
    n_codes = len(problem.codewords)
    saturated: Space = logit if stiff.n_stiff < _FEW_STIFF * n_codes else stiff
    if first == "logit" or (first is None and stiff.is_promising):
        yield saturated
        yield FeatureSpace(problem)
    else:
        yield FeatureSpace(problem)
        yield saturated
