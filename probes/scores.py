"""From a fitted probe to the scores of its record: how good, against what, how sure."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probes.bootstrap import class_values, interval_fields, pitch_values
from probes.evaluation import EvaluationFrames
from probes.frame_cells import BlockDesign, frames_per_utterance, utterance_blocks
from probes.information import entropy_bits, mutual_information
from probes.metrics import mean_baseline, r2_score, score_classification
from probes.permutation_null import Shuffle, permutation_null
from probes.pitch_by_code import PitchByCode
from probes.problem import Fit
from probes.questions import ClassQuestion, PitchQuestion
from probes.references import lookup_classes, lookup_hz, oracle_accuracy, oracle_mae_hz, oracle_r2
from probes.resamples import Resamples, draw_resamples
from probes.unit_tables import class_tables, pitch_tables
from probes.usable_information import information_table, utterance_bits, v_information_bits
from probes.utterance_vote import utterance_accuracy, utterance_hits, utterance_votes
from schemas.record import Record

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Scoring:
    """What to compute beyond the scores: resamples for intervals, shuffles for a null, and their seed."""

    n_bootstrap: int = 0
    n_permutations: int = 0
    seed: int = 0


@dataclass(frozen=True)
class Scores:
    """Record fields of a probe, and its resampled scores where intervals were asked for."""

    fields: Record
    resamples: Resamples | None = None
    values: Mapping[str, Array] | None = None


def class_scores(
    question: ClassQuestion, fit: Fit, codes: NDArray[np.uint16], evaluation: EvaluationFrames, scoring: Scoring
) -> Scores:
    """Score a classification probe: scores, chance, majority, lookup, oracle, information, and intervals on request.

    Parameters
    ----------
    question : ClassQuestion
    fit : Fit
    codes : uint16 array of shape (n_frames,), the evaluation frames' codes
    evaluation : EvaluationFrames
    scoring : Scoring
    """
    problem = question.problem
    logits: Array = problem.codewords @ fit.coef.T + fit.intercept
    predicted = logits.argmax(axis=1)
    track = evaluation.phoneme if question.task == "phoneme" else evaluation.speaker
    labels = question.class_of_label[track]
    bits = information_table(logits, problem.counts.sum(axis=0), problem.class_weight)
    fields = _accuracies(question, predicted)
    fields |= _information(question, codes, labels, evaluation, scoring)
    fields["v_information_bits"] = v_information_bits(question.eval_counts, bits)
    ratios: dict[str, tuple[Array, Array]] = {}
    if question.task == "speaker":
        votes = utterance_votes(codes, evaluation.offsets, logits)
        ratios["utterance_accuracy"] = utterance_hits(votes, question.class_of_label[evaluation.speaker_of_utterance])
        fields["utterance_accuracy"] = utterance_accuracy(*ratios["utterance_accuracy"])
    if not scoring.n_bootstrap:
        return Scores(fields)
    resamples = _resamples(question.task, evaluation, scoring)
    ratios["v_information_bits"] = utterance_bits(codes, labels, evaluation.offsets, bits)
    n_classes = len(question.classes)
    tables = class_tables(resamples, evaluation.offsets, labels, predicted[codes], n_classes, ratios)
    values = class_values(resamples, tables)
    return Scores(fields | interval_fields(resamples, values), resamples, values)


def pitch_scores(
    question: PitchQuestion, fit: Fit, codes: NDArray[np.uint16], evaluation: EvaluationFrames, scoring: Scoring
) -> Scores:
    """Score a pitch probe on voiced evaluation frames: MAE and R2, mean baseline, lookup, oracle, and intervals.

    Parameters are those of `class_scores`.
    """
    problem = question.problem
    predicted: Array = problem.codewords @ fit.coef[0] + fit.intercept[0]
    n, sum_y, sum_y2 = question.eval_moments
    pitch = PitchByCode(codes, evaluation.f0_hz, len(n), evaluation.pitch_order)

    def mae_hz(values: Array) -> float:
        return pitch.absolute_error_sum(values) / pitch.n_voiced

    lookup = lookup_hz(problem.n, problem.sum_y, problem.sum_y2)
    fields: Record = {
        "n_train": int(problem.n.sum()),
        "n_eval": pitch.n_voiced,
        "n_codes_used": int((problem.n > 0).sum()),
        "mae_hz": mae_hz(predicted),
        "r2": r2_score(n, sum_y, sum_y2, predicted),
        "mean_baseline_mae_hz": mae_hz(mean_baseline(problem.n, problem.sum_y)),
        "lookup_mae_hz": mae_hz(lookup),
        "lookup_r2": r2_score(n, sum_y, sum_y2, lookup),
        "oracle_mae_hz": oracle_mae_hz(pitch),
        "oracle_r2": oracle_r2(n, sum_y, sum_y2),
    }
    if not scoring.n_bootstrap:
        return Scores(fields)
    resamples = _resamples("pitch", evaluation, scoring)
    values = pitch_values(resamples, pitch_tables(resamples, evaluation.offsets, evaluation.f0_hz, predicted[codes]))
    return Scores(fields | interval_fields(resamples, values), resamples, values)


def _accuracies(question: ClassQuestion, predicted: NDArray[np.integer]) -> Record:
    problem = question.problem
    n_train_per_class, eval_counts = problem.counts.sum(axis=0), question.eval_counts.astype(np.float64)
    ours = score_classification(eval_counts, n_train_per_class, predicted)
    lookup = lookup_classes(problem.counts, problem.class_weights)
    looked_up = score_classification(eval_counts, n_train_per_class, lookup)
    return {
        "n_train": int(n_train_per_class.sum()),
        "n_eval": ours.n_eval,
        "n_unseen": question.n_unseen,
        "n_classes": len(question.classes),
        "n_classes_scored": ours.n_classes_scored,
        "n_codes_used": int((problem.counts.sum(axis=1) > 0).sum()),
        "accuracy": ours.accuracy,
        "macro_f1": ours.macro_f1,
        "chance_accuracy": ours.chance_accuracy,
        "chance_macro_f1": ours.chance_macro_f1,
        "majority_accuracy": ours.majority_accuracy,
        "majority_macro_f1": ours.majority_macro_f1,
        "lookup_accuracy": looked_up.accuracy,
        "lookup_macro_f1": looked_up.macro_f1,
        "oracle_accuracy": oracle_accuracy(question.eval_counts),
    }


def _information(
    question: ClassQuestion,
    codes: NDArray[np.uint16],
    labels: NDArray[np.int64],
    evaluation: EvaluationFrames,
    scoring: Scoring,
) -> Record:
    n_codes, n_classes = question.eval_counts.shape
    n_frames = frames_per_utterance(labels, evaluation.offsets)
    design: BlockDesign = "speakers together" if question.task == "phoneme" else "speakers spread"
    blocks = utterance_blocks(n_frames, evaluation.speaker_of_utterance, design)
    found = mutual_information(codes, labels, evaluation.offsets, blocks, n_codes, n_classes)
    fields: Record = {"label_entropy_bits": entropy_bits(question.eval_counts.sum(axis=0))}
    if found is not None:
        fields |= {
            "mutual_information_plug_in_bits": found.plug_in_bits,
            "mutual_information_coverage": found.coverage,
            "mutual_information_bits": found.bits,
            "mutual_information_bits_low": found.low,
            "mutual_information_bits_high": found.high,
        }
    if scoring.n_permutations:
        shuffle: Shuffle = "shift" if question.task == "phoneme" else "reassign"
        null = permutation_null(
            codes, labels, evaluation.offsets, n_codes, n_classes, shuffle, scoring.n_permutations, scoring.seed
        )
        if null is not None:
            fields |= {
                "n_permutations": null.n_permutations,
                "mutual_information_null_bits": null.mean_bits,
                "mutual_information_null_high_bits": null.high_bits,
                "mutual_information_p_value": null.p_value,
            }
    return fields


def _resamples(task: str, evaluation: EvaluationFrames, scoring: Scoring) -> Resamples:
    names, ids = evaluation.speaker_names, evaluation.utterance_ids
    return draw_resamples(task, ids, names, scoring.n_bootstrap, scoring.seed)  # type: ignore[arg-type]
