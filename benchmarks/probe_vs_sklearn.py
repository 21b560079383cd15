"""Fit the same probes by our exact solver, scikit-learn and torch, each to the same relative gap of its own objective.

    python benchmarks/probe_vs_sklearn.py [--store clean100.h5] [--minutes 30] [--no-standardize] [--method NAME]...

Four cells: each codec's phoneme and speaker probe of one layer, C = 1, balanced classes. Methods:

- ``exact``: ours on all frames, stopped when the gap is proved; ``exact_default``: at its default tolerance;
- ``sklearn_dense``: ``LogisticRegression(solver="lbfgs")`` on 200,000 dense frames sampled uniformly, in float32, as
  the original study held them (``--dtype``);
- ``sklearn_collapsed``: the same on one weighted row for each pair of code and class that occurs in all frames, in
  float64;
- ``torch_dense``: ``torch.optim.LBFGS`` on the 200,000 dense frames, in float32.

The optimum that a gap is measured from is our solver's at a far smaller gap; the 200,000 frames have one of their own.
A rival's own stopping rule is put out of the way and it is stopped at its first iterate within the gap, or after
``--minutes``: then its seconds are `at_least`. It runs once (ours ``--repeats`` times, the median counts), with
``--threads`` threads; ours always uses one. `seconds` are those of the fit alone, from counts or rows in memory;
`seconds_prepare` is what comes before. For ours that is the counting pass over all the codec's frames, the one step
that touches them all: it serves the layer's three tasks, and every cell is charged the whole of it. For a rival it is
reading the sample and making its rows, from codewords already scaled, which is less than scaling the rows would be.

Prints one JSON record: `rows`, one for each cell and method, with the objective of the full weighted problem at the
solution (`objective_full`; null where the sample misses a class, which makes it infinite) and the held-out macro-F1;
`speedup_of_cell`, three ratios of scikit-learn on dense frames to ours, and the median of each over the cells:

- `speedup`: fit against fit; `speedup_cpu`: the same of processor time, which a busy machine disturbs less;
- `speedup_with_counting`: reading, making rows and fitting against counting and fitting.

They are null where ours ended outside the gap, the median where any cell's is.
"""

import argparse
import importlib.util
import json
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from threadpoolctl import threadpool_limits  # noqa: E402

from benchmarks.measure.ending import asked_codecs, run_clearly  # noqa: E402
from benchmarks.measure.machine import machine_facts  # noqa: E402
from benchmarks.measure.scale_store import ensure_scale_store, warm_up  # noqa: E402
from benchmarks.rivals.cells import TASKS, Cell, load_cells  # noqa: E402
from benchmarks.rivals.race import Finish, run_exact, run_sklearn, run_torch  # noqa: E402
from featstore.store import Store  # noqa: E402
from probes.backends.answers import collapsed_rows  # noqa: E402
from probes.objective import logistic_value  # noqa: E402

METHODS = ("exact", "exact_default", "sklearn_dense", "sklearn_collapsed", "torch_dense")
_EXACT = ("exact", "exact_default")
_OURS, _STUDY = "exact", "sklearn_dense"
RATIOS = ("speedup", "speedup_cpu", "speedup_with_counting")


def main() -> None:
    """Run the race and print the record."""
    arguments = _arguments()
    ensure_scale_store(arguments.store, "clean100", arguments.utterances, arguments.speakers)
    warm_up(arguments.store)
    methods, skipped = usable_methods(arguments)
    told: dict[str, Any] = {"skipped": skipped, "settings": _settings(arguments), "machine": machine_facts()}
    rows: list[dict[str, Any]] = []
    with Store(arguments.store) as store, threadpool_limits(limits=arguments.threads):
        told["content_digest"] = store.content_digest
        cells = load_cells(
            store,
            asked_codecs(store, arguments.codec, arguments.layer),
            arguments.task or list(TASKS),
            arguments.layer,
            arguments.rows,
            arguments.standardize,
            arguments.seed,
        )
        for cell in cells:
            of_cell = [told_of(cell, method, arguments) for method in methods]
            rows += [row | ratios(row, of_cell[0]) for row in of_cell]  # ours is the first
    print(json.dumps({"rows": rows} | speedups(rows) | told))


