"""What a probe is asked: the problem every backend solves, and the answer every backend gives.

A layer's embedding is one of V codebook rows, so the data of a probe are those rows and the counts per row.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

ClassWeight = Literal["balanced", "none"]
Outcome = Literal["converged", "iteration_limit", "stalled", "singular", "non_finite", "not_applicable"]
# Reads the training frames in pieces: X float32 or float64 (n, dim), standardised like `codewords`, and y, as long.
DenseRows = Callable[[], Iterable[tuple[NDArray[np.floating], NDArray[Any]]]]


def weights_of_classes(n_per_class: NDArray[np.float64], class_weight: ClassWeight) -> NDArray[np.float64]:
    """Return the weight of a frame of each class, float64 (n_classes,), from positive numbers of frames.

    ``balanced`` is scikit-learn's rule: n_frames / (n_classes * n_frames_of_class_k); ``none`` is one.
    """
    if class_weight == "none":
        return np.ones_like(n_per_class)
    balanced: NDArray[np.float64] = n_per_class.sum() / (len(n_per_class) * n_per_class)
    return balanced


@dataclass(frozen=True)
class LogisticProblem:
    """Multinomial logistic regression on codewords.

    The objective, over coef W (n_classes, dim) and intercept b (n_classes,), is that of scikit-learn's
    ``LogisticRegression(C=C, class_weight=...)`` divided by ``C * S``:

        f(W, b) = sum_v sum_k T[v, k] * -log softmax(W x_v + b)[k]  +  l2_strength / 2 * ||W||_F^2

    with T = counts * class weight / S, S the sum of all weighted counts and ``l2_strength = 1 / (C * S)``; the
    intercept is not penalised.

    Attributes
    ----------
    codewords : float64 array of shape (n_codes, dim)
        Feature rows x_v, already standardised where that was asked.
    counts : float64 array of shape (n_codes, n_classes)
        Training frames with code v and class k. Every class has at least one frame; a code may have none.
    class_weight : {"balanced", "none"}
        ``balanced``: weight of class k = n_frames / (n_classes * n_frames_of_class_k).
    C : float
        Inverse regularisation strength, scikit-learn's convention.
    dense_rows : callable or None
        Reads the frames as rows, piece by piece, for a backend that is asked to fit on them; y holds class indices
        (int64).
    """

    codewords: NDArray[np.float64]
    counts: NDArray[np.float64]
    class_weight: ClassWeight = "balanced"
    C: float = 1.0
    dense_rows: DenseRows | None = field(default=None, compare=False)

    @property
    def class_weights(self) -> NDArray[np.float64]:
        """Weight of each class, float64 array of shape (n_classes,)."""
        return weights_of_classes(self.counts.sum(axis=0), self.class_weight)

    @property
    def targets(self) -> NDArray[np.float64]:
        """T: weighted counts that sum to one, float64 array of shape (n_codes, n_classes)."""
        weighted = self.counts * self.class_weights
        targets: NDArray[np.float64] = weighted / weighted.sum()
        return targets

    @property
    def l2_strength(self) -> float:
        """Penalty strength of the mean objective, 1 / (C * S)."""
        return 1.0 / (self.C * float((self.counts * self.class_weights).sum()))


@dataclass(frozen=True)
class LeastSquaresProblem:
    """Ordinary least squares on codewords; the intercept is free and nothing is penalised.

        f(w, b) = sum_v (n_v * (w x_v + b)^2 - 2 * (w x_v + b) * sum_y_v + sum_y2_v) / N,    N = sum_v n_v

    the mean squared error over the training frames. Where several w reach the minimum the one of least norm is asked
    for, as scikit-learn's ``LinearRegression`` gives it.

    Attributes
    ----------
    codewords : float64 array of shape (n_codes, dim)
    n, sum_y, sum_y2 : float64 arrays of shape (n_codes,)
        Training frames of each code, and the sums of the target (Hz) and of its square over them.
    dense_rows : callable or None
        Reads the frames as rows, piece by piece; y is float64, in Hz.
    """

    codewords: NDArray[np.float64]
    n: NDArray[np.float64]
    sum_y: NDArray[np.float64]
    sum_y2: NDArray[np.float64]
    dense_rows: DenseRows | None = field(default=None, compare=False)


@dataclass(frozen=True)
class FitOptions:
    """How far and how to fit.

    Attributes
    ----------
    tol : float or None
        None: the backend's default. ``exact``: relative objective gap to reach; ``sklearn``: its own ``tol``.
    max_iter : int or None
        None: the backend's default.
    rows : {"collapsed", "dense"}
        ``collapsed``: at most n_codes x n_classes weighted rows (the same objective); ``dense``: one row a frame.
    device : str
        Where `exact` and `sklearn` fit classifications: ``cpu``, or a device of torch that has float64, such as
        ``cuda`` (``cpu:0`` is torch on the processor). Least squares is the processor's.
    """

    tol: float | None = None
    max_iter: int | None = None
    rows: Literal["collapsed", "dense"] = "collapsed"
    device: str = "cpu"


@dataclass(frozen=True)
class Design:
    """The rows that a library was given to fit on.

    Attributes
    ----------
    kind : {"frames", "weighted", "apportioned"}
        One row a frame; distinct rows with weights, which state the same problem; rows without weights that
        approximate the weighted problem by their number (`probes.backends.design`).
    n_rows : int
    n_rows_asked : int
        How many there would have been with room for all.
    note : str
        What limited them, or why they are not of the kind that was asked for; "" where nothing did.
    """

    kind: Literal["frames", "weighted", "apportioned"]
    n_rows: int
    n_rows_asked: int
    note: str = ""


@dataclass(frozen=True)
class Fit:
    """A backend's answer, in the units of ``problem.codewords``.

    Attributes
    ----------
    coef : float64 array of shape (n_classes, dim), or (1, dim) for least squares
    intercept : float64 array of shape (n_classes,) or (1,)
    outcome : str
        ``converged``, ``iteration_limit``, ``stalled`` (no further decrease found), ``singular``, ``non_finite``.
    n_iter : int
    objective : float
        f of the whole weighted problem at this solution, float64, whatever rows it was fitted on.
    seconds : float
        Wall-clock time of the fit alone.
    gap_estimate : float or None
        Estimated f - f*, absolute; None where the backend has none.
    gap_bound : float or None
        Proved bound on f - f*, absolute; None where there is none.
    design : Design or None
        The rows it was fitted on, where the backend tells.
    """

    coef: NDArray[np.float64]
    intercept: NDArray[np.float64]
    outcome: Outcome
    n_iter: int
    objective: float
    seconds: float
    gap_estimate: float | None = None
    gap_bound: float | None = None
    design: Design | None = None
