"""Real processes, really interrupted: finished work is kept, and the same command ends as if nothing had happened."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

import pytest

from tests.support.command_line import ROOT, Ended, corpus_options, environment, run_process, run_well
from tests.support.corpus import make_tiny_corpus

# A process started in the background of a shell script inherits "ignore SIGINT", and Python then leaves it ignored.
_RUN = (
    "import runpy, signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
)
PATIENCE_S = 120.0
NOTE = "interrupted: finished work is kept; run the same command again to go on"


def stop_when(is_time, sent, *arguments, to_group=False, after_s=0.0):
    """Run a command, send it a signal `after_s` after `is_time()` holds, and return how it ended.

    `to_group`: send it to the command's children too, as Ctrl-C in a terminal does.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", _RUN, str(ROOT / "cli.py"), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        start_new_session=to_group,
    )
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not is_time():
            assert process.poll() is None, f"ended before its time: {process.communicate()}"
            assert time.monotonic() < deadline, "the moment never came"
            time.sleep(0.001)
        time.sleep(after_s)
        if to_group:
            os.killpg(process.pid, sent)
        else:
            process.send_signal(sent)
        stdout, stderr = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
        process.wait()
    return Ended(process.returncode, stdout, stderr)


def check_stopped(ended, sent):
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr
    if sent is signal.SIGKILL:
        assert ended.exit_code == -signal.SIGKILL
    else:
        assert ended.exit_code == 128 + sent
        assert ended.stderr.splitlines()[-1] == NOTE


def leftovers(folder):
    return [path for path in folder.rglob("*") if path.suffix in {".partial", ".tmp"} or path.name.endswith(".shards")]


# build-store


@dataclass(frozen=True)
class Builds:
    """A corpus of several shards and the options to build it with."""

    options: list
    digest: str


def digest_of(path):
    return json.loads(run_well("inspect", path, "--json").stdout)["content_digest"]


@pytest.fixture(scope="module")
def builds(melrvq_weights, tmp_path_factory):
    folder = tmp_path_factory.mktemp("several-shards")
    corpus = make_tiny_corpus(folder / "corpus", n_speakers=4, n_utterances=48, n_phones=6)
    options = [*corpus_options(corpus), "--codec", "melrvq", "--weights", f"melrvq={melrvq_weights}"]
    whole = run_process("build-store", *options, "--output", folder / "store.h5")
    assert whole.exit_code == 0, whole.stderr
    assert "6 shards built, 0 reused" in whole.stderr
    assert leftovers(folder) == []
    return Builds(options, digest_of(folder / "store.h5"))


def identities(paths):
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns, path.stat().st_size) for path in paths}


def test_build_goes_on_after_every_kind_of_end(builds, tmp_path):
    """Killed, interrupted, terminated, each after one more shard; killed again while it writes the store itself."""
    output = tmp_path / "store.h5"
    shards = tmp_path / "store.h5.shards"
    arguments = ["build-store", *builds.options, "--output", output]
    kept = {}

    def finished():
        return sorted(shards.glob("shard-*.h5"))

    for n_wanted, sent in enumerate((signal.SIGKILL, signal.SIGINT, signal.SIGTERM), start=1):
        check_stopped(stop_when(lambda n=n_wanted: len(finished()) >= n, sent, *arguments), sent)
        assert not output.exists()
        found = identities(finished())
        assert len(found) >= n_wanted
        assert kept.items() <= found.items(), "a finished shard was built again"
        kept = found
    assert list(tmp_path.rglob("*.partial")) == []

    half_written = ".store.h5.merged.*.partial"
    check_stopped(stop_when(lambda: any(tmp_path.glob(half_written)), signal.SIGKILL, *arguments), signal.SIGKILL)
    assert not output.exists()
    assert len(list(tmp_path.glob(half_written))) == 1
    found = identities(finished())
    assert len(found) == 6
    assert kept.items() <= found.items()

    last = run_process(*arguments)
    assert last.exit_code == 0, last.stderr
    assert "0 shards built, 6 reused, 0 utterances skipped" in last.stderr
    assert digest_of(output) == builds.digest
    run_well("verify", output, "--full")
    assert leftovers(tmp_path) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["split.json", "store.h5"]


