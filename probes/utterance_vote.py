"""Who speaks in a whole utterance: the probe's answers to all its frames, taken together.

The product rule for independent frames: the class of the largest sum of log posteriors (Kittler et al. 1998,
doi:10.1109/34.667881). Frames are not independent, which makes the sum too sure of itself but its largest term still
a sensible answer. A balanced probe's posteriors have an even prior, which the rule needs; without class weights the
training shares are counted once a frame, and frequent speakers are favoured.
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
_BLOCK_CELLS = 1 << 19  # utterances times codes counted at a time: 4 MiB
# Share of filled cells under which a sparse product is faster.
_SPARSE = 0.15


def utterance_votes(codes: NDArray[np.unsignedinteger], offsets: NDArray[np.int64], logits: Array) -> NDArray[np.int64]:
    """Return the class that the probe says for each utterance, -1 for one without frames.

    The sum of log softmax(logits[code]) over an utterance's frames differs from the sum of logits[code] by a number
    that is the same for every class, so the code histogram times the logits decides.

    Parameters
    ----------
    codes : unsigned integer array of shape (n_frames,)
    offsets : int64 array of shape (n_utterances + 1,)
        Frames of utterance u are ``offsets[u]`` up to ``offsets[u + 1]``.
    logits : float64 array of shape (n_codes, n_classes)
        The fitted probe's, of every codeword.

    Returns
    -------
    int64 array of shape (n_utterances,)
    """
    n_frames = np.diff(offsets)
    # What all classes share only costs digits in a long sum.
    centred = logits - logits.mean(axis=1, keepdims=True)
    votes = np.full(len(n_frames), -1, dtype=np.int64)
    step = max(1, _BLOCK_CELLS // len(logits))
    for first in range(0, len(votes), step):
        block = slice(first, min(first + step, len(votes)))
        histogram = _histogram(codes, offsets[block.start : block.stop + 1], len(logits))
        votes[block] = _times(histogram, centred).argmax(axis=1)
    votes[n_frames == 0] = -1
    return votes


def utterance_hits(votes: NDArray[np.int64], speaker: NDArray[np.int64]) -> tuple[Array, Array]:
    """Return which utterances are answered right, and which are scored, as 0 or 1.

    The first total over the second is the utterance-level accuracy. An utterance is scored when it has frames and its
    speaker is a class that training saw.

    Parameters
    ----------
    votes : int64 array of shape (n_utterances,)
        Of `utterance_votes`.
    speaker : int64 array of shape (n_utterances,)
        True class, -1 where training never saw it.

    Returns
    -------
    hit, scored : float64 arrays of shape (n_utterances,)
    """
    scored = (votes >= 0) & (speaker >= 0)
    return (scored & (votes == speaker)).astype(np.float64), scored.astype(np.float64)


def utterance_accuracy(hit: Array, scored: Array) -> float | None:
    """Return the share of the scored utterances that are answered right; None when none is scored."""
    return float(hit.sum() / scored.sum()) if scored.any() else None


def _histogram(codes: NDArray[np.unsignedinteger], offsets: NDArray[np.int64], n_codes: int) -> NDArray[np.int64]:
    """Count the frames of utterances by code: int64 (n_utterances, n_codes)."""
    n_utterances = len(offsets) - 1
    cells = np.repeat(np.arange(n_utterances) * n_codes, np.diff(offsets))
    cells += codes[offsets[0] : offsets[-1]]
    return np.bincount(cells, minlength=n_utterances * n_codes).reshape(n_utterances, n_codes)


def _times(histogram: NDArray[np.int64], logits: Array) -> Array:
    if np.count_nonzero(histogram) > _SPARSE * histogram.size:
        return histogram.astype(np.float64) @ logits
    from scipy.sparse import csr_array

    product: Array = csr_array(histogram, dtype=np.float64) @ logits
    return product
