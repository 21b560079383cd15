"""The stacked probes' one way in for whoever runs them: fit a question, score its evaluation frames."""

import numpy as np
from numpy.typing import NDArray

from probes.evaluation import EvaluationFrames
from probes.problem import Fit, FitOptions
from probes.scores import Scores, Scoring
from probes.stacked.least_squares import fit_stacked_least_squares
from probes.stacked.logistic import fit_stacked_logistic
from probes.stacked.question import StackedClassQuestion, StackedQuestion
from probes.stacked.scores import stacked_class_scores, stacked_pitch_scores


def fit_stacked(question: StackedQuestion, options: FitOptions, n_threads: int = 1, device: str = "cpu") -> Fit:
    """Fit a probe on several layers.

    Parameters
    ----------
    question : StackedQuestion
    options : FitOptions
    n_threads : int
        Threads that share the passes of a classification probe.
    device : str
        Where these passes run: ``cpu``, or a device of torch such as ``cuda``.

    Returns
    -------
    Fit
        coef of shape (n_classes, dim) or (1, dim), acting on standardised stacked rows.
    """
    if isinstance(question, StackedClassQuestion):
        return fit_stacked_logistic(question.problem, options, n_threads, device)
    return fit_stacked_least_squares(question.problem)


def score_stacked(question: StackedQuestion, fit: Fit, evaluation: EvaluationFrames, scoring: Scoring) -> Scores:
    """Score a fitted probe on the evaluation frames, whose codes are read one layer at a time."""
    n_layers = question.problem.stack.n_layers
    codes: NDArray[np.uint16] = np.stack([evaluation.codes(layer) for layer in range(1, n_layers + 1)])
    if isinstance(question, StackedClassQuestion):
        return stacked_class_scores(question, fit, codes, evaluation, scoring)
    return stacked_pitch_scores(question, fit, codes, evaluation, scoring)
