"""Signals to stop, also where Python drops the exception that the handler raises."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from featstore.audio import read_audio
from featstore.errors import UtteranceError
from featstore.progress import ProgressBar
from featstore.stopping import INTERRUPTED_NOTE, Terminated, check_stopped, signals_noticed


class SignalledInDestructor:
    """Sends a signal where an exception cannot get out."""

    def __init__(self, number):
        self.number = number

    def __del__(self):
        signal.raise_signal(self.number)


@pytest.fixture
def default_sigint():
    """SIGINT as at a terminal, also where the tests themselves run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


KINDS = [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)]


@pytest.mark.parametrize(("number", "kind"), KINDS)
def test_a_signal_raises_where_it_arrives(default_sigint, number, kind):
    def work():
        os.kill(os.getpid(), number)
        while True:
            pass

    with pytest.raises(KeyboardInterrupt) as caught, signals_noticed():
        work()
    assert type(caught.value) is kind


@pytest.mark.parametrize(("number", "kind"), KINDS)
def test_a_dropped_signal_is_remembered_and_makes_no_noise(default_sigint, capfd, number, kind):
    def work():
        check_stopped()
        SignalledInDestructor(number)
        done.append("went on")
        check_stopped()

    done = []
    with pytest.raises(KeyboardInterrupt) as caught, signals_noticed():
        work()
    assert done == ["went on"]
    assert type(caught.value) is kind
    assert capfd.readouterr() == ("", "")


def test_progress_ends_work_that_goes_on_after_a_dropped_signal():
    def work(bar):
        for index in range(5):
            if index == 3:
                SignalledInDestructor(signal.SIGTERM)
            done.append(index)
            bar(index + 1, 5, "encode")

    done = []
    with ProgressBar("utt") as bar, pytest.raises(Terminated), signals_noticed():
        work(bar)
    assert done == [0, 1, 2, 3]


def test_reading_that_was_cut_short_is_no_bad_audio(tmp_path):
    path = tmp_path / "a.flac"
    path.write_bytes(b"fLaC and no more")
    with pytest.raises(UtteranceError):
        read_audio(path)

    def read_while_stopping():
        SignalledInDestructor(signal.SIGTERM)
        read_audio(path)

    with pytest.raises(Terminated), signals_noticed():
        read_while_stopping()


def test_everything_is_put_back_and_forgotten(default_sigint):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT), sys.unraisablehook
    with signals_noticed():
        SignalledInDestructor(signal.SIGTERM)
    check_stopped()
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT), sys.unraisablehook) == before


def test_other_dropped_exceptions_are_still_told():
    code = (
        "from featstore.stopping import signals_noticed\n"
        "class Failing:\n    def __del__(self): raise ValueError('told')\n"
        "with signals_noticed():\n    Failing()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "ValueError: told" in done.stderr


def test_an_ignored_sigint_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with signals_noticed():
            signal.raise_signal(signal.SIGINT)
            check_stopped()
    finally:
        signal.signal(signal.SIGINT, before)


# The thread that watches: what it does to a process is tried on processes of their own, with a shorter grace.

HASTY = (
    "import hashlib, multiprocessing, os, signal, sys, threading, time\n"
    "from featstore import stopping\n"
    "stopping.GRACE_S = 0.5\n"
    "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    "def in_c(): hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)  # minutes, without the interpreter's lock\n"
)


def run_hasty(body, sent=None):
    """Run code, send it a signal once it has said a line on stdout, and return (exit code, rest of stdout, stderr)."""
    process = subprocess.Popen(
        [sys.executable, "-c", HASTY + body], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        if sent is not None:
            assert process.stdout.readline() == "begun\n", process.communicate()
            time.sleep(0.2)
            process.send_signal(sent)
        stdout, stderr = process.communicate(timeout=60)  # children have the pipes too: until the last of them ends
    finally:
        process.kill()
        process.wait()
    return process.returncode, stdout, stderr


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_work_in_c_ends_after_the_grace_with_its_workers(sent):
    body = (
        "with stopping.signals_noticed():\n"
        "    multiprocessing.get_context('spawn').Process(target=time.sleep, args=(600,)).start()\n"
        "    print('begun', flush=True)\n"
        "    in_c()\n"
    )
    assert run_hasty(body, sent) == (128 + sent, "", f"{INTERRUPTED_NOTE}\n")


def test_work_that_goes_on_after_a_dropped_signal_without_asking_is_ended():
    body = (
        "class Signalled:\n    def __del__(self): signal.raise_signal(signal.SIGTERM)\n"
        "with stopping.signals_noticed():\n"
        "    Signalled()\n"
        "    while True: time.sleep(0.01)\n"
    )
    assert run_hasty(body) == (143, "", f"{INTERRUPTED_NOTE}\n")


def test_a_full_pipe_that_nobody_reads_does_not_keep_the_process():
    body = (
        "os.set_blocking(2, False)\n"
        "try:\n    while os.write(2, b'x' * 4096): pass\n"
        "except BlockingIOError: os.set_blocking(2, True)\n"
        "with stopping.signals_noticed():\n"
        "    print('begun', flush=True)\n"
        "    in_c()\n"
    )
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", HASTY + body], **pipes) as process:
        assert process.stdout.readline() == "begun\n"
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 143


def test_work_that_stops_in_time_is_not_ended():
    body = (
        "try:\n"
        "    with stopping.signals_noticed():\n"
        "        signal.raise_signal(signal.SIGTERM)\n"
        "except stopping.Terminated:\n"
        "    time.sleep(1)\n"
        "    print('cleaned up')\n"
    )
    assert run_hasty(body) == (0, "cleaned up\n", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_signal_to_a_forked_child_is_not_its_parent_s():
    body = (
        "import warnings; warnings.simplefilter('ignore')\n"
        "with stopping.signals_noticed():\n"
        "    child = os.fork()\n"
        "    if not child:\n"
        "        try: signal.raise_signal(signal.SIGTERM)\n"
        "        except stopping.Terminated: time.sleep(1)\n"
        "        sys.exit(7)\n"
        "    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
        "    signal.signal(signal.SIGALRM, lambda number, frame: print('alarm'))\n"
        "    signal.raise_signal(signal.SIGALRM)\n"
        "    time.sleep(1)\n"
    )
    assert run_hasty(body) == (0, "7\nalarm\n", "")


def test_the_watch_leaves_nothing_and_takes_no_time():
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.set_wakeup_fd(writing)
    try:
        started = time.perf_counter()
        for _ in range(100):
            with signals_noticed():
                assert "signal watch" in {thread.name for thread in threading.enumerate()}
        took_s = time.perf_counter() - started
        assert signal.set_wakeup_fd(before) == writing
    finally:
        signal.set_wakeup_fd(before)
        os.close(reading)
        os.close(writing)
    again = os.pipe()
    assert again == (reading, writing)  # the lowest free ones: none was lost
    for descriptor in again:
        os.close(descriptor)
    assert "signal watch" not in {thread.name for thread in threading.enumerate()}
    assert took_s < 100 * 0.02  # 0.1 ms each on an idle machine


def test_outside_the_main_thread_nothing_happens():
    def work():
        with signals_noticed():
            seen.append(signal.getsignal(signal.SIGTERM))

    seen = []
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGTERM)]
