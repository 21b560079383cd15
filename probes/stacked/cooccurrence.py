"""How often codes of two layers meet: all that second moments of stacked rows need to know of the frames.

With N_lm[v, w] the (weighted) number of frames with code v in layer l and w in layer m, the sum over frames of the
outer products of two layers' rows is A_l' N_lm A_m: V^2 counts for a pair of layers, whatever the number of frames.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from probes.stacked.stack import Stack

Array = NDArray[np.float64]
_BLOCK_FRAMES = 1 << 20


def code_sums(codes: NDArray[np.uint16], n_codewords: int, values: Array | None = None) -> Array:
    """Return the sum of `values` (None: the number) over the frames of each code, float64 (n_layers, n_codewords).

    Parameters
    ----------
    codes : uint16 array of shape (n_layers, n_frames)
    n_codewords : int
    values : float64 array of shape (n_frames,) or None
    """
    return np.stack([np.bincount(row, values, minlength=n_codewords) for row in codes]).astype(np.float64)


def pair_counts(
    codes: NDArray[np.uint16], n_codewords: int, weights: Array | None = None
) -> Iterator[tuple[int, int, Array]]:
    """Yield (l, m, N_lm) for array layers l > m, N_lm float64 of shape (n_codewords, n_codewords), one at a time."""
    for first, row in enumerate(codes):
        for second, other in enumerate(codes[:first]):
            yield first, second, _pair(row, other, n_codewords, weights)


def _pair(row: NDArray[np.uint16], other: NDArray[np.uint16], n_codewords: int, weights: Array | None) -> Array:
    counts = np.zeros(n_codewords * n_codewords)
    for start in range(0, len(row), _BLOCK_FRAMES):
        block = slice(start, start + _BLOCK_FRAMES)
        cell = row[block].astype(np.int64) * n_codewords + other[block]
        counts += np.bincount(cell, None if weights is None else weights[block], minlength=len(counts))
    return counts.reshape(n_codewords, n_codewords)


def second_moment(stack: Stack, codes: NDArray[np.uint16], weights: Array | None = None) -> Array:
    """Return sum_i w_i x_i x_i' over frames, float64 array of shape (dim, dim); weights None means ones."""
    moment = np.zeros((stack.dim, stack.dim))
    for layer, n in enumerate(code_sums(codes, stack.n_codewords, weights)):
        part, table = stack.part(layer), stack.tables[layer]
        moment[part, part] += (table * n[:, None]).T @ table
    for first, second, counts in pair_counts(codes, stack.n_codewords, weights):
        block = stack.tables[first].T @ (counts @ stack.tables[second])
        moment[stack.part(first), stack.part(second)] += block
        moment[stack.part(second), stack.part(first)] += block.T
    return moment


def squares(tables: NDArray[np.floating], codes: NDArray[np.uint16]) -> Array:
    """Return sum_i (sum_l A_l[c_li])^2 for every feature, float64 (dim,): the diagonal of the cumulative moment."""
    n_codewords = tables.shape[1]
    total = np.einsum("lv,lvd,lvd->d", code_sums(codes, n_codewords), tables, tables)
    for first, second, counts in pair_counts(codes, n_codewords):
        total += 2.0 * np.einsum("vd,vd->d", tables[first], counts @ tables[second])
    return np.asarray(total)
