"""Integer designs: rows without weights that state a weighted problem, for a library that ignores weights.

A weighted cell (code v, class k) becomes a whole number of equal rows, apportioned by largest remainder: each class its
share of the rows, at least one, so that none is lost to the classifier; then each code its share of its class's rows
(Hamilton's method; Balinski and Young, Fair Representation, 1982). Within a class a share's rows are its quota rounded
down or up, and a larger share never gets fewer rows than a smaller one. Two steps, because the free intercepts feel
classes whose rows are off, and because frames that are codes of their own have equal shares throughout: their rounding
is settled by a seeded draw, which makes a design of fewer rows than frames a sample of them, stratified by class.

With n rows for m cells the optimum of the design has an objective of the true problem above the minimum by about
(m / n)^2 / 24, the variance of a rounding error (1/12) over twice the rows of each cell, where a code's classes are
free; where rare cells are held by the penalty alone (as many dimensions as codes) up to fifteen times that.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probes.backends.answers import n_frames
from probes.problem import LogisticProblem

Array = NDArray[np.float64]

# Relative error of the objective, seeded problems of 1024 codes and 71 classes: 2e-4, 1e-5 and 6e-7 with 8, 32 and 128
# rows a cell at 128 dimensions, 1e-2, 3e-4 and 1e-5 at 1024. In the study's shape (benchmarks/bench_design.py, layers
# 1, 4, 8) at most 1.5e-6 and 4.2e-5 where 75 GB of device memory may be taken, 4.5e-6 and 1.6e-3 where 12 GB.
ROWS_A_CELL = 128
# Fewer rows than this cost next to nothing; 16 codes and 4 classes have 25 cells, and 3,200 rows were 2e-3 off.
FEWEST_ROWS = 1 << 18
# An iteration costs 4 x rows x dim x classes operations: at 1024 x 71 these are 2.4e12, a quarter of a second at 1e13
# a second in float64, and hundreds of iterations are needed.
MOST_ROWS = 1 << 23
_SEED = 0


@dataclass(frozen=True)
class IntegerDesign:
    """How many rows stand for each cell that has any.

    Attributes
    ----------
    codes, classes : int64 arrays of shape (n_cells,)
    n_rows : int64 array of shape (n_cells,), positive
    """

    codes: NDArray[np.int64]
    classes: NDArray[np.int64]
    n_rows: NDArray[np.int64]

    @property
    def total(self) -> int:
        """Number of rows."""
        return int(self.n_rows.sum())

    def as_problem(self, problem: LogisticProblem) -> LogisticProblem:
        """Return what a library solves that is given these rows: unweighted, with the true problem's penalty."""
        counts = np.zeros_like(problem.counts)
        counts[self.codes, self.classes] = self.n_rows
        return LogisticProblem(problem.codewords, counts, "none", 1.0 / (problem.l2_strength * self.total))


def rows_wanted(problem: LogisticProblem) -> int:
    """Return the rows with which a design is as good as is worth its price.

    Frames that all weigh the same are whole rows already: so many, where that is no more than any design may have.
    """
    n_cells = int(np.count_nonzero(problem.counts))
    n_all = n_frames(problem)
    if problem.class_weight == "none" and n_all <= MOST_ROWS and (problem.counts == np.rint(problem.counts)).all():
        return n_all
    return min(max(ROWS_A_CELL * n_cells, FEWEST_ROWS), MOST_ROWS)


def integer_design(problem: LogisticProblem, n_rows: int) -> IntegerDesign:
    """Apportion rows over the cells of a problem, by its class weights times its counts.

    Parameters
    ----------
    problem : LogisticProblem
    n_rows : int
        At least one for each class.
    """
    weighted = problem.counts * problem.class_weights
    per_class = apportion(weighted.sum(axis=0), n_rows, at_least=1)
    codes, classes, repeats = [], [], []
    for k, n in enumerate(per_class):
        occupied = np.flatnonzero(weighted[:, k])
        rows = apportion(weighted[occupied, k], int(n), seed=_SEED + k)
        codes.append(occupied[rows > 0])
        repeats.append(rows[rows > 0])
        classes.append(np.full(len(repeats[-1]), k, dtype=np.int64))
    return IntegerDesign(np.concatenate(codes), np.concatenate(classes), np.concatenate(repeats))


def apportion(shares: Array, n_rows: int, at_least: int = 0, seed: int = _SEED) -> NDArray[np.int64]:
    """Give whole rows to shares by largest remainder.

    Parameters
    ----------
    shares : float64 array of shape (n,)
        Not negative, not all zero.
    n_rows : int
        Rows to give, no fewer than ``n * at_least``.
    at_least : int
        Rows that each gets; those whose quota is less take that many, and the others share the rest.
    seed : int
        Settles ties between equal remainders.

    Returns
    -------
    int64 array of shape (n,)
        Sums to `n_rows`.
    """
    rows = np.full(len(shares), at_least, dtype=np.int64)
    open_, left = np.ones(len(shares), dtype=bool), n_rows
    while True:  # those that take the least leave less to the others, whose quota may fall below it in turn
        quota = shares[open_] * (left / shares[open_].sum())
        if not at_least or not (short := quota < at_least).any():
            break
        open_[np.flatnonzero(open_)[short]] = False
        left = n_rows - at_least * int((~open_).sum())
        if not open_.any():
            return rows
    rows[open_] = _largest_remainder(quota, left, seed)
    return rows


def _largest_remainder(quota: Array, n_rows: int, seed: int) -> NDArray[np.int64]:
    """Round quotas, which sum to `n_rows` but for rounding, to whole numbers that do so exactly."""
    rows = np.floor(quota).astype(np.int64)
    missing = n_rows - int(rows.sum())
    if missing:
        ties = np.random.default_rng(seed).random(len(quota))
        rows[np.lexsort((ties, rows - quota))[:missing]] += 1
    return rows
