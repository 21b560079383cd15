"""Histograms over two indices: against numpy's, with weights of every kind used."""

import numpy as np
import pytest

from probes.tally import Tally


@pytest.mark.parametrize("n", [0, 1, 2000])
def test_counts_and_sums_are_those_of_a_loop(n):
    rng = np.random.default_rng(n)
    rows, columns = rng.integers(0, 5, n, dtype=np.int32), rng.integers(0, 7, n, dtype=np.int32)
    y = rng.normal(size=n)
    counts, sums, pairs = np.zeros((5, 7), dtype=np.int64), np.zeros((5, 7)), np.zeros((5, 7), dtype=complex)
    for row, column, value in zip(rows, columns, y, strict=True):
        counts[row, column] += 1
        sums[row, column] += value
        pairs[row, column] += value + 1j * value**2
    found = Tally(rows, 5, 7).of(columns)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, counts)
    # Added in the same order: equal to the bit.
    np.testing.assert_array_equal(Tally(rows, 5, 7, y).of(columns), sums)
    np.testing.assert_allclose(Tally(rows, 5, 7, y + 1j * y**2).of(columns), pairs, rtol=1e-15)


def test_other_columns_begin_anew():
    tally = Tally(np.array([0, 1, 1], dtype=np.int32), 2, 2)
    np.testing.assert_array_equal(tally.of(np.array([0, 0, 1], dtype=np.int32)), [[1, 0], [1, 1]])
    np.testing.assert_array_equal(tally.of(np.array([1, 1, 1], dtype=np.int32)), [[0, 1], [0, 2]])


@pytest.mark.parametrize(("row", "column"), [(5, 0), (0, 7), (-1, 0)])
def test_an_index_outside_is_refused(row, column):
    with pytest.raises(ValueError, match="index"):
        Tally(np.array([row], dtype=np.int32), 5, 7).of(np.array([column], dtype=np.int32))
