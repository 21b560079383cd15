"""Time the command `probe` on the store of true shape: all 48 probes, on every frame, with proof.

    python benchmarks/probe_scale.py [--store clean100.h5] [--n-bootstrap 1000] [--growth clean360.h5]

Runs ``cli.py probe STORE --output DIR`` as a user would, in a process of its own, and measures it from outside: once
for the peak memory of all its processes together (`benchmarks/measure/command.py` says how), and left alone for time.
Stages come from its log, gaps from its records. The store (by default results/scale/clean100.h5) is made when it is not
there and read once before, so that every run finds it in the page cache. With ``--repeats`` the run of median wall time
is told.

Prints one JSON record. Gaps are relative to the objective: `max_relative_gap` the largest estimate, `max_gap_bound` the
largest proved bound, `n_proved` the probes whose bound is at most 1e-6. ``--n-bootstrap`` runs again with resamples
(`seconds_bootstrap`: what they add), ``--growth`` runs on a second, larger store, of train-clean-360's shape when it
has to be made (`growth`: its numbers over the first store's). `making` repeats, from the record beside the store, how
even its code use is and what making it took.
"""

import argparse
import json
import re
import signal
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.measure.command import INTERVAL_S, Measured, run_measured  # noqa: E402
from benchmarks.measure.ending import run_clearly  # noqa: E402
from benchmarks.measure.machine import machine_facts  # noqa: E402
from benchmarks.measure.scale_store import ensure_scale_store, read_making, warm_up  # noqa: E402
from probes.records import read_records  # noqa: E402

PROVED = 1e-6  # relative gap
_COUNTED = re.compile(r"counted ([\d,]+) frames in ([\d.]+) s")
_FITTED = re.compile(r"fitted and scored \d+ probes? in ([\d.]+) s \(workers: (\d+)\)")
_N_SLOWEST = 5


@dataclass(frozen=True)
class ProbeRun:
    """One run of the command, and the records it wrote."""

    measured: Measured
    records: list[dict[str, Any]]


@dataclass(frozen=True)
class Runs:
    """A run whose memory was watched, and of the others, which were left alone, the one of median wall time."""

    watched: ProbeRun
    timed: ProbeRun


def main() -> None:
    """Run the command and print the record."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the command ends too, and its folder goes
    ensure_scale_store(arguments.store, "clean100", arguments.utterances, arguments.speakers)
    if arguments.growth is not None:
        ensure_scale_store(arguments.growth, "clean360", arguments.growth_utterances, arguments.growth_speakers)
    facts = machine_facts()
    first = several_runs(arguments.store, arguments)
    told = summary(first)
    told["making"] = making(arguments.store, told["content_digest"])
    if arguments.n_bootstrap:
        told |= bootstrap_summary(told, arguments)
    if arguments.growth is not None:
        grown = summary(several_runs(arguments.growth, arguments))
        grown["making"] = making(arguments.growth, grown["content_digest"])
        told["growth"] = growth_ratios(told, grown) | {"larger": grown}
    told["memory_measure"] = f"{first.watched.measured.memory_measure}, all processes, sampled every {INTERVAL_S:g} s"
    print(json.dumps(told | {"n_repeats": arguments.repeats, "machine": facts}))


def several_runs(store: Path, arguments: argparse.Namespace, options: Sequence[str] = ()) -> Runs:
    """Run the command once for its memory, then as often as asked for its time (of two middle ones the longer)."""
    warm_up(store)
    asked = [text for layer in arguments.layer for text in ("--layer", str(layer))]
    asked += ["--workers", str(arguments.workers)] if arguments.workers is not None else []
    watched = probe_run(store, [*asked, *options], watch_memory=True)
    runs = [probe_run(store, [*asked, *options], watch_memory=False) for _ in range(arguments.repeats)]
    return Runs(watched, sorted(runs, key=lambda run: run.measured.seconds)[len(runs) // 2])


def probe_run(store: Path, options: Sequence[str], watch_memory: bool) -> ProbeRun:
    """Run ``cli.py probe`` into an empty results folder beside the store, which is removed afterwards."""
    store = store.resolve()
    with tempfile.TemporaryDirectory(prefix="probe_scale-", dir=store.parent) as folder:
        command = [sys.executable, str(ROOT / "cli.py"), "probe", str(store), "--output", folder, *options]
        measured = run_measured(command, ROOT, watch_memory)
        if measured.exit_code:
            errors = [line for line in measured.stderr.splitlines() if line.startswith("Error: ")]
            told = f"{' '.join(command)} ended with exit code {measured.exit_code}:\n{measured.stderr[-2000:]}"
            sys.exit(errors[-1] if errors else told)
        return ProbeRun(measured, read_records(Path(folder)))


def summary(runs: Runs) -> dict[str, Any]:
    """Return what the record tells of the runs on one store."""
    records = runs.timed.records
    gaps = [gap for record in records if (gap := relative(record, "gap_estimate")) is not None]
    bounds = [bound for record in records if (bound := relative(record, "gap_bound")) is not None]
    return {
        "n_probes": len(records),
        "n_converged": sum(record["outcome"] == "converged" for record in records),
        "n_proved": sum(bound <= PROVED for bound in bounds),
        "max_relative_gap": max(gaps, default=None),
        "max_gap_bound": max(bounds, default=None),
        "n_without_bound": len(records) - len(bounds),
        **stages(runs.timed.measured),
        "peak_rss_gb": round(runs.watched.measured.peak_gb, 3),
        **fit_seconds(records),
        "content_digest": records[0]["content_digest"],
    }


def making(store: Path, content_digest: str) -> dict[str, Any] | None:
    """Return least and greatest perplexity and unused codes over a codec's layers, and the making's seconds and peak.

    None where no record of the making of this content lies beside the store.
    """
    record = read_making(store, content_digest)
    if record is None:
        return None
    of_codecs = {
        name: {key: [min(of_codec[key]), max(of_codec[key])] for key in ("perplexity", "n_unused_codes")}
        for name, of_codec in record["codecs"].items()
    }
    return of_codecs | {key: record[key] for key in ("seconds", "peak_rss_gb")}


def relative(record: dict[str, Any], name: str) -> float | None:
    """Return a gap over the objective; None where there is none, or where the objective is zero and the gap is not."""
    gap, objective = record[name], record["objective"]
    if gap is None or objective is None or (objective == 0 and gap > 0):
        return None
    return gap / objective if gap > 0 else 0.0


def stages(measured: Measured) -> dict[str, Any]:
    """Return frames and seconds by stage, from the command's log."""
    counted, fitted = _COUNTED.search(measured.stderr), _FITTED.search(measured.stderr)
    if counted is None or fitted is None:
        sys.exit(f"the command's log does not tell its stages:\n{measured.stderr[-2000:]}")
    count, fit = float(counted[2]), float(fitted[1])
    return {
        "n_frames": int(counted[1].replace(",", "")),
        "n_workers": int(fitted[2]),
        "seconds_total": round(measured.seconds, 2),
        "seconds_cpu": round(measured.cpu_seconds, 2),  # of all processes: on a busy machine the steadier number
        "seconds_count": count,
        "seconds_fit": fit,  # fitting, scoring and saving the probes, wall time
        "seconds_rest": round(measured.seconds - count - fit, 2),  # starting, figures and report
    }


