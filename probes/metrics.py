"""Scores of a probe, exactly, from counts: a prediction depends on the code alone.

Macro-F1 follows scikit-learn's ``f1_score(y, predicted, labels=scored, average="macro", zero_division=0)`` where
`scored` are the classes present in both training and evaluation: F1_k = 2 TP / (2 TP + FP + FN), zero where undefined;
a false alarm on a class that is not scored counts as a miss of the true one only. R2 is ``r2_score``: one minus the
squared error over the squared deviation from the evaluation frames' own mean.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ClassificationScores:
    """Scores over the evaluation frames whose class was seen in training; None where no frame is left.

    Attributes
    ----------
    n_eval, n_unseen : int
        Frames scored, and frames left out because training never saw their class.
    n_classes_scored : int
        Classes present in training and in evaluation.
    accuracy, macro_f1 : float or None
    chance_accuracy, chance_macro_f1 : float or None
        Of a uniform guess over the training classes; F1 from its expected counts.
    majority_accuracy, majority_macro_f1 : float or None
        Of always saying the most frequent training class (the first of equals).
    """

    n_eval: int
    n_unseen: int
    n_classes_scored: int
    accuracy: float | None
    macro_f1: float | None
    chance_accuracy: float | None
    chance_macro_f1: float | None
    majority_accuracy: float | None
    majority_macro_f1: float | None


def confusion_matrix(counts: Array, predicted: NDArray[np.integer]) -> Array:
    """Return frames by true and predicted class.

    Parameters
    ----------
    counts : float64 array of shape (n_codes, n_classes)
        Evaluation frames with code v and class k.
    predicted : integer array of shape (n_codes,)
        Class that the probe says for each code.

    Returns
    -------
    float64 array of shape (n_classes, n_classes), rows true, columns predicted
    """
    by_prediction = np.zeros((counts.shape[1], counts.shape[1]))
    np.add.at(by_prediction, predicted, counts)
    return by_prediction.T


def accuracy(confusion: Array) -> float:
    """Return the share of frames on the diagonal."""
    return float(np.trace(confusion) / confusion.sum())


def macro_f1(confusion: Array, scored: NDArray[np.bool_]) -> float:
    """Return the mean F1 over the classes marked in `scored`, zero where undefined.

    Parameters
    ----------
    confusion : float64 array of shape (n_classes, n_classes), rows true, columns predicted
    scored : bool array of shape (n_classes,)
    """
    both = confusion.sum(axis=0) + confusion.sum(axis=1)
    f1 = 2.0 * np.diag(confusion) / np.where(both > 0, both, 1.0)
    return float(f1[scored].mean())


def score_classification(
    counts: Array, n_train_per_class: Array, predicted: NDArray[np.integer]
) -> ClassificationScores:
    """Score a classifier of codes, with its chance and majority lines.

    Parameters
    ----------
    counts : float64 array of shape (n_codes, n_classes)
        Evaluation frames over all raw classes, seen in training or not.
    n_train_per_class : float64 array of shape (n_classes,)
    predicted : integer array of shape (n_codes,)
        Raw class index for each code; always a training class.
    """
    seen = n_train_per_class > 0
    kept = np.where(seen, counts, 0.0)
    n_eval, n_unseen = round(float(kept.sum())), round(float(counts[:, ~seen].sum()))
    n_true = kept.sum(axis=0)
    scored = n_true > 0
    if n_eval == 0:
        return ClassificationScores(0, n_unseen, 0, None, None, None, None, None, None)
    ours = confusion_matrix(kept, predicted)
    chance = np.outer(n_true, seen / seen.sum())
    majority = np.outer(n_true, np.arange(len(n_true)) == np.argmax(n_train_per_class))
    lines = [value for matrix in (ours, chance, majority) for value in (accuracy(matrix), macro_f1(matrix, scored))]
    return ClassificationScores(n_eval, n_unseen, int(scored.sum()), *lines)


def r2_score(n: Array, sum_y: Array, sum_y2: Array, predicted: Array) -> float | None:
    """Return the coefficient of determination from evaluation moments; None where y has no variance.

    Parameters
    ----------
    n, sum_y, sum_y2 : float64 arrays of shape (n_codes,)
        Evaluation frames of each code, and the sums of y (Hz) and y^2 over them.
    predicted : float64 array of shape (n_codes,), Hz
    """
    used = n > 0
    n, sum_y, sum_y2, predicted = n[used], sum_y[used], sum_y2[used], predicted[used]
    if n.sum() == 0:
        return None
    code_mean = sum_y / n
    # Spread within codes plus distances of code means: y^2 sums are never subtracted across codes, which would cancel.
    within = float(np.maximum(sum_y2 - sum_y * code_mean, 0.0).sum())
    total = within + float(n @ (code_mean - sum_y.sum() / n.sum()) ** 2)
    residual = within + float(n @ (code_mean - predicted) ** 2)
    # What rounding leaves of a constant y is no variance.
    return 1.0 - residual / total if total > 1e-12 * float(sum_y2.sum()) else None


def mean_baseline(n: Array, sum_y: Array) -> Array:
    """Return the prediction of the training mean for every code, from training moments.

    Parameters
    ----------
    n, sum_y : float64 arrays of shape (n_codes,), with at least one frame

    Returns
    -------
    float64 array of shape (n_codes,), Hz
    """
    return np.full(len(n), sum_y.sum() / n.sum())


def absolute_error_sum(codes: NDArray[np.integer], y: NDArray[np.floating], predicted: Array) -> float:
    """Return the sum of |y - predicted[code]| over frames; frames whose y is NaN (unvoiced) are left out.

    Moments cannot give it, so a caller streams the evaluation frames through it and divides by their number.

    Parameters
    ----------
    codes : integer array of shape (n_frames,)
    y : float array of shape (n_frames,), Hz
    predicted : float64 array of shape (n_codes,), Hz
    """
    error = np.abs(y.astype(np.float64) - predicted[codes])
    return float(np.nansum(error))
