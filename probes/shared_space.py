"""The saturated parametrisation for classes of like curvature, as speakers have: one inverse serves them all."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from probes.class_blocks import is_due
from probes.logit_space import LogitSpace
from probes.objective import softmax
from probes.shared_inverse import SharedInverse, alike, curvature_of

Array = NDArray[np.float64]


class SharedSpace(LogitSpace):
    """`LogitSpace` whose metric is one scaled inverse for all classes.

    Parameters
    ----------
    logit : LogitSpace
        The same problem's; its penalty is shared.
    """

    name = "shared"
    _inverse: SharedInverse

    def __init__(self, logit: LogitSpace):
        vars(self).update(vars(logit))
        self._n_refreshes = 0

    @property
    def is_promising(self) -> bool:
        """Whether all classes have like curvature at the start, and enough frames to keep it."""
        probabilities, _ = softmax(self.start())
        weights = self.problem.weights
        return bool(alike(weights, self.problem.targets, curvature_of(weights, probabilities)).all())

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
        self._inverse = SharedInverse(self._penalty.values, curvature_of(self.problem.weights, probabilities))

    def metric(self, probabilities: Array) -> Callable[[Array], Array]:
        """Return the scaled inverse of the last `refresh`."""

        def apply(gradient: Array) -> Array:
            balanced = gradient - gradient.mean(axis=1, keepdims=True)
            size = np.abs(balanced).max() or 1.0  # float32 holds only so small numbers
            step = float(size) * self._inverse.of((balanced / size).astype(np.float32)).astype(np.float64)
            step -= step.mean(axis=1, keepdims=True)
            return step

        return apply

    def _kept(self, probabilities: Array, gradient: Array) -> Array:
        return self._inverse.held_by_penalty(gradient)
