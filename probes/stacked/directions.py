"""Orthogonal directions of stacked rows, in which their second moment, as the loss weights it, is the identity.

A direction along which no training row varies can be left out: no gradient ever points there. One along which few rows
vary, those of a rare code, cannot: a solver that never moves along it does not see the gap that this leaves. So the
moment is that of all frames, from counts of their codes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh

from probes.stacked.cooccurrence import second_moment
from probes.stacked.problem import StackedLogisticProblem

Array = NDArray[np.float64]
Single = NDArray[np.float32]

# A direction can lower f by no more than s^2 / l2; below this share of one it is rounding noise of a lost rank.
_SMALLEST_GAIN = 1e-13
_MAX_JOINT_DIM = 512  # longest row of layers side by side that gets one rotation for all of it


@dataclass(frozen=True)
class Directions:
    """Orthogonal directions of rows, of unit variance: a rotation and scaling for each part of the row.

    Attributes
    ----------
    parts : list of (slice, float32 array of shape (length of the slice, n_directions of the part))
        Where a part stands in the row, and its directions, each divided by the standard deviation along it.
    strength : float64 array of shape (n_directions,)
        l2 / s_j^2: the penalty on a coefficient of each direction.
    """

    parts: list[tuple[slice, Single]]
    strength: Array

    def project(self, gradient: Array) -> Array:
        """Return a gradient over coefficients of rows (dim, n) as one over those of directions (n_directions, n)."""
        single = gradient.astype(np.float32)
        return np.concatenate([basis.T @ single[part] for part, basis in self.parts]).astype(np.float64)

    def restore(self, step: Array) -> Array:
        """Return a step in coefficients of directions as one in those of rows: the transpose of `project`."""
        single, pieces, first = step.astype(np.float32), [], 0
        for _, basis in self.parts:
            pieces.append(basis @ single[first : first + basis.shape[1]])
            first += basis.shape[1]
        return np.concatenate(pieces).astype(np.float64)


def principal_directions(problem: StackedLogisticProblem) -> Directions:
    """Return the principal directions of the rows: of all of a row, or of each layer's part where that is too long."""
    stack = problem.stack
    if stack.dim <= _MAX_JOINT_DIM or stack.representation == "cumulative":
        # A third of a pass with 71 classes.
        moments = [(slice(0, stack.dim), second_moment(stack, problem.codes, problem.weight_of_class[problem.y]))]
    else:
        of_layers = enumerate(zip(stack.tables, problem.weight_of_codes, strict=True))
        moments = [(stack.part(layer), (table * n[:, None]).T @ table) for layer, (table, n) in of_layers]
    parts, strengths = [], []
    for part, moment in moments:
        variance, rotation = eigh(moment, driver="evd")
        keep = variance > max(_SMALLEST_GAIN * problem.l2_strength, 1e-14 * variance[-1])
        parts.append((part, (rotation[:, keep] / np.sqrt(variance[keep])).astype(np.float32)))
        strengths.append(problem.l2_strength / variance[keep])
    return Directions(parts, np.concatenate(strengths))
