"""Signals to stop, also where Python drops the exception that the handler raises."""

import os
import signal
import subprocess
import sys

import pytest

from featstore.audio import read_audio
from featstore.errors import UtteranceError
from featstore.progress import ProgressBar
from featstore.stopping import Terminated, check_stopped, signals_noticed


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
