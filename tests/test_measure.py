"""Benchmarks measure what they say: wall time, and the memory of all processes of a command together."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.measure.command import descendants, memory_measure, process_bytes, run_measured
from benchmarks.measure.machine import commit_of, machine_facts
from benchmarks.measure.scale_store import ensure_scale_store

ROOT = Path(__file__).resolve().parents[1]
ON_LINUX = pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="no /proc on this system")
HOLD = "import time; kept = bytearray(b'x') * 150_000_000; time.sleep(1.5)"
PARENT = f"import subprocess, sys; child = [sys.executable, '-c', {HOLD!r}]; "


@ON_LINUX
def test_memory_of_a_command_counts_its_children_together(tmp_path):
    two = PARENT + "running = [subprocess.Popen(child) for _ in range(2)]; [one.wait() for one in running]"
    measured = run_measured([sys.executable, "-c", two], tmp_path)
    assert measured.exit_code == 0
    assert 0.3 < measured.peak_gb < 0.4
    assert measured.seconds > 1.5
    assert 0 < measured.cpu_seconds < measured.seconds * 3
    assert measured.memory_measure == memory_measure()
    assert measured.n_samples > 3


@ON_LINUX
def test_memory_of_children_that_follow_each_other_does_not_add(tmp_path):
    one = PARENT + "subprocess.run(child); subprocess.run(child)"
    assert 0.15 < run_measured([sys.executable, "-c", one], tmp_path).peak_gb < 0.25


@ON_LINUX
def test_shared_pages_count_once_where_the_kernel_tells():
    own = os.getpid()
    assert 0 < process_bytes(own, "pss") <= 1.1 * process_bytes(own, "rss")
    assert own in descendants(os.getppid())
    assert process_bytes(2**22 + 1, "rss") == 0  # above the largest process number there can be


def test_what_a_command_says_and_how_it_ends_is_kept(tmp_path):
    code = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"
    measured = run_measured([sys.executable, "-c", code], tmp_path)
    assert (measured.exit_code, measured.stdout, measured.stderr) == (3, "out\n", "err\n")


def test_facts_of_the_machine():
    facts = machine_facts()
    assert facts["n_cores"] >= 1
    assert {"numpy", "scipy", "h5py"} <= set(facts["versions"])
    assert all(library["n_threads"] >= 1 for library in facts["blas"])


def git(folder, *arguments):
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", *identity, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_commit_is_the_checkout_s_own_and_dirty_only_where_tracked_files_changed(tmp_path, monkeypatch):
    checkout = tmp_path / "checkout"
    (checkout / "inner").mkdir(parents=True)
    assert commit_of(checkout) is None
    git(checkout, "init", "-q")
    assert commit_of(checkout) is None  # without any commit
    tracked = checkout / "inner" / "tracked"
    tracked.write_text("one")
    git(checkout, "add", ".")
    git(checkout, "commit", "-q", "-m", "first")
    git(checkout, "tag", "-a", "v1", "-m", "a tag is no commit")
    head = git(checkout, "rev-parse", "HEAD")[:12]
    assert commit_of(checkout) == head
    (checkout / "untracked").write_text("results")
    assert commit_of(checkout) == head
    tracked.touch()
    assert commit_of(checkout) == head
    tracked.write_text("two")
    assert commit_of(checkout) == f"{head}-dirty"
    git(checkout, "add", "inner")  # staged is changed too
    assert commit_of(checkout) == f"{head}-dirty"
    assert commit_of(checkout / "inner") is None  # unpacked within another project
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "of a hook"))
    assert commit_of(checkout) == f"{head}-dirty"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit_of(checkout) is None


def test_a_store_that_is_there_is_used_and_one_that_cannot_be_made_ends_the_benchmark(tmp_path, capfd):
    there = tmp_path / "there.h5"
    there.write_bytes(b"anything")
    ensure_scale_store(there, "clean100")
    assert there.read_bytes() == b"anything"
    with pytest.raises(SystemExit, match="could not be made"):
        ensure_scale_store(tmp_path / "store.h5", "clean100", n_utterances=3, n_speakers=8)
    assert "expected at least one speaker and two utterances each" in " ".join(capfd.readouterr().err.split())


@ON_LINUX
def test_own_peak_is_not_that_of_the_process_that_started_this_one(tmp_path):
    """What the parent held when it forked shows in the child's `getrusage`, but is no memory of the child's program."""
    child = "from benchmarks.measure.command import own_peak_gb; print(own_peak_gb())"
    held = "import subprocess, sys; kept = bytearray(b'x') * 300_000_000; "
    parent = held + f"subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    printed = subprocess.run(
        [sys.executable, "-c", parent], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert 0.005 < float(printed) < 0.1
