"""Worker processes: every call is answered once, errors and deaths are told, nothing outlives the pool."""

import multiprocessing
import os
import time

import pytest

from probes.errors import ProbeError
from probes.pool import InProcess, Pool


class Answerer:
    def __init__(self):
        self.calls = 0

    def double(self, number):
        self.calls += 1
        return os.getpid(), 2 * number

    def fail(self, what):
        if what == "expected":
            raise ProbeError("no such layer")
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


def test_leaving_does_not_wait_for_running_calls():
    begin = time.monotonic()
    with Pool(Answerer, 2) as pool:
        next(pool.run([("double", (1,)), ("sleep", (60,))]))
    assert time.monotonic() - begin < 30
    assert not multiprocessing.active_children()


def test_answers_are_taken_in_the_order_of_their_calls():
    from probes.runner import _in_order

    taken = []
    for index, answer in _in_order(iter([(2, "c"), (0, "a"), (1, "b"), (4, "e"), (3, "d")])):
        taken.append((index, answer))
    assert taken == list(enumerate("abcde"))