def fit_seconds(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the seconds of the fits alone, by codec and task, and the slowest of them."""
    by_task: dict[str, float] = defaultdict(float)
    for record in records:
        by_task[f"{record['codec']} {record['task']}"] += record["seconds"]
    slowest = sorted(records, key=lambda record: -record["seconds"])[:_N_SLOWEST]
    return {
        "seconds_of_fits": {name: round(seconds, 3) for name, seconds in by_task.items()},
        "slowest_fits": [
            {name: record[name] for name in ("codec", "layer", "task", "n_iter")}
            | {"seconds": round(record["seconds"], 3)}
            for record in slowest
        ],
    }


def bootstrap_summary(plain: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """Run again with resamples; return what they add."""
    runs = several_runs(arguments.store, arguments, ["--n-bootstrap", str(arguments.n_bootstrap)])
    return {
        "n_bootstrap": arguments.n_bootstrap,
        "seconds_bootstrap": round(runs.timed.measured.seconds - plain["seconds_total"], 2),
        "seconds_total_with_bootstrap": round(runs.timed.measured.seconds, 2),
        "peak_rss_gb_with_bootstrap": round(runs.watched.measured.peak_gb, 3),
    }


def growth_ratios(small: dict[str, Any], large: dict[str, Any]) -> dict[str, float]:
    """Return the larger store's numbers over the smaller's."""

    def of_task(told: dict[str, Any], task: str) -> float:
        return sum(seconds for name, seconds in told["seconds_of_fits"].items() if name.endswith(f" {task}"))

    pairs = {
        "ratio_frames": (large["n_frames"], small["n_frames"]),
        "ratio_seconds_total": (large["seconds_total"], small["seconds_total"]),
        "ratio_seconds_count": (large["seconds_count"], small["seconds_count"]),
        "ratio_peak_rss": (large["peak_rss_gb"], small["peak_rss_gb"]),
        "ratio_seconds_phoneme_fits": (of_task(large, "phoneme"), of_task(small, "phoneme")),
        "ratio_seconds_speaker_fits": (of_task(large, "speaker"), of_task(small, "speaker")),
    }
    # the log tells tenths of a second, so that a tiny store's stage may read zero
    return {name: round(above / max(below, 0.05), 3) for name, (above, below) in pairs.items()}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, default=Path("results/scale/clean100.h5"))
    parser.add_argument("--growth", type=Path, help="a larger store, to see what grows")
    parser.add_argument("--n-bootstrap", type=int, default=0, help="run again with so many resamples")
    parser.add_argument("--repeats", type=int, default=1, help="runs that are timed")
    parser.add_argument("--layer", type=int, action="append", default=[], help="default: all")
    parser.add_argument("--workers", type=int, help="default: the command's own")
    parser.add_argument("--utterances", type=int, help="of --store when it has to be made; default: the shape's")
    parser.add_argument("--speakers", type=int)
    parser.add_argument("--growth-utterances", type=int, help="of --growth when it has to be made")
    parser.add_argument("--growth-speakers", type=int)
    arguments = parser.parse_args()
    if arguments.repeats < 1 or arguments.n_bootstrap < 0:
        parser.error("expected --repeats from 1 and --n-bootstrap from 0 on")
    return arguments


if __name__ == "__main__":
    run_clearly(main)
