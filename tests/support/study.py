"""A whole study's worth of records with the shapes of real curves, for tests of figures and reports."""

from typing import Any

import numpy as np

from schemas.record import Record
from tests.support.records import make_record

# Codec -> frame rate (Hz), dimension, number of layers and, per task, the score of layer 1 and of the deepest layers.
CODECS = {
    "encodec": (75.0, 128, 8, {"phoneme": (0.30, 0.12), "speaker": (0.25, 0.03), "pitch": (0.30, 0.03)}),
    "speechtokenizer": (50.0, 1024, 8, {"phoneme": (0.55, 0.10), "speaker": (0.05, 0.20), "pitch": (0.05, 0.20)}),
    "melrvq": (50.0, 80, 8, {"phoneme": (0.36, 0.10), "speaker": (0.60, 0.05), "pitch": (0.35, 0.02)}),
    "lyra": (50.0, 64, 46, {"phoneme": (0.25, 0.10), "speaker": (0.30, 0.02), "pitch": (0.25, 0.01)}),
}


def make_study(
    codecs: tuple[str, ...] = ("encodec", "speechtokenizer", "melrvq"), intervals: bool = False, **changes: Any
) -> list[Record]:
    """Return records of every layer and task of `codecs`; `changes` overrides any field of all."""
    rng = np.random.default_rng(0)
    records = []
    for codec in codecs:
        rate_hz, dim, n_layers, scores = CODECS[codec]
        for layer in range(1, n_layers + 1):
            for task, (first, last) in scores.items():
                level = last + (first - last) * np.exp(-0.9 * (layer - 1)) + rng.normal(0, 0.004)
                fields = _scores(task, float(level), intervals) | {"frame_rate_hz": rate_hz, "dim": dim}
                if codec == "melrvq":
                    fields["weights"] = "untrained"
                records.append(make_record(codec, layer, task, **(fields | changes)))
    return records


def _scores(task: str, level: float, intervals: bool) -> Record:
    scores = (
        {"mae_hz": 40 * (1 - level), "r2": level} if task == "pitch" else {"accuracy": level, "macro_f1": 0.8 * level}
    )
    if intervals:
        scores |= {f"{name}_low": value - 0.02 * max(1, value) for name, value in scores.items()} | {
            f"{name}_high": value + 0.02 * max(1, value) for name, value in scores.items()
        }
    return scores
