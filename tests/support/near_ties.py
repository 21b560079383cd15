"""Codes that should be equal but for rounding: a frame may first differ only where two codewords are equally near."""

import numpy as np
from numpy.typing import NDArray

# Of the squared norms that the quantisers subtract in float32, whose last bit is 1.2e-7 of them. 6e-7 was seen between
# batches and single utterances on a CPU, 3e-3 where an utterance's beginning was padded with something else.
NEAR_TIE = 2e-6


def tie_margins(
    latents: NDArray[np.float32],
    expected: NDArray[np.uint16],
    found: NDArray[np.uint16],
    codebooks: NDArray[np.float32],
) -> NDArray[np.float64]:
    """Return how far from a tie each differing frame was, in the first layer that differs.

    Parameters
    ----------
    latents : float32 array of shape (n_frames, dim)
        What `expected` are the codes of.
    expected, found : uint16 arrays of shape (n_layers, n_frames)
    codebooks : float32 array of shape (n_layers, n_codewords, dim)

    Returns
    -------
    float64 array of shape (n_differing_frames,)
        Difference of the squared distances to the two codewords, as a share of the largest squared norms.
    """
    left = latents.astype(np.float64)
    is_equal_so_far = np.ones(len(left), bool)
    margins = []
    for layer, codebook in enumerate(codebooks.astype(np.float64)):
        differs = is_equal_so_far & (expected[layer] != found[layer])
        rows = left[differs]
        distances = [np.square(rows - codebook[codes[layer][differs]]).sum(axis=1) for codes in (expected, found)]
        norms = np.square(rows).sum(axis=1) + np.square(codebook).sum(axis=1).max()
        margins.append(np.abs(distances[0] - distances[1]) / norms)
        is_equal_so_far &= ~differs
        left = left - codebook[expected[layer]]
    return np.concatenate(margins)
