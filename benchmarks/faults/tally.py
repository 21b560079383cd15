"""Strike again and again, and count how often what has to hold did."""

import shutil
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from schemas.errors import RvqprobeError

MAX_DRAWS = 6
MAX_FAILURES = 20

Strike = Callable[[np.random.Generator, Path], None]
"""One run of a fault, with a generator of its own, in a folder of its own; raises `NotHeldError` or `MissedError`."""


class NotHeldError(Exception):
    """The fault struck, and what has to hold did not; says what happened instead."""


class MissedError(Exception):
    """The fault did not strike, e.g. because the process had ended by then: this run says nothing."""


class Tally:
    """Counts the runs of one fault.

    Parameters
    ----------
    name : str
        The fault's.
    n_asked : int
        Runs that are to be made; told with the progress.
    """

    def __init__(self, name: str, n_asked: int) -> None:
        self._name, self._n_asked = name, n_asked
        self.n_runs = self.n_held = self.n_missed = 0
        self.failures: list[str] = []
        self._begin_s = self._told_s = time.perf_counter()

    def held(self) -> None:
        """Count a run in which all held."""
        self.n_runs += 1
        self.n_held += 1
        self._tell()

    def failed(self, what: str) -> None:
        """Count a run in which it did not; `what` happened, in one line."""
        self.n_runs += 1
        what = " ".join(what.split())[:500]
        print(f"{self._name}: {what}", file=sys.stderr, flush=True)
        if len(self.failures) < MAX_FAILURES:
            self.failures.append(what)
        self._tell()

    def missed(self) -> None:
        """Note a draw in which the fault did not strike; it is no run."""
        self.n_missed += 1

    def _tell(self) -> None:
        now_s = time.perf_counter()
        if now_s - self._told_s >= 5 or self.n_runs == self._n_asked:
            self._told_s = now_s
            held = f"{self.n_held} of {self.n_runs} held, {self._n_asked} asked"
            print(f"{self._name}: {held}, {now_s - self._begin_s:.0f} s", file=sys.stderr, flush=True)

    def record(self) -> dict[str, Any]:
        """Return the counts as plain values."""
        return {
            "runs": self.n_runs,
            "held": self.n_held,
            "failures": self.failures,
            "missed": self.n_missed,
        }


def strike_often(name: str, n_runs: int, seed: int, folder: Path, strike: Strike) -> dict[str, Any]:
    """Make `n_runs` runs of a fault and return their record.

    Each run draws from a generator of its own, seeded by fault, run and draw, and has an empty folder that is removed
    afterwards. A run that the fault missed is drawn again, up to `MAX_DRAWS` times, and then left out.
    """
    tally = Tally(name, n_runs)
    for index in range(n_runs):
        for draw in range(MAX_DRAWS):
            run_folder = folder / f"{name}-{index}-{draw}"
            run_folder.mkdir(parents=True)
            try:
                strike(generator(name, seed, index, draw), run_folder)
                tally.held()
                break
            except MissedError:
                tally.missed()
            except NotHeldError as error:
                tally.failed(f"run {index}, draw {draw}: {error}")
                break
            except (RvqprobeError, OSError, subprocess.SubprocessError, ValueError, KeyError) as error:
                tally.failed(f"run {index}, draw {draw}: {type(error).__name__}: {error}")
                break
            finally:
                shutil.rmtree(run_folder)
    return tally.record()


def generator(name: str, seed: int, *places: int) -> np.random.Generator:
    """Return the generator of one run: the same whichever other faults are run."""
    return np.random.default_rng([zlib.crc32(name.encode()), seed, *places])
