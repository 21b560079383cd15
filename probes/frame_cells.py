"""Evaluation frames as cells of a code by class table, and utterances cut into blocks."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

BlockDesign = Literal["speakers together", "speakers spread"]
N_BLOCKS = 20


def frame_cells(codes: NDArray[np.unsignedinteger], labels: NDArray[np.integer], n_classes: int) -> NDArray[np.int64]:
    """Return each frame's place in a flat table of n_codes rows and n_classes + 1 columns.

    Column 0 takes the frames of no class, so that they are neither cut out nor told apart: int64 (n_frames,).

    Parameters
    ----------
    codes : unsigned integer array of shape (n_frames,)
    labels : integer array of shape (n_frames,)
        Class index, -1 where the frame takes no part.
    n_classes : int
    """
    cells = codes.astype(np.int64)
    cells *= n_classes + 1
    cells += labels
    cells += 1
    return cells


def count_cells(cells: NDArray[np.int64], n_codes: int, n_classes: int) -> NDArray[np.int64]:
    """Count frames by code and class: int64 (n_codes, n_classes + 1), column 0 set to zero."""
    table = np.bincount(cells, minlength=n_codes * (n_classes + 1)).reshape(n_codes, n_classes + 1)
    table[:, 0] = 0
    return table


def frames_per_utterance(labels: NDArray[np.integer], offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many frames of each utterance have a class, int64 (n_utterances,)."""
    if labels.min(initial=0) >= 0:
        return np.diff(offsets)
    n_before = np.concatenate([[0], np.cumsum(labels >= 0)])
    return np.diff(n_before[offsets])


def utterance_blocks(
    n_frames: NDArray[np.int64], speaker: NDArray[np.int64], design: BlockDesign, n_blocks: int = N_BLOCKS
) -> NDArray[np.int64]:
    """Cut utterances into blocks that the jackknife leaves out one at a time.

    The blocks mirror the bootstrap's units. ``speakers together``, for phonemes: runs of utterances in the order of
    their speakers, of about equal numbers of frames; what is left out are whole speakers but for the edges, since
    frames of one speaker are alike, and blocks that shared speakers would hide that. ``speakers spread``, for the
    speaker task, whose classes are the speakers: utterances dealt out in turn, so that no block takes a class away as
    far as its utterances reach. No draw is made: equal evaluation parts have equal blocks.

    Parameters
    ----------
    n_frames : int64 array of shape (n_utterances,)
        Frames of each utterance that take part.
    speaker : int64 array of shape (n_utterances,)
    design : {"speakers together", "speakers spread"}
    n_blocks : int
        At most this many, at least 1.

    Returns
    -------
    int64 array of shape (n_utterances,)
        Block of each utterance, counted from 0 without gaps; -1 where the utterance has no frame.
    """
    filled = np.flatnonzero(n_frames)
    ordered = filled[np.argsort(speaker[filled], kind="stable")]
    if design == "speakers spread":
        block = np.arange(len(ordered)) % n_blocks
    else:
        stop = np.cumsum(n_frames[ordered])
        middle = stop - n_frames[ordered] / 2.0
        block = (middle / max(1, n_frames.sum()) * n_blocks).astype(np.int64)
    blocks = np.full(len(n_frames), -1, dtype=np.int64)
    blocks[ordered] = np.unique(block, return_inverse=True)[1]  # a long utterance may leave a block empty
    return blocks
