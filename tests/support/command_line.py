"""Run the command line: in this process for speed, or as a process of its own where that is what counts."""

import logging
import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from click.testing import CliRunner

import cli

ROOT = Path(__file__).resolve().parents[2]
_LOGGERS = ("", "featstore", "probes", "cli")


@dataclass(frozen=True)
class Ended:
    """How a command ended and what it said."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def error(self) -> str:
        """The one line of an expected failure: exit code 1, one ``Error:``, at the end, and no traceback."""
        lines = self.stderr.splitlines()
        assert self.exit_code == 1, self
        assert [line for line in lines if line.startswith("Error: ")] == lines[-1:], self.stderr
        assert "Traceback" not in self.stderr + self.stdout
        assert self.stdout == ""
        return lines[-1].removeprefix("Error: ")

    @property
    def usage_error(self) -> str:
        """The message of wrong usage: exit code 2, how the command is used, then one ``Error:`` at the end."""
        lines = self.stderr.splitlines()
        assert self.exit_code == 2, self
        assert lines[0].startswith("Usage: ")
        assert [line for line in lines if line.startswith("Error: ")] == lines[-1:], self.stderr
        assert self.stdout == ""
        return lines[-1].removeprefix("Error: ")


def run(*arguments: object) -> Ended:
    """Run a command in this process; an exception that the command line does not expect is raised here."""
    with _unchanged_process():
        result = CliRunner().invoke(cli.main, [str(argument) for argument in arguments], catch_exceptions=False)
    return Ended(result.exit_code, result.stdout, result.stderr)


def run_well(*arguments: object) -> Ended:
    """Run a command that has to succeed."""
    ended = run(*arguments)
    assert ended.exit_code == 0, ended.stderr
    return ended


def run_process(*arguments: object) -> Ended:
    """Run ``python cli.py ...`` to its end."""
    done = subprocess.run(command(*arguments), capture_output=True, text=True, cwd=ROOT, env=environment())
    return Ended(done.returncode, done.stdout, done.stderr)


def run_python(code: str) -> Ended:
    """Run Python code that may import the command line."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment())
    return Ended(done.returncode, done.stdout, done.stderr)


def command(*arguments: object) -> list[str]:
    """Return the argument vector of ``python cli.py ...``."""
    return [sys.executable, str(ROOT / "cli.py"), *(str(argument) for argument in arguments)]


def environment() -> dict[str, str]:
    """Return an environment in which equal builds give equal bits whatever the machine's number of cores."""
    return os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def corpus_options(corpus) -> list[object]:
    """Return the options that name a corpus of tests/support/corpus.py."""
    return ["--librispeech-root", corpus.librispeech_root, "--alignments-root", corpus.alignments_root]


def tree(folder: Path) -> dict[str, bytes]:
    """Return the content of every file below a folder, and every folder as such."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"<folder>"
        for path in sorted(folder.rglob("*"))
    }


@contextmanager
def _unchanged_process():
    """Undo what a command changes in its process: where log messages go."""
    loggers = [(logging.getLogger(name), logging.getLogger(name).level) for name in _LOGGERS]
    root_handlers = list(logging.root.handlers)
    try:
        yield
    finally:
        logging.root.handlers[:] = root_handlers
        for logger, level in loggers:
            logger.setLevel(level)
