"""Single-precision copies of large matrices, for products that steer the solver and that nothing is measured by."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Beyond these, squares and sums in float32 overflow or vanish.
_LARGEST, _SMALLEST = 1e15, 1e-25


class Matrix:
    """A float64 matrix and its float32 copy: a product is taken in the precision of what it is multiplied with.

    A product in float32 takes half the time. Where float32 cannot hold the matrix's range, or would lose too much
    (`in_single` False), there is no copy, and every product is float64.
    """

    def __init__(self, values: Array, in_single: bool = True) -> None:
        self.values = values
        largest = float(np.abs(values).max(initial=0.0))
        in_range = in_single and _SMALLEST < largest < _LARGEST
        self._single: NDArray[np.float32] | None = values.astype(np.float32) if in_range else None

    @property
    def in_single(self) -> bool:
        """Whether there is a float32 copy."""
        return self._single is not None

    def __matmul__(self, unknown: NDArray[Any]) -> NDArray[Any]:
        """Return values @ unknown."""
        product: NDArray[Any] = self._like(unknown) @ unknown
        return product

    def transposed_times(self, unknown: NDArray[Any]) -> NDArray[Any]:
        """Return values' @ unknown."""
        product: NDArray[Any] = self._like(unknown).T @ unknown
        return product

    def _like(self, unknown: NDArray[Any]) -> NDArray[Any]:
        return self._single if unknown.dtype == np.float32 and self._single is not None else self.values
