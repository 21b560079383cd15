"""All faults by name, and how often each strikes."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.faults.asking import NoAnswerError
from benchmarks.faults.damage import run_bit_flips, run_truncations
from benchmarks.faults.filling import run_full_disks
from benchmarks.faults.killing import run_kills
from benchmarks.faults.reading import run_readers
from benchmarks.faults.rivalry import run_rivals
from benchmarks.faults.scene import Scene, real_scene, small_scene
from benchmarks.faults.stopping import run_signals
from benchmarks.faults.tally import NotHeldError
from benchmarks.faults.unreadable import run_bad_reads
from benchmarks.faults.worker_deaths import run_worker_deaths
from schemas.errors import RvqprobeError

REAL_CODECS = "kill-real-codecs"
MALFORMED = "malformed"
_FAULTS: dict[str, Callable[[str, Scene, int, int, Path], dict[str, Any]]] = {
    "kill": run_kills,
    "signals": run_signals,
    "disk-full": run_full_disks,
    "bit-flips": run_bit_flips,
    "truncation": run_truncations,
    "two-builders": run_rivals,
    "readers": run_readers,
    "failing-reads": run_bad_reads,
}
# The same once more where they meet other processes: builds with workers.
_WITH_WORKERS = {
    "kill-with-workers": run_kills,
    "signals-with-workers": run_signals,
    "worker-deaths": run_worker_deaths,
}
_N_WORKERS = 2
LONG = {
    "kill": 200,
    "signals": 50,
    "disk-full": 30,
    "bit-flips": 1000,
    "truncation": 200,
    MALFORMED: 2000,
    "two-builders": 20,
    "readers": 20,
    "failing-reads": 100,
    "kill-with-workers": 100,
    "signals-with-workers": 50,
    "worker-deaths": 100,
}
SHORT = {
    "kill": 6,
    "signals": 3,
    "disk-full": 3,
    "bit-flips": 100,
    "truncation": 40,
    MALFORMED: 40,
    "two-builders": 3,
    "readers": 2,
    "failing-reads": 3,
    "kill-with-workers": 3,
    "signals-with-workers": 2,
    "worker-deaths": 3,
}
N_REAL_CODECS = 20  # unless another number is asked for; the short form has none


def run_faults(counts: dict[str, int], seed: int, folder: Path) -> dict[str, dict[str, Any]]:
    """Run faults, each as often as `counts` says, and return their records by name."""
    scene = small_scene(folder / "small")
    return {name: run_fault(name, scene, n_runs, seed, folder) for name, n_runs in counts.items()}


def run_fault(name: str, scene: Scene, n_runs: int, seed: int, folder: Path) -> dict[str, Any]:
    """Run one fault `n_runs` times and return its record.

    Parameters
    ----------
    name : str
        A key of `LONG`, or `REAL_CODECS`.
    scene : Scene
        Of most faults; builds with real codecs and with workers have their own.
    n_runs, seed : int
    folder : Path
        For what the runs leave; each run removes its own.

    Returns
    -------
    dict
        ``runs`` in which the fault struck, in how many all ``held``, ``failures`` (what happened instead), ``missed``
        draws that say nothing, ``seconds`` in all.
    """
    begin_s = time.perf_counter()
    runs = folder / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    try:
        told = _run(name, scene, n_runs, seed, folder, runs)
    except (NotHeldError, NoAnswerError, RvqprobeError) as error:
        # not even what is done undisturbed, before anything is thrown, went well: the other faults are still to be run
        told = {"runs": n_runs, "held": 0, "failures": [f"before any run: {error}"]}
    return told | {"missed": told.get("missed", 0), "seconds": round(time.perf_counter() - begin_s, 2)}


def _run(name: str, scene: Scene, n_runs: int, seed: int, folder: Path, runs: Path) -> dict[str, Any]:
    if name == MALFORMED:
        from benchmarks.faults.malformed import run_malformed  # loads torch, of which the other faults know nothing

        return run_malformed(n_runs, seed, runs / name)
    if name == REAL_CODECS:
        return run_kills(name, real_scene(folder / "real"), n_runs, seed, runs)
    if name in _WITH_WORKERS:
        return _WITH_WORKERS[name](name, small_scene(folder / name, _N_WORKERS), n_runs, seed, runs)
    return _FAULTS[name](name, scene, n_runs, seed, runs)
