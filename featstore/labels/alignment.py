"""From a phone alignment to one phoneme label per token, in exact integers.

Boundaries of forced aligners lie on a 10 ms grid, so at 50 tokens/s about one token in nine overlaps two phones
exactly equally. Floating point would decide those by its rounding errors; here every time is an integer multiple of
1 / (10^6 * sample_rate_hz) seconds, in which both microseconds and samples are whole numbers.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featstore.errors import UtteranceError
from featstore.labels.textgrid_file import MAX_DURATION_S, read_interval_tier

NO_OVERLAP_LABEL = "sil"
# One frame of the aligner: its last boundary may lie on its own 10 ms grid instead of at the end of the audio.
# (On 240 LibriSpeech utterances the grid ends within 1 microsecond of the audio.)
FIT_TOLERANCE_US = 10_000

_US_PER_S = 1_000_000


@dataclass(frozen=True, eq=False)
class Alignment:
    """The phones of one utterance: sorted half-open intervals [start, end), which may leave gaps.

    Attributes
    ----------
    start_us, end_us : int64 arrays of shape (n_intervals,)
        Microseconds from the start of the recording; start < end <= the next start.
    labels : tuple of str, length n_intervals
        As written in the file, the empty label included.
    grid_end_us : int
        Where the alignment as a whole ends, in microseconds.
    """

    start_us: NDArray[np.int64]
    end_us: NDArray[np.int64]
    labels: tuple[str, ...]
    grid_end_us: int

    def __post_init__(self) -> None:
        assert len(self.start_us) == len(self.end_us) == len(self.labels)
        assert (self.start_us < self.end_us).all()
        assert (self.end_us[:-1] <= self.start_us[1:]).all()


def read_alignment(path: Path, tier: str = "phones") -> Alignment:
    """Read the phone alignment of one utterance from a TextGrid.

    Parameters
    ----------
    path : Path
        The TextGrid, long or short form, UTF-8 or UTF-16.
    tier : str
        The interval tier that holds the phones.

    Raises
    ------
    UtteranceError
        When the file cannot be used (see `read_interval_tier`); the message names it.
    """
    intervals, grid_end_s = read_interval_tier(path, tier)
    bounds_us = np.rint(np.array([(i.start_s, i.end_s) for i in intervals]) * _US_PER_S).astype(np.int64)
    is_kept = bounds_us[:, 0] < bounds_us[:, 1]  # an interval below a microsecond has become empty
    return Alignment(
        start_us=bounds_us[is_kept, 0],
        end_us=bounds_us[is_kept, 1],
        labels=tuple(i.label for i, keep in zip(intervals, is_kept, strict=True) if keep),
        grid_end_us=round(grid_end_s * _US_PER_S),
    )


def check_alignment_fits(
    alignment: Alignment, n_samples: int, sample_rate_hz: int, tolerance_us: int = FIT_TOLERANCE_US
) -> None:
    """Refuse an alignment that is longer than its audio: it is another recording's, or the audio is cut.

    Parameters
    ----------
    alignment : Alignment
    n_samples, sample_rate_hz : int
        Length and rate of the audio file.
    tolerance_us : int
        By how much the alignment may be longer, in microseconds.

    Raises
    ------
    UtteranceError
        When the grid, or its last interval, ends later than the audio by more than the tolerance.
    """
    last_us = int(alignment.end_us[-1]) if len(alignment.end_us) else 0
    end_us = max(alignment.grid_end_us, last_us)
    if (end_us - tolerance_us) * sample_rate_hz > n_samples * _US_PER_S:
        raise UtteranceError(
            f"the alignment ends at {end_us / _US_PER_S:.3f} s but the audio at {n_samples / sample_rate_hz:.3f} s "
            f"(at most {tolerance_us / 1000:g} ms later is accepted); is it the alignment of this file?"
        )


def token_phonemes(alignment: Alignment, n_frames: int, hop_samples: int, sample_rate_hz: int) -> NDArray[np.str_]:
    """Label every token of a codec with the phone that it overlaps most.

    Token t covers the half-open time [t, t + 1) * hop_samples / sample_rate_hz seconds. Its label is that of the
    interval with the largest overlap; among equals, of the one whose half-open span holds the token's centre; if
    none of them does, of the earliest. Intervals compete one by one: the same label twice in one token is not added
    up. A token that no interval overlaps is ``sil``.

    Parameters
    ----------
    alignment : Alignment
    n_frames, hop_samples, sample_rate_hz : int
        Number of tokens, and the codec's hop and sample rate (not the audio file's).

    Returns
    -------
    str array of shape (n_frames,)
        Raw labels, as in the alignment.
    """
    hop = hop_samples * _US_PER_S  # a token's length in units of 1 / (10^6 * sample_rate_hz) seconds
    assert max(n_frames * hop, MAX_DURATION_S * _US_PER_S * sample_rate_hz) < 2**61, "times would overflow int64"
    token_start = np.arange(n_frames, dtype=np.int64) * hop
    start, end = alignment.start_us * sample_rate_hz, alignment.end_us * sample_rate_hz

    # Every pair of a token and an interval that overlap, by token, then by time.
    first = np.searchsorted(end, token_start, side="right")
    n_pairs = np.maximum(np.searchsorted(start, token_start + hop, side="left") - first, 0)
    pair_token = np.repeat(np.arange(n_frames), n_pairs)
    pair_offset = np.cumsum(n_pairs) - n_pairs
    pair_interval = np.arange(len(pair_token)) - np.repeat(pair_offset - first, n_pairs)

    pair_start, pair_end = start[pair_interval], end[pair_interval]
    begin = token_start[pair_token]
    overlap = np.minimum(pair_end, begin + hop) - np.maximum(pair_start, begin)
    centre = begin + hop // 2  # exact: a microsecond's factor makes the hop even
    holds_centre = (pair_start <= centre) & (centre < pair_end)
    rank = 2 * overlap + holds_centre

    has_pair = n_pairs > 0
    chosen = np.full(n_frames, len(alignment.labels))
    if has_pair.any():
        best = np.maximum.reduceat(rank, pair_offset[has_pair])
        is_best = rank == np.repeat(best, n_pairs[has_pair])
        earliest = np.where(is_best, pair_interval, len(alignment.labels))
        chosen[has_pair] = np.minimum.reduceat(earliest, pair_offset[has_pair])
    names = np.array([*alignment.labels, NO_OVERLAP_LABEL])
    return names.take(chosen)
