"""Fit probes of several layers at once by our solver and by scikit-learn on materialised rows, to the same gap.

    python benchmarks/stacked_vs_sklearn.py [--store clean100.h5] [--minutes 30] [--codec NAME]... [--no-standardize]

Cells: each codec's layers 1 to 8 summed (`cumulative`) and side by side (`concat`), one task, C = 1, balanced classes,
200,000 training frames sampled uniformly: the same frames, rows and objective for both sides. Methods:

- ``exact``: ours, from codes and codebooks, until its own estimate of the relative gap is below `tol`, which is
  ``--gap`` unless that left the true gap above it: then a third, and so on (only the last run is timed), down to
  ``--reference-gap``; a run that is outside the gap even so has not reached it, whatever it says of itself;
- ``sklearn_rows``: ``LogisticRegression(solver="lbfgs")`` on the rows, in float32 (200,000 rows of 8 x 1024 numbers
  are 6.5 GB even so), its own stopping rule put out of the way, stopped at its first iterate within the gap;
- ``exact_matched``: ours once more, only where scikit-learn was stopped after ``--minutes`` before it was within the
  gap: until our true gap is below the one that scikit-learn had reached. Its seconds are what ours takes to an equal or
  better objective.

The optimum that gaps are measured from is our solver's at ``--reference-gap``; its own proved bound stands beside it.
`seconds` are those of the fit; `seconds_prepare` what comes before: reading the store and drawing the frames, for
scikit-learn also making the rows. Ratios of processor time (`cpu`) are disturbed less by other work on the machine.
Where the rows do not fit into the memory that is left, scikit-learn is skipped and the record says so.

Prints one JSON record: `rows`, one for each cell and method, and `speedup_of_cell`: scikit-learn's seconds over ours,
`at_least` where scikit-learn did not get there, and `matched`, the same against `exact_matched`; null where ours did
not get there. Both sides have read the store and drawn the frames by then, and scikit-learn has made its rows.
"""

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from threadpoolctl import threadpool_limits  # noqa: E402

from benchmarks.measure.ending import asked_codecs, run_clearly  # noqa: E402
from benchmarks.measure.machine import machine_facts  # noqa: E402
from benchmarks.measure.scale_store import ensure_scale_store, warm_up  # noqa: E402
from benchmarks.rivals.race import Finish  # noqa: E402
from benchmarks.rivals.stacked import StackedCell, load_cell, run_sklearn_rows, run_stacked  # noqa: E402
from featstore.memory import available_bytes  # noqa: E402
from featstore.store import Store  # noqa: E402

REPRESENTATIONS = ("cumulative", "concat")
_TIGHTER = 1.0 / 3.0
# Rows, and what scikit-learn needs beside them: logits, gradients, L-BFGS memory.
_MEMORY_FACTOR, _MEMORY_EXTRA_GB = 1.15, 1.5


def main() -> None:
    """Run the race and print the record."""
    arguments = _arguments()
    ensure_scale_store(arguments.store, "clean100", arguments.utterances, arguments.speakers)
    warm_up(arguments.store)
    told: dict[str, Any] = {"settings": _settings(arguments), "machine": machine_facts(), "skipped": []}
    rows: list[dict[str, Any]] = []
    with Store(arguments.store) as store, threadpool_limits(limits=arguments.threads):
        told["content_digest"] = store.content_digest
        for codec in asked_codecs(store, arguments.codec, arguments.layers):
            for representation in arguments.representation or REPRESENTATIONS:
                sample = arguments.task, representation, arguments.layers, arguments.rows
                cell = load_cell(store[codec], *sample, arguments.standardize, arguments.seed)
                rows += race(cell, arguments, told["skipped"])
    print(json.dumps({"rows": rows, "speedup_of_cell": speedups(rows)} | told))


def race(cell: StackedCell, arguments: argparse.Namespace, skipped: list[dict[str, str]]) -> list[dict[str, Any]]:
    """Run all methods on one cell; return their rows of the record."""
    reference = run_stacked(cell, arguments.reference_gap, arguments.threads)
    optimum = cell.value(reference.coef, reference.intercept)

    def told_of(method: str, finish: Finish, **about: Any) -> dict[str, Any]:
        return _row(cell, method, finish, optimum, reference) | about

    gathered = {"seconds_prepare": cell.seconds_gather, "cpu_seconds_prepare": cell.cpu_seconds_gather}
    ours, tol = run_to_gap(cell, optimum, arguments.gap, arguments)
    rows = [told_of("exact", ours, dtype="float32, float64 at the end", tol=tol, **gathered)]
    if arguments.skip_rival or _lacks_memory(cell, arguments.dtype, skipped):
        return rows
    begin, cpu_begin = time.perf_counter(), time.process_time()
    materialised = cell.rows(arguments.dtype)
    prepared = {
        "seconds_prepare": cell.seconds_gather + time.perf_counter() - begin,
        "cpu_seconds_prepare": cell.cpu_seconds_gather + time.process_time() - cpu_begin,
    }
    rival = run_sklearn_rows(cell, materialised, optimum * (1.0 + arguments.gap), 60.0 * arguments.minutes)
    rows.append(told_of("sklearn_rows", rival, dtype=arguments.dtype, **prepared))
    reached = rows[-1]["relative_gap"]
    if rival.ended != "reached" and reached > arguments.gap:
        matched, tol = run_to_gap(cell, optimum, reached, arguments)
        rows.append(told_of("exact_matched", matched, dtype=rows[0]["dtype"], tol=tol, **gathered))
    return rows


