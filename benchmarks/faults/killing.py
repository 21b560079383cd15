"""SIGKILL at a random moment of a build or a merge: the same command, run again, ends as if nothing had happened."""

import re
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.faults.child import Child, Ended
from benchmarks.faults.scene import LAYOUTS, STORE_NAME, Reference, Scene, Work, check_whole, finished_shards
from benchmarks.faults.tally import MissedError, NotHeldError, strike_often

AFTER_STEP_S = 0.05
MERGES = 0.25  # share of the runs
KILLED_AGAIN = 0.25
_REUSED = re.compile(r"(\d+) reused")


def run_kills(name: str, scene: Scene, n_runs: int, seed: int, folder: Path) -> dict[str, Any]:
    """Kill builds (and, for every fourth run, merges), run the command again, and look whether anything differs."""

    def strike(rng: np.random.Generator, run_folder: Path) -> None:
        work = choose_work(scene, rng)
        reference = scene.reference(work)
        struck(scene, work, reference, run_folder, signal.SIGKILL, rng)
        if rng.random() < KILLED_AGAIN and not (run_folder / STORE_NAME).exists():
            with scene.start(work.command(run_folder)) as child:
                strike_at_random(child, reference, signal.SIGKILL, rng)
                child.end()
        finish_again(scene, work, reference, run_folder)

    return strike_often(name, n_runs, seed, folder, strike)


def choose_work(scene: Scene, rng: np.random.Generator) -> Work:
    """Return a build or a merge, of either layout."""
    layout = LAYOUTS[rng.integers(len(LAYOUTS))]
    return scene.merge(layout) if rng.random() < MERGES else scene.build(layout)


def struck(
    scene: Scene, work: Work, reference: Reference, folder: Path, sent: signal.Signals, rng: np.random.Generator
) -> Ended:
    """Start a piece of work, kill it at a random moment and return how it ended.

    Raises
    ------
    MissedError
        When it had ended by then.
    NotHeldError
        When it ended in another way.
    """
    with scene.start(work.command(folder)) as child:
        strike_at_random(child, reference, sent, rng)
        ended = child.end()
    if ended.exit_code == 0:
        raise MissedError
    if ended.exit_code != -sent:
        raise NotHeldError(f"sent {sent.name}: {ended.said}")
    return ended


def strike_at_random(child: Child, reference: Reference, sent: signal.Signals, rng: np.random.Generator) -> None:
    """Send a signal at a random moment after start-up, which ends with the first step.

    Half of the moments are uniform over the rest of the run, half within `AFTER_STEP_S` of one of its steps.
    """
    if rng.random() < 0.5:
        index, pause_s = 0, rng.uniform(0, reference.active_s)
    else:
        index, pause_s = int(rng.integers(len(reference.steps))), rng.uniform(0, AFTER_STEP_S)
    if child.wait_for_step(index):
        time.sleep(max(0.0, child.steps[index].time_s + pause_s - time.monotonic()))
        child.send(sent)


def finish_again(scene: Scene, work: Work, reference: Reference, folder: Path) -> None:
    """Run the same command to its end, and check its result and that finished shards were used.

    Raises
    ------
    NotHeldError, RvqprobeError
    """
    was_whole, n_kept = (folder / STORE_NAME).exists(), len(finished_shards(folder))
    with scene.start(work.command(folder)) as child:
        ended = child.end()
    # a merge overwrites nothing, not even its own result when the signal came right after that was in place
    was_refused = work.kind == "merge" and was_whole and ended.exit_code == 1 and " already" in ended.stderr
    if ended.exit_code and not was_refused:
        raise NotHeldError(f"the same {work.kind} again: {ended.said}")
    reused = _REUSED.search(ended.stderr)
    if work.kind == "build" and (reused is None or int(reused[1]) < n_kept):
        raise NotHeldError(f"{n_kept} shards were finished, and then: {ended.said}")
    check_whole(folder, reference)
