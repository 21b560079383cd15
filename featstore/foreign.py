"""Files from strangers: parsed first by a process of its own that may not write, grow or run on without bound.

HDF5 was not made for hostile files. `foreign_child` holds the rules and applies them there; what a crash, an endless
loop or a memory bomb can end is that process, and here it becomes one line.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

from featstore.errors import StoreError
from featstore.foreign_child import MEMORY_BYTES, find_outside
from schemas.errors import SchemaError

__all__ = ["check_foreign", "find_outside"]

_LEAST_S = 60
_BYTES_PER_S = 10_000_000  # gzip is inflated to the end, and a slow network disk is no attack
_ANSWER_BYTES = 1 << 20
# -I -S: nothing from the environment, the current folder or the user's site runs in the process that will parse the
# file. The modules come from where they came from here.
_START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from featstore.foreign_child import main"
_KEPT_HDF5 = ("HDF5_USE_FILE_LOCKING", "HDF5_DISABLE_VERSION_CHECK")


def check_foreign(path: Path) -> None:
    """Check in a process of its own that a file is a store which is safe to open in this one.

    Parameters
    ----------
    path : Path
        A regular file.

    Raises
    ------
    SchemaError
        When it is of another format or of an unknown major version.
    StoreError
        When it breaks the rules of `find_outside` or the format, does not decode, or crashes the process that reads
        it, or takes more than 3 GiB, or more than 60 s and a second for every 10 MB.
    """
    limit_s = _time_limit_s(path)
    try:
        status, output, is_late = _run(_command(path, limit_s), limit_s)
    except OSError as error:
        raise StoreError(
            f"{path}: reading it in a separate process, as a file from elsewhere needs, is not possible "
            f"({error.strerror or error}); free memory or processes and try again"
        ) from error
    if status == 0 and not is_late and (answer := _answer(output)) is not None:
        _raise(path, answer)
        return
    raise StoreError(
        f"{path}: {_ending(status, limit_s, is_late)} in a separate process, so it is damaged or hostile; "
        "get a whole copy or build it again"
    )


def _raise(path: Path, answer: dict[str, str]) -> None:
    kind, message = answer.get("error"), answer.get("message", "")
    if kind == "SchemaError":
        raise SchemaError(message)
    if kind == "MemoryError":
        raise StoreError(
            f"{path}: reading it took more than {MEMORY_BYTES >> 30} GiB of memory in a separate process, so it is "
            "damaged or hostile; get a whole copy or build it again"
        )
    if kind is not None:
        raise StoreError(message)


def _time_limit_s(path: Path) -> int:
    with suppress(OSError):
        return _LEAST_S + path.stat().st_size // _BYTES_PER_S
    return _LEAST_S


def _command(path: Path, limit_s: int) -> list[str]:
    package = str(Path(__file__).resolve().parents[1])
    places = [place for place in sys.path if os.path.isabs(place)]
    places = places if package in places else [package, *places]
    start = f"{_START}; main(sys.argv[2], {limit_s})"
    return [sys.executable, "-I", "-S", "-B", "-c", start, json.dumps(places), str(path)]


def _environment() -> dict[str, str]:
    """Return this process's environment without what makes HDF5 load plugins or look elsewhere for files."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HDF5_") or name in _KEPT_HDF5}
    # One thread: the tables are small, and a thread's buffers on a machine of many cores would take up the memory.
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return kept | threads | {"HDF5_PLUGIN_PATH": "", "HDF5_PLUGIN_PRELOAD": "::"}


def _run(command: list[str], limit_s: float) -> tuple[int, bytes, bool]:
    """Run a command; return its exit status (negative: a signal), its first output, and whether time ran out."""
    late = threading.Event()
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=_environment(),
        start_new_session=True,  # so that all it may have started ends with it
    ) as process:

        def stop() -> None:
            late.set()
            _end(process)

        timer = threading.Timer(limit_s, stop)
        timer.start()
        try:
            assert process.stdout is not None
            output = process.stdout.read(_ANSWER_BYTES)
            process.stdout.close()
            return process.wait(), output, late.is_set()
        finally:
            timer.cancel()
            if process.returncode is None:
                _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _answer(output: bytes) -> dict[str, str] | None:
    try:
        answer = json.loads(output)
    except (ValueError, RecursionError):
        return None
    is_answer = isinstance(answer, dict) and all(isinstance(text, str) for text in answer.values())
    return answer if is_answer else None


def _ending(status: int, limit_s: float, is_late: bool) -> str:
    if is_late or status == -signal.SIGXCPU:
        return f"reading it took more than {limit_s:g} s"
    if status >= 0:
        return f"reading it ended without an answer (exit status {status})"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    return f"reading it crashed ({name})"
