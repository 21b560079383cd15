"""Ask a process a line and wait for its answer, for so long; one that crashes or hangs is replaced."""

import json
import selectors
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from benchmarks.faults.child import PATIENCE_S, ROOT, quiet_environment


class NoAnswerError(Exception):
    """The process ended, or was silent for too long; says which."""


class Asked:
    """A module of this package that answers each line of JSON with one; a context manager.

    Parameters
    ----------
    module : str
        Name within `benchmarks.faults`.
    arguments : sequence of str
    """

    def __init__(self, module: str, arguments: Sequence[str]) -> None:
        self._command = [sys.executable, "-m", f"benchmarks.faults.{module}", *arguments]
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> "Asked":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def ask(self, request: dict[str, Any], patience_s: float) -> dict[str, Any]:
        """Return the answer to a request.

        Raises
        ------
        NoAnswerError
            When it does not come within `patience_s`; the next request goes to a new process.
        """
        if self._process is None:
            self._start()
            patience_s += PATIENCE_S  # it has to load what it needs
        process = self._process
        assert process is not None
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            return json.loads(self._line(patience_s))
        except (BrokenPipeError, NoAnswerError) as error:
            if isinstance(error, BrokenPipeError):
                process.wait(PATIENCE_S)  # its end of the pipe is closed a moment before it has ended
            code = process.poll()
            self._stop()
            raise NoAnswerError(str(error) if code is None else f"the process ended with exit code {code}") from error

    def _start(self) -> None:
        self._process = subprocess.Popen(
            self._command,
            cwd=ROOT,
            env=quiet_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def _line(self, patience_s: float) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:  # one answer a request: nothing is buffered beside it
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(patience_s):
                raise NoAnswerError(f"no answer in {patience_s:g} s")
        line = self._process.stdout.readline()
        if not line:
            self._process.wait(PATIENCE_S)
            raise NoAnswerError("the process ended")
        return line

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None
