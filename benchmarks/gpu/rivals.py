"""cuML and scikit-learn against the exact solver, on one task: seconds, the true objective, scores, iterations.

The task is phonemes at layer 1 of EnCodec's shape. cuML gets one row a frame, and, as `rows` collapsed, the weighted
rows that state the same objective, which its backend turns into what cuML can take; with class weights and without.
Every objective is that of the whole weighted problem, in float64, and its gap is to the exact solver's.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.gpu.piece import Asked, significant, timed
from benchmarks.scale.tables import CodecTables
from benchmarks.scale.voices import draw_voices
from featstore.safe_text import first_line
from probes.backends.registry import backend
from probes.problem import Fit, FitOptions, LogisticProblem

_FRAMES, _SMALL_FRAMES = 1_000_000, 2_000
_MAX_ITER, _SMALL_MAX_ITER = 300, 30  # of the rivals: scikit-learn on the processor would take minutes


def run(asked: Asked) -> dict[str, Any]:
    """Fit by every backend and return the record; one that is absent or fails says why."""
    n_frames = _SMALL_FRAMES if asked.small else _FRAMES
    tables = CodecTables("encodec", draw_voices(2000, 251, 12.69, seed=0), seed=0)
    rival = FitOptions(max_iter=_SMALL_MAX_ITER if asked.small else _MAX_ITER)
    asked_of = [
        ("exact", FitOptions()),
        ("exact", FitOptions(device=asked.device)),
        ("cuml", replace(rival, rows="dense")),
        ("cuml", rival),
        ("sklearn", replace(rival, device=asked.device)),
        ("sklearn", replace(rival, rows="dense", device=asked.device)),
        ("sklearn", rival),
    ]
    rows = []
    for class_weight in ("balanced", "none"):
        problem = tables.problem("phoneme", 1, n_frames, class_weight)  # type: ignore[arg-type]
        assert isinstance(problem, LogisticProblem)
        best = backend("exact").fit_logistic(problem, FitOptions(tol=1e-10))
        for name, options in asked_of:
            row = {"backend": name, "class_weight": class_weight, "rows": options.rows, "device": options.device}
            rows.append(row | told_of(asked, name, problem, options, best))
            asked.keep({"rows": rows})
    return {"n_frames": int(problem.counts.sum()), "dim": 128, "n_classes": problem.counts.shape[1], "rows": rows}


def told_of(asked: Asked, name: str, problem: LogisticProblem, options: FitOptions, best: Fit) -> dict[str, Any]:
    """Return what is told of a backend's fit."""
    chosen = backend(name)
    availability = chosen.availability()
    if not availability.available:
        return {"skipped": availability.reason}
    refusal = chosen.refuses(problem, options)
    if refusal is not None:
        return {"skipped": refusal}
    try:
        with timed(asked) as whole:
            fit = chosen.fit_logistic(problem, options)
    except Exception as error:  # noqa: BLE001  (of one backend: the others are worth having)
        return {"error": first_line(error)}
    design = getattr(fit, "design", None)  # the rows a library was given, where its backend tells
    return {
        "design": None if design is None else {"kind": design.kind, "n_rows": design.n_rows},
        "outcome": fit.outcome,
        "n_iter": fit.n_iter,
        "seconds_fit": round(fit.seconds, 3),
        "seconds": round(whole.seconds, 3),  # rows made and brought to the device
        "objective": fit.objective,
        "relative_gap": significant((fit.objective - best.objective) / best.objective),
        **scores(problem, fit),
    }


def scores(problem: LogisticProblem, fit: Fit) -> dict[str, float | None]:
    """Return accuracy and mean recall over the classes, of the training frames."""
    predicted = np.argmax(problem.codewords @ fit.coef.T + fit.intercept, axis=1)
    hits = np.zeros(problem.counts.shape[1])
    np.add.at(hits, predicted, problem.counts[np.arange(len(predicted)), predicted])
    recall = hits / problem.counts.sum(axis=0)
    return {
        "train_accuracy": significant(float(hits.sum() / problem.counts.sum()), 6),
        "train_mean_recall": significant(float(recall.mean()), 6),
    }
