"""Worker processes that answer calls one at a time, and end with the program that started them.

They are daemons that watch their parent: when it is gone, killed or not, they end too, in the middle of a call or not.
Ctrl-C in a terminal reaches the parent alone, from the moment they are started. What an answer that does not come means
is for each kind of work to say (`probes.pool`, `featstore.pipeline`).
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, Self

from featstore.arrays_by_pipe import receive, send
from featstore.memory import keep_freed_memory
from featstore.stopping import signals_held
from schemas.errors import RvqprobeError

Call = tuple[str, tuple[Any, ...]]  # method of the worker's object, and its arguments
_STOPPING = (signal.SIGINT, signal.SIGTERM)


class Pool:
    """`n_workers` processes, each with an object of its own that answers calls.

    Parameters
    ----------
    make : callable
        Makes the object; it and what it holds must be picklable.
    n_workers : int
    n_retries : int
        How often a call is handed out again when its worker has died; a new worker takes the dead one's place.
    timeout_s : float or None
        After so many seconds without an answer a worker counts as dead, and is killed.
    most_ahead : int or None
        How many calls may be handed out after the oldest one that has no answer: a slow one would else let answers to
        any number of later ones pile up with whoever wants them in order.
    is_finishing : bool
        Workers do not heed SIGTERM, which batch systems send to all processes: they end what they do, and with their
        parent.
    """

    def __init__(
        self,
        make: Callable[[], Any],
        n_workers: int,
        n_retries: int = 0,
        timeout_s: float | None = None,
        *,
        most_ahead: int | None = None,
        is_finishing: bool = False,
    ) -> None:
        self.n_workers = n_workers
        self._most_ahead = most_ahead
        self._is_finishing = is_finishing
        self._make, self._n_retries, self._timeout_s = make, n_retries, timeout_s
        self._context = multiprocessing.get_context("spawn")  # forking a process that has HDF5 files open is not safe
        self._workers: dict[Connection, BaseProcess] = {}
        try:
            with _signals_held():
                for _ in range(n_workers):
                    self._start()
        except BaseException:
            self._end()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _start(self) -> Connection:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(theirs, self._make, self._is_finishing), daemon=True)
        process.start()
        theirs.close()
        self._workers[ours] = process
        return ours

    def _end(self) -> None:
        for process in self._workers.values():
            process.kill()  # one that is still starting holds SIGTERM back
        for pipe, process in self._workers.items():
            process.join()
            pipe.close()
        self._workers.clear()

    def run(self, calls: Iterable[Call]) -> Iterator[tuple[int, Any]]:
        """Hand out calls and yield (index of the call, answer) as answers come.

        Each worker has one call at a time, taken in order; the first ones have theirs when this returns.

        A worker gets its next call before its answer is yielded, so as not to wait. When a call fails no more are
        handed out, and answers that are there already are yielded before the error is raised.

        Raises
        ------
        RvqprobeError, OSError
            What a call raised, or what `_out_of_memory` or `_died` make of it.
        """
        assert self._workers, "a pool whose worker has died for good has nobody to answer"
        waiting = _Waiting(calls)
        busy: dict[Connection, _Task] = {}
        idle = list(self._workers)
        self._hand_out(idle, waiting, busy)
        return self._answers(waiting, busy, idle)

    def _answers(
        self, waiting: "_Waiting", busy: "dict[Connection, _Task]", idle: list[Connection]
    ) -> Iterator[tuple[int, Any]]:
        error: Exception | None = None
        while busy:
            there = wait(list(busy), self._patience_s(busy) if error is None else 0)
            if not there and error is not None:
                break
            self._kill_late(busy)
            for ready in there:
                assert isinstance(ready, Connection)
                task = busy.pop(ready)
                pipe, answer, failure = self._receive(ready, task)
                if answer is _HANDED_OUT_AGAIN:
                    busy[pipe] = task
                    continue
                error = error or failure
                if error is None:
                    idle.append(pipe)
                    self._hand_out(idle, waiting, busy)
                if failure is None:
                    yield task.index, answer
        if error is not None:
            raise error

    def _answered(self) -> None:
        """Take note that a worker is alive."""

    def _died(self, exit_code: int | None, is_late: bool) -> tuple[Any, Exception | None]:
        """Return the answer to a call whose worker has died, or what is wrong then."""
        raise NotImplementedError

    def _out_of_memory(self, why: str) -> Exception:
        """Return what is wrong when a call ran out of memory."""
        raise NotImplementedError

    def has_answer(self, timeout_s: float) -> bool:
        """Tell whether a worker has answered, or died, within so many seconds."""
        return bool(wait(list(self._workers), timeout_s))

    def _patience_s(self, busy: "dict[Connection, _Task]") -> float | None:
        if self._timeout_s is None:
            return None
        return max(0.0, self._timeout_s - max(task.age_s() for task in busy.values())) + 0.01

    def _kill_late(self, busy: "dict[Connection, _Task]") -> None:
        for pipe, task in busy.items():
            if self._timeout_s is not None and task.age_s() > self._timeout_s and not pipe.poll():
                task.is_late = True
                self._workers[pipe].kill()

    def _hand_out(self, idle: list[Connection], waiting: "_Waiting", busy: "dict[Connection, _Task]") -> None:
        while idle and not self._is_far_ahead(waiting, busy):
            task = waiting.next_task()
            if task is None:
                return
            pipe = idle.pop()
            busy[pipe] = task
            _send(pipe, task)

    def _is_far_ahead(self, waiting: "_Waiting", busy: "dict[Connection, _Task]") -> bool:
        if self._most_ahead is None or not busy:
            return False
        return waiting.n_taken - min(task.index for task in busy.values()) > self._most_ahead

    def _receive(self, pipe: Connection, task: "_Task") -> tuple[Connection, Any, Exception | None]:
        """Return the pipe to use from now on, the answer, and what is wrong if there is none."""
        try:
            answer, failure = receive(pipe)
        except (EOFError, OSError):
            return self._bury(pipe, task)
        self._answered()
        return pipe, answer, self._out_of_memory(str(failure)) if isinstance(failure, MemoryError) else failure

    def _bury(self, pipe: Connection, task: "_Task") -> tuple[Connection, Any, Exception | None]:
        process = self._workers.pop(pipe)
        process.join(1)
        exit_code = process.exitcode
        process.kill()
        process.join()
        pipe.close()
        answer, failure = None, None
        if task.n_tries > self._n_retries:
            answer, failure = self._died(exit_code, task.is_late)
        if failure is not None:
            return pipe, None, failure
        with _signals_held():
            new = self._start()
        if task.n_tries <= self._n_retries:
            task.begin_again()
            _send(new, task)
            answer = _HANDED_OUT_AGAIN
        return new, answer, failure


class OneCallAhead:
    """One process that does calls while this one goes on: each is handed over when the last is done.

    Parameters
    ----------
    pool : Pool
        Of one worker.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._running: Iterator[tuple[int, Any]] | None = None

    def begin(self, call: Call) -> None:
        """Hand over a call, after the last one has ended.

        Raises
        ------
        RvqprobeError, OSError
            What the last one raised.
        """
        self.finish()
        self._running = self._pool.run([call])

    def check(self) -> None:
        """Raise what the last call raised, if it has ended by now."""
        if self._running is not None and self._pool.has_answer(0):
            self.finish()

    def let_finish(self, timeout_s: float) -> None:
        """Give the last call so many seconds to end, whatever it raises."""
        if self._running is not None and self._pool.has_answer(timeout_s):
            with contextlib.suppress(RvqprobeError, OSError, RuntimeError):
                self.finish()

    def finish(self) -> None:
        """Wait for the last call; raises what it raised."""
        running, self._running = self._running, None
        if running is not None:
            for _ in running:
                pass


