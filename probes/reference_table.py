"""What a codec's scores are read against, by layer: lookup, oracle and information."""

from dataclasses import dataclass

from probes.representation import place_text
from probes.selection import TASKS, Series, place_order
from schemas.record import Record

# Task -> (heading, record field, decimals) of its columns.
_COLUMNS = {
    "phoneme": (
        ("lookup acc", "lookup_accuracy", 3),
        ("lookup F1", "lookup_macro_f1", 3),
        ("oracle acc", "oracle_accuracy", 3),
        ("I", "mutual_information_bits", 2),
        ("V", "v_information_bits", 2),
    ),
    "speaker": (
        ("lookup acc", "lookup_accuracy", 3),
        ("oracle acc", "oracle_accuracy", 3),
        ("I", "mutual_information_bits", 2),
        ("V", "v_information_bits", 2),
        ("utt acc", "utterance_accuracy", 3),
    ),
    "pitch": (
        ("lookup MAE Hz", "lookup_mae_hz", 1),
        ("oracle MAE Hz", "oracle_mae_hz", 1),
        ("lookup R2", "lookup_r2", 3),
        ("oracle R2", "oracle_r2", 3),
    ),
}


@dataclass(frozen=True)
class ReferenceBlock:
    """One codec's table: headings of its columns, and by layer their cells; no rows where nothing was computed."""

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]


def reference_block(series: Series) -> ReferenceBlock:
    """Lay out one series; tasks without such a number take no column."""
    by_place = {(r["layer"], r["task"]): r for r in series.records}
    columns = [
        (task, *column)
        for task in TASKS
        if any(r[field] is not None for r in series.of_task(task) for _, field, _ in _COLUMNS[task])
        for column in _COLUMNS[task]
    ]
    layers = list(dict.fromkeys(r["layer"] for r in sorted(series.records, key=place_order))) if columns else []
    rows = [
        (
            place_text(series.representation, layer),
            tuple(_cell(by_place.get((layer, task)), field, n) for task, _, field, n in columns),
        )
        for layer in layers
    ]
    return ReferenceBlock(series.title, tuple(f"{task} {head}" for task, head, _, _ in columns), tuple(rows))


def _cell(record: Record | None, field: str, decimals: int) -> str:
    value = None if record is None else record[field]
    return "" if value is None else f"{value:,.{decimals}f}"
