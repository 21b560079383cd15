"""Residual k-means: codebooks for codecs that come without trained ones.

Lloyd's algorithm (Lloyd 1982, doi:10.1109/TIT.1982.1056489) layer by layer on what the layers before left over, the
initialisation of residual vector quantisers in SoundStream (Zeghidour et al. 2021, doi:10.1109/TASLP.2021.3129994).

Written out rather than taken from scikit-learn, because a checkpoint must have the same bytes every time: KMeans adds
the partial sums of its threads in the order in which they finish. Here distances are one matrix product, and sums run
over rows in a fixed order, so equal input gives equal bits on one machine with one number of BLAS threads.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

N_LLOYD_STEPS = 8
_ROWS_PER_BLOCK = 4096  # bounds the distance matrix: 16 MB at 1024 codewords
_RELATIVE_NOISE = 0.01  # of the data's standard deviation, for codewords without a frame of their own
# Each codeword is the mean of its frames and of this many pseudo-frames at the mean of all. Without them a codeword
# with one frame reproduces it exactly; where frames are few (encoders are slow) most residuals are then zero a few
# layers on, and nothing is left to fit. Measured on other speech than fitted (untrained EnCodec, 4 frames a codeword):
# 0.147 of the variance left after 8 layers, against 0.168 with plain means.
_N_PSEUDO_FRAMES = 1.0


def residual_kmeans(
    X: NDArray[np.float32], n_layers: int, n_codewords: int, seed: int, n_steps: int = N_LLOYD_STEPS
) -> NDArray[np.float32]:
    """Fit the codebooks of a residual vector quantiser.

    Parameters
    ----------
    X : float32 array of shape (n_frames, dim)
        At least one frame; finite.
    n_layers, n_codewords : int
    seed : int
        Seeds the choice of the initial codewords.
    n_steps : int
        Lloyd steps a layer.

    Returns
    -------
    float32 array of shape (n_layers, n_codewords, dim)
        Layer l quantises ``X`` minus the codewords chosen in the layers before. With fewer distinct frames than
        codewords, every one is a codeword and the rest are frames with a little noise.
    """
    rng = np.random.default_rng(seed)
    # Relative to the data, never absolute: an untrained network's features have a standard deviation near 1e-4.
    noise_std = _RELATIVE_NOISE * (_standard_deviation(X) or float(np.abs(X).max()) or 1.0)
    residual = np.array(X, dtype=np.float32)
    codebooks = np.empty((n_layers, n_codewords, X.shape[1]), dtype=np.float32)
    for layer in range(n_layers):
        codebooks[layer] = _kmeans(residual, n_codewords, rng, noise_std, n_steps)
        residual -= codebooks[layer][nearest(residual, codebooks[layer])]
    return codebooks


def quantise(X: NDArray[np.float32], codebooks: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Return the codes of a residual quantiser: the nearest codeword of each layer to what is left of each frame.

    Parameters
    ----------
    X : float32 array of shape (n_frames, dim)
    codebooks : float32 array of shape (n_layers, n_codewords, dim)

    Returns
    -------
    uint16 array of shape (n_layers, n_frames)
    """
    codes = np.empty((len(codebooks), len(X)), dtype=np.uint16)
    residual = np.array(X, dtype=np.float32)
    for layer, codebook in enumerate(codebooks):
        codes[layer] = nearest(residual, codebook)
        residual -= codebook[codes[layer]]
    return codes


def nearest(X: NDArray[np.float32], codebook: NDArray[np.float32]) -> NDArray[np.intp]:
    """Return the index of the codeword nearest to each row (squared Euclidean distance; ties go to the lower index)."""
    indices = np.empty(len(X), dtype=np.intp)
    for rows, distances in _relative_distances(X, codebook):
        indices[rows] = distances.argmin(axis=1)
    return indices


def _relative_distances(
    X: NDArray[np.float32], codebook: NDArray[np.float32]
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Yield |c|^2 - 2 x.c, the squared distance less the |x|^2 that does not change which codeword is nearest."""
    squared_norms = np.einsum("vd,vd->v", codebook, codebook)
    minus_two_codebook = -2 * codebook.T
    for start in range(0, len(X), _ROWS_PER_BLOCK):
        rows = slice(start, start + _ROWS_PER_BLOCK)
        distances = X[rows] @ minus_two_codebook
        distances += squared_norms
        yield rows, distances


def _kmeans(
    X: NDArray[np.float32], n_codewords: int, rng: np.random.Generator, noise_std: float, n_steps: int
) -> NDArray[np.float32]:
    distinct = _distinct_rows(X)
    order = rng.permutation(distinct)
    if len(distinct) <= n_codewords:
        return _with_noisy_repeats(X[order], n_codewords, rng, noise_std)
    codebook: NDArray[np.float32] = X[order[:n_codewords]]
    for _ in range(n_steps):
        codebook = _lloyd_step(X, codebook)
    return codebook


def _lloyd_step(X: NDArray[np.float32], codebook: NDArray[np.float32]) -> NDArray[np.float32]:
    """Move every codeword to the mean of its frames, and codewords without frames onto the worst quantised ones."""
    assigned = np.empty(len(X), dtype=np.intp)
    error = np.einsum("nd,nd->n", X, X)
    for rows, distances in _relative_distances(X, codebook):
        assigned[rows] = distances.argmin(axis=1)
        error[rows] += distances.min(axis=1)
    counts = np.bincount(assigned, minlength=len(codebook))
    used, empty = np.flatnonzero(counts), np.flatnonzero(counts == 0)
    # Sorted by codeword, stable: each sum adds its rows in their own order, whatever the threads did before.
    by_codeword = np.argsort(assigned, kind="stable")
    first_rows = np.cumsum(counts[used]) - counts[used]
    sums = np.add.reduceat(X[by_codeword], first_rows, axis=0)
    n_frames = counts[used, None].astype(np.float32)
    moved = np.empty_like(codebook)
    moved[used] = (sums + np.float32(_N_PSEUDO_FRAMES) * X.mean(axis=0)) / (n_frames + np.float32(_N_PSEUDO_FRAMES))
    moved[empty] = X[np.argsort(-error, kind="stable")[: len(empty)]]
    return moved


def _with_noisy_repeats(
    rows: NDArray[np.float32], n_codewords: int, rng: np.random.Generator, noise_std: float
) -> NDArray[np.float32]:
    n_missing = n_codewords - len(rows)
    repeats = rows[rng.integers(len(rows), size=n_missing)]
    noise = rng.standard_normal(repeats.shape, dtype=np.float32) * np.float32(noise_std)
    return np.concatenate([rows, repeats + noise])


def _distinct_rows(X: NDArray[np.float32]) -> NDArray[np.intp]:
    """Return the sorted indices of one row of each kind; digital silence makes many equal frames."""
    last_of_kind = {row.tobytes(): index for index, row in enumerate(X)}
    return np.sort(np.fromiter(last_of_kind.values(), dtype=np.intp, count=len(last_of_kind)))


def _standard_deviation(X: NDArray[np.float32]) -> float:
    return float(np.sqrt(np.var(X, axis=0, dtype=np.float64).mean()))
