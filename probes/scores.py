"""From a fitted probe to the scores of its record."""

import numpy as np
from numpy.typing import NDArray

from probes.metrics import absolute_error_sum, mean_baseline, r2_score, score_classification
from probes.problem import Fit
from probes.questions import ClassQuestion, PitchQuestion
from schemas.record import Record


def class_scores(question: ClassQuestion, fit: Fit) -> Record:
    """Return accuracy, macro-F1, their chance and majority lines, and the numbers of frames and classes."""
    problem = question.problem
    logits = problem.codewords @ fit.coef.T + fit.intercept
    n_train_per_class = problem.counts.sum(axis=0)
    scores = score_classification(question.eval_counts.astype(np.float64), n_train_per_class, logits.argmax(axis=1))
    return {
        "n_train": int(n_train_per_class.sum()),
        "n_eval": scores.n_eval,
        "n_unseen": question.n_unseen,
        "n_classes": len(question.classes),
        "n_classes_scored": scores.n_classes_scored,
        "n_codes_used": int((problem.counts.sum(axis=1) > 0).sum()),
        "accuracy": scores.accuracy,
        "macro_f1": scores.macro_f1,
        "chance_accuracy": scores.chance_accuracy,
        "chance_macro_f1": scores.chance_macro_f1,
        "majority_accuracy": scores.majority_accuracy,
        "majority_macro_f1": scores.majority_macro_f1,
    }


def pitch_scores(question: PitchQuestion, fit: Fit) -> Record:
    """Return MAE and R2 on voiced evaluation frames, the MAE of the training mean, and the numbers of frames."""
    problem = question.problem
    predicted: NDArray[np.float64] = problem.codewords @ fit.coef[0] + fit.intercept[0]
    n_eval = len(question.eval_f0_hz)
    n, sum_y, sum_y2 = question.eval_moments

    def mae_hz(values: NDArray[np.float64]) -> float:
        return absolute_error_sum(question.eval_codes, question.eval_f0_hz, values) / n_eval

    return {
        "n_train": int(problem.n.sum()),
        "n_eval": n_eval,
        "n_codes_used": int((problem.n > 0).sum()),
        "mae_hz": mae_hz(predicted),
        "r2": r2_score(n, sum_y, sum_y2, predicted),
        "mean_baseline_mae_hz": mae_hz(mean_baseline(problem.n, problem.sum_y)),
    }
