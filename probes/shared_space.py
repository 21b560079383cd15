"""The saturated parametrisation for classes of like curvature: one inverse serves them all.

Where codes say little of the label, as of the speaker, every class's curvature h_k = r p_k (1 - p_k) has about the same
course over the codes. Then K blocks diag(h_k) + Q differ by little more than a scale, and with h the classes' geometric
mean, q the diagonal of Q and s_k = sqrt((h + q) / (h_k + q)),

    (diag(h_k) + Q)^-1  ~  diag(s_k) (diag(h) + Q)^-1 diag(s_k),

which is exact where h_k = h, and right in the diagonal for a code that the loss or the penalty holds by itself.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from probes.class_blocks import is_due, regular_inverse
from probes.logit_space import LogitSpace
from probes.objective import softmax

Array = NDArray[np.float64]
Single = NDArray[np.float32]

# Standard deviation, over the codes, of the logarithm of a class's curvature in units of the typical one: a factor of
# two up or down still costs few iterations.
_ALIKE = 0.7
# Share of the codes' weight that a class may never have met.
_MOST_EMPTY = 0.2
# Of s_k: a class further off is left to L-BFGS.
_LARGEST_SCALE = 5.0


class SharedSpace(LogitSpace):
    """`LogitSpace` whose metric is one scaled inverse for all classes.

    Parameters
    ----------
    logit : LogitSpace
        The same problem's; its penalty is shared.
    """

    name = "shared"

    def __init__(self, logit: LogitSpace):
        vars(self).update(vars(logit))
        self._inverse: Single = np.empty((0, 0), dtype=np.float32)
        self._scales: Single = np.empty((0, 0), dtype=np.float32)
        self._typical = np.empty((0, 0))
        self._n_refreshes = 0

    @property
    def is_promising(self) -> bool:
        """Whether all classes have like curvature at the start, and enough frames to keep it.

        A class that most codes have never met will become improbable there, far beyond what the smoothed start tells.
        """
        weights = self.problem.weights[:, 0]
        if (weights @ (self.problem.targets == 0.0)).max() > _MOST_EMPTY:
            return False
        probabilities, _ = softmax(self.start())
        logs = np.log(self._curvature(probabilities))
        logs -= logs.mean(axis=1, keepdims=True)
        variance = weights @ np.square(logs) - np.square(weights @ logs)
        return bool(variance.max() < _ALIKE**2)

    @property
    def iteration_cost(self) -> float:
        """Multiplications of one iteration's products, per class."""
        return super().iteration_cost + float(self._n_codes**2)

    def is_stale(self, estimates: Sequence[float]) -> bool:
        """Ask for a refresh as `is_due` says."""
        refresh_cost = self._n_codes**3 / self.problem.n_classes
        return is_due(estimates, self._n_refreshes, refresh_cost / self.iteration_cost)

    def refresh(self, probabilities: Array) -> None:
        """Invert the block of the typical class at these probabilities."""
        self._n_refreshes += 1
        curvature = self._curvature(probabilities)
        typical = np.exp(np.log(curvature).mean(axis=1, keepdims=True))
        block = self._penalty.values.copy()
        block.reshape(-1)[:: len(block) + 1] += typical[:, 0]
        self._inverse, self._typical = regular_inverse(block), typical
        q = self._penalty_diagonal
        scales = np.sqrt((typical + q) / (curvature + q))
        self._scales = np.clip(scales, 1.0 / _LARGEST_SCALE, _LARGEST_SCALE).astype(np.float32)

    def metric(self, probabilities: Array) -> Callable[[Array], Array]:
        """Return the scaled inverse of the last `refresh`."""

        def apply(gradient: Array) -> Array:
            balanced = gradient - gradient.mean(axis=1, keepdims=True)
            size = np.abs(balanced).max() or 1.0
            single = self._inverse @ ((balanced / size).astype(np.float32) * self._scales)
            step: Array = size * single * self._scales
            step -= step.mean(axis=1, keepdims=True)
            return step

        return apply

    def _kept(self, probabilities: Array, gradient: Array) -> Array:
        # Q (diag(h) + Q)^-1 g, written such that rounding of the inverse is not multiplied by Q.
        size = np.abs(gradient).max() or 1.0
        step = self._inverse @ (gradient / size).astype(np.float32)
        return gradient - size * self._typical * step

    def _curvature(self, probabilities: Array) -> Array:
        curvature: Array = self.problem.weights * probabilities * (1.0 - probabilities)
        return np.maximum(curvature, np.finfo(np.float32).tiny)
