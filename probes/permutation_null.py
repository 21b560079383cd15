"""What I(code; label) would be if codes and labels had nothing to do with each other but their own habits.

The null keeps each utterance's codes and each utterance's labels as they are, autocorrelation and all, and breaks only
which frame goes with which. That codes and labels change at the same moments is a dependence too. The p-value counts
the observed value among the shuffles (Phipson and Smyth 2010, doi:10.2202/1544-6115.1585), so it is never zero.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from probes.errors import ProbeError
from probes.frame_cells import frames_per_utterance
from probes.information import plug_in_bits

Shuffle = Literal["shift", "reassign"]
_LEVEL = 0.95


@dataclass(frozen=True)
class PermutationNull:
    """Plug-in I(code; label) of shuffled labels, in bits.

    Attributes
    ----------
    n_permutations : int
    mean_bits : float
        To set beside the plug-in estimate: what is left of it when the labels say nothing of the frame.
    high_bits : float
        95 % quantile.
    p_value : float
        (1 + shuffles that reach the observed value) / (1 + n_permutations).
    """

    n_permutations: int
    mean_bits: float
    high_bits: float
    p_value: float


def permutation_null(
    codes: NDArray[np.unsignedinteger],
    labels: NDArray[np.integer],
    offsets: NDArray[np.int64],
    n_codes: int,
    n_classes: int,
    shuffle: Shuffle,
    n_permutations: int,
    seed: int = 0,
) -> PermutationNull | None:
    """Shuffle the labels and estimate I(code; label) again, as often as asked.

    Parameters
    ----------
    codes : unsigned integer array of shape (n_frames,)
        Below `n_codes`.
    labels : integer array of shape (n_frames,)
        Class index, -1 where the frame takes no part.
    offsets : int64 array of shape (n_utterances + 1,)
        Frames of utterance u are ``offsets[u]`` up to ``offsets[u + 1]``.
    n_codes, n_classes : int
    shuffle : {"shift", "reassign"}
        ``shift`` turns each utterance's label track in a circle, by any number of frames with equal chance (0 too:
        shifts are then a group, which the p-value needs), among the frames that take part. The phones that an
        utterance has and the codes that it has stay together, so this null is above the mere bias of the estimate.
        ``reassign``, for the speaker task, whose tracks are constant: permutes the labels over the utterances.
    n_permutations : int
        At least 1.
    seed : int
        Not negative. The same shuffles are made for every layer of a codec.

    Returns
    -------
    PermutationNull or None
        None without a frame that takes part.

    Raises
    ------
    ProbeError
        When the number of permutations or the seed is out of range.
    """
    if n_permutations < 1 or seed < 0:
        found = f"{n_permutations} and {seed}"
        raise ProbeError(f"permutations: expected at least 1 and a seed from 0, found {found}; see --n-permutations")
    starts = np.concatenate([[0], np.cumsum(frames_per_utterance(labels, offsets))])
    if starts[-1] == 0:
        return None
    kept = labels >= 0
    track = labels[kept].astype(np.int64)
    row = codes[kept].astype(np.int64) * n_classes

    def bits(shuffled: NDArray[np.int64]) -> float:
        cells = np.bincount(row + shuffled, minlength=n_codes * n_classes)
        return plug_in_bits(cells.reshape(n_codes, n_classes))

    rng = np.random.default_rng(seed)
    move = _shift if shuffle == "shift" else _reassign
    observed = bits(track)
    null = np.array([bits(move(track, starts, rng)) for _ in range(n_permutations)])
    # Equal tables give values that are equal but for rounding.
    n_reached = int((null >= observed - 1e-12).sum())
    p_value = (1 + n_reached) / (1 + n_permutations)
    return PermutationNull(n_permutations, float(null.mean()), float(np.quantile(null, _LEVEL)), p_value)


def _shift(track: NDArray[np.int64], starts: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Turn each utterance's labels in a circle: what leaves at its end enters at its start."""
    n_frames = np.diff(starts)
    first = starts[:-1] + (rng.random(len(n_frames)) * n_frames).astype(np.int64)
    shifted = np.empty_like(track)
    for start, cut, stop in zip(starts[:-1].tolist(), first.tolist(), starts[1:].tolist(), strict=True):
        n_entering = stop - cut
        shifted[start : start + n_entering] = track[cut:stop]
        shifted[start + n_entering : stop] = track[start:cut]
    return shifted


def _reassign(track: NDArray[np.int64], starts: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Give each utterance the label of another one; how many utterances a label has stays."""
    n_frames = np.diff(starts)
    filled = np.flatnonzero(n_frames)
    return np.repeat(rng.permutation(track[starts[filled]]), n_frames[filled])