_HANDED_OUT_AGAIN = object()


class _Task:
    """A call that a worker has, or had."""

    def __init__(self, index: int, call: Call) -> None:
        self.index, self.call, self.n_tries, self.is_late = index, call, 1, False
        self._begun = time.monotonic()

    def age_s(self) -> float:
        return time.monotonic() - self._begun

    def begin_again(self) -> None:
        self.n_tries, self.is_late, self._begun = self.n_tries + 1, False, time.monotonic()


class _Waiting:
    """Calls that nobody has yet, and how many have been taken."""

    def __init__(self, calls: Iterable[Call]) -> None:
        self._calls, self.n_taken = iter(calls), 0

    def next_task(self) -> _Task | None:
        call = next(self._calls, None)
        if call is None:
            return None
        self.n_taken += 1
        return _Task(self.n_taken - 1, call)


def _send(pipe: Connection, task: _Task) -> None:
    with contextlib.suppress(OSError):  # the worker has died: receiving from it will say so
        send(pipe, task.call)


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Hold SIGINT and SIGTERM back: children started meanwhile inherit that, and what came is delivered at the end.

    A blocked signal still reaches a process by another of its threads (BLAS, a progress bar), and Python then runs the
    handler in the main thread: one that only remembers keeps it from leaving a child half made.
    """
    resource_tracker.ensure_running()  # which would unblock them, were it started with the first child
    with signals_held():
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def answer_call(answerer: Any, call: Call) -> Any:
    """Answer a call in this process."""
    method, arguments = call
    return getattr(answerer, method)(*arguments)


def _serve(pipe: Connection, make: Callable[[], Any], is_finishing: bool) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if is_finishing:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    keep_freed_memory()
    try:
        answerer = make()
        while True:
            call = receive(pipe)
            answer: tuple[Any, Exception | None]
            try:
                answer = answer_call(answerer, call), None
            except (RvqprobeError, OSError) as error:
                answer = None, error
            except MemoryError as error:
                answer = None, MemoryError(str(error))  # what NumPy raises holds a shape and a dtype besides
            except Exception as error:  # noqa: BLE001  # a fault of ours: raised in the parent, as without workers
                answer = None, RuntimeError("".join(traceback.format_exception(error)))
            send(pipe, answer)
    except (EOFError, OSError):
        return  # the parent has gone
    except MemoryError:
        sys.exit(1)  # too little even to hand over a call or its answer: the parent says so


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
