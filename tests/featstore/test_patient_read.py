"""Whole files, read with patience: passing errors are tried again, lasting ones and special files told at once."""

import errno
import os
import time
from pathlib import Path

import pytest

from featstore import patient_read
from featstore.patient_read import UnreadableFileError, kind_of_special, read_patiently


@pytest.fixture
def failing_open(monkeypatch):
    """Let the next openings fail with given error numbers; returns the list of pauses that were made."""

    def prepare(*numbers):
        waiting, pauses, whole = list(numbers), [], Path.open

        def open_(path, *arguments):
            if waiting:
                raise OSError(number := waiting.pop(0), os.strerror(number))
            return whole(path, *arguments)

        monkeypatch.setattr(Path, "open", open_)
        monkeypatch.setattr(patient_read.time, "sleep", pauses.append)
        return pauses

    return prepare


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
def test_a_passing_error_is_tried_twice_more(tmp_path, failing_open, number):
    path = tmp_path / "a"
    path.write_bytes(b"content")
    pauses = failing_open(number, number)
    assert read_patiently(path, 100) == b"content"
    assert pauses == [0.2, 1.0]
    failing_open(number, number, number)
    with pytest.raises(UnreadableFileError, match=rf"^{os.strerror(number)}, 3 times in a row$"):
        read_patiently(path, 100)


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EACCES, errno.EISDIR])
def test_a_lasting_error_is_told_at_once(tmp_path, failing_open, number):
    pauses = failing_open(number)
    with pytest.raises(UnreadableFileError, match=f"^{os.strerror(number)}$"):
        read_patiently(tmp_path / "a", 100)
    assert pauses == []


def test_size_and_kind_are_looked_at_before_reading(tmp_path):
    (tmp_path / "a").write_bytes(bytes(101))
    assert read_patiently(tmp_path / "a", 101) == bytes(101)
    with pytest.raises(UnreadableFileError, match="larger than 100 bytes"):
        read_patiently(tmp_path / "a", 100)
    os.mkfifo(tmp_path / "pipe")
    start_s = time.monotonic()
    with pytest.raises(UnreadableFileError, match="a named pipe, not a regular file"):
        read_patiently(tmp_path / "pipe", 100)
    assert time.monotonic() - start_s < 2
    with pytest.raises(UnreadableFileError, match="NUL"):
        read_patiently(Path("a\0b"), 100)


def test_kinds(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").touch()
    kinds = [kind_of_special(path) for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path / "file", tmp_path)]
    assert kinds == ["a named pipe", "a device", None, None]
    assert kind_of_special(tmp_path / "absent") is None
