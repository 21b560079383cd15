"""Draw from many discrete distributions in constant time a draw: alias tables (Walker 1977, doi:10.1145/355744.355749).

The tables are made by the sweep of Huebschle-Schneider and Sanders 2022 (doi:10.1145/3549934, section 4.1), all
distributions at once.
"""

import numpy as np
from numpy.typing import NDArray

_CODE_BITS = 10
N_CODEWORDS = 1 << _CODE_BITS
_LEVEL_BITS = 32 - _CODE_BITS  # of one 32-bit random number: the code's column, and the level within it
_LEVEL_MASK = np.uint32((1 << _LEVEL_BITS) - 1)


class AliasTables:
    """Distributions over 1024 codes.

    Parameters
    ----------
    probability : float64 array of shape (n_rows, 1024)
        Each row non-negative with a positive sum; codes of probability 0 are never drawn.
    """

    def __init__(self, probability: NDArray[np.float64]) -> None:
        level, alias = make_alias(probability * (N_CODEWORDS / probability.sum(axis=1, keepdims=True)))
        self._level = np.rint(level * (1 << _LEVEL_BITS)).astype(np.uint32).reshape(-1)
        self._alias = alias.astype(np.uint16).reshape(-1)

    def draw(self, rng: np.random.Generator, rows: NDArray[np.int32]) -> NDArray[np.uint16]:
        """Draw one code from each row named; uint16 of the shape of `rows`."""
        bits = rng.integers(0, 1 << 32, rows.shape, dtype=np.uint32)
        column = bits >> np.uint32(_LEVEL_BITS)
        slot = (rows << _CODE_BITS) + column.view(np.int32)
        is_own = (bits & _LEVEL_MASK) < self._level[slot]
        return np.where(is_own, column.astype(np.uint16), self._alias[slot])


def make_alias(weights: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Split columns of height 1 between a code and its alias.

    Parameters
    ----------
    weights : float64 array of shape (n_rows, n)
        Each row of mean 1.

    Returns
    -------
    level : float64 array of shape (n_rows, n)
        Share of the column that is the code's own, in [0, 1].
    alias : int64 array of shape (n_rows, n)
        Whose the rest is; never a code of weight 0.
    """
    n_rows, n = weights.shape
    rows = np.arange(n_rows)
    order = np.argsort(weights > 1, axis=1, kind="stable")  # light codes, then heavy ones
    n_light = (weights <= 1).sum(axis=1)
    level, alias = weights.copy(), np.repeat(weights.argmax(axis=1)[:, None], n, axis=1)
    light, heavy = np.zeros(n_rows, dtype=np.int64), np.minimum(n_light, n - 1)
    left = weights[rows, order[rows, heavy]]  # what the current heavy code still has to give away
    for _ in range(n):
        takes = (left > 1) & (light < n_light)
        moves = ~takes & (heavy + 1 < n)
        r = rows[takes]
        code = order[r, light[r]]
        alias[r, code] = order[r, heavy[r]]
        left[r] -= 1 - weights[r, code]
        light[r] += 1
        r = rows[moves]
        code, follower = order[r, heavy[r]], order[r, heavy[r] + 1]
        level[r, code], alias[r, code] = left[r], follower
        left[r] = weights[r, follower] - (1 - left[r])
        heavy[r] += 1
    level[rows, order[rows, heavy]] = 1.0
    return np.clip(level, 0, 1), alias