def run_to_gap(cell: StackedCell, optimum: float, gap: float, arguments: argparse.Namespace) -> tuple[Finish, float]:
    """Fit with ours until its true relative gap is at most `gap`; return that run, and the `tol` it was asked for.

    A run that is outside the gap even at the reference's is returned as stalled.
    """
    tol = gap
    while True:
        finish = run_stacked(cell, tol, arguments.threads, arguments.repeats)
        if cell.value(finish.coef, finish.intercept) <= optimum * (1.0 + gap):
            return finish, tol
        if tol <= arguments.reference_gap:
            return replace(finish, ended="stalled"), tol
        tol *= _TIGHTER


def _row(cell: StackedCell, method: str, finish: Finish, optimum: float, reference: Finish) -> dict[str, Any]:
    value = cell.value(finish.coef, finish.intercept)
    print(
        f"{cell.codec} {cell.representation} {cell.task} {method}: {finish.seconds:.2f} s "
        f"({finish.cpu_seconds:.2f} s of processor time), {finish.n_iter} iterations, {finish.ended}, "
        f"relative gap {(value - optimum) / optimum:.1e}",
        file=sys.stderr,
        flush=True,
    )
    return {
        "codec": cell.codec,
        "representation": cell.representation,
        "task": cell.task,
        "method": method,
        "n_rows": cell.problem.n_frames,
        "n_layers": cell.problem.stack.n_layers,
        "dim": cell.problem.stack.dim,
        "n_classes": cell.problem.n_classes,
        "seconds": finish.seconds,
        "cpu_seconds": finish.cpu_seconds,
        "at_least": finish.ended != "reached",
        "ended": finish.ended,
        "n_iter": finish.n_iter,
        "objective": value,
        "relative_gap": (value - optimum) / optimum,
        "relative_gap_estimate": None if finish.gap_estimate is None else finish.gap_estimate / value,
        "relative_gap_bound": None if finish.gap_bound is None else finish.gap_bound / value,
        "reference_gap_bound": None if reference.gap_bound is None else reference.gap_bound / optimum,
    }


def speedups(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return scikit-learn's seconds over ours for every cell: wall and processor time, to the gap and matched."""
    by_cell: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows:
        by_cell.setdefault(f"{row['codec']} {row['representation']} {row['task']}", {})[row["method"]] = row
    told = {}
    for name, methods in by_cell.items():
        if "sklearn_rows" not in methods:
            continue
        rival = methods["sklearn_rows"]
        told[name] = _ratios(rival, methods["exact"]) | {"at_least": rival["at_least"]}
        if "exact_matched" in methods:
            told[name]["matched"] = _ratios(rival, methods["exact_matched"])
    return told


def _ratios(rival: dict[str, Any], ours: dict[str, Any]) -> dict[str, float | None]:
    names = {"speedup": "seconds", "speedup_cpu": "cpu_seconds"}
    if ours["ended"] != "reached":
        return dict.fromkeys(names)
    return {name: round(rival[clock] / ours[clock], 2) for name, clock in names.items()}


def _lacks_memory(cell: StackedCell, dtype: str, skipped: list[dict[str, str]]) -> bool:
    needed, available = _MEMORY_FACTOR * cell.rows_gb(dtype) + _MEMORY_EXTRA_GB, available_bytes()
    if available is None or needed <= available / 1e9:
        return False
    reason = f"its rows need about {needed:.1f} GB of memory, {available / 1e9:.1f} GB are left"
    skipped.append({"method": "sklearn_rows", "cell": f"{cell.codec} {cell.representation}", "reason": reason})
    print(f"{cell.codec} {cell.representation} sklearn_rows skipped: {reason}", file=sys.stderr)
    return True


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    names = ("gap", "reference_gap", "minutes", "rows", "layers", "dtype", "seed", "standardize", "threads", "repeats")
    return {name: getattr(arguments, name) for name in names} | {"C": 1.0, "class_weight": "balanced"}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, default=Path("results/scale/clean100.h5"))
    parser.add_argument("--codec", action="append", help="default: all in the store")
    parser.add_argument("--representation", action="append", choices=REPRESENTATIONS, help="default: both")
    parser.add_argument("--task", choices=["phoneme", "speaker"], default="phoneme")
    parser.add_argument("--layers", type=int, default=8, help="layers 1 to this are taken together")
    parser.add_argument("--rows", type=int, default=200_000, help="training frames to sample")
    parser.add_argument("--gap", type=float, default=1e-4, help="relative")
    parser.add_argument("--reference-gap", type=float, default=1e-6, help="of the optimum that gaps are measured from")
    parser.add_argument("--minutes", type=float, default=30.0, help="after which scikit-learn is stopped")
    parser.add_argument("--skip-rival", action="store_true", help="time ours alone")
    parser.add_argument("--standardize", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32", help="of scikit-learn's rows")
    parser.add_argument("--threads", type=int, default=1, help="of both sides")
    parser.add_argument("--repeats", type=int, default=1, help="of ours; the median counts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--utterances", type=int, help="of --store when it has to be made; default: the shape's")
    parser.add_argument("--speakers", type=int)
    arguments = parser.parse_args()
    if min(arguments.rows, arguments.threads, arguments.repeats, arguments.layers) < 1:
        parser.error("expected --rows, --threads, --repeats and --layers from 1 on")
    if arguments.minutes <= 0 or arguments.seed < 0:
        parser.error("expected --minutes above 0 and --seed from 0 on")
    if not 0 < arguments.reference_gap < arguments.gap:
        parser.error("expected --reference-gap above 0 and below --gap")
    return arguments


if __name__ == "__main__":
    run_clearly(main)
