"""Usable information of a probe: how many bits it saves over knowing the training shares alone.

V-information (Xu et al. 2020, *A Theory of Usable Information under Computational Constraints*,
arXiv:2002.10689), here of linear probes, on held-out frames: the cross-entropy of the training prior minus that of the
probe. A probe that misleads, as an overfitted one may, has a negative value; nothing is clipped.
"""

import numpy as np
from numpy.typing import NDArray

from probes.frame_cells import frame_cells, frames_per_utterance
from probes.objective import softmax
from probes.problem import ClassWeight
from probes.unit_tables import utterance_sums

Array = NDArray[np.float64]
_LN2 = float(np.log(2.0))
_BLOCK_FRAMES = 1 << 18


def information_table(logits: Array, n_train_per_class: Array, class_weight: ClassWeight) -> Array:
    """Return log2 of the probe's probability over the training share, for each code and class, in bits.

    A balanced probe was fitted as if all classes were equally frequent: its logits lack log n_k (King and Zeng 2001,
    prior correction, doi:10.1093/oxfordjournals.pan.a004868), which is added here. Without class weights they have it.

    Parameters
    ----------
    logits : float64 array of shape (n_codes, n_classes)
        The fitted probe's, of every codeword.
    n_train_per_class : float64 array of shape (n_classes,)
        Training frames, at least one a class.
    class_weight : {"balanced", "none"}
        How the probe was fitted.

    Returns
    -------
    float64 array of shape (n_codes, n_classes)
    """
    log_share = np.log(n_train_per_class / n_train_per_class.sum())
    corrected = logits + log_share if class_weight == "balanced" else logits
    _, log_sum_exp = softmax(corrected)
    table: Array = (corrected - log_sum_exp[:, None] - log_share) / _LN2
    return table


def v_information_bits(eval_counts: NDArray[np.number], bits: Array) -> float | None:
    """Return the probe's V-information on the evaluation frames, in bits a frame; None without a frame.

    Parameters
    ----------
    eval_counts : array of shape (n_codes, n_classes)
        Evaluation frames with code v and class k.
    bits : float64 array of shape (n_codes, n_classes)
        Of `information_table`.
    """
    n_eval = float(eval_counts.sum())
    return float(np.einsum("vk,vk->", eval_counts.astype(np.float64), bits) / n_eval) if n_eval else None


def utterance_bits(
    codes: NDArray[np.unsignedinteger], labels: NDArray[np.integer], offsets: NDArray[np.int64], bits: Array
) -> tuple[Array, Array]:
    """Sum bits and count frames by utterance; the first total over the second is `v_information_bits`.

    Parameters
    ----------
    codes : unsigned integer array of shape (n_frames,)
    labels : integer array of shape (n_frames,)
        Class index, -1 where the frame takes no part.
    offsets : int64 array of shape (n_utterances + 1,)
        Frames of utterance u are ``offsets[u]`` up to ``offsets[u + 1]``.
    bits : float64 array of shape (n_codes, n_classes)
        Of `information_table`.

    Returns
    -------
    bits, n_frames : float64 arrays of shape (n_utterances,)
    """
    n_classes = bits.shape[1]
    # Column 0 answers the frames of no class.
    padded = np.concatenate([np.zeros((len(bits), 1)), bits], axis=1).ravel()
    sums, n_frames = np.zeros(len(offsets) - 1), np.zeros(len(offsets) - 1)
    first = 0
    while first < len(sums):  # whole utterances of some 2^18 frames at a time
        last = max(first + 1, int(np.searchsorted(offsets, offsets[first] + _BLOCK_FRAMES, "right")) - 1)
        span = slice(offsets[first], offsets[last])
        within = offsets[first : last + 1] - offsets[first]
        sums[first:last] = utterance_sums(within, padded[frame_cells(codes[span], labels[span], n_classes)])
        n_frames[first:last] = frames_per_utterance(labels[span], within)
        first = last
    return sums, n_frames