def test_a_slice_of_a_job_array_leaves_nothing_half_done(builds, tmp_path):
    """Interrupted before its slice is whole, a job leaves no shard; again, it makes it."""
    arguments = ["build-store", *builds.options, "--output", tmp_path / "store.h5", "--shard", "2/3"]
    ended = stop_when(lambda: (tmp_path / "split.json").exists(), signal.SIGINT, *arguments)
    check_stopped(ended, signal.SIGINT)
    assert not list(tmp_path.rglob("*.h5"))
    assert leftovers(tmp_path) in ([], [tmp_path / "store.h5.shards"])
    again = run_process(*arguments)
    assert again.exit_code == 0, again.stderr
    assert again.stdout.strip() == str(tmp_path / "store.h5.shards" / "shard-00002-of-00003.h5")
    run_well("verify", again.stdout.strip(), "--full")


# code in C, which no exception interrupts

_IN_C = (
    "import hashlib, signal, sys, cli\n"
    "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    "@cli.main.command('encode')\n"
    "def encode():\n"
    "    print('begun', file=sys.stderr, flush=True)\n"
    "    hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)\n"
    "cli.main(['encode'])\n"
)
MOST_S = 10.0


def test_a_command_in_the_middle_of_long_c_code_ends_in_time():
    """A network that encodes a long utterance on one core is such code; here it is a hash of minutes."""
    signals = (signal.SIGINT, signal.SIGTERM)
    command = [sys.executable, "-c", _IN_C]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    running = {sent: subprocess.Popen(command, **pipes, env=environment(), cwd=ROOT) for sent in signals}
    try:
        for process in running.values():
            assert process.stderr.readline() == "begun\n", process.communicate()
        time.sleep(0.2)
        started = time.monotonic()
        for sent, process in running.items():
            process.send_signal(sent)
        for sent, process in running.items():
            stdout, stderr = process.communicate(timeout=PATIENCE_S)
            took_s = time.monotonic() - started
            assert 1.0 < took_s < MOST_S, "it was not in C code, or was not ended"
            check_stopped(Ended(process.returncode, stdout, stderr), sent)
            assert stderr == f"{NOTE}\n"
    finally:
        for process in running.values():
            process.kill()
            process.wait()


# probe


def lines_of(folder):
    """Return the whole lines of ``records.jsonl``."""
    path = folder / "records.jsonl"
    return path.read_bytes().split(b"\n")[:-1] if path.exists() else []


def timeless(line):
    record = json.loads(line)
    return {name: value for name, value in record.items() if name not in ("seconds", "created")}


def place(record):
    return record["codec"], record["layer"], record["task"]


def test_probe_goes_on_after_every_kind_of_end(exact_probing, melrvq_store, tmp_path):
    whole, _ = exact_probing
    arguments = ["probe", melrvq_store, "--output", tmp_path, "--backend", "exact"]
    kept = []
    for n_wanted, sent in ((1, signal.SIGINT), (4, signal.SIGTERM), (8, signal.SIGKILL)):
        check_stopped(stop_when(lambda n=n_wanted: len(lines_of(tmp_path)) >= n, sent, *arguments), sent)
        found = lines_of(tmp_path)
        assert n_wanted <= len(found) < 24
        assert found[: len(kept)] == kept, "a finished record was touched"
        kept = found
    last = run_process(*arguments)
    assert last.exit_code == 0, last.stderr
    assert f"{len(kept)} of 24 probes were recorded before" in last.stderr
    found = lines_of(tmp_path)
    assert found[: len(kept)] == kept
    assert sorted(map(timeless, found), key=place) == sorted(map(timeless, lines_of(whole)), key=place)
    assert len((tmp_path / "records.csv").read_text().splitlines()) == 25
    assert leftovers(tmp_path) == []
    expected = {path.name for path in (whole / "probes").iterdir()}
    assert {path.name for path in (tmp_path / "probes").iterdir()} == expected


@pytest.mark.parametrize("after_s", [0.0, 0.1, 0.2, 0.3])
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_while_workers_start_leaves_one_line(melrvq_store, tmp_path, sent, after_s):
    """Workers take half a second to import what they need; the scratch folder is made just before they are started."""
    arguments = ["probe", melrvq_store, "--output", tmp_path, "--backend", "exact", "--workers", 2, "--quiet"]
    ended = stop_when(lambda: any(tmp_path.glob(".evaluation*")), sent, *arguments, to_group=True, after_s=after_s)
    check_stopped(ended, sent)
    assert ended.stderr == f"{NOTE}\n"
    assert not list(tmp_path.glob(".evaluation*"))
