"""Bring a logistic problem to its smallest equivalent form before solving it, and its solution back.

Codes without frames carry no loss, identical codewords share their logits, centring only moves the intercept, and no
more than n_codes feature directions can matter: each step keeps the objective and its minimiser exactly.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probes.problem import LogisticProblem

Array = NDArray[np.float64]

# Dimensions per code from which a rotation to n_codes directions costs less than it saves.
_WORTH_ROTATING = 1.25


@dataclass(frozen=True)
class ReducedProblem:
    """Distinct, used, centred codewords in an orthonormal basis of at most n_codes directions.

    Attributes
    ----------
    codewords : float64 array of shape (n_codes, dim), dim at most little above n_codes
        Their mean, weighted by `weights`, is zero.
    targets : float64 array of shape (n_codes, n_classes)
        T, weighted counts that sum to one.
    weights : float64 array of shape (n_codes, 1)
        Row sums of T, all positive.
    l2_strength : float
    mean : float64 array of shape (original dim,)
        What was subtracted from every codeword.
    basis : float64 array of shape (original dim, dim) or None
        Orthonormal columns; None where the basis was kept.
    group : int64 array of shape (n_used_codes,)
        Row of each code that occurs in training.
    """

    codewords: Array
    targets: Array
    weights: Array
    l2_strength: float
    mean: Array
    basis: Array | None
    group: NDArray[np.int64]

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return int(self.targets.shape[1])

    def restore(self, coef: Array, intercept: Array) -> tuple[Array, Array]:
        """Return weights and intercept for the original rows; both sum to zero over the classes."""
        if self.basis is not None:
            coef = coef @ self.basis.T
        coef = coef - coef.mean(axis=0)
        intercept = intercept - coef @ self.mean
        return coef, intercept - intercept.mean()


def reduce_problem(problem: LogisticProblem) -> ReducedProblem:
    """Drop unused codes, merge identical ones, centre, and rotate where there are more dimensions than codes."""
    targets = problem.targets
    used = targets.sum(axis=1) > 0
    codewords, targets = np.asarray(problem.codewords, dtype=np.float64)[used], targets[used]
    group = _groups(codewords)
    if group.max() < len(group) - 1:
        _, first = np.unique(group, return_index=True)
        merged = np.zeros((len(first), targets.shape[1]))
        np.add.at(merged, group, targets)
        codewords, targets = codewords[first], merged
    weights = targets.sum(axis=1)
    mean = weights @ codewords
    codewords = codewords - mean
    basis = None
    if codewords.shape[1] > _WORTH_ROTATING * len(codewords):
        basis, triangle = np.linalg.qr(codewords.T)
        codewords = np.ascontiguousarray(triangle.T)
    return ReducedProblem(codewords, targets, weights[:, None], problem.l2_strength, mean, basis, group)


def _groups(rows: Array) -> NDArray[np.int64]:
    """Return each row's number, int64 (n_rows,), distinct rows being numbered in the order in which they appear."""
    numbers: dict[bytes, int] = {}
    # Adding 0.0 turns -0.0 into 0.0, so that equal rows are equal bytes; hashing them is faster than sorting rows.
    return np.array([numbers.setdefault(row.tobytes(), len(numbers)) for row in rows + 0.0], dtype=np.int64)
