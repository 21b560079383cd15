"""Write-once files: whole or absent, and leftovers of dead processes removed."""

import errno
import os
import socket
import subprocess
import sys

import pytest

from featstore.atomic import discard_leftovers, write_once, write_text_once


def leftover(path, pid, host=None):
    return path.with_name(f".{path.name}.{host or socket.gethostname()}-{pid}.partial")


def test_nothing_is_seen_before_the_end(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    with write_once(path) as temporary:
        temporary.write_text("half", encoding="utf-8")
        assert not path.exists()
        assert temporary.parent == path.parent  # the same file system, so that the rename is one step
    assert path.read_text(encoding="utf-8") == "half"
    assert os.listdir(path.parent) == ["file.txt"]


def test_a_failure_leaves_what_was_there(tmp_path):
    path = tmp_path / "file.txt"
    write_text_once(path, "old")

    def interrupted():
        with write_once(path) as temporary:
            temporary.write_text("new", encoding="utf-8")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text(encoding="utf-8") == "old"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_a_writer_that_wrote_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), write_once(tmp_path / "file.txt"):
        pass
    assert os.listdir(tmp_path) == []


def test_only_leftovers_of_dead_processes_of_this_machine_go(tmp_path):
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    path = tmp_path / "store.h5"
    kept = [
        leftover(path, os.getpid()),
        leftover(path, 1),  # alive, and another user's for most
        leftover(path, int(dead.stdout), host="another-machine"),
        leftover(tmp_path / "other.h5", int(dead.stdout)),
    ]
    gone = leftover(path, int(dead.stdout))
    for file in [*kept, gone]:
        file.touch()
    assert discard_leftovers(path) == [gone]
    assert all(file.exists() for file in kept)
    assert not gone.exists()


def test_a_full_disk_is_told_with_the_name_of_the_file_whatever_numpy_says(tmp_path):
    """``ndarray.tofile`` tells neither file nor number: only how much it did not write."""
    for error in (OSError("1024 requested and 992 written"), OSError(errno.ENOSPC, "No space left on device")):
        with pytest.raises(OSError, match="No space left") as caught, write_once(tmp_path / "a.npz"):
            raise error
        assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "a.npz"))


def test_who_is_alone_removes_what_a_killed_process_left_even_if_its_number_is_in_use(tmp_path):
    path = tmp_path / "file.txt"
    leftover(path, 1).write_text("half")  # process 1 is always there, as a killed process is until it is waited for
    assert discard_leftovers(path) == []
    assert discard_leftovers(path, is_alone=True) == [leftover(path, 1)]
