"""Worker processes that answer calls one at a time, and end with the program that started them.

Fits are small matrix products that gain little from a second BLAS thread, so cores are used by processes. They are
daemons that watch their parent: when it is gone, killed or not, they end too, in the middle of a call or not. Ctrl-C in
a terminal reaches the parent alone, from the moment they are started.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any, Self

from probes.errors import ProbeError
from probes.memory import keep_freed_memory
from schemas.errors import RvqprobeError

Call = tuple[str, tuple[Any, ...]]  # method of the worker's object, and its arguments
_STOPPING = (signal.SIGINT, signal.SIGTERM)


class InProcess:
    """The same interface in this process: one object answers the calls in order, and is closed at the end."""

    n_workers = 1

    def __init__(self, make: Callable[[], Any]) -> None:
        self._answerer = make()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._answerer.close()

    def run(self, calls: Iterable[Call]) -> Iterator[tuple[int, Any]]:
        """Yield (index of the call, answer).

        Raises
        ------
        RvqprobeError, OSError
            What a call raised; ProbeError when memory was too small for it.
        """
        for index, call in enumerate(calls):
            try:
                answer = _answer(self._answerer, call)
            except MemoryError as error:
                raise _out_of_memory(error, "fewer --layer at a time or on a machine with more") from error
            yield index, answer


class Pool:
    """`n_workers` processes, each with an object of its own that answers calls.

    Parameters
    ----------
    make : callable
        Makes the object; it and what it holds must be picklable.
    n_workers : int
    """

    def __init__(self, make: Callable[[], Any], n_workers: int) -> None:
        self.n_workers = n_workers
        context = multiprocessing.get_context("spawn")  # forking a process that has HDF5 files open is not safe
        self._pipes: list[Connection] = []
        self._processes = []
        try:
            with _signals_held():
                for _ in range(n_workers):
                    ours, theirs = context.Pipe()
                    process = context.Process(target=_serve, args=(theirs, make), daemon=True)
                    process.start()
                    theirs.close()
                    self._pipes.append(ours)
                    self._processes.append(process)
        except BaseException:
            self._end()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        for process in self._processes:
            process.kill()  # one that is still starting holds SIGTERM back
        for process, pipe in zip(self._processes, self._pipes, strict=True):
            process.join()
            pipe.close()

    def run(self, calls: Iterable[Call]) -> Iterator[tuple[int, Any]]:
        """Yield (index of the call, answer) as answers come; each worker has one call at a time, taken in order.

        A worker gets its next call before its answer is yielded, so as not to wait. When a call fails no more are
        handed out, and answers that are there already are yielded before the error is raised.

        Raises
        ------
        RvqprobeError, OSError
            What a call raised; ProbeError when memory was too small for it, or a worker has died.
        """
        waiting = enumerate(calls)
        busy: dict[Connection, int] = {}
        for pipe in self._pipes:
            self._hand_out(pipe, waiting, busy)
        error: Exception | None = None
        while busy:
            there = wait(list(busy), None if error is None else 0)
            if not there:
                break
            for ready in there:
                assert isinstance(ready, Connection)
                index = busy.pop(ready)
                answer, failure = self._receive(ready)
                error = error or failure
                if error is None:
                    self._hand_out(ready, waiting, busy)
                if failure is None:
                    yield index, answer
        if error is not None:
            raise error

    def _hand_out(self, pipe: Connection, waiting: Iterator[tuple[int, Call]], busy: dict[Connection, int]) -> None:
        following = next(waiting, None)
        if following is not None:
            busy[pipe], call = following
            with contextlib.suppress(OSError):  # the worker has died: receiving from it will say so
                pipe.send(call)

    def _receive(self, pipe: Connection) -> tuple[Any, Exception | None]:
        try:
            answer: tuple[Any, Exception | None] = pipe.recv()
        except (EOFError, OSError):
            process = self._processes[self._pipes.index(pipe)]
            process.join(1)
            return None, ProbeError(
                f"a worker process ended with exit code {process.exitcode}, perhaps for lack of memory; finished "
                "probes are kept: run the same command again, with --workers 1 to need less"
            )
        return answer


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Hold SIGINT and SIGTERM back: children started meanwhile inherit that, and what came is delivered at the end.

    A blocked signal still reaches a process by another of its threads (BLAS, a progress bar), and Python then runs the
    handler in the main thread: one that only remembers keeps it from leaving a child half made.
    """
    resource_tracker.ensure_running()  # which would unblock them, were it started with the first child
    came: list[int] = []
    handlers = {}
    if threading.current_thread() is threading.main_thread():  # only there may handlers be set
        handlers = {number: signal.signal(number, lambda number, frame: came.append(number)) for number in _STOPPING}
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        for late in came:
            signal.raise_signal(late)


def _answer(answerer: Any, call: Call) -> Any:
    method, arguments = call
    return getattr(answerer, method)(*arguments)


def _out_of_memory(error: MemoryError, advice: str) -> ProbeError:
    why = f" ({error})" if str(error) else ""
    return ProbeError(f"out of memory{why}; finished probes are kept: run the same command again, with {advice}")


def _serve(pipe: Connection, make: Callable[[], Any]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    keep_freed_memory()
    try:
        answerer = make()
        while True:
            call = pipe.recv()
            answer: tuple[Any, Exception | None]
            try:
                answer = _answer(answerer, call), None
            except (RvqprobeError, OSError) as error:
                answer = None, error
            except MemoryError as error:
                answer = None, _out_of_memory(error, "--workers 1 or on a machine with more")
            pipe.send(answer)
    except (EOFError, OSError):
        return  # the parent has gone
    except MemoryError:
        sys.exit(1)  # too little even to hand over a call or its answer: the parent says so


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
