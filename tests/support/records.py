"""Records for tests of what reads them: complete, valid, with plausible numbers that no probe computed."""

from typing import Any

from schemas.record import Record, check_record, empty_record


def make_record(codec: str = "encodec", layer: int = 1, task: str = "phoneme", **changes: Any) -> Record:
    """Return a valid record; `changes` overrides any field."""
    record = empty_record() | {
        "probe_key": f"{codec}-{layer}-{task}",
        "codec": codec,
        "layer": layer,
        "task": task,
        "representation": "codeword",
        "backend_asked": "exact",
        "backend_used": "exact",
        "rows": "collapsed",
        "eval_by": "utterance",
        "weights": "pretrained",
        "weights_sha256": "ab" * 32,
        "outcome": "converged",
        "standardize": True,
        "n_train": 200_000,
        "n_eval": 22_000,
        "n_unseen": 0,
        "dim": 128,
        "frame_rate_hz": 75.0,
        "seconds": 0.4,
        "seed": 42,
        "n_iter": 31,
        "content_digest": "cd" * 32,
        "store_format_version": "1.0",
        "created": "2026-01-02T03:04:05+00:00",
        "versions": {"rvqprobe": "0.1.0", "python": "3.11.2", "numpy": "2.4.0"},
    }
    record |= _pitch_fields() if task == "pitch" else _class_fields(71 if task == "phoneme" else 251)
    if task == "phoneme":
        record |= {"phones": "raw", "keep_silence": True}
    record |= changes
    check_record(record)
    return record


def _class_fields(n_classes: int) -> Record:
    return {
        "class_weight": "balanced",
        "C": 1.0,
        "n_classes": n_classes,
        "n_classes_scored": n_classes,
        "accuracy": 0.3125,
        "macro_f1": 0.25,
        "chance_accuracy": 1 / n_classes,
        "chance_macro_f1": 0.8 / n_classes,
        "majority_accuracy": 0.1,
        "majority_macro_f1": 0.2 / n_classes,
    }


def _pitch_fields() -> Record:
    return {"mae_hz": 31.25, "r2": 0.125, "mean_baseline_mae_hz": 42.5}
