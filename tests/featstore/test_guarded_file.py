"""Writing that fails at any byte: HDF5 closes in peace, the error comes out in Python, nothing half-written stays."""

import errno
import os
import resource
import subprocess
import sys

import h5py
import numpy as np
import pytest

from featstore.guarded_file import GuardedFile, open_guarded
from featstore.store import Store
from tests.support.command_line import ROOT, environment
from tests.support.stores import StoreRecipe, write_store


def full_after(n_bytes, monkeypatch):
    """Let only so many bytes be written by os.pwrite."""
    left, write = [n_bytes], os.pwrite

    def limited(descriptor, data, position):
        if left[0] <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        n_written = write(descriptor, memoryview(data)[: left[0]], position)
        left[0] -= n_written
        return n_written

    monkeypatch.setattr(os, "pwrite", limited)


def test_hdf5_reads_back_what_it_wrote(tmp_path):
    guarded = GuardedFile(tmp_path / "a.h5")
    data = np.arange(100_000).reshape(100, 1000)
    with open_guarded(guarded, "w", libver=("v110", "v110"), userblock_size=512) as file:
        file.create_dataset("x", data=data, chunks=(7, 300), fletcher32=True)
        np.testing.assert_array_equal(file["x"][3:50, 1:700], data[3:50, 1:700])
    guarded.check()
    with open_guarded(guarded, "r+") as file:
        file.attrs["later"] = 5
    guarded.close()
    with h5py.File(tmp_path / "a.h5", "r") as file:
        np.testing.assert_array_equal(file["x"][()], data)
        assert file.attrs["later"] == 5


@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.3, 0.6, 0.9, 0.999])
@pytest.mark.parametrize("layout", ["dense", "factored"])
def test_a_disk_that_fills_at_any_byte_leaves_nothing_and_names_the_file(tmp_path, monkeypatch, share, layout):
    whole = write_store(tmp_path / "whole.h5", layout=layout).stat().st_size
    with monkeypatch.context() as patch:
        full_after(int(share * whole), patch)
        with pytest.raises(OSError, match="No space left") as caught:
            write_store(tmp_path / "a.h5", layout=layout)
    assert caught.value.filename == str(tmp_path / "a.h5")
    assert [path.name for path in tmp_path.iterdir()] == ["whole.h5"]
    with Store(write_store(tmp_path / "a.h5", layout=layout)) as store, Store(tmp_path / "whole.h5") as expected:
        assert store.content_digest == expected.content_digest


def test_a_signal_in_the_middle_of_a_write_is_not_lost(tmp_path, monkeypatch):
    write, calls = os.pwrite, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return write(*arguments)

    monkeypatch.setattr(os, "pwrite", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_store(tmp_path / "a.h5")
    assert len(calls) == 5, "nothing is written after the signal"
    assert list(tmp_path.iterdir()) == []


_INTERRUPTED = """
import random, signal, sys
from pathlib import Path
sys.path.insert(0, ".")
from featstore.stopping import signals_noticed
from featstore.store import Store
from featstore.verify import verify_store
from tests.support.stores import StoreRecipe, write_store
folder, how = Path(sys.argv[1]), sys.argv[2]
recipe = StoreRecipe(n_utterances=40, codecs=("alpha",))
with Store(write_store(folder / "whole.h5", recipe)) as store:
    digest = store.content_digest
rng = random.Random(int(sys.argv[3]))
n_written = n_stopped = 0
signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
for _ in range(80):
    path = folder / "a.h5"
    try:
        if how == "noticed":
            with signals_noticed():
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(0.0005, 0.04))
                write_store(path, recipe)
                signal.setitimer(signal.ITIMER_REAL, 0)
        else:
            signal.setitimer(signal.ITIMER_REAL, rng.uniform(0.0005, 0.04))
            write_store(path, recipe)
            signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        n_stopped += 1
    signal.setitimer(signal.ITIMER_REAL, 0)
    if path.exists():
        n_written += 1
        verify_store(path, full=True)
        with Store(path) as store:
            assert store.content_digest == digest, "a signal has left zeros in a store that looks whole"
        path.unlink()
print(n_written, n_stopped)
"""


@pytest.mark.parametrize("how", ["noticed", "as Python does"])
def test_a_real_signal_at_any_moment_leaves_the_right_store_or_none(tmp_path, how):
    """Under HDF5 a signal's exception would be dropped, with the chunk that was being written."""
    ended = subprocess.run(
        [sys.executable, "-c", _INTERRUPTED, str(tmp_path), how, "1"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment(),
    )
    assert ended.returncode == 0, ended.stderr
    assert "AttributeError" not in ended.stderr
    _n_written, n_stopped = map(int, ended.stdout.split())
    assert n_stopped > 10
    assert [path.name for path in tmp_path.iterdir()] == ["whole.h5"]


_LIMITED = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, ".")
from tests.support.stores import write_store
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    write_store(Path(sys.argv[1]))
except OSError as error:
    print("refused", error.errno, error.filename)
"""


def test_a_real_file_size_limit_ends_without_a_crash(tmp_path):
    size = write_store(tmp_path / "whole.h5").stat().st_size
    ended = subprocess.run(
        [sys.executable, "-c", _LIMITED, str(tmp_path / "a.h5"), str(size * 2 // 3)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment(),
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == f"refused {errno.EFBIG} {tmp_path / 'a.h5'}\n"
    assert not (tmp_path / "a.h5").exists()
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != size


def test_a_large_store_is_the_same_to_the_last_bit(tmp_path):
    """More than one block of frames, so that chunks are written before the end."""
    recipe = StoreRecipe(n_utterances=12, frames_per_utterance=(12_000, 14_000), codecs=("alpha",))
    digests = set()
    for layout in ("dense", "factored"):
        with Store(write_store(tmp_path / f"{layout}.h5", recipe, layout=layout)) as store:
            digests.add(store.content_digest)
    assert len(digests) == 1
