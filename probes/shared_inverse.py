"""One inverse for all classes whose curvature is alike.

Where codes say little of a class, its curvature h_k = r p_k (1 - p_k) has about the course over the codes that other
classes' has. Then the blocks diag(h_k) + Q differ by little more than a scale, and with h the classes' geometric mean,
q the diagonal of Q and s_k = sqrt((h + q) / (h_k + q)),

    (diag(h_k) + Q)^-1  ~  diag(s_k) (diag(h) + Q)^-1 diag(s_k),

which is exact where h_k = h, and right in the diagonal for a code that the loss or the penalty holds by itself.
"""

import numpy as np
from numpy.typing import NDArray

from probes.class_blocks import regular_inverse

Array = NDArray[np.float64]
Single = NDArray[np.float32]

# Standard deviation, over the codes, of the logarithm of a class's curvature in units of the typical one: a factor of
# two up or down still costs few iterations.
_ALIKE = 0.7
# Share of the codes' weight that a class may never have met: it will become improbable there, far beyond what a
# smoothed start tells.
_MOST_EMPTY = 0.2
# Of s_k: a class further off is left to L-BFGS.
LARGEST_SCALE = 5.0


class SharedInverse:
    """The scaled inverse, at one set of probabilities.

    Parameters
    ----------
    penalty : float64 array of shape (n_codes, n_codes), Q
    curvature : float64 array of shape (n_codes, n_alike), positive
        h_k of the classes that share it.
    """

    def __init__(self, penalty: Array, curvature: Array) -> None:
        self._typical = np.exp(np.log(curvature).mean(axis=1, keepdims=True))
        block = penalty.copy()
        diagonal = block.reshape(-1)[:: len(block) + 1]
        q = diagonal[:, None].copy()
        diagonal += self._typical[:, 0]
        self._inverse = regular_inverse(block)
        scales = np.sqrt((self._typical + q) / (curvature + q))
        self._scales = np.clip(scales, 1.0 / LARGEST_SCALE, LARGEST_SCALE).astype(np.float32)

    def of(self, force: Single) -> Single:
        """Return the scaled inverse times each class's column of `force` (n_codes, n_alike)."""
        step: Single = self._inverse @ (force * self._scales)
        step *= self._scales
        return step

    def held_by_penalty(self, gradient: Array) -> Array:
        """Return Q (diag(h) + Q)^-1 times a gradient (n_codes, any number), so that rounding is not multiplied by Q."""
        size = np.abs(gradient).max(initial=0.0) or 1.0
        step = self._inverse @ (gradient / size).astype(np.float32)
        kept: Array = gradient - size * self._typical * step
        return kept


def curvature_of(weights: Array, probabilities: Array) -> Array:
    """Return r p (1 - p), positive: float64 array of shape (n_codes, n_classes)."""
    return np.maximum(weights * probabilities * (1.0 - probabilities), np.finfo(np.float32).tiny)


def alike(weights: Array, targets: Array, curvature: Array) -> NDArray[np.bool_]:
    """Say which classes may share an inverse, bool array of shape (n_classes,).

    Parameters
    ----------
    weights : float64 array of shape (n_codes, 1)
    targets : float64 array of shape (n_codes, n_classes)
    curvature : float64 array of shape (n_codes, n_classes)
    """
    share = weights[:, 0] / weights.sum()
    logs = np.log(curvature)
    logs -= np.median(logs, axis=1, keepdims=True)
    variance = share @ np.square(logs) - np.square(share @ logs)
    result: NDArray[np.bool_] = (variance < _ALIKE**2) & (share @ (targets == 0.0) < _MOST_EMPTY)
    return result
