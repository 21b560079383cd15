"""The lock beside an output: one writer, or several of different slices; it ends with its owner."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from featstore import lock
from featstore.errors import StoreError
from featstore.lock import hold_lock
from tests.support.command_line import ROOT, environment

_HOLD = """
import sys, time
from pathlib import Path
from featstore.lock import hold_lock
with hold_lock(Path(sys.argv[1]), shared=sys.argv[2] == "shared"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of an output until it is killed."""
    started = []

    def start(kind="alone"):
        process = subprocess.Popen(
            [sys.executable, "-c", _HOLD, str(tmp_path / "store.h5"), kind],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment(),
        )
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def test_the_holder_is_named_and_a_killed_one_holds_nothing(tmp_path, holder):
    process = holder()
    expected = rf"store\.h5: is being written by process {process.pid} on {socket.gethostname()}.*since 20"
    with pytest.raises(StoreError, match=expected), hold_lock(tmp_path / "store.h5"):
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / "store.h5.lock").exists()
    with hold_lock(tmp_path / "store.h5"):
        pass
    assert not (tmp_path / "store.h5.lock").exists()


def test_many_may_share_and_keep_out_whoever_wants_it_alone(tmp_path, holder):
    first, second = holder("shared"), holder("shared")
    with hold_lock(tmp_path / "store.h5", shared=True):
        pass
    assert (tmp_path / "store.h5.lock").exists(), "it belongs to the others too"
    first.kill()
    first.wait()
    with pytest.raises(StoreError, match="is being written by"), hold_lock(tmp_path / "store.h5"):
        pass
    second.kill()
    second.wait()
    with hold_lock(tmp_path / "store.h5"):
        held = pytest.raises(StoreError, match="is being written by")
        with held, hold_lock(tmp_path / "store.h5", shared=True):
            pass


def test_waiting_says_for_whom_and_goes_on(tmp_path, holder, caplog):
    process = holder()
    caplog.set_level("INFO")
    killer = subprocess.Popen([sys.executable, "-c", f"import os, time; time.sleep(0.5); os.kill({process.pid}, 9)"])
    started = time.monotonic()
    with hold_lock(tmp_path / "store.h5", wait=True):
        assert time.monotonic() - started > 0.2
    killer.wait()
    assert caplog.text.count("waiting for") == 1
    assert f"process {process.pid}" in caplog.text


def test_nonsense_in_the_lock_file_is_no_matter(tmp_path):
    path = tmp_path / "store.h5.lock"
    for content in (b"", b"{", b"[" * 5000, b'{"process": "x"}', os.urandom(100)):
        path.write_bytes(content)
        with hold_lock(tmp_path / "store.h5"):
            pass
        with hold_lock(tmp_path / "store.h5"):
            path.write_bytes(content)
            with pytest.raises(StoreError, match="by another process"), hold_lock(tmp_path / "store.h5"):
                pass


def test_a_file_system_without_locks_is_worked_on_with_a_warning(tmp_path, monkeypatch, caplog):
    def none(descriptor, kind):
        raise OSError(lock.errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(lock.fcntl, "flock", none)
    with hold_lock(tmp_path / "store.h5"):
        pass
    assert "this file system has no locks" in caplog.text


def test_a_link_in_the_lock_files_place_is_left_alone(tmp_path):
    (tmp_path / "precious.txt").write_text("mine")
    (tmp_path / "store.h5.lock").symlink_to(tmp_path / "precious.txt")
    with pytest.raises(StoreError, match="found a symbolic link"), hold_lock(tmp_path / "store.h5"):
        pass
    assert (tmp_path / "precious.txt").read_text() == "mine"
