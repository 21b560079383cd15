"""Scores of a probe whose predictions depend on whole frames, so that each evaluation frame is answered.

The fields are those of `probes.scores`, by the same functions; what describes a single code (lookup, oracle, mutual
information) has no meaning here and stays null.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probes.bootstrap import class_values, interval_fields, pitch_values
from probes.evaluation import EvaluationFrames
from probes.metrics import score_classification
from probes.objective import softmax
from probes.problem import ClassWeight
from probes.resamples import Resamples, draw_resamples
from probes.scores import Scores, Scoring
from probes.unit_tables import class_tables, pitch_tables, utterance_sums
from probes.usable_information import information_table
from probes.utterance_vote import utterance_accuracy, utterance_hits
from schemas.record import Record

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ClassTask:
    """What scoring needs to know of a classification probe.

    Attributes
    ----------
    name : {"phoneme", "speaker"}
    n_per_class : float64 array of shape (n_classes,)
        Training frames of each class.
    class_weight : {"balanced", "none"}
    class_of_label : int64 array of shape (n_labels,)
        Class of each of the store's labels; -1 where its frames take no part or training has none.
    takes_part : bool array of shape (n_labels,)
        Labels of the task's classes, in training or not.
    """

    name: str
    n_per_class: Array
    class_weight: ClassWeight
    class_of_label: NDArray[np.int64]
    takes_part: NDArray[np.bool_]


@dataclass(frozen=True)
class _Answers:
    """What the probe says of the evaluation frames.

    Attributes
    ----------
    predicted : int64 array of shape (n_frames,)
    bits : float64 array of shape (n_frames,)
        Saved by the probe on the frame's own class over knowing the training shares; 0 where it takes no part.
    votes : float64 array of shape (n_utterances, n_classes)
        Sum over an utterance's frames of log posteriors.
    """

    predicted: NDArray[np.int64]
    bits: Array
    votes: Array


def class_frame_scores(
    task: ClassTask, logits: Iterable[tuple[slice, Array]], evaluation: EvaluationFrames, scoring: Scoring
) -> Scores:
    """Score a classification probe: accuracy, macro-F1, chance, majority, V-information, and intervals on request.

    Parameters
    ----------
    task : ClassTask
    logits : iterable of (slice, float64 array of shape (n_frames of the slice, n_classes))
        What the probe says of the evaluation frames, block by block.
    evaluation : EvaluationFrames
    scoring : Scoring
    """
    track = evaluation.phoneme if task.name == "phoneme" else evaluation.speaker
    labels = task.class_of_label[track]
    answers = _answers(task, logits, labels, evaluation.offsets)
    fields = _accuracies(task, labels, answers.predicted)
    fields["n_unseen"] = int((task.takes_part[track] & (labels < 0)).sum())
    scored = np.bincount(_utterance_of_frame(evaluation.offsets)[labels >= 0], minlength=len(evaluation.utterances))
    ratios = {"v_information_bits": (utterance_sums(evaluation.offsets, answers.bits), scored.astype(np.float64))}
    over, under = ratios["v_information_bits"]
    fields["v_information_bits"] = float(over.sum() / under.sum()) if under.any() else None
    if task.name == "speaker":
        said = np.where(np.diff(evaluation.offsets) > 0, answers.votes.argmax(axis=1), -1)
        ratios["utterance_accuracy"] = utterance_hits(said, task.class_of_label[evaluation.speaker_of_utterance])
        fields["utterance_accuracy"] = utterance_accuracy(*ratios["utterance_accuracy"])
    if not scoring.n_bootstrap:
        return Scores(fields)
    resamples = _resamples(task.name, evaluation, scoring)
    n_classes = len(task.n_per_class)
    tables = class_tables(resamples, evaluation.offsets, labels, answers.predicted, n_classes, ratios)
    values = class_values(resamples, tables)
    return Scores(fields | interval_fields(resamples, values), resamples, values)


def pitch_frame_scores(y_train: Array, predicted: Array, evaluation: EvaluationFrames, scoring: Scoring) -> Scores:
    """Score a pitch probe on voiced evaluation frames: MAE, R2, mean baseline, and intervals on request.

    Parameters
    ----------
    y_train : float64 array of shape (n_train,)
        F0 of the training frames, Hz.
    predicted : float64 array of shape (n_frames,)
        What the probe says of every evaluation frame, Hz.
    evaluation : EvaluationFrames
    scoring : Scoring
    """
    voiced = ~np.isnan(evaluation.f0_hz)
    y = evaluation.f0_hz[voiced].astype(np.float64)
    error, deviation = y - predicted[voiced], y - y.mean()
    spread = float(deviation @ deviation)
    fields: Record = {
        "n_train": len(y_train),
        "n_eval": len(y),
        "mae_hz": float(np.abs(error).mean()),
        # What rounding leaves of a constant y is no variance.
        "r2": 1.0 - float(error @ error) / spread if spread > 1e-12 * float(y @ y) else None,
        "mean_baseline_mae_hz": float(np.abs(y - y_train.mean()).mean()),
    }
    if not scoring.n_bootstrap:
        return Scores(fields)
    resamples = _resamples("pitch", evaluation, scoring)
    values = pitch_values(resamples, pitch_tables(resamples, evaluation.offsets, evaluation.f0_hz, predicted))
    return Scores(fields | interval_fields(resamples, values), resamples, values)


def _accuracies(task: ClassTask, labels: NDArray[np.int64], predicted: NDArray[np.int64]) -> Record:
    n_classes, known = len(task.n_per_class), labels >= 0
    # Counts by predicted and true class: as if the prediction were a code, whose prediction is itself.
    cells = np.bincount(predicted[known] * n_classes + labels[known], minlength=n_classes * n_classes)
    counts = cells.reshape(n_classes, n_classes).astype(np.float64)
    scores = score_classification(counts, task.n_per_class, np.arange(n_classes))
    return {
        "n_train": int(task.n_per_class.sum()),
        "n_eval": scores.n_eval,
        "n_classes": n_classes,
        "n_classes_scored": scores.n_classes_scored,
        "accuracy": scores.accuracy,
        "macro_f1": scores.macro_f1,
        "chance_accuracy": scores.chance_accuracy,
        "chance_macro_f1": scores.chance_macro_f1,
        "majority_accuracy": scores.majority_accuracy,
        "majority_macro_f1": scores.majority_macro_f1,
    }


def _answers(
    task: ClassTask, logits: Iterable[tuple[slice, Array]], labels: NDArray[np.int64], offsets: NDArray[np.int64]
) -> _Answers:
    predicted, bits = np.zeros(len(labels), dtype=np.int64), np.zeros(len(labels))
    votes = np.zeros((len(offsets) - 1, len(task.n_per_class)))
    for block, of_block in logits:
        predicted[block] = of_block.argmax(axis=1)
        table = information_table(of_block, task.n_per_class, task.class_weight)
        known = np.flatnonzero(labels[block] >= 0)
        bits[block.start + known] = table[known, labels[block][known]]
        _, log_sum_exp = softmax(of_block)
        _add_by_utterance(votes, of_block - log_sum_exp[:, None], block, offsets)
    return _Answers(predicted, bits, votes)


def _add_by_utterance(votes: Array, values: Array, block: slice, offsets: NDArray[np.int64]) -> None:
    """Add a block of frames' values to their utterances' rows."""
    first = int(np.searchsorted(offsets, block.start, "right")) - 1
    last = int(np.searchsorted(offsets, block.stop, "left"))
    edges = np.clip(offsets[first : last + 1], block.start, block.stop) - block.start
    filled = np.flatnonzero(np.diff(edges))
    votes[first + filled] += np.add.reduceat(values, edges[filled], axis=0)


def _utterance_of_frame(offsets: NDArray[np.int64]) -> NDArray[np.intp]:
    return np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))


def _resamples(task: str, evaluation: EvaluationFrames, scoring: Scoring) -> Resamples:
    names, ids = evaluation.speaker_names, evaluation.utterance_ids
    return draw_resamples(task, ids, names, scoring.n_bootstrap, scoring.seed)  # type: ignore[arg-type]
