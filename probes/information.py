"""How much a code tells of its frame's label, in bits: plug-in estimate, jackknife correction and interval.

The plug-in estimate of mutual information, that of the observed frequencies, is too large: by about
(n_codes - 1)(n_classes - 1) / (2 N ln 2) bits for N independent frames (Miller 1955; Paninski 2003,
doi:10.1162/089976603321780272), and by more for frames that are alike within utterances. The jackknife takes off a
bias of that order without knowing how many frames count as independent, when what it leaves out are whole blocks of
utterances.

With too few frames for the table (most cells met once or never) the bias is of no such order, and the corrected value
is still too large. So it is given only where at least 80 % of the frames have a code and label that occur together in
another block too (a Good-Turing coverage; Good 1953, doi:10.1093/biomet/40.3-4.237). There, halves of the blocks tell
how much bias is left, and the interval reaches down by it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from probes.frame_cells import count_cells, frame_cells

Array = NDArray[np.float64]
_LN2 = float(np.log(2.0))
# n log n up to here is looked up: a table of half a megabyte stays in the processor's cache.
_TABLE_SIZE = 1 << 16


MIN_COVERAGE = 0.8
MIN_BLOCKS = 4
# In simulations with a coverage of 0.8 to 1 (independent and repeated frames, 5,000 and 73,000 cells, 0 to 1.4 bits)
# the bias left was 0.5 to 2.4 times what halves say of it.
_CAUTION = 3.0


@dataclass(frozen=True)
class MutualInformation:
    """I(code; label) over evaluation frames, in bits.

    Attributes
    ----------
    plug_in_bits : float
        Of the observed frequencies; not below 0 but for rounding.
    bits : float or None
        Corrected by the jackknife; may be negative, never clipped. None with a coverage below 0.8 or fewer than four
        blocks: the frames are too few to say.
    low, high : float or None
        95 % interval: `bits` -+ Student's t with n_blocks - 1 degrees of freedom times the jackknife's standard
        error; the lower end lower by three times the bias that halves of the blocks say is left.
    coverage : float
        Share of frames whose code and label occur together in another block too.
    n_blocks : int
    """

    plug_in_bits: float
    bits: float | None
    low: float | None
    high: float | None
    coverage: float
    n_blocks: int


def entropy_bits(counts: NDArray[np.integer]) -> float:
    """Return the entropy of observed frequencies, in bits; 0 without a frame."""
    n = int(counts.sum())
    return (_n_log_n(np.array([n])) - _n_log_n(counts)) / (n * _LN2) if n else 0.0


def plug_in_bits(table: NDArray[np.integer]) -> float:
    """Return I(code; label) of observed frequencies, in bits; 0 without a frame.

    I = (sum n_vk log n_vk - sum n_v log n_v - sum n_k log n_k + N log N) / (N ln 2), with 0 log 0 = 0.

    Parameters
    ----------
    table : integer array of shape (n_codes, n_classes)
        Frames with code v and class k.
    """
    n_per_code = table.sum(axis=1)
    n = int(n_per_code.sum())
    if n == 0:
        return 0.0
    joint, codes, classes = (_n_log_n(part) for part in (table, n_per_code, table.sum(axis=0)))
    return (joint - codes - classes + n * float(np.log(n))) / (n * _LN2)


def mutual_information(
    codes: NDArray[np.unsignedinteger],
    labels: NDArray[np.integer],
    offsets: NDArray[np.int64],
    blocks: NDArray[np.int64],
    n_codes: int,
    n_classes: int,
) -> MutualInformation | None:
    """Estimate I(code; label) of a layer on the evaluation frames.

    Parameters
    ----------
    codes : unsigned integer array of shape (n_frames,)
        Below `n_codes`.
    labels : integer array of shape (n_frames,)
        Class index, -1 where the frame takes no part.
    offsets : int64 array of shape (n_utterances + 1,)
        Frames of utterance u are ``offsets[u]`` up to ``offsets[u + 1]``.
    blocks : int64 array of shape (n_utterances,)
        Block of each utterance, as `probes.frame_cells.utterance_blocks` cuts them.
    n_codes, n_classes : int

    Returns
    -------
    MutualInformation or None
        None without a frame that takes part.
    """
    cells = frame_cells(codes, labels, n_classes)
    total = count_cells(cells, n_codes, n_classes)
    n_frames = int(total.sum())
    if n_frames == 0:
        return None
    plug_in = plug_in_bits(total)
    parts = _leave_out(cells, total, offsets, blocks)
    share, n_blocks, coverage = np.array(parts.sizes) / n_frames, len(parts.sizes), parts.n_met_again / n_frames
    if n_blocks < MIN_BLOCKS or coverage < MIN_COVERAGE:
        return MutualInformation(plug_in, None, None, None, coverage, n_blocks)
    value, error = delete_group_jackknife(plug_in, np.array(parts.without), share)
    by_halves, _ = delete_group_jackknife(
        plug_in, np.array(parts.halves), np.array([share[::2].sum(), share[1::2].sum()])
    )
    # A bias b / N^2 becomes -b / N^2 g / (g - 1) by the jackknife with g equal blocks, -2 b / N^2 with two halves.
    bias_left = max(0.0, (by_halves - value) * n_blocks / (n_blocks - 2))
    reach = _student_t(n_blocks - 1) * error
    return MutualInformation(plug_in, value, value - reach - _CAUTION * bias_left, value + reach, coverage, n_blocks)


@dataclass(frozen=True)
class _LeftOut:
    """Plug-in estimates without each block, and without every second one (the first, third, ...; the others)."""

    without: list[float]
    halves: tuple[float, float]
    sizes: list[int]
    n_met_again: int


def _leave_out(
    cells: NDArray[np.int64], total: NDArray[np.int64], offsets: NDArray[np.int64], blocks: NDArray[np.int64]
) -> _LeftOut:
    n_codes, n_classes = total.shape[0], total.shape[1] - 1
    without, sizes, half, largest = [], [], np.zeros_like(total), np.zeros_like(total)
    for block_cells in _cells_of_blocks(cells, offsets, blocks):
        block = count_cells(block_cells, n_codes, n_classes)
        rest = total - block
        sizes.append(int(block.sum()))
        without.append(plug_in_bits(rest))
        np.maximum(largest, block, out=largest)
        if len(sizes) % 2 == 0:
            half += block
    halves = plug_in_bits(half), plug_in_bits(total - half)
    # A cell whose frames all lie in one block is met in no other.
    return _LeftOut(without, halves, sizes, int(total[largest < total].sum()))


def delete_group_jackknife(value: float, without: Array, share: Array) -> tuple[float, float]:
    """Return the bias-corrected estimate and its standard error, from groups of unequal size left out in turn.

    With h_j = 1 / share_j, g groups and pseudo-values p_j = h_j value - (h_j - 1) without_j:

        estimate = g value - sum_j (1 - share_j) without_j
        variance = (1 / g) sum_j (p_j - estimate)^2 / (h_j - 1)

    (Busing, Meijer and van der Leeden 1999, doi:10.1023/A:1008800423698.) For equal groups this is
    the grouped jackknife, g value - (g - 1) mean(without). A bias of order 1 / N is taken off wholly.

    Parameters
    ----------
    value : float
        Estimate from everything.
    without : float64 array of shape (n_groups,)
        Estimate with group j left out.
    share : float64 array of shape (n_groups,)
        Group j's share of the whole, between 0 and 1; they sum to 1.
    """
    n_groups = len(without)
    estimate = n_groups * value - float((1.0 - share) @ without)
    h = 1.0 / share
    pseudo = h * value - (h - 1.0) * without
    variance = float((np.square(pseudo - estimate) / (h - 1.0)).mean())
    return estimate, float(np.sqrt(variance))


def _cells_of_blocks(
    cells: NDArray[np.int64], offsets: NDArray[np.int64], blocks: NDArray[np.int64]
) -> Iterator[NDArray[np.int64]]:
    """Yield the frames of each block."""
    starts, stops = offsets[:-1].tolist(), offsets[1:].tolist()
    for block in range(int(blocks.max(initial=-1)) + 1):
        yield np.concatenate([cells[starts[u] : stops[u]] for u in np.flatnonzero(blocks == block).tolist()])


def _student_t(n_degrees: int) -> float:
    """Return the 97.5 % point of Student's t."""
    from scipy.special import stdtrit

    return float(stdtrit(n_degrees, 0.975))


@cache
def _table() -> Array:
    n = np.arange(_TABLE_SIZE, dtype=np.float64)
    table: Array = n * np.log(np.maximum(n, 1.0))
    table.setflags(write=False)
    return table


def _n_log_n(counts: NDArray[np.integer]) -> float:
    """Return sum n log n over counts, 0 log 0 = 0."""
    large = counts[counts >= _TABLE_SIZE].astype(np.float64)
    if not len(large):
        return float(_table()[counts].sum())
    # The clipped ones all read the last entry, which is taken off again.
    small = float(_table()[np.minimum(counts, _TABLE_SIZE - 1)].sum()) - len(large) * float(_table()[-1])
    return small + float(large @ np.log(large))
