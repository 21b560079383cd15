"""Run a command and measure it from outside: wall time, and the peak memory of it and all its processes together.

Memory is the sum of PSS over the process tree, in which a page that several processes share counts once; where the
kernel tells no PSS it is the sum of RSS, which counts such pages again and again; without /proc it is the largest RSS
of any one process. Which of them was used is said beside the number. It is sampled, so a peak shorter than the
interval can be missed. Asking a gigabyte's process for its PSS twenty times a second slows it down, by a quarter where
all cores are busy: time and memory are measured in separate runs.
"""

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

INTERVAL_S = 0.05
_LOOK_EVERY = 10  # samples between looks for new processes, which cost several times a sample
_PROC = Path("/proc")


@dataclass(frozen=True)
class Measured:
    """How a command went.

    Attributes
    ----------
    exit_code : int
    seconds, cpu_seconds : float
        Wall time from start to end, and processor time of all processes.
    peak_gb : float
        Largest memory seen, 1e9 bytes; 0 where it was not watched.
    memory_measure : {"pss", "rss", "largest process"}
    n_samples : int
    stdout, stderr : str
    """

    exit_code: int
    seconds: float
    cpu_seconds: float
    peak_gb: float
    memory_measure: str
    n_samples: int
    stdout: str
    stderr: str


def run_measured(command: Sequence[str], cwd: Path, watch_memory: bool = True) -> Measured:
    """Run `command` in the folder `cwd` to its end."""
    with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
        begin, cpu_begin = time.perf_counter(), _children_cpu_s()
        process = subprocess.Popen(command, cwd=cwd, stdout=stdout, stderr=stderr)
        sampler = _Sampler(process.pid)
        try:
            if watch_memory:
                sampler.start()
            exit_code = process.wait()
            seconds = time.perf_counter() - begin
        finally:
            process.kill()  # does nothing to a process that has ended; else this one was interrupted
            process.wait()
            if watch_memory:
                sampler.stop()
        stdout.seek(0)
        stderr.seek(0)
        peak = sampler.peak_bytes if sampler.measure != "largest process" else _largest_bytes("RUSAGE_CHILDREN")
        return Measured(
            exit_code,
            seconds,
            _children_cpu_s() - cpu_begin,
            peak / 1e9,
            sampler.measure,
            sampler.n_samples,
            stdout.read(),
            stderr.read(),
        )


class _Sampler(threading.Thread):
    """Samples the memory of a process and its descendants until it is stopped."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid = pid
        self._done = threading.Event()
        self.measure = memory_measure()
        self.peak_bytes = 0
        self.n_samples = 0

    def run(self) -> None:
        """Sample."""
        tree = [self._pid]
        while self.measure != "largest process" and not self._done.wait(INTERVAL_S):
            if self.n_samples % _LOOK_EVERY == 0:
                tree = descendants(self._pid)
            self.peak_bytes = max(self.peak_bytes, sum(process_bytes(pid, self.measure) for pid in tree))
            self.n_samples += 1

    def stop(self) -> None:
        """End the thread."""
        self._done.set()
        self.join()


def own_peak_gb() -> float:
    """Return the largest memory this process has had resident, 1e9 bytes.

    Where Linux tells it, of the program that runs now alone: `getrusage` also counts what the process held before it
    became this program, which is all that its parent held when it was forked.
    """
    try:
        for line in (_PROC / "self" / "status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e9
    except (OSError, IndexError, ValueError):
        pass
    return _largest_bytes("RUSAGE_SELF") / 1e9


def memory_measure() -> str:
    """Return which measure of memory this machine offers: ``pss``, ``rss`` or ``largest process``."""
    own = os.getpid()
    for measure in ("pss", "rss"):
        if process_bytes(own, measure):
            return measure
    return "largest process"


def descendants(pid: int) -> list[int]:
    """Return a process, its children, and theirs."""
    children = _children()
    tree = [pid]
    for process in tree:  # grows while it is gone through
        tree += children[process]
    return tree


def command_line(pid: int) -> str:
    """Return a process's command line, its words apart by spaces; empty where it has ended."""
    try:
        return (_PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def process_bytes(pid: int, measure: str) -> int:
    """Return the memory of one process, ``pss`` or ``rss``; 0 where it has ended or cannot be told."""
    try:
        if measure == "rss":
            return int((_PROC / str(pid) / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        lines = (_PROC / str(pid) / "smaps_rollup").read_text().splitlines()
    except (OSError, IndexError, ValueError):
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def _children() -> dict[int, list[int]]:
    """Return the children of every process."""
    children: dict[int, list[int]] = defaultdict(list)
    for folder in _PROC.iterdir():
        if folder.name.isdigit():
            try:
                # "pid (name) state parent ...", and the name may hold anything
                parent = int((folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
            except (OSError, IndexError, ValueError):
                continue
            children[parent].append(int(folder.name))
    return children


def _children_cpu_s() -> float:
    """Return the processor time of all processes that this one has started and that have ended, and of theirs."""
    times = os.times()
    return times.children_user + times.children_system


def _largest_bytes(of: str) -> int:
    """Return the largest memory of ``RUSAGE_SELF`` or of any one of ``RUSAGE_CHILDREN``; 0 where no one tells."""
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(getattr(resource, of)).ru_maxrss
    return int(peak * (1 if sys.platform == "darwin" else 1024))
