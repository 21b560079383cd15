"""A point of the dual problem near a primal one, which makes the bound of `probes.certificate` sharp."""

import numpy as np
from numpy.typing import NDArray

from probes.certificate import intercept_step

Array = NDArray[np.float64]

# Of log q - log p: cells that would have to change by more keep what is left of their gradient.
_LARGEST_CHANGE = 1.0
_INTERCEPT_STEPS = 3


def dual_point(weights: Array, probabilities: Array, gradient: Array, kept: Array | float = 0.0) -> Array:
    """Return q with r (q - p) about kept - gradient, and the column sums of gradient + r (q - p) zero.

    Parameters
    ----------
    weights : float64 array of shape (n_codes, 1), r
    probabilities : float64 array of shape (n_codes, n_classes), p, positive
    gradient : float64 array of shape (n_codes, n_classes)
        Over the logits: r p - T and the penalty's.
    kept : float64 array of shape (n_codes, n_classes) or 0
        What of the gradient to leave to the penalty, which holds it at less cost.
    """
    change = (kept - gradient) / (weights * probabilities)
    point = probabilities * np.exp(np.clip(change, -_LARGEST_CHANGE, _LARGEST_CHANGE))
    point /= point.sum(axis=1, keepdims=True)
    for _ in range(_INTERCEPT_STEPS):
        leftover = (gradient + weights * (point - probabilities)).sum(axis=0)
        step = intercept_step(point, weights[:, 0], leftover)
        point *= np.exp(step - (point @ step)[:, None])
        point /= point.sum(axis=1, keepdims=True)
    return point
