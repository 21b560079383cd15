"""Which utterances are evaluated on: the store's own split, or all those of speakers that training never hears.

The store's split shares its speakers between training and evaluation. Phoneme and pitch probes can also be asked of
unseen speakers, which is what a model of speech should manage.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from featstore.frames import Frames
from featstore.store import Store
from schemas.store import EVAL, TRAIN

EvalBy = Literal["utterance", "speaker"]
_UNUSED = -1
_SHARE_OF_SPEAKERS = 0.1


def evaluation_split(store: Store, eval_by: EvalBy, seed: int) -> NDArray[np.int8] | None:
    """Return the part of each utterance: 0 train, 1 evaluation, -1 neither; None for the store's own split.

    ``speaker`` holds out a tenth of the speakers, at least one, drawn by `seed` from their sorted names; the others'
    training utterances train, and their evaluation utterances are not used. A store of one speaker has no evaluation
    part then.

    Parameters
    ----------
    store : Store
    eval_by : {"utterance", "speaker"}
    seed : int

    Returns
    -------
    int8 array of shape (n_utterances,) or None
    """
    if eval_by == "utterance":
        return None
    speaker = store.numbers("utterances/speaker")
    present = np.unique(speaker)
    n_held_out = min(len(present) - 1, max(1, round(_SHARE_OF_SPEAKERS * len(present))))
    held_out = np.random.default_rng(seed).permutation(present)[:n_held_out]
    part = np.where(store.numbers("utterances/split") == TRAIN, TRAIN, _UNUSED)
    return np.where(np.isin(speaker, held_out), EVAL, part).astype(np.int8)


def parts_of_frames(frames: Frames, split: NDArray[np.int8] | None, start: int, stop: int) -> NDArray[np.int8]:
    """Return the part (0 train, 1 evaluation, -1 neither) of frames start..stop; split None is the store's own."""
    if split is None:
        return frames.frame_splits(start, stop)
    part: NDArray[np.int8] = frames.of_frames(split, start, stop)
    return part
