"""Gather a task's training frames once: their codes in the first layers, and their labels.

Where fewer frames are asked for than there are, they are a uniform sample without replacement, drawn while streaming:
a block that holds b of the B candidates that are left gets a hypergeometric number of the k frames still to draw
(Fan, Muller and Rezucha 1962, DOI 10.1080/01621459.1962.10480667, with a block for a record), and these are drawn
uniformly within the block. The seed and the store decide the sample.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore.frames import Frames
from probes.errors import ProbeError
from probes.frame_labels import ReadLabels
from probes.held_out import parts_of_frames
from schemas.store import TRAIN

# Fixed: the sample depends on it.
_BLOCK_FRAMES = 1 << 18
_MOST_TO_DRAW_FROM = 999_999_999  # what NumPy's hypergeometric numbers take


@dataclass(frozen=True)
class TrainingFrames:
    """Training frames of one task.

    Attributes
    ----------
    codes : uint16 array of shape (n_layers, n_frames)
    y : array of shape (n_frames,), class indices or Hz
    n_available : int
        Frames that could have been taken.
    """

    codes: NDArray[np.uint16]
    y: NDArray[Any]
    n_available: int


def gather_training_frames(
    frames: Frames,
    n_layers: int,
    track: str,
    read_labels: ReadLabels,
    split: NDArray[np.int8] | None = None,
    max_frames: int | None = None,
    seed: int = 0,
) -> TrainingFrames:
    """Read the training frames of a task, or a sample of them, in the store's order.

    Parameters
    ----------
    frames : Frames
        A codec of an open store.
    n_layers : int
        Layers 1..n_layers are read.
    track : {"phoneme", "speaker", "f0"}
    read_labels : callable
        Gives values and a mask of the frames that take part from a span of the track.
    split : int8 array of shape (n_utterances,) or None
        Part of each utterance: 0 train, 1 evaluation, -1 neither. None: the store's own.
    max_frames : int or None
        Take a sample of at most so many frames; None takes all.
    seed : int
        Of the sample.

    Raises
    ------
    ProbeError
        When a code is outside its codebook.
    """
    frames.layer(n_layers)  # refuses a layer that is not there
    sample = FrameSample(frames, track, read_labels, split, max_frames, seed)
    codes, y, filled = np.empty((n_layers, sample.n_frames), dtype=np.uint16), [], 0
    for start, stop, chosen, values in sample.blocks():
        if len(chosen):
            block = frames.codes(start, stop)[:n_layers]
            _check_codes(frames, block)
            codes[:, filled : filled + len(chosen)] = block[:, chosen]
            filled += len(chosen)
        y.append(values)
    return TrainingFrames(codes, np.concatenate(y) if y else np.zeros(0, np.int32), sample.n_available)


def _draw(rng: np.random.Generator, candidates: NDArray[np.intp], n_left: int, n_wanted: int) -> NDArray[np.intp]:
    """Return which of a block's candidates are taken, when `n_wanted` of the `n_left` not yet passed are."""
    if n_wanted == n_left:
        return candidates
    n_here = int(rng.hypergeometric(len(candidates), n_left - len(candidates), n_wanted)) if n_wanted else 0
    return np.sort(rng.choice(candidates, n_here, replace=False, shuffle=False))


class FrameSample:
    """The training frames of a task, or a seeded sample of them, as places in the store; parameters as above.

    Attributes
    ----------
    n_available : int
        Training frames that take part.
    n_frames : int
        Those in the sample.
    """

    def __init__(
        self,
        frames: Frames,
        track: str,
        read_labels: ReadLabels,
        split: NDArray[np.int8] | None = None,
        max_frames: int | None = None,
        seed: int = 0,
    ) -> None:
        self._frames, self._track, self._read_labels, self._split = frames, track, read_labels, split
        self._seed = seed
        self.n_available = sum(int(taken.sum()) for _, _, _, taken in self._candidates())
        self.n_frames = self.n_available if max_frames is None else min(max_frames, self.n_available)
        if self.n_frames < self.n_available and self.n_available > _MOST_TO_DRAW_FROM:
            raise ProbeError(
                f"{frames.store.path}: {frames.name} has {self.n_available:,} training frames, and samples are drawn "
                f"from {_MOST_TO_DRAW_FROM:,} at most; leave out --max-train-frames, or merge fewer parts"
            )

    def blocks(self) -> Iterator[tuple[int, int, NDArray[np.intp], NDArray[Any]]]:
        """Yield (start, stop, places of the sample's frames in start..stop, their values), the same each time."""
        rng, n_left, n_wanted = np.random.default_rng(self._seed), self.n_available, self.n_frames
        for start, stop, values, taken in self._candidates():
            candidates = np.flatnonzero(taken)
            chosen = _draw(rng, candidates, n_left, n_wanted)
            n_left, n_wanted = n_left - len(candidates), n_wanted - len(chosen)
            yield start, stop, chosen, values[chosen]

    def _candidates(self) -> Iterator[tuple[int, int, NDArray[Any], NDArray[np.bool_]]]:
        """Yield (start, stop, values, taken)."""
        for start, stop in self._frames.blocks(_BLOCK_FRAMES):
            values, taken = self._read_labels(self._frames.labels(self._track, start, stop))
            yield start, stop, values, taken & (parts_of_frames(self._frames, self._split, start, stop) == TRAIN)


def _check_codes(frames: Frames, codes: NDArray[np.uint16]) -> None:
    if codes.size and int(codes.max()) >= frames.n_codewords:
        raise ProbeError(
            f"{frames.store.path}:/codecs/{frames.name}/codes: expected values from 0 to {frames.n_codewords - 1}, "
            f"found {codes.max()}; the store is damaged, rebuild it"
        )
