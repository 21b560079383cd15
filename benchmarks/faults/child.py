"""A process under attack, seen from outside: start it, follow its steps, send it a signal, see how it ended."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.faults.steps import Step, parse_step

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 120.0


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes
    ----------
    exit_code : int
        Negative where a signal ended it.
    stdout, stderr : str
    steps : list of Step
        All that it told.
    end_s : float
        When it was seen to have ended, on the clock of the steps.
    """

    exit_code: int
    stdout: str
    stderr: str
    steps: list[Step]
    end_s: float

    @property
    def said(self) -> str:
        """How it ended, in one line: exit code and the last it wrote to stderr."""
        return f"exit code {self.exit_code}, {(self.stderr.strip().splitlines() or ['no word'])[-1][:300]!r}"


class Child:
    """A command in a process of its own (`benchmarks.faults.runner`); a context manager that leaves no process behind.

    Parameters
    ----------
    command : sequence of str
        For the command line, e.g. ``["build-store", ...]``.
    options : sequence of str
        For the runner.
    """

    def __init__(self, command: Sequence[str], options: Sequence[str]) -> None:
        reading, writing = os.pipe()
        prepared = [sys.executable, "-m", "benchmarks.faults.runner", "--steps-fd", str(writing), *options, "--"]
        self._process = subprocess.Popen(
            [*prepared, *command],
            cwd=ROOT,
            env=quiet_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            pass_fds=[writing],
        )
        os.close(writing)
        self.pid = self._process.pid
        self.steps: list[Step] = []
        self._news = threading.Condition()
        self._is_silent = False  # the pipe is closed: it has ended
        self._follower = threading.Thread(target=self._follow, args=(reading,), daemon=True)
        self._follower.start()

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()

    def _follow(self, reading: int) -> None:
        with open(reading, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                with self._news:
                    if line.endswith("\n"):  # a process killed while it wrote may leave half a line
                        self.steps.append(parse_step(line))
                    self._news.notify_all()
        with self._news:
            self._is_silent = True
            self._news.notify_all()

    def wait_for_step(self, index: int) -> bool:
        """Wait until step `index`, counted from 0, is told; return False where the process ended before."""
        with self._news:
            self._news.wait_for(lambda: len(self.steps) > index or self._is_silent, PATIENCE_S)
            return len(self.steps) > index

    def send(self, sent: signal.Signals) -> None:
        """Send a signal; nothing happens to a process that has ended."""
        self._process.send_signal(sent)

    def end(self, patience_s: float = PATIENCE_S) -> Ended:
        """Wait for the end.

        Raises
        ------
        subprocess.TimeoutExpired
            When it does not come within `patience_s`.
        """
        stdout, stderr = self._process.communicate(timeout=patience_s)
        end_s = time.monotonic()
        self._follower.join(PATIENCE_S)
        return Ended(self._process.returncode, stdout, stderr, self.steps, end_s)


def quiet_environment() -> dict[str, str]:
    """Return an environment in which equal builds give equal bits whatever the machine's number of cores."""
    return os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