def told_of(cell: Cell, method: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run one method on one cell; return its row of the record."""
    on_sample = method.endswith("_dense")
    problem = cell.sample.problem if on_sample else cell.problem
    optimum = (cell.sample if on_sample else cell).optimum.objective
    target = optimum * (1.0 + arguments.gap)
    finish, about = run(cell, method, target, arguments)
    value = logistic_value(problem, finish.coef, finish.intercept)
    ended = finish.ended
    if method in _EXACT and not value <= target:
        ended = "stalled"  # it stops by its own proof, and is held to the measured gap like the others
    judged = cell.judge(finish.coef, finish.intercept, cell.sample.classes if on_sample else None)
    row = {
        "codec": cell.codec,
        "task": cell.task,
        "layer": cell.layer,
        "method": method,
        **about,
        "n_classes": problem.counts.shape[1],
        "seconds": finish.seconds,
        "cpu_seconds": finish.cpu_seconds,
        "at_least": ended != "reached",
        "ended": ended,
        "n_iter": finish.n_iter,
        "objective": value,
        "relative_gap": (value - optimum) / optimum,
        "relative_gap_estimate": None if finish.gap_estimate is None else finish.gap_estimate / value,
        "relative_gap_bound": None if finish.gap_bound is None else finish.gap_bound / value,
        **judged,
    }
    print(
        f"{cell.codec} {cell.task} {method}: {finish.seconds:.3f} s, {finish.n_iter} iterations, {ended}",
        file=sys.stderr,
        flush=True,
    )
    return row


def run(cell: Cell, method: str, target: float, arguments: argparse.Namespace) -> tuple[Finish, dict[str, Any]]:
    """Run one method; return how it ended, and what it was given."""
    limit_s, sample = 60.0 * arguments.minutes, cell.sample
    if method in _EXACT:
        tol = arguments.gap if method == _OURS else None
        finish = run_exact(cell.problem, tol, arguments.repeats)
        return finish, _about(int(cell.problem.counts.sum()), "counts", cell.seconds_count)
    begin = time.perf_counter()
    if method == "sklearn_collapsed":
        X, y, weights = collapsed_rows(cell.problem)
        about = _about(len(X), "float64", cell.seconds_count + time.perf_counter() - begin)
        return run_sklearn(cell.problem, X, y, weights, target, limit_s), about
    dtype = "float32" if method == "torch_dense" else arguments.dtype
    rows = sample.rows(dtype)
    about = _about(len(rows), dtype, sample.seconds_read + time.perf_counter() - begin)
    if method == "torch_dense":
        return run_torch(sample.problem, rows, sample.y, target, limit_s, arguments.threads), about
    return run_sklearn(sample.problem, rows, sample.y, None, target, limit_s), about


def _about(n_rows: int, dtype: str, seconds_prepare: float) -> dict[str, Any]:
    return {"n_rows": n_rows, "dtype": dtype, "seconds_prepare": seconds_prepare}


def ratios(row: dict[str, Any], ours: dict[str, Any]) -> dict[str, float | None]:
    """Return a method's seconds over ours by each clock; None where ours did not reach the gap."""
    if ours["ended"] != "reached":
        return dict.fromkeys(RATIOS)
    of_row, of_ours = (
        (told["seconds"], told["cpu_seconds"], told["seconds_prepare"] + told["seconds"]) for told in (row, ours)
    )
    return {name: round(theirs / own, 2) for name, theirs, own in zip(RATIOS, of_row, of_ours, strict=True)}


def speedups(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the median ratios of scikit-learn on dense frames to ours, and those of every cell."""
    study = [row for row in rows if row["method"] == _STUDY]
    medians: dict[str, float | None] = {}
    for name in RATIOS:
        of_cells = [row[name] for row in study]
        medians[name] = median(of_cells) if of_cells and None not in of_cells else None
    return medians | {
        "speedup_at_least": any(row["at_least"] for row in study),
        "speedup_of_cell": {
            f"{row['codec']} {row['task']}": {name: row[name] for name in (*RATIOS, "at_least")} for row in study
        },
    }


def usable_methods(arguments: argparse.Namespace) -> tuple[list[str], list[dict[str, str]]]:
    """Return the methods to run, ours first, and those left out with the reason."""
    asked = [method for method in METHODS if not arguments.method or method in arguments.method or method == _OURS]
    if "torch_dense" in asked and importlib.util.find_spec("torch") is None:
        asked.remove("torch_dense")
        return asked, [{"method": "torch_dense", "reason": "torch is not installed"}]
    return asked, []


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    names = ("gap", "minutes", "rows", "dtype", "seed", "standardize", "threads", "repeats", "layer")
    return {name: getattr(arguments, name) for name in names} | {"C": 1.0, "class_weight": "balanced"}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, default=Path("results/scale/clean100.h5"))
    parser.add_argument("--codec", action="append", help="default: all in the store")
    parser.add_argument("--task", action="append", choices=TASKS, help="default: both")
    parser.add_argument("--method", action="append", choices=METHODS, help="default: all; exact always runs")
    parser.add_argument("--layer", type=int, default=1)
    parser.add_argument("--rows", type=int, default=200_000, help="dense frames to sample")
    parser.add_argument("--gap", type=float, default=1e-4, help="relative, of each method's own objective")
    parser.add_argument("--minutes", type=float, default=30.0, help="after which a rival is stopped")
    parser.add_argument("--standardize", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32", help="of scikit-learn's rows")
    parser.add_argument("--threads", type=int, default=1, help="of the rivals; ours uses one")
    parser.add_argument("--repeats", type=int, default=3, help="of ours")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--utterances", type=int, help="of --store when it has to be made; default: the shape's")
    parser.add_argument("--speakers", type=int)
    arguments = parser.parse_args()
    if min(arguments.rows, arguments.threads, arguments.repeats, arguments.layer) < 1:
        parser.error("expected --rows, --threads, --repeats and --layer from 1 on")
    if min(arguments.gap, arguments.minutes) <= 0 or arguments.seed < 0:
        parser.error("expected --gap and --minutes above 0 and --seed from 0 on")
    return arguments


if __name__ == "__main__":
    run_clearly(main)
