"""How near integer designs come to the weighted problems that they stand for, by the device memory there is for them.

    python benchmarks/bench_design.py [--layer 1 4 8] [--memory-gb 75 36 12]

cuML ignores weights in multinomial fits, so it is given unweighted rows, apportioned to the weighted counts
(`probes.backends.design`). Here the design, too, is solved by the exact backend: `relative_gap` is the true objective
at the design's optimum, above the true optimum's proved lower bound, over the objective. That is what a perfect cuML
would reach; no GPU is needed, and none is measured. Problems are of true shape (`benchmarks/scale/tables.py`), class
weights balanced, rows as many as `probes.backends.row_plan` takes for the memory.

Prints one JSON record.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.measure.ending import run_clearly  # noqa: E402
from benchmarks.measure.machine import machine_facts  # noqa: E402
from benchmarks.scale.codecs import N_LAYERS, SHAPES  # noqa: E402
from benchmarks.scale.tables import CodecTables  # noqa: E402
from benchmarks.scale.voices import SHAPES as CORPORA  # noqa: E402
from benchmarks.scale.voices import draw_voices  # noqa: E402
from probes.backends.design import integer_design  # noqa: E402
from probes.backends.exact import ExactBackend  # noqa: E402
from probes.backends.row_plan import plan_logistic  # noqa: E402
from probes.objective import LogisticObjective  # noqa: E402
from probes.problem import Fit, FitOptions, LogisticProblem  # noqa: E402

CLASSIFICATIONS = ("phoneme", "speaker")


def main() -> None:
    """Measure and print the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    layers = range(1, N_LAYERS + 1)
    parser.add_argument("--layer", type=int, nargs="+", choices=layers, default=[1, 4, 8], metavar="N", help="[1 4 8]")
    parser.add_argument("--memory-gb", type=float, nargs="+", default=[75.0, 36.0, 12.0], help="[75 36 12]")
    parser.add_argument("--utterances", type=int, help="of the corpus; default: all of train-clean-100's")
    parser.add_argument("--speakers", type=int, help="likewise")
    arguments = parser.parse_args()
    facts, shape = machine_facts(), CORPORA["clean100"]
    n_utterances = shape.n_utterances if arguments.utterances is None else arguments.utterances
    n_speakers = shape.n_speakers if arguments.speakers is None else arguments.speakers
    try:
        voices = draw_voices(n_utterances, n_speakers, shape.mean_duration_s, seed=0)
    except ValueError as error:
        parser.error(str(error))
    rows: list[dict[str, Any]] = []
    for codec in SHAPES:
        tables = CodecTables(codec, voices, seed=0)
        for layer in arguments.layer:
            for task in CLASSIFICATIONS:
                problem = tables.problem(task, layer)
                assert isinstance(problem, LogisticProblem)
                best = ExactBackend().fit_logistic(problem, FitOptions())
                for memory_gb in arguments.memory_gb:
                    about = {"codec": codec, "task": task, "layer": layer, "memory_gb": memory_gb}
                    rows.append(about | measure(problem, best, memory_gb))
                    print(json.dumps(rows[-1]), file=sys.stderr)
    largest = {
        codec: {
            f"{memory_gb:g} GB": max(
                row["relative_gap"] for row in rows if (row["codec"], row["memory_gb"]) == (codec, memory_gb)
            )
            for memory_gb in arguments.memory_gb
        }
        for codec in SHAPES
    }
    print(json.dumps({"benchmark": "bench_design", "largest_relative_gap": largest, "rows": rows, "machine": facts}))


def measure(problem: LogisticProblem, best: Fit, memory_gb: float) -> dict[str, Any]:
    """Return the rows of the design and how far its optimum is from that of the problem."""
    plan = plan_logistic(problem, FitOptions(), int(memory_gb * 1e9), honours=False)
    design = integer_design(problem, plan.n_rows)
    fit = ExactBackend().fit_logistic(design.as_problem(problem), FitOptions())
    value = LogisticObjective.of(problem).value(fit.coef, fit.intercept)
    assert best.gap_bound is not None
    return {
        "n_cells": len(design.n_rows),
        "n_rows": plan.n_rows,
        "n_rows_wanted": plan.n_rows_asked,
        "relative_gap": float(f"{(value - best.objective + best.gap_bound) / best.objective:.3g}"),
        "proved_to": float(f"{best.gap_bound / best.objective:.2g}"),
    }


if __name__ == "__main__":
    run_clearly(main)
