"""The proof of a stacked solution's gap: `probes.certificate` with sums over frames instead of codes."""

import numpy as np
from numpy.typing import NDArray

from probes.certificate import Certificate, intercept_distance, intercept_step_from
from probes.stacked.passes import FramePass, Loss
from probes.stacked.problem import StackedLogisticProblem

Array = NDArray[np.float64]
_MAX_STEPS = 8
_NOISE = 1e-15
# Of the whole bound: a smaller share of the intercept's is not worth another pass.
_NEGLIGIBLE = 0.1


def certify_stacked(
    problem: StackedLogisticProblem, frame_pass: FramePass, unknown: Array
) -> tuple[Array, Certificate]:
    """Solve for the intercept and bound the gap, in float64.

    Parameters
    ----------
    problem : StackedLogisticProblem
    frame_pass : FramePass
    unknown : float64 array of shape (dim + 1, n_classes)
        W' above the intercept, near the optimum: few Newton steps are taken, each of which costs a pass.

    Returns
    -------
    unknown : float64 array of shape (dim + 1, n_classes)
        With the intercept that was found.
    certificate : Certificate
    """
    loss = frame_pass.loss(unknown, precise=True)
    for _ in range(_MAX_STEPS):
        by_coef, by_intercept = _bounds(problem, unknown, loss)
        leftover = loss.gradient[-1]
        if by_intercept <= _NEGLIGIBLE * by_coef or np.abs(leftover).sum() <= _NOISE or loss.products is None:
            break
        trial = unknown.copy()
        trial[-1] += intercept_step_from(loss.products, leftover + problem.shares, leftover)
        trial_loss = frame_pass.loss(trial, precise=True)
        if not np.abs(trial_loss.gradient[-1]).sum() < 0.5 * np.abs(leftover).sum():
            break  # rounding noise, or too far away for Newton's method: the bound says so
        unknown, loss = trial, trial_loss
    value = loss.value + 0.5 * problem.l2_strength * float(np.vdot(unknown[:-1], unknown[:-1]))
    return unknown, Certificate(unknown[-1], value, sum(_bounds(problem, unknown, loss)))


def _bounds(problem: StackedLogisticProblem, unknown: Array, loss: Loss) -> tuple[float, float]:
    """Return what the gradients over the coefficients and over the intercept can cost."""
    l2, (coef, intercept) = problem.l2_strength, (unknown[:-1], unknown[-1])
    value = loss.value + 0.5 * l2 * float(np.vdot(coef, coef))
    gradient = loss.gradient[:-1] + l2 * coef
    distance = intercept_distance(problem.shares, problem.stack.largest_norm(), l2, intercept, value)
    return float(np.vdot(gradient, gradient)) / (2.0 * l2), float(np.abs(loss.gradient[-1]).sum()) * distance
