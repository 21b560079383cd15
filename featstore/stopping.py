"""Ctrl-C and SIGTERM that are never lost, and never wait for long.

A signal handler's exception is dropped where Python happens to be inside a callback from C (soundfile's virtual files),
a weak reference's callback or a destructor: the work would go on, and an audio file whose reading was cut short in
this way would look truncated. So the handler also remembers the signal, and whoever may rely on work that was cut short
asks `check_stopped` first.

Python runs no handler at all while C code runs, and a network that encodes 35 s of speech on one core is such code for
10 s and more. So a thread watches the signals too, and ends the process when the main thread has not done so in time.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, NoReturn

INTERRUPTED_NOTE = "interrupted: finished work is kept; run the same command again to go on"
# Batch systems and containers kill 10 s (docker) to 30 s (Slurm) after SIGTERM, and people lose patience sooner. 6 s
# let the main thread come back from C code and remove its temporary files; what remains of 10 s is for a busy machine.
GRACE_S = 6.0
_LAST_WORDS_S = 1.0  # for children and the note: a reader of stderr that has stalled must not keep the process
_STOPPING = (signal.SIGINT, signal.SIGTERM)
_STDERR = 2
_NO_SIGNAL = b"\0"  # no signal has this number: it tells the watching thread that the work is done


class Terminated(KeyboardInterrupt):
    """SIGTERM: ends like Ctrl-C, so that temporary files are removed on the way out."""


_received: list[type[KeyboardInterrupt]] = []
_pipes: list[int] = []  # ends that signals are written to, the last one now


@contextlib.contextmanager
def signals_noticed() -> Iterator[None]:
    """Turn SIGINT and SIGTERM into `KeyboardInterrupt` and `Terminated`, and remember them for `check_stopped`.

    Where the block is not left within `GRACE_S` seconds after a signal, the process ends with `INTERRUPTED_NOTE` and
    the exit code of the signal (143 or 130); temporary files are then left to the next run. Where SIGINT is ignored
    (``nohup``, the background of a shell script) it stays so. Handlers are put back at the end. Outside the main
    thread, where Python handles no signals, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _received.clear()
    signals = [signal.SIGTERM]
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signals.append(signal.SIGINT)
    before = {number: signal.signal(number, _stop) for number in signals}
    hook = sys.unraisablehook
    sys.unraisablehook = lambda dropped: None if _is_ours(dropped) else hook(dropped)
    try:
        with _watched():
            yield
    finally:
        _received.clear()
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Put off what Python does about SIGINT and SIGTERM until the block has ended, for work that must not be cut short.

    An exception in the middle of a call by HDF5 to Python would be dropped, and what HDF5 was about to write with it.
    Outside the main thread, where Python handles no signals, this does nothing.
    """
    came: list[int] = []
    handlers = {}
    if threading.current_thread() is threading.main_thread():
        for number in _STOPPING:
            if callable(signal.getsignal(number)):  # ignored it may stay, and the system's own way is no exception
                handlers[number] = signal.signal(number, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for late in came:
            signal.raise_signal(late)


def check_stopped() -> None:
    """Raise `KeyboardInterrupt` or `Terminated` if such a signal came, whatever became of its first exception."""
    if _received:
        raise _received[-1]


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    _received.append(Terminated if number == signal.SIGTERM else KeyboardInterrupt)
    raise _received[-1]


def _is_ours(dropped: Any) -> bool:
    return issubclass(dropped.exc_type, KeyboardInterrupt)


@contextlib.contextmanager
def _watched() -> Iterator[None]:
    """Watch signals from a thread: Python's handler in C writes their numbers to a pipe, whatever else is running."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)  # the handler in C must never wait
    is_over = threading.Event()
    thread = threading.Thread(target=_watch, args=(reading, is_over), name="signal watch", daemon=True)
    thread.start()
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    _pipes.append(writing)
    try:
        yield
    finally:
        is_over.set()
        if writing in _pipes:  # in a forked child they are the parent's, and there is no thread
            _pipes.remove(writing)
            signal.set_wakeup_fd(before)
            os.write(writing, _NO_SIGNAL)
            thread.join()
        os.close(writing)
        os.close(reading)


def _watch(reading: int, is_over: threading.Event) -> None:
    """End the process `GRACE_S` after the first signal to stop, unless the work is over by then."""
    # Signals stay with the main thread, whose waiting (a sleep, a read) they have to cut short.
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
    came: list[int] = []
    while not came:
        found = os.read(reading, 512)
        if _NO_SIGNAL in found:
            return
        came = [number for number in found if number in _STOPPING]
    if not is_over.wait(GRACE_S):
        _end_process(128 + came[0])


def _end_process(exit_code: int) -> NoReturn:
    """Kill the workers, say the note and end, using no lock that the main thread may hold."""
    last = threading.Timer(_LAST_WORDS_S, os._exit, (exit_code,))
    last.daemon = True
    last.start()
    # It is imported where there are workers; to import it here might wait for an import under way in the main thread.
    workers = getattr(sys.modules.get("multiprocessing"), "active_children", list)
    with contextlib.suppress(OSError, ValueError):  # one ends by itself just now
        for worker in workers():
            worker.kill()
    with contextlib.suppress(OSError):  # nobody listens
        below_the_bar = "\n" if os.isatty(_STDERR) else ""
        os.write(_STDERR, f"{below_the_bar}{INTERRUPTED_NOTE}\n".encode())
    os._exit(exit_code)


def _leave_the_watch() -> None:
    """Let a forked child's signals be its own: written to its parent's pipe they would end the parent."""
    if _pipes:
        signal.set_wakeup_fd(-1)
        _pipes.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_the_watch)
