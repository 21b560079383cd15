"""Choose the parametrisation by measured progress.

Which of the two spaces converges fast depends on how the penalty and the loss share the directions of the problem,
and no single number tells it beforehand. So: start where the cost model points, watch the decrease of the gap's
estimate, and when too many iterations seem to be ahead, carry the iterate over to the other space. When both have been
slow, the one whose prediction is cheaper takes it to the end.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from probes.feature_space import FeatureSpace
from probes.logit_space import LogitSpace
from probes.reduction import ReducedProblem
from probes.solver import Limits, Solution, Space, minimise

Array = NDArray[np.float64]

# Penalty over loss curvature of a typical logit above which the penalty's coupling of codes rules the problem.
_STIFF = 30.0
# Iterations that may seem to be ahead before the other space is tried.
_PATIENCE = 60.0


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
    open_spaces = _candidates(problem, first)
    space = open_spaces.pop(0)
    solution = minimise(space, space.start(), replace(limits, patience=_PATIENCE if open_spaces else np.inf))
    n_iter, tried = solution.n_iter, [(solution.iterations_ahead * space.iteration_cost, space)]
    while solution.outcome in ("slow", "stalled") and n_iter < limits.max_iter:
        if open_spaces:
            following, patience = open_spaces.pop(0), _PATIENCE
        elif solution.outcome == "slow":
            following, patience = min(tried, key=lambda entry: entry[0])[1], np.inf
        else:
            break
        start = carry_over(solution.unknown, space, following)
        space = following
        solution = minimise(space, start, replace(limits, max_iter=limits.max_iter - n_iter, patience=patience))
        n_iter += solution.n_iter
        tried.append((solution.iterations_ahead * space.iteration_cost, space))
    return space, replace(solution, n_iter=n_iter)


def carry_over(unknown: Array, source: Space, target: Space) -> Array:
    """Return the iterate of `source` as an unknown of `target`."""
    return unknown if source is target else target.from_coefficients(*source.coefficients(unknown))


def _candidates(problem: ReducedProblem, first: str | None) -> list[Space]:
    """Return the spaces that exist for this problem, the more promising one first."""
    feature = FeatureSpace(problem)
    try:
        logit = LogitSpace(problem)
    except np.linalg.LinAlgError:
        return [feature]
    logit_first = first == "logit" or (first is None and logit.stiffness <= _STIFF)
    return [logit, feature] if logit_first else [feature, logit]
