"""A step length for a convex function whose value and slope along a line are cheap."""

from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

# The slope must shrink to this share: an evaluation costs a softmax, an iteration several matrix products.
_SLOPE_SHARE = 0.5
_SUFFICIENT_DECREASE = 1e-4
_LONGEST_STRETCH = 4.0
_MAX_TRIALS = 25


class Trial(Generic[T]):
    """One point on the line: step length, value, slope, and whatever the evaluation wants to keep with it."""

    def __init__(self, step: float, value: float, slope: float, kept: T):
        self.step, self.value, self.slope, self.kept = step, value, slope, kept


def search(
    evaluate: Callable[[float], Trial[T]],
    value: float,
    slope: float,
    noise: float,
    slope_share: float = _SLOPE_SHARE,
) -> Trial[T] | None:
    """Find a step that lowers the value enough and leaves at most a share of the slope (strong Wolfe conditions).

    Near the optimum differences of values are rounding noise while slopes still have digits, so the search steers by
    slopes (secant steps inside a bracket) and takes the value only as a guard, with `noise` of slack.

    Parameters
    ----------
    evaluate : callable (step: float) -> Trial
    value, slope : float
        At step 0; the slope is negative.
    noise : float
        Rounding error of a value.
    slope_share : float
        The slope must shrink to this share.

    Returns
    -------
    Trial or None
        The accepted point; else the best one that lowers the value; None where no trial did.
    """
    low_step, low_slope = 0.0, slope
    high_step, high_slope = float("inf"), float("nan")
    step, best = 1.0, None
    for _ in range(_MAX_TRIALS):
        trial = evaluate(step)
        decreased = trial.value <= value + _SUFFICIENT_DECREASE * step * slope + noise
        if decreased and abs(trial.slope) <= slope_share * -slope:
            return trial
        if decreased and (best is None or trial.value < best.value):
            best = trial
        if decreased and trial.slope < 0:
            low_step, low_slope = step, trial.slope
        else:
            high_step, high_slope = step, trial.slope
        step = _next_step(low_step, low_slope, high_step, high_slope)
    return best


def _next_step(low_step: float, low_slope: float, high_step: float, high_slope: float) -> float:
    """Return the secant step kept well inside the bracket; its middle where the slopes are no guide."""
    if high_step == float("inf"):
        return _LONGEST_STRETCH * low_step
    width = high_step - low_step
    share = 0.1 if low_step == 0.0 else 0.5
    if high_slope > 0:
        share = low_slope / (low_slope - high_slope)
    return low_step + min(0.9, max(0.05, share)) * width
