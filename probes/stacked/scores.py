"""Scores of a probe on several layers, from what it says of each evaluation frame (see `probes.frame_scores`)."""

import numpy as np
from numpy.typing import NDArray

from probes.evaluation import EvaluationFrames
from probes.frame_scores import ClassTask, class_frame_scores, pitch_frame_scores
from probes.problem import Fit
from probes.scores import Scores, Scoring
from probes.stacked.predict import logit_blocks, predicted_hz
from probes.stacked.question import StackedClassQuestion, StackedPitchQuestion


def stacked_class_scores(
    question: StackedClassQuestion,
    fit: Fit,
    codes: NDArray[np.uint16],
    evaluation: EvaluationFrames,
    scoring: Scoring,
) -> Scores:
    """Score a classification probe.

    Parameters
    ----------
    question : StackedClassQuestion
    fit : Fit
    codes : uint16 array of shape (n_layers, n_frames)
        The evaluation frames' codes in the probe's layers.
    evaluation : EvaluationFrames
    scoring : Scoring
    """
    problem = question.problem
    task = ClassTask(
        question.task, problem.n_per_class, problem.class_weight, question.class_of_label, question.takes_part
    )
    return class_frame_scores(task, logit_blocks(problem.stack, fit, codes), evaluation, scoring)


def stacked_pitch_scores(
    question: StackedPitchQuestion,
    fit: Fit,
    codes: NDArray[np.uint16],
    evaluation: EvaluationFrames,
    scoring: Scoring,
) -> Scores:
    """Score a pitch probe; parameters are those of `stacked_class_scores`."""
    problem = question.problem
    return pitch_frame_scores(problem.y, predicted_hz(problem.stack, fit, codes), evaluation, scoring)
