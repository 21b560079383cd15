"""Histograms over two indices, as the dense form of a sparse matrix whose repeated entries add up.

SciPy adds the entries in one pass over 32-bit indices, in their order. ``numpy.bincount`` needs one 64-bit index made
of both and passes over it twice: on a codec's frames it takes about twice the time.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray


class Tally:
    """Counts, or sums of weights, by the row and the column of entries whose rows stay while their columns change.

    Parameters
    ----------
    rows : int32 array of shape (n,)
        Below `n_rows`; wider integers are accepted and copied.
    n_rows, n_columns : int
    weights : array of shape (n,) or None
        What each entry adds; None counts, for fewer than 2^31 entries.
    """

    def __init__(
        self, rows: NDArray[np.int32], n_rows: int, n_columns: int, weights: NDArray[Any] | None = None
    ) -> None:
        self._rows = rows
        self._weights = np.ones(len(rows), dtype=np.int32) if weights is None else weights
        # Memory asked for anew at each call would cost as much as counting.
        self._table = np.empty((n_rows, n_columns), dtype=self._weights.dtype)

    def of(self, columns: NDArray[np.int32]) -> NDArray[Any]:
        """Return the table of the entries with these columns, (n_rows, n_columns), which the next call overwrites.

        Parameters
        ----------
        columns : int32 array of shape (n,)
            Below `n_columns`.

        Returns
        -------
        array of shape (n_rows, n_columns)
            Of the dtype of the weights; int32 where they are None.

        Raises
        ------
        ValueError
            When an index is outside the table.
        """
        from scipy.sparse import coo_array

        coo_array((self._weights, (self._rows, columns)), shape=self._table.shape).toarray(out=self._table)
        return self._table
