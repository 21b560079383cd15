"""Write, fsync the file, rename, fsync the folder: the order that survives a power cut.

A kill cannot prove it, because the page cache survives a kill; so the calls themselves are recorded: those that Python
makes (HDF5 writes through Python too, see guarded_file), and, where strace is there, those that the kernel sees.
"""

import os
import re
import shutil
import subprocess
import sys

import pytest

from featstore.atomic import write_text_once
from tests.support.command_line import ROOT, environment
from tests.support.stores import write_store


@pytest.fixture
def calls(monkeypatch):
    """Every call that writes, syncs or renames, as (name, inode), in order."""
    recorded = []

    def record(name, inode_of):
        call = getattr(os, name)

        def recording(*arguments, **more):
            inode = inode_of(arguments[0])
            result = call(*arguments, **more)
            recorded.append((name, inode))
            return result

        monkeypatch.setattr(os, name, recording)

    for name in ("pwrite", "write", "ftruncate", "fsync"):
        record(name, lambda descriptor: os.fstat(descriptor).st_ino)
    record("replace", lambda path: os.stat(path).st_ino)
    return recorded


def check_order(recorded, file, folder):
    """Check what is recorded of a file that stands finished in a folder."""
    last_write = max((place for place, call in enumerate(recorded) if call in WRITES(file)), default=-1)
    after = [call for call in recorded[last_write + 1 :] if call[1] in (file, folder)]
    assert after == [("fsync", file), ("replace", file), ("fsync", folder)], recorded
    return last_write


def WRITES(inode):
    return {(name, inode) for name in ("pwrite", "write", "ftruncate")}


@pytest.mark.parametrize("layout", ["dense", "factored"])
def test_a_store_is_synced_before_it_has_its_name_and_the_folder_after(calls, tmp_path, layout):
    path = write_store(tmp_path / "a.h5", layout=layout)
    assert check_order(calls, path.stat().st_ino, tmp_path.stat().st_ino) > 10


def test_so_is_a_small_text_file_and_every_new_folder(calls, tmp_path):
    path = tmp_path / "new" / "deep" / "split.json"
    write_text_once(path, "{}")
    folders = [folder.stat().st_ino for folder in (path.parent, path.parent.parent, tmp_path)]
    assert check_order(calls, path.stat().st_ino, folders[0]) == -1  # Path.write_text writes without Python's os
    synced = [inode for name, inode in calls if name == "fsync"]
    assert synced[:2] == [folders[2], folders[1]], "a new folder's name is synced in the folder above it"


def can_trace():
    strace = shutil.which("strace")
    return strace and subprocess.run([strace, "-o", "/dev/null", "true"], capture_output=True).returncode == 0


_TRACED = "import sys; sys.path.insert(0, '.'); from tests.support.stores import *; write_store(Path(sys.argv[1]))"
_CALLS = "trace=pwrite64,pwritev,write,writev,ftruncate,fsync,fdatasync,rename,renameat,renameat2,mmap"


@pytest.mark.skipif(not can_trace(), reason="needs strace and the right to trace a process")
def test_the_kernel_sees_the_same_order(tmp_path):
    log, path = tmp_path / "calls.log", tmp_path / "a.h5"
    command = ["strace", "-f", "-y", "-e", _CALLS, "-o", str(log), sys.executable, "-c", _TRACED, str(path)]
    ended = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    seen = []
    for line in log.read_text(errors="replace").splitlines():
        name = re.match(r"\d+ +(\w+)\(", line)
        if name is None or str(tmp_path) not in line:
            continue
        what = "folder" if f"<{tmp_path}>" in line else "file"
        seen.append((name[1], what))
    assert ("mmap", "file") not in seen, "written through a map, where no call shows it"
    n_writes = next(place for place, call in enumerate(seen) if call[0] == "fsync")
    assert n_writes > 10
    assert set(seen[:n_writes]) <= {("pwrite64", "file"), ("ftruncate", "file")}
    assert seen[n_writes:] == [("fsync", "file"), ("rename", "file"), ("fsync", "folder")]
