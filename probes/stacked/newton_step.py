"""Newton's step by preconditioned conjugate gradients, and how much it promises: a second look before "converged".

A quasi-Newton decrement is what the metric believes of the gap, and where the metric thinks a direction stiffer than it
is, that is too little: thousands of times, where a rare class's curvature has fallen since the metric was made.
Conjugate gradients (Nocedal and Wright 2006, algorithm 5.3, DOI 10.1007/978-0-387-40065-5) meet the true Hessian: the
decrement after each of their steps is proved for the quadratic model, grows to Newton's own, and a direction that the
metric is wrong about is found in a few steps, for little else is left in the gradient.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Single = NDArray[np.float32]

_MAX_STEPS = 8
# They end early, but not before the third, where so many steps that add as much as the last would not leave the goal:
# a step that adds little may stand before a direction that is found late.
_FEWEST_STEPS, _STEPS_AHEAD = 3, 20.0


@dataclass(frozen=True)
class NewtonStep:
    """What conjugate gradients found.

    Attributes
    ----------
    direction : float64 array, of the gradient's shape
    decrement : float
        What the quadratic model falls by along it; infinite where nothing was found though there is a gradient.
    pairs : list of (float32 array, float32 array)
        Conjugate steps and the changes of gradient along them: what a quasi-Newton memory takes (Morales and Nocedal
        2000, DOI 10.1137/S1052623497327854).
    """

    direction: Array
    decrement: float
    pairs: list[tuple[Single, Single]]


def newton_step(
    gradient: Array,
    curved: Callable[[Array], Array],
    precondition: Callable[[Array], NDArray[np.floating]],
    goal: float,
) -> NewtonStep:
    """Approach the solution of H d = -gradient.

    Parameters
    ----------
    gradient : float64 array
    curved : callable
        Gives H times a direction.
    precondition : callable
        A fixed symmetric positive map, near the inverse of H.
    goal : float
        No more is asked than whether the decrement is below it.
    """
    direction, decrement, settled = np.zeros_like(gradient), 0.0, False
    residual, energy, along = -gradient, 0.0, np.zeros_like(gradient)
    pairs: list[tuple[Single, Single]] = []
    while len(pairs) < _MAX_STEPS and not settled:
        image = precondition(residual)
        energy, before = float(np.vdot(residual, image)), energy
        along = image + (energy / before) * along if pairs else image.astype(np.float64)
        change = curved(along)
        curvature = float(np.vdot(along, change))
        if not (energy > 0 and curvature > 0):
            break  # rounding noise
        length = energy / curvature
        gain = 0.5 * length * energy
        direction += length * along
        residual = residual - length * change
        decrement += gain
        settled = len(pairs) + 1 >= _FEWEST_STEPS and decrement + _STEPS_AHEAD * gain <= goal
        pairs.append(((length * along).astype(np.float32), (length * change).astype(np.float32)))
    if not pairs and gradient.any():
        decrement = float("inf")
    return NewtonStep(direction, decrement, pairs)
