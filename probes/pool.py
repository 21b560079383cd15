"""Worker processes that answer calls one at a time, and end with the program that started them.

Fits are small matrix products that gain little from a second BLAS thread, so cores are used by processes. They are
daemons that wait on a pipe whose other end only the parent holds: when it is gone, killed or not, they end too, and
Ctrl-C in a terminal reaches the parent alone.
"""

import contextlib
import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any, Self

from probes.errors import ProbeError
from probes.memory import keep_freed_memory
from schemas.errors import RvqprobeError

Call = tuple[str, tuple[Any, ...]]  # method of the worker's object, and its arguments


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
        """Yield (index of the call, answer)."""
        for index, (method, arguments) in enumerate(calls):
            yield index, getattr(self._answerer, method)(*arguments)


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
        for _ in range(n_workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, make), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.terminate()
        for process, pipe in zip(self._processes, self._pipes, strict=True):
            process.join()
            pipe.close()

    def run(self, calls: Iterable[Call]) -> Iterator[tuple[int, Any]]:
        """Yield (index of the call, answer) as answers come; each worker has one call at a time, taken in order.

        Raises
        ------
        RvqprobeError, OSError
            What a call raised; ProbeError when a worker has died.
        """
        waiting = enumerate(calls)
        busy: dict[Connection, int] = {}
        for pipe in self._pipes:
            self._hand_out(pipe, waiting, busy)
        while busy:
            for ready in wait(list(busy)):
                assert isinstance(ready, Connection)
                answer, error = self._receive(ready)
                index = busy.pop(ready)
                if error is not None:
                    raise error
                self._hand_out(ready, waiting, busy)
                yield index, answer

    def _hand_out(self, pipe: Connection, waiting: Iterator[tuple[int, Call]], busy: dict[Connection, int]) -> None:
        following = next(waiting, None)
        if following is not None:
            busy[pipe], call = following
            with contextlib.suppress(OSError):  # the worker has died: receiving from it will say so
                pipe.send(call)

    def _receive(self, pipe: Connection) -> tuple[Any, Exception | None]:
        try:
            answer: tuple[Any, Exception | None] = pipe.recv()
        except (EOFError, OSError) as error:
            process = self._processes[self._pipes.index(pipe)]
            process.join(1)
            raise ProbeError(
                f"a worker process ended with exit code {process.exitcode}, perhaps for lack of memory; finished "
                "probes are kept: run the same command again, with --workers 1 to need less"
            ) from error
        return answer


def _serve(pipe: Connection, make: Callable[[], Any]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keep_freed_memory()
    answerer = make()
    while True:
        try:
            method, arguments = pipe.recv()
            answer: tuple[Any, Exception | None]
            try:
                answer = getattr(answerer, method)(*arguments), None
            except (RvqprobeError, OSError) as error:
                answer = None, error
            pipe.send(answer)
        except (EOFError, OSError):
            return  # the parent has gone
