"""Two processes with one command and one output: one of them builds, and the other says who does."""

import re
import signal
import socket
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.faults.child import Child, Ended
from benchmarks.faults.killing import strike_at_random
from benchmarks.faults.scene import LAYOUTS, Scene, Work, check_whole, error_line
from benchmarks.faults.tally import MissedError, NotHeldError, strike_often

APART_S = 0.5  # at most between the two starts
KILLED = 0.3  # share of the runs in which the first is killed
ALREADY = "already built"


def run_rivals(name: str, scene: Scene, n_runs: int, seed: int, folder: Path) -> dict[str, Any]:
    """Start one build twice, nearly at once; in some runs the first is killed, and the second then has to work."""

    def strike(rng: np.random.Generator, run_folder: Path) -> None:
        work = scene.build(LAYOUTS[rng.integers(len(LAYOUTS))])
        reference = scene.reference(work)
        is_killed = rng.random() < KILLED
        with scene.start(work.command(run_folder)) as first:
            time.sleep(rng.uniform(0, APART_S))
            with scene.start(work.command(run_folder)) as second:
                if is_killed:
                    strike_at_random(first, reference, signal.SIGKILL, rng)
                ended = second.end(), first.end()
                if is_killed:
                    _check_after_kill(scene, work, run_folder, ended, first.pid)
                else:
                    _check_pair((second, ended[0]), (first, ended[1]))
        check_whole(run_folder, reference)

    return strike_often(name, n_runs, seed, folder, strike)


def _check_pair(one: tuple[Child, Ended], other: tuple[Child, Ended]) -> None:
    """Check that exactly one of two builds has built, and that the other said so."""
    (winner, won), (_, lost) = (one, other) if _has_built(one[1]) else (other, one)
    if not _has_built(won) or _has_built(lost):
        raise NotHeldError(f"expected one of two to build: {won.said}; {lost.said}")
    if lost.exit_code:
        _check_names(error_line(lost), winner.pid)


def _check_after_kill(scene: Scene, work: Work, folder: Path, ends: tuple[Ended, Ended], pid_of_first: int) -> None:
    """Check that the second build was refused or took over, and that it works when it is started again."""
    second, first = ends
    if first.exit_code == 0 or (first.exit_code == 1 and second.exit_code == 0):
        raise MissedError  # the first had ended, or had lost, before it was killed
    if first.exit_code != -signal.SIGKILL:
        raise NotHeldError(f"the first, sent SIGKILL: {first.said}")
    if second.exit_code:
        _check_names(error_line(second), pid_of_first)
    with scene.start(work.command(folder)) as again:
        ended = again.end()
    if ended.exit_code:
        raise NotHeldError(f"the second again, with the first killed: {ended.said}")


def _has_built(ended: Ended) -> bool:
    return ended.exit_code == 0 and ALREADY not in ended.stderr


def _check_names(line: str, pid: int) -> None:
    """Check that a refusal says who holds the output."""
    if socket.gethostname() not in line or not re.search(rf"\b{pid}\b", line):
        raise NotHeldError(f"expected an error that names {socket.gethostname()} and process {pid}: {line[:300]!r}")
