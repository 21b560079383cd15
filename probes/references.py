"""Two references that a linear probe is read against, from the same tables: the lookup and the oracle.

The *lookup* answers each code from its training counts, without the linear constraint: what a table of as many free
answers as codes reaches. A regularised linear probe may beat it on held-out frames. The *oracle* answers each code
from the evaluation frames themselves, so no function of the code exceeds its accuracy or R2, or goes under its MAE.
"""

import numpy as np
from numpy.typing import NDArray

from probes.metrics import r2_score
from probes.pitch_by_code import PitchByCode

Array = NDArray[np.float64]
_MAX_PRIOR_FRAMES = 1e6


def lookup_classes(train_counts: Array, class_weights: Array) -> NDArray[np.int64]:
    """Return the class that the training counts say for each code.

    The answer for code v is argmax_k class_weights[k] * `smoothed_counts`[v, k]. A code that training never met gets
    the most frequent class, and so do equals: the first of those most frequent.

    Parameters
    ----------
    train_counts : float64 array of shape (n_codes, n_classes)
        Training frames with code v and class k; at least one of each class.
    class_weights : float64 array of shape (n_classes,)
        The probe's, `LogisticProblem.class_weights`.

    Returns
    -------
    int64 array of shape (n_codes,)
    """
    n_per_class = train_counts.sum(axis=0)
    score = smoothed_counts(train_counts, class_weights) * class_weights
    # Equal but for rounding is equal: else the answer would hang on the order of the classes.
    best = score >= score.max(axis=1, keepdims=True) * (1.0 - 1e-12)
    best[train_counts.sum(axis=1) == 0] = True
    predicted: NDArray[np.int64] = np.where(best, n_per_class, -1.0).argmax(axis=1)
    return predicted


def smoothed_counts(train_counts: Array, class_weights: Array) -> Array:
    """Return n_k (c_vk + alpha q_v) / (n_k + alpha): every class's codes drawn towards the codes of all frames.

    c_vk are the counts, n_k the frames of class k, q_v = (n_v + 1/2) / (N + n_codes / 2) the share of code v in all
    frames. That is n_k times the posterior mean of P(code | class) under a Dirichlet prior of mean q and mass alpha
    frames (MacKay and Peto 1995, doi:10.1017/S1351324900000218); alpha is what best predicts each training frame from
    all others, weighted as the probe weights them (`prior_frames`).

    Rare classes need it: a balanced probe weighs frames by 1 / n_k, and from bare counts a class of ten frames would
    take every code that one of them met. It also lets codes that hardly tell classes apart say so. Adding the same to
    every cell instead (Laplace) would hand codes that were met a few times to the rarest class.

    Parameters
    ----------
    train_counts : float64 array of shape (n_codes, n_classes)
    class_weights : float64 array of shape (n_classes,)

    Returns
    -------
    float64 array of shape (n_codes, n_classes)
    """
    n_per_class, n_per_code = train_counts.sum(axis=0), train_counts.sum(axis=1)
    alpha = prior_frames(train_counts, class_weights)
    share = (n_per_code + 0.5) / (n_per_code.sum() + 0.5 * len(n_per_code))
    smoothed: Array = (train_counts + alpha * share[:, None]) * (n_per_class / (n_per_class + alpha))
    return smoothed


def prior_frames(train_counts: Array, class_weights: Array) -> float:
    """Return the mass alpha, from 1 to 10^6 frames, where the leave-one-out likelihood has its maximum.

    L(alpha) = sum_vk w_k c_vk log((c_vk - 1 + alpha q'_v) / (n_k - 1 + alpha)), q'_v the share of code v in the other
    frames. Its slope is bisected over log alpha, since divisions are faster than logarithms.

    Parameters
    ----------
    train_counts : float64 array of shape (n_codes, n_classes)
    class_weights : float64 array of shape (n_classes,)
    """
    n_per_class, n_per_code = train_counts.sum(axis=0), train_counts.sum(axis=1)
    share = (n_per_code - 0.5) / (n_per_code.sum() - 1.0 + 0.5 * len(n_per_code))
    code, class_ = np.nonzero(train_counts)
    n = train_counts[code, class_]
    weight, others_over_share = class_weights[class_] * n, (n - 1.0) / share[code]
    weight_of_class = class_weights * n_per_class
    buffer = np.empty_like(n)

    def slope(alpha: float) -> float:
        np.add(others_over_share, alpha, out=buffer)
        np.divide(weight, buffer, out=buffer)
        return float(buffer.sum() - (weight_of_class / (n_per_class - 1.0 + alpha)).sum())

    low, high = 0.0, np.log(_MAX_PRIOR_FRAMES)
    if slope(1.0) <= 0.0:
        return 1.0
    if slope(_MAX_PRIOR_FRAMES) >= 0.0:
        return _MAX_PRIOR_FRAMES
    while high - low > 1e-2:
        middle = (low + high) / 2.0
        low, high = (middle, high) if slope(float(np.exp(middle))) > 0.0 else (low, middle)
    return float(np.exp((low + high) / 2.0))


