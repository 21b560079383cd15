"""A reader at work while the store is built: it sees either no file or a whole store, never half of one."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.faults.child import PATIENCE_S, ROOT, quiet_environment
from benchmarks.faults.scene import LAYOUTS, STORE_NAME, Scene, check_whole
from benchmarks.faults.tally import MissedError, NotHeldError, strike_often


def run_readers(name: str, scene: Scene, n_runs: int, seed: int, folder: Path) -> dict[str, Any]:
    """Read a store and its shards in a loop while they are built, and verify all that is seen."""

    def strike(rng: np.random.Generator, run_folder: Path) -> None:
        work = scene.build(LAYOUTS[rng.integers(len(LAYOUTS))])
        reference = scene.reference(work)
        with _watching(run_folder / STORE_NAME) as watcher:
            assert watcher.stdout is not None
            assert watcher.stdout.readline() == "ready\n"
            with scene.start(work.command(run_folder)) as child:
                ended = child.end()
            seen = json.loads(watcher.communicate(timeout=PATIENCE_S)[0])
        if seen["broken"]:
            raise NotHeldError(f"a reader saw {seen['broken'][0]} ({len(seen['broken'])} such)")
        if ended.exit_code:
            raise NotHeldError(f"under a reader's eyes: {ended.said}")
        check_whole(run_folder, reference)
        if not any(shard.startswith("shard-") for shard in seen["whole"]):
            raise MissedError  # it came too late to see anything being built

    return strike_often(name, n_runs, seed, folder, strike)


def _watching(output: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "benchmarks.faults.watcher", str(output)]
    return subprocess.Popen(
        command, cwd=ROOT, env=quiet_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
