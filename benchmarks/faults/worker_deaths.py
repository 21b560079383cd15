"""SIGKILL to one of a build's worker processes, as the system does when memory is short: the build goes on without it.

An utterance whose worker died is prepared again by the one that takes its place, and a shard whose writer died is
written by the build itself, so that the store is the very one of an undisturbed build.
"""

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.faults.child import Child
from benchmarks.faults.scene import LAYOUTS, Reference, Scene, check_whole
from benchmarks.faults.tally import MissedError, NotHeldError, strike_often
from benchmarks.measure.command import command_line, descendants

_OF_A_WORKER = "multiprocessing.spawn"  # among the words of its command line


def run_worker_deaths(name: str, scene: Scene, n_runs: int, seed: int, folder: Path) -> dict[str, Any]:
    """Kill a process that prepares utterances or writes shards, and look whether the build's result differs."""

    def strike(rng: np.random.Generator, run_folder: Path) -> None:
        work = scene.build(LAYOUTS[rng.integers(len(LAYOUTS))])
        reference = scene.reference(work)
        with scene.start(work.command(run_folder)) as child:
            if not child.wait_for_step(0):
                raise MissedError
            time.sleep(rng.uniform(0, _encoding_s(reference)))
            _kill_one(child, rng)
            ended = child.end()
        if ended.exit_code:
            raise NotHeldError(f"a worker was killed: {ended.said}")
        check_whole(run_folder, reference)

    return strike_often(name, n_runs, seed, folder, strike)


def _encoding_s(reference: Reference) -> float:
    """Return the seconds from the first step to the merge, for which no worker is needed any more."""
    begin_s = reference.steps[0].time_s
    return next((step.time_s - begin_s for step in reference.steps if ".merged" in step.path), reference.active_s)


def _kill_one(child: Child, rng: np.random.Generator) -> None:
    workers = [pid for pid in descendants(child.pid)[1:] if _OF_A_WORKER in command_line(pid)]
    if not workers:
        raise MissedError
    try:
        os.kill(workers[rng.integers(len(workers))], signal.SIGKILL)
    except ProcessLookupError as error:
        raise MissedError from error