def lookup_hz(n: Array, sum_y: Array, sum_y2: Array) -> Array:
    """Return the pitch that the training moments say for each code: its mean, drawn towards the mean of all.

    The answer is (sum_y + kappa * mean) / (n + kappa): the best linear unbiased predictor when code means scatter
    around the training mean with variance tau2 and frames around their code's mean with variance sigma2 (Robinson
    1991, doi:10.1214/ss/1177011926); kappa = sigma2 / tau2 frames. Both variances
    are the analysis-of-variance estimates (Searle, Casella and McCulloch 1992, *Variance Components*, chapter 3,
    doi:10.1002/9780470316856). Where the means scatter no more than chance, every answer is the training mean, as it
    is for a code that training never met.

    Parameters
    ----------
    n, sum_y, sum_y2 : float64 arrays of shape (n_codes,)
        Voiced training frames of each code, and the sums of F0 (Hz) and of its square over them; at least one frame.

    Returns
    -------
    float64 array of shape (n_codes,), Hz
    """
    mean = sum_y.sum() / n.sum()
    kappa = _shrinkage_frames(n, sum_y, sum_y2)
    if np.isinf(kappa):
        return np.full(len(n), mean)
    known: Array = (sum_y + kappa * mean) / np.where(n > 0, n + kappa, 1.0)
    return np.where(n > 0, known, mean)


def _shrinkage_frames(n: Array, sum_y: Array, sum_y2: Array) -> float:
    """Return sigma2 / tau2: how many frames of the training mean weigh as much as what a code is known by."""
    used = n > 0
    n, sum_y, sum_y2 = n[used], sum_y[used], sum_y2[used]
    n_frames, n_codes = float(n.sum()), len(n)
    if n_codes < 2 or n_frames == n_codes:
        return 0.0 if n_codes < 2 else np.inf
    code_mean = sum_y / n
    sigma2 = float(np.maximum(sum_y2 - sum_y * code_mean, 0.0).sum()) / (n_frames - n_codes)
    between = float(n @ np.square(code_mean - sum_y.sum() / n_frames))
    tau2 = (between - (n_codes - 1) * sigma2) / (n_frames - float(n @ n) / n_frames)
    return sigma2 / tau2 if tau2 > 0 else np.inf


def oracle_accuracy(eval_counts: NDArray[np.number]) -> float | None:
    """Return the accuracy that no function of the code exceeds; None without a frame.

    Parameters
    ----------
    eval_counts : array of shape (n_codes, n_classes)
        Evaluation frames with code v and class k.
    """
    n_eval = eval_counts.sum()
    return float(eval_counts.max(axis=1).sum() / n_eval) if n_eval else None


def oracle_r2(n: Array, sum_y: Array, sum_y2: Array) -> float | None:
    """Return the R2 that no function of the code exceeds, of the evaluation frames' own code means.

    Parameters
    ----------
    n, sum_y, sum_y2 : float64 arrays of shape (n_codes,)
        Voiced evaluation frames of each code, and the sums of F0 (Hz) and of its square over them.

    Returns
    -------
    float or None
        None where y has no variance.
    """
    return r2_score(n, sum_y, sum_y2, sum_y / np.where(n > 0, n, 1.0))


def oracle_mae_hz(pitch: PitchByCode) -> float | None:
    """Return the mean absolute error (Hz) that no function of the code goes under; None without a voiced frame."""
    return pitch.least_absolute_error_sum() / pitch.n_voiced if pitch.n_voiced else None
