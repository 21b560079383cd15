"""SIGTERM and SIGINT: the command ends soon, with the shell's exit code and no traceback, and can be run again."""

import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.faults.killing import choose_work, finish_again, strike_at_random
from benchmarks.faults.scene import Scene
from benchmarks.faults.tally import MissedError, NotHeldError, strike_often

PATIENCE_S = 10.0
EXIT_CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}


def run_signals(name: str, scene: Scene, n_runs: int, seed: int, folder: Path) -> dict[str, Any]:
    """Interrupt builds and merges, run the command again, and look whether anything differs."""

    def strike(rng: np.random.Generator, run_folder: Path) -> None:
        work = choose_work(scene, rng)
        reference = scene.reference(work)
        sent = list(EXIT_CODES)[rng.integers(len(EXIT_CODES))]
        with scene.start(work.command(run_folder)) as child:
            strike_at_random(child, reference, sent, rng)
            try:
                ended = child.end(PATIENCE_S)
            except subprocess.TimeoutExpired as error:
                raise NotHeldError(f"sent {sent.name}: still there after {PATIENCE_S:g} s") from error
        if ended.stdout:
            raise MissedError  # its result was told: it was on its way out
        if ended.exit_code != EXIT_CODES[sent] or "Traceback" in ended.stderr:
            raise NotHeldError(f"sent {sent.name}: {ended.said}")
        finish_again(scene, work, reference, run_folder)

    return strike_often(name, n_runs, seed, folder, strike)
