"""Limited-memory BFGS directions around an arbitrary metric.

Two-loop recursion (Nocedal and Wright, Numerical Optimization, 2006, algorithm 7.4; DOI 10.1007/978-0-387-40065-5)
with the inner products kept in a small Gram matrix, so that a direction costs four matrix-vector products instead of
4 * memory separate passes over the unknowns.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import DTypeLike, NDArray

Array = NDArray[np.float64]


class CurvatureMemory:
    """The last `size` pairs (step, change of gradient), newest first in use.

    Parameters
    ----------
    shape : tuple of int
        Shape of the unknown.
    size : int
        How many pairs to keep.
    dtype : dtype
        Of the pairs and of the directions. Directions need not be exact, and float32 takes half the time and memory.
    """

    def __init__(self, shape: tuple[int, ...], size: int = 6, dtype: DTypeLike = np.float64) -> None:
        n_unknowns = int(np.prod(shape))
        self._shape, self._size = shape, size
        self._steps, self._changes = np.zeros((2, size, n_unknowns), dtype=dtype)
        self._products = np.zeros((size, size))  # [i, j] = step i . change j
        self._n_stored = 0
        self._newest_first: list[int] = []

    @property
    def is_empty(self) -> bool:
        """Whether no pair is kept."""
        return self._n_stored == 0

    def forget(self) -> None:
        """Drop every pair."""
        self._n_stored, self._newest_first = 0, []

    def store(self, step: NDArray[np.floating], change: NDArray[np.floating]) -> None:
        """Keep a pair, in place of the oldest; pairs without positive curvature are ignored."""
        curvature = float(np.vdot(step, change))
        if not curvature > 1e-14 * float(np.linalg.norm(step) * np.linalg.norm(change)):
            return
        slot = self._n_stored % self._size
        self._n_stored += 1
        self._steps[slot], self._changes[slot] = step.ravel(), change.ravel()
        n = min(self._n_stored, self._size)
        self._products[slot, :n] = self._changes[:n] @ self._steps[slot]
        self._products[:n, slot] = self._steps[:n] @ self._changes[slot]
        self._newest_first = [slot, *(other for other in self._newest_first if other != slot)]

    def direction(self, gradient: Array, metric: Callable[[Array], Array]) -> Array:
        """Return minus the inverse Hessian estimate times `gradient`, with `metric` as its initial value."""
        n = min(self._n_stored, self._size)
        if n == 0:
            return metric(np.negative(gradient, dtype=self._steps.dtype, casting="same_kind"))
        steps, changes, products = self._steps[:n], self._changes[:n], self._products[:n, :n]
        minus = np.negative(gradient.ravel(), dtype=steps.dtype, casting="same_kind")
        along = steps @ minus
        first = np.zeros(n)
        for i in self._newest_first:
            first[i] = (along[i] - products[i] @ first) / products[i, i]
        inner = metric((minus - first.astype(steps.dtype) @ changes).reshape(self._shape)).ravel()
        inner = inner.astype(steps.dtype, copy=False)  # else the pairs would be cast to its type, all of them
        across = changes @ inner
        second = np.zeros(n)
        for i in reversed(self._newest_first):
            second[i] = first[i] - (across[i] + products[:, i] @ second) / products[i, i]
        direction: Array = (inner + second.astype(steps.dtype) @ steps).reshape(self._shape)
        return direction
