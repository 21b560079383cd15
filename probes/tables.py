"""The numbers of a summary: one block per codec, its layers against the scores of the three tasks."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from featstore.safe_text import printable
from featstore.wording import counted
from probes.representation import place_text
from probes.selection import TASKS, Series, layer_ranges, not_applicable_reasons, place_order
from schemas.record import Record

# Task -> (metric, decimals) of its two columns.
METRICS = {
    "phoneme": (("accuracy", 3), ("macro_f1", 3)),
    "speaker": (("accuracy", 3), ("macro_f1", 3)),
    "pitch": (("mae_hz", 1), ("r2", 3)),
}
METRIC_HEADS = {"accuracy": "acc", "macro_f1": "F1", "mae_hz": "MAE Hz", "r2": "R2"}
NOT_APPLICABLE, ABSENT, VARIES = "n/a", "-", "varies"


@dataclass(frozen=True)
class Block:
    """One codec's part of a summary.

    Attributes
    ----------
    title, caption : str
        The codec with the origin of its weights; and what its frames are.
    rows : tuple of (head, cells)
        One per layer; two cells per task, in the order of `TASKS`.
    references : tuple of (head, cells)
        Chance, majority and mean baselines, and the numbers of frames.
    notes : tuple of str
        Outcomes, and why some tasks were not asked.
    """

    title: str
    caption: str
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    references: tuple[tuple[str, tuple[str, ...]], ...]
    notes: tuple[str, ...]


def block_of(series: Series, with_intervals: bool = False) -> Block:
    """Lay out one series; `with_intervals` adds the 95 % intervals where a record has them."""
    by_place = {(r["layer"], r["task"]): r for r in series.records}
    layers = dict.fromkeys(r["layer"] for r in sorted(series.records, key=place_order))
    return Block(
        title=series.title,
        caption=_caption(series.records),
        rows=tuple(
            (
                place_text(series.representation, layer),
                tuple(c for t in TASKS for c in _scores(by_place.get((layer, t)), t, with_intervals)),
            )
            for layer in layers
        ),
        references=_references(series),
        notes=tuple(printable(" ".join(note.split())) for note in _notes(series.records)),
    )


def _caption(records: Iterable[Record]) -> str:
    records = list(records)
    rate, dim = (_agreed(records, name, 0) for name in ("frame_rate_hz", "dim"))
    each = " a layer" if records[0]["representation"] == "concat" else ""
    weights = printable(records[0]["weights_sha256"][:12]) or "without a hash"
    return f"{rate} frames/s, {dim} dimensions{each}, weights {weights}"


def _scores(record: Record | None, task: str, with_intervals: bool) -> list[str]:
    """Return the two cells of one probe; a star marks a fit that did not converge."""
    if record is None:
        return [ABSENT, ABSENT]
    if record["outcome"] == "not_applicable":
        return [NOT_APPLICABLE, NOT_APPLICABLE]
    star = "" if record["outcome"] == "converged" else "*"
    return [_score(record, name, decimals, with_intervals) + star for name, decimals in METRICS[task]]


def _score(record: Record, name: str, decimals: int, with_interval: bool) -> str:
    low, high = record[f"{name}_low"], record[f"{name}_high"]
    text = _number(record[name], decimals)
    if with_interval and low is not None and high is not None:
        text += f" [{_number(low, decimals)}, {_number(high, decimals)}]"
    return text


def _number(value: float | None, decimals: int) -> str:
    return ABSENT if value is None else f"{value:,.{decimals}f}"


def _references(series: Series) -> tuple[tuple[str, tuple[str, ...]], ...]:
    tasks = {task: [r for r in series.of_task(task) if r["outcome"] != "not_applicable"] for task in TASKS}
    lines: list[tuple[str, tuple[str, ...]]] = []
    for head, prefix in (("chance", "chance_"), ("majority", "majority_"), ("mean baseline", "mean_baseline_")):
        lines.append((head, tuple(_reference(tasks[t], prefix + name, d) for t in TASKS for name, d in METRICS[t])))
    for head, field in (("train frames", "n_train"), ("eval frames", "n_eval")):
        cells = [cell for t in TASKS for cell in (_agreed(tasks[t], field, 0) if tasks[t] else "", "")]
        lines.append((head, tuple(cells)))
    return tuple(lines)


def _reference(records: list[Record], field: str, decimals: int) -> str:
    known = [r for r in records if r.get(field) is not None]
    return _agreed(known, field, decimals) if known else ""


def _agreed(records: list[Record], field: str, decimals: int) -> str:
    """Return the value all records share, ``varies`` where they differ."""
    texts = {_number(r[field], decimals) for r in records}
    return texts.pop() if len(texts) == 1 else VARIES


def _notes(records: Iterable[Record]) -> list[str]:
    records = list(records)
    counts = Counter(r["outcome"] for r in records)
    notes = [f"{counted(len(records), 'probe')}: " + ", ".join(f"{n} {outcome}" for outcome, n in counts.most_common())]
    if set(counts) - {"converged", "not_applicable"}:
        notes.append("* the fit did not converge; its outcome and reason stand in the record")
    notes += _proved_gap(records)
    for reason, where in not_applicable_reasons(records).items():
        for task in [t for t in TASKS if any(r["task"] == t for r in where)]:
            layers = {r["layer"] for r in where if r["task"] == task and r["layer"] is not None}
            noun = "layer" if len(layers) == 1 else "layers"
            places = f"{task}, {noun} {layer_ranges(layers)}" if layers else task
            notes.append(f"n/a: {places}: {reason}")
    # where a task cannot be asked its own note says why
    n_unseen = max((r["n_unseen"] for r in records if r["outcome"] != "not_applicable"), default=0)
    if n_unseen:
        notes.append(f"up to {counted(n_unseen, 'evaluation frame')} left out: their label was never seen in training")
    fallbacks = {r["fallback_reason"]: r for r in records if r["fallback_reason"]}
    notes += [f"{r['backend_asked']} was asked, {r['backend_used']} used: {why}" for why, r in fallbacks.items()]
    designs = {r["design_note"]: r for r in records if r.get("design_note")}
    notes += [f"{r['backend_used']} was given {r['design']} rows: {why}" for why, r in designs.items()]
    return notes


def _proved_gap(records: Iterable[Record]) -> list[str]:
    """Say how far from the minimum the fits can be at most: `gap_bound` as a share of `objective`, the largest."""
    fitted = [r for r in records if r["objective"] is not None]
    shares = [_share(r["gap_bound"], r["objective"]) for r in fitted if r["gap_bound"] is not None]
    if not shares:
        return []
    return [f"largest proved gap to the minimum: {max(shares):.1g} of the objective ({len(shares)} of {_fits(fitted)})"]


def _share(bound: float, objective: float) -> float:
    """Return bound / objective; one class, say, is fitted without error and without a gap."""
    return 0.0 if bound == 0 else bound / objective if objective > 0 else math.inf


def _fits(records: list[Record]) -> str:
    return f"{counted(len(records), 'fit')} {'has' if len(records) == 1 else 'have'} a proof"
