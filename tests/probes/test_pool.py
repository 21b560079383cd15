"""Worker processes: every call is answered once, errors and deaths are told, nothing outlives the pool."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from probes.errors import ProbeError
from probes.pool import InProcess, Pool
from tests.support.command_line import ROOT, environment


class Answerer:
    def __init__(self):
        self.calls = 0

    def double(self, number):
        self.calls += 1
        return os.getpid(), 2 * number

    def fail(self, what):
        if what == "expected":
            raise ProbeError("no such layer")
        if what == "late":
            time.sleep(0.3)
            raise ProbeError("no such layer")
        if what == "memory":
            raise MemoryError("Unable to allocate 3.2 GiB")
        os._exit(9)

    def sleep(self, seconds):
        time.sleep(seconds)

    def close(self):
        pass


@pytest.mark.parametrize("n_workers", [1, 3])
def test_every_call_is_answered_once(n_workers):
    calls = [("double", (number,)) for number in range(20)]
    with Pool(Answerer, n_workers) if n_workers > 1 else InProcess(Answerer) as pool:
        answers = dict(pool.run(calls))
        again = dict(pool.run(calls[:1]))
    assert {index: number for index, (_, number) in answers.items()} == {i: 2 * i for i in range(20)}
    assert again[0][1] == 0
    processes = {pid for pid, _ in answers.values()}
    assert (processes == {os.getpid()}) == (n_workers == 1)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("pool", [lambda: Pool(Answerer, 2), lambda: InProcess(Answerer)])
def test_an_error_of_ours_comes_back_as_it_is(pool):
    with pool() as workers, pytest.raises(ProbeError, match="no such layer"):
        list(workers.run([("double", (1,)), ("fail", ("expected",))]))


def test_a_dead_worker_is_told_with_what_to_do():
    with Pool(Answerer, 2) as pool, pytest.raises(ProbeError, match=r"ended with exit code 9.*--workers 1"):
        list(pool.run([("fail", ("hard",))]))


@pytest.mark.parametrize(
    ("pool", "advice"),
    [
        (lambda: Pool(Answerer, 2), "with --workers 1 or on a machine with more"),
        (lambda: InProcess(Answerer), "with fewer --layer at a time or on a machine with more"),
    ],
)
def test_too_little_memory_is_told_with_what_to_do(pool, advice, capfd):
    with pool() as workers, pytest.raises(ProbeError) as told:
        list(workers.run([("fail", ("memory",))]))
    assert str(told.value) == (
        "out of memory (Unable to allocate 3.2 GiB); finished probes are kept: run the same command again, " + advice
    )
    assert capfd.readouterr().err == ""


def no_memory():
    raise MemoryError


def test_a_worker_without_memory_to_begin_is_told_without_a_traceback(capfd):
    with Pool(no_memory, 2) as pool, pytest.raises(ProbeError, match="perhaps for lack of memory"):
        list(pool.run([("double", (1,))]))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("how", ["late", "hard"])
def test_answers_that_are_there_are_yielded_before_an_error_is_raised(how):
    with Pool(Answerer, 2) as pool:
        list(pool.run([("sleep", (0.5,))] * 2))  # both have started
        taken = []

        def take_slowly():
            for index, _ in pool.run([("double", (0,)), ("fail", (how,)), ("double", (1,)), ("double", (2,))]):
                taken.append(index)
                time.sleep(1.5)  # by then the other call has failed, and the next answer waits

        with pytest.raises(ProbeError, match=r"no such layer|exit code 9"):
            take_slowly()
        assert taken[:2] == [0, 2]


def test_a_pool_is_made_in_any_thread():
    answers = []

    def work():
        with Pool(Answerer, 1) as pool:
            answers.extend(number for _, (_, number) in pool.run([("double", (21,))]))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert answers == [42]


@pytest.mark.parametrize("stopping", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_workers_are_started_is_delivered_once_they_are(monkeypatch, stopping):
    """The parent is not left with a child half made, and is told as it would have been."""
    told, started = [], []
    context = multiprocessing.get_context("spawn")
    start = context.Process.start

    def interrupted_start(process):
        signal.raise_signal(stopping)
        start(process)
        started.append(told[:])

    def stop(number, frame):
        told.append(number)
        raise KeyboardInterrupt

    monkeypatch.setattr(context.Process, "start", interrupted_start)
    before = signal.signal(stopping, stop)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    try:
        with pytest.raises(KeyboardInterrupt):
            Pool(Answerer, 2)
        assert signal.getsignal(stopping) is stop
    finally:
        signal.signal(stopping, before)
    assert started == [[], []]
    assert told == [stopping]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == blocked
    assert not multiprocessing.active_children()


_ORPHANED = """
from tests.probes.test_pool import Answerer
from probes.pool import Pool

if __name__ == "__main__":
    with Pool(Answerer, 2) as pool:
        for _ in pool.run([("double", (1,)), ("double", (2,)), ("sleep", (60,)), ("sleep", (60,))]):
            print("begun", flush=True)
"""


def test_workers_end_with_their_parent_in_the_middle_of_a_call(tmp_path):
    (tmp_path / "main.py").write_text(_ORPHANED)
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "main.py")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment() | {"PYTHONPATH": str(ROOT)},
    )
    assert [process.stdout.readline() for _ in range(2)] == ["begun\n"] * 2
    begin = time.monotonic()
    process.kill()
    _, stderr = process.communicate(timeout=50)  # until the last worker has closed them
    assert time.monotonic() - begin < 30
    assert stderr == ""


def test_leaving_does_not_wait_for_running_calls():
    begin = time.monotonic()
    with Pool(Answerer, 2) as pool:
        next(pool.run([("double", (1,)), ("sleep", (60,))]))
    assert time.monotonic() - begin < 30
    assert not multiprocessing.active_children()
