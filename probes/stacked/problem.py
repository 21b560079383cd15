"""What a probe of several layers is asked: the stacked tables, and the frames' codes and labels."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from probes.problem import ClassWeight, weights_of_classes
from probes.stacked.cooccurrence import code_sums
from probes.stacked.stack import Stack

Array = NDArray[np.float64]


@dataclass(frozen=True)
class StackedLogisticProblem:
    """Multinomial logistic regression on stacked rows; the objective is that of `probes.problem.LogisticProblem`.

        f(W, b) = sum_i r_i * -log softmax(W x_i + b)[y_i]  +  l2_strength / 2 * ||W||_F^2

    with r_i the weight of the frame's class over the sum S of all frames' weights, and ``l2_strength = 1 / (C * S)``.

    Attributes
    ----------
    stack : Stack
        Tables that make the rows x_i, already standardised where that was asked.
    codes : uint16 array of shape (n_layers, n_frames)
    y : integer array of shape (n_frames,)
        Class index of each training frame; every class has at least one frame.
    n_classes : int
    class_weight : {"balanced", "none"}
    C : float
        Inverse regularisation strength, scikit-learn's convention.
    """

    stack: Stack
    codes: NDArray[np.uint16]
    y: NDArray[np.integer]
    n_classes: int
    class_weight: ClassWeight = "balanced"
    C: float = 1.0

    @property
    def n_frames(self) -> int:
        """Number of training frames."""
        return len(self.y)

    @cached_property
    def n_per_class(self) -> Array:
        """Training frames of each class, float64 (n_classes,)."""
        return np.bincount(self.y, minlength=self.n_classes).astype(np.float64)

    @cached_property
    def _class_weights(self) -> Array:
        return weights_of_classes(self.n_per_class, self.class_weight)

    @property
    def _total(self) -> float:
        return float(self._class_weights @ self.n_per_class)

    @property
    def weight_of_class(self) -> Array:
        """R of a frame of each class, float64 (n_classes,); over all frames they sum to one."""
        weights: Array = self._class_weights / self._total
        return weights

    @property
    def shares(self) -> Array:
        """Sum of r over the frames of each class, float64 (n_classes,)."""
        shares: Array = self.weight_of_class * self.n_per_class
        return shares

    @property
    def l2_strength(self) -> float:
        """Penalty strength of the mean objective, 1 / (C * S)."""
        return 1.0 / (self.C * self._total)

    @property
    def weight_of_codes(self) -> Array:
        """Sum of r over the frames of each code, float64 (n_layers, n_codewords)."""
        return code_sums(self.codes, self.stack.n_codewords, self.weight_of_class[self.y])

    def centred(self) -> tuple["StackedLogisticProblem", Array]:
        """Return the same problem on rows whose mean, weighted by r, is zero, and that mean, float64 (dim,)."""
        of_codes = self.weight_of_codes
        stack, mean = self.stack.centred(of_codes / of_codes.sum(axis=1, keepdims=True))
        return replace(self, stack=stack), mean


@dataclass(frozen=True)
class StackedLeastSquaresProblem:
    """Ordinary least squares on stacked rows, as `probes.problem.LeastSquaresProblem` asks it of one layer.

    Attributes
    ----------
    stack : Stack
    codes : uint16 array of shape (n_layers, n_frames)
    y : float64 array of shape (n_frames,)
        Target, Hz.
    """

    stack: Stack
    codes: NDArray[np.uint16]
    y: Array
