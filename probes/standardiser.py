"""Mean and scale of features, exact from counts."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Standardiser:
    """Features as (row - mean) / scale; mean and scale float64 (dim,)."""

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]

    @classmethod
    def fit(cls, codebook: NDArray[np.floating], n_frames: NDArray[np.float64]) -> "Standardiser":
        """Return mean and standard deviation over the frames whose codes are counted in `n_frames`, from the counts.

        Scales of constant features are 1, by the rule of scikit-learn's StandardScaler.
        """
        rows, n = codebook.astype(np.float64), n_frames.sum()
        mean = n_frames @ rows / n
        return cls.of_moments(mean, n_frames @ np.square(rows - mean) / n, n)

    @classmethod
    def of_moments(cls, mean: NDArray[np.float64], variance: NDArray[np.float64], n: float) -> "Standardiser":
        """Return the standardiser of features with these moments over `n` frames; constant ones keep their scale."""
        eps = np.finfo(np.float64).eps
        constant = variance <= n * eps * variance + np.square(n * mean * eps)
        return cls(mean, np.where(constant, 1.0, np.sqrt(np.where(constant, 1.0, variance))))

    @classmethod
    def identity(cls, dim: int) -> "Standardiser":
        """Return the standardiser that changes nothing."""
        return cls(np.zeros(dim), np.ones(dim))

    def __call__(self, rows: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return standardised rows, float64 (n, dim)."""
        result: NDArray[np.float64] = (rows - self.mean) / self.scale
        return result
