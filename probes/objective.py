"""The two objectives of the probes, evaluated exactly from counts and moments.

Logistic: weighted mean cross-entropy plus half ``l2_strength`` times the squared norm of the weights, intercept free.
Everything is float64: at a strength of 4e-8 (24 million frames) a gradient of 5e-7 already separates proved from not.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probes.problem import LeastSquaresProblem, LogisticProblem

Array = NDArray[np.float64]


def softmax(logits: Array) -> tuple[Array, Array]:
    """Return softmax and log-sum-exp of every row, without overflow.

    Parameters
    ----------
    logits : float64 array of shape (n_codes, n_classes)

    Returns
    -------
    probabilities : float64 array of shape (n_codes, n_classes)
    log_sum_exp : float64 array of shape (n_codes,)
    """
    top = logits.max(axis=1, keepdims=True)
    probabilities = logits - top
    np.exp(probabilities, out=probabilities)
    total = probabilities.sum(axis=1, keepdims=True)
    probabilities /= total
    return probabilities, (np.log(total) + top)[:, 0]


def cross_entropy(logits: Array, log_sum_exp: Array, targets: Array) -> float:
    """Return sum_v sum_k T[v, k] * (log_sum_exp[v] - logits[v, k])."""
    # One difference per code, taken before summing: for separable data both terms are large and nearly equal.
    return float(np.sum(targets.sum(axis=1) * log_sum_exp - np.einsum("vk,vk->v", targets, logits)))


@dataclass(frozen=True)
class LogisticObjective:
    """Value and derivatives of f(W, b) = cross-entropy of softmax(X W' + b) under T + l2_strength / 2 * ||W||^2.

    Attributes
    ----------
    codewords : float64 array of shape (n_codes, dim)
        X; every row must be finite.
    targets : float64 array of shape (n_codes, n_classes)
        T, weighted counts that sum to one.
    l2_strength : float
    """

    codewords: Array
    targets: Array
    l2_strength: float

    @classmethod
    def of(cls, problem: LogisticProblem) -> "LogisticObjective":
        """Return the objective of `problem`, over the codes that occur in training."""
        used = problem.counts.sum(axis=1) > 0
        codewords = np.asarray(problem.codewords, dtype=np.float64)[used]
        return cls(codewords, problem.targets[used], problem.l2_strength)

    def logits(self, coef: Array, intercept: Array) -> Array:
        """Return X W' + b, float64 array of shape (n_codes, n_classes)."""
        return self.codewords @ coef.T + intercept

    def value(self, coef: Array, intercept: Array) -> float:
        """Return f(W, b)."""
        logits = self.logits(coef, intercept)
        _, log_sum_exp = softmax(logits)
        return cross_entropy(logits, log_sum_exp, self.targets) + 0.5 * self.l2_strength * float(np.vdot(coef, coef))

    def gradient(self, coef: Array, intercept: Array) -> tuple[Array, Array]:
        """Return the gradient over W, shape (n_classes, dim), and over b, shape (n_classes,)."""
        probabilities, _ = softmax(self.logits(coef, intercept))
        residual = self.targets.sum(axis=1, keepdims=True) * probabilities - self.targets
        return residual.T @ self.codewords + self.l2_strength * coef, residual.sum(axis=0)

    def hessian_product(
        self, coef: Array, intercept: Array, coef_direction: Array, intercept_direction: Array
    ) -> tuple[Array, Array]:
        """Return the Hessian at (W, b) times a direction, as a pair shaped like the gradient."""
        probabilities, _ = softmax(self.logits(coef, intercept))
        change = self.logits(coef_direction, intercept_direction)
        mean_change = np.einsum("vk,vk->v", probabilities, change)[:, None]
        curved = self.targets.sum(axis=1, keepdims=True) * probabilities * (change - mean_change)
        return curved.T @ self.codewords + self.l2_strength * coef_direction, curved.sum(axis=0)


def logistic_value(problem: LogisticProblem, coef: Array, intercept: Array) -> float:
    """Return f of the whole weighted problem at (coef, intercept), shapes (n_classes, dim) and (n_classes,)."""
    return LogisticObjective.of(problem).value(coef, intercept)


def mean_squared_error(problem: LeastSquaresProblem, coef: Array, intercept: Array) -> float:
    """Return the mean squared error over the training frames, Hz^2, of w x + b.

    Written as the spread of y within each code plus the squared distance of the prediction from the code's mean: the
    textbook form n p^2 - 2 p sum(y) + sum(y^2) subtracts numbers a thousand times its result.

    Parameters
    ----------
    coef : float64 array of shape (1, dim)
    intercept : float64 array of shape (1,)
    """
    used = problem.n > 0
    n, sum_y, sum_y2 = problem.n[used], problem.sum_y[used], problem.sum_y2[used]
    predicted = np.asarray(problem.codewords, dtype=np.float64)[used] @ coef[0] + intercept[0]
    mean_y = sum_y / n
    within = np.maximum(sum_y2 - sum_y * mean_y, 0.0)
    return float(np.sum(within + n * (predicted - mean_y) ** 2) / n.sum())
