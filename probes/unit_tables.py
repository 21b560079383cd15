"""Sufficient statistics of a probe's scores for each bootstrap unit: what a resample needs instead of the frames.

Accuracy and F1 of a set of frames depend on them through counts by class, MAE and R2 through five sums, and all of
these add over utterances. So a resample's score follows from the weighted sum of its units' statistics.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from probes.resamples import Resamples

Array = NDArray[np.float64]
_BLOCK_FRAMES = 1 << 18


@dataclass(frozen=True)
class ClassTables:
    """Statistics of one classification probe.

    Attributes
    ----------
    n_frames : int64 array of shape (n_units,)
        Frames scored.
    n_hit : unsigned integer array of shape (n_units, n_classes)
        Frames of class k that the probe says are k.
    n_both : unsigned integer array of shape (n_units, n_classes)
        Frames of class k plus frames said to be k: the denominator of F1 = 2 n_hit / n_both.
    scored : bool array of shape (n_classes,)
        Classes that any evaluation frame has: macro-F1 averages over these, in every resample.
    ratios : mapping from metric to (float64, float64) arrays of shape (n_units,)
        Further metrics that are a sum over a sum (utterances right over utterances, say).
    """

    n_frames: NDArray[np.int64]
    n_hit: NDArray[np.unsignedinteger]
    n_both: NDArray[np.unsignedinteger]
    scored: NDArray[np.bool_]
    ratios: Mapping[str, tuple[Array, Array]] = field(default_factory=dict)


@dataclass(frozen=True)
class PitchTables:
    """Statistics of one regression probe.

    Attributes
    ----------
    sums : float64 array of shape (5, n_units)
        Over voiced frames: their number, the sums of |y - predicted|, (y - predicted)^2, y - centre and
        (y - centre)^2, in Hz and Hz^2.
    centre_hz : float
        About the mean of y, taken off so that the spread is no small difference of large sums.
    """

    sums: Array
    centre_hz: float


def class_tables(
    resamples: Resamples,
    offsets: NDArray[np.int64],
    labels: NDArray[np.integer],
    predicted: NDArray[np.integer],
    n_classes: int,
    ratios: Mapping[str, tuple[Array, Array]] | None = None,
) -> ClassTables:
    """Count a classification probe's evaluation frames by unit and class.

    Parameters
    ----------
    resamples : Resamples
        Of the utterances that `offsets` delimits.
    offsets : int64 array of shape (n_utterances + 1,)
        Frames of utterance u are ``offsets[u]`` up to ``offsets[u + 1]``.
    labels : integer array of shape (n_frames,)
        True class, -1 where the frame is not scored.
    predicted : integer array of shape (n_frames,)
        Class that the probe says, from 0 to n_classes - 1.
    n_classes : int
    ratios : mapping from metric to (numerator, denominator) or None
        Two numbers an utterance, float64 (n_utterances,) each, for further metrics.
    """
    frames_of_unit = resamples.total(np.diff(offsets))
    # The smallest type that holds a unit's counts: 10,000 utterances by 1,000 speakers are then 20 MB.
    dtype = np.min_scalar_type(2 * int(frames_of_unit.max(initial=0)))
    shape = (resamples.n_units, n_classes)
    n_hit, n_both = np.zeros(shape, dtype=dtype), np.zeros(shape, dtype=dtype)
    n_frames, n_true = np.zeros(shape[0], dtype=np.int64), np.zeros(n_classes, dtype=np.int64)
    for first, last in _utterance_blocks(offsets):
        units = resamples.unit_of_utterance[first:last]
        low, n_rows = int(units.min()), int(np.ptp(units)) + 1
        span = slice(offsets[first], offsets[last])
        row = np.repeat(units - low, np.diff(offsets[first : last + 1]))
        true_by, said_by, hit_by = _count(row, labels[span], predicted[span], n_rows, n_classes)
        n_frames[low : low + n_rows] += true_by.sum(axis=1)
        n_true += true_by.sum(axis=0)
        n_both[low : low + n_rows] += (true_by + said_by).astype(dtype)
        n_hit[low : low + n_rows] += hit_by.astype(dtype)
    by_unit = {name: (resamples.total(over), resamples.total(under)) for name, (over, under) in (ratios or {}).items()}
    return ClassTables(n_frames, n_hit, n_both, n_true > 0, by_unit)


def _utterance_blocks(offsets: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Yield (first, last) spans of whole utterances of at most some 2^18 frames, or one utterance: none is empty."""
    first, n_utterances = 0, len(offsets) - 1
    while first < n_utterances:
        last = int(np.searchsorted(offsets, offsets[first] + _BLOCK_FRAMES, "right")) - 1
        yield first, max(last, first + 1)
        first = max(last, first + 1)


def _count(
    row: NDArray[np.int64],
    labels: NDArray[np.integer],
    predicted: NDArray[np.integer],
    n_rows: int,
    n_classes: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Count frames by row and true class, by row and predicted class, and by row and class where both agree."""
    true, said = labels.astype(np.int64), predicted.astype(np.int64)
    if true.size and true.min() < 0:
        kept = true >= 0
        true, said, row = true[kept], said[kept], row[kept]
    start = row * n_classes
    hits = start[true == said] + true[true == said]

    def table(cells: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.bincount(cells, minlength=n_rows * n_classes).reshape(n_rows, n_classes)

    return table(start + true), table(start + said), table(hits)


def pitch_tables(
    resamples: Resamples, offsets: NDArray[np.int64], f0_hz: NDArray[np.floating], predicted_hz: NDArray[np.floating]
) -> PitchTables:
    """Sum a regression probe's evaluation frames by unit.

    Parameters
    ----------
    resamples : Resamples
        Of the utterances that `offsets` delimits.
    offsets : int64 array of shape (n_utterances + 1,)
        Frames of utterance u are ``offsets[u]`` up to ``offsets[u + 1]``.
    f0_hz : float array of shape (n_frames,)
        NaN where the frame is not scored (unvoiced).
    predicted_hz : float array of shape (n_frames,)
    """
    sums = np.zeros((5, len(offsets) - 1))
    centre_hz = None
    for first, last in _utterance_blocks(offsets):
        span = slice(offsets[first], offsets[last])
        voiced = ~np.isnan(f0_hz[span])
        y = f0_hz[span][voiced].astype(np.float64)
        if centre_hz is None and len(y):
            centre_hz = float(y.mean())
        error = y - predicted_hz[span][voiced]
        y -= centre_hz or 0.0
        # Where each utterance begins among the voiced frames.
        starts = np.concatenate([[0], np.cumsum(voiced)])[offsets[first : last + 1] - offsets[first]]
        sums[0, first:last] = np.diff(starts)
        for row, values in zip(sums[1:], (np.abs(error), np.square(error), y, np.square(y)), strict=True):
            row[first:last] = utterance_sums(starts, values)
    return PitchTables(np.array([resamples.total(row) for row in sums]), centre_hz or 0.0)


def utterance_sums(offsets: NDArray[np.int64], values: NDArray[np.floating]) -> Array:
    """Sum a number a frame over each utterance: float64 (n_utterances,).

    Parameters
    ----------
    offsets : int64 array of shape (n_utterances + 1,)
    values : float array of shape (n_frames,)
    """
    sums = np.zeros(len(offsets) - 1)
    filled = np.flatnonzero(np.diff(offsets))
    if len(filled):
        # Consecutive starts of utterances that have frames: reduceat would give an empty one its neighbour's frame.
        sums[filled] = np.add.reduceat(values, offsets[filled], dtype=np.float64)
    return sums
