"""The records of a run survive kills, torn lines and a second writer, and say what is wrong where they cannot."""

import csv
import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from probes import files
from probes.files import OutputError
from probes.records import RecordFile, read_records
from schemas.errors import SchemaError
from schemas.record import field_names
from tests.support.records import make_record

ROOT = Path(__file__).resolve().parents[2]


def write(folder, *records):
    with RecordFile(folder) as file:
        for record in records:
            file.append(record)


def csv_rows(folder):
    with (folder / "records.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_appended_records_read_back_equal_and_in_order(tmp_path):
    records = [make_record(layer=layer) for layer in (3, 1, 2)]
    write(tmp_path, *records)
    assert read_records(tmp_path) == records
    with RecordFile(tmp_path) as file:
        assert file.records == records


def test_csv_has_every_field_and_nested_versions_as_json(tmp_path):
    write(tmp_path, make_record(reason='a "quoted", comma\nand line'), make_record("melrvq", 2, "pitch"))
    rows = csv_rows(tmp_path)
    assert list(rows[0]) == field_names()
    assert json.loads(rows[0]["versions"])["rvqprobe"] == "0.1.0"
    assert rows[0]["reason"] == 'a "quoted", comma\nand line'
    assert (rows[0]["accuracy"], rows[1]["accuracy"], rows[1]["mae_hz"]) == ("0.3125", "", "31.25")


def test_numbers_that_json_lacks_become_null_and_numpy_scalars_numbers(tmp_path):
    write(
        tmp_path,
        make_record() | {"accuracy": float("nan"), "gap_bound": np.float64("inf"), "n_train": np.int64(7)},
    )
    (record,) = read_records(tmp_path)
    assert (record["accuracy"], record["gap_bound"], record["n_train"]) == (None, None, 7)
    assert "NaN" not in (tmp_path / "records.jsonl").read_text()


@pytest.mark.parametrize("change", [{"layer": 0}, {"task": "emotion"}, {"seconds": float("nan")}, {"n_eval": None}])
def test_record_against_the_schema_is_refused_and_nothing_is_written(tmp_path, change):
    with RecordFile(tmp_path) as file:
        with pytest.raises(SchemaError, match=next(iter(change))):
            file.append(make_record() | change)
        assert file.records == []
    assert read_records(tmp_path) == []
    assert csv_rows(tmp_path) == []


def test_finished_keys_leave_out_what_was_not_finite(tmp_path):
    outcomes = ["converged", "iteration_limit", "stalled", "singular", "non_finite", "not_applicable"]
    write(tmp_path, *(make_record(outcome=outcome, probe_key=outcome) for outcome in outcomes))
    with RecordFile(tmp_path) as file:
        assert file.finished_keys() == set(outcomes) - {"non_finite"}


def test_torn_last_line_is_dropped_at_every_length_and_the_next_append_is_whole(tmp_path, caplog):
    first, second, third = (make_record(layer=layer) for layer in (1, 2, 3))
    write(tmp_path, first, second)
    path = tmp_path / "records.jsonl"
    content = path.read_bytes()
    start = content.index(b"\n") + 1
    for size in [start, start + 1, (start + len(content)) // 2, len(content) - 1]:
        path.write_bytes(content[:size])
        assert read_records(tmp_path) == [first]
        caplog.clear()
        write(tmp_path, third)
        assert read_records(tmp_path) == [first, third]
        assert [row["layer"] for row in csv_rows(tmp_path)] == ["1", "3"]
        assert ("half-written last line" in caplog.text) == (size > start)


@pytest.mark.parametrize("damage", ["torn", "missing", "foreign", "behind"])
def test_csv_is_rebuilt_from_the_records(tmp_path, damage):
    write(tmp_path, make_record(layer=1), make_record(layer=2))
    path = tmp_path / "records.csv"
    whole = path.read_bytes()
    {
        "torn": lambda: path.write_bytes(whole[:-17]),
        "missing": path.unlink,
        "foreign": lambda: path.write_bytes(b"a,b\n1,2\n"),
        "behind": lambda: path.write_bytes(b"\n".join(whole.split(b"\n")[:2]) + b"\n"),
    }[damage]()
    RecordFile(tmp_path).close()
    assert path.read_bytes() == whole
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "records.csv", "records.jsonl"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"record_version": "1.0", "codec', "line 2: not JSON"),
        ("\x00\x00\x00", "line 2: not JSON"),
        ("[1, 2]", "line 2: expected a JSON object, found list"),
        ('{"record_version": "1.0"}', "line 2: does not follow record schema"),
        ('{"record_version": "2.0"}', "line 2: record_version: version 2.0 is not known"),
        ("{}", "line 2: record_version: expected a version"),
    ],
)
def test_damaged_line_in_the_middle_is_named_and_nothing_is_touched(tmp_path, line, message):
    write(tmp_path, make_record(layer=1), make_record(layer=2))
    path = tmp_path / "records.jsonl"
    first, second = path.read_text().splitlines()
    path.write_text(f"{first}\n{line}\n{second}\n")
    before = path.read_bytes()
    for read in (RecordFile, read_records):
        with pytest.raises(SchemaError) as caught:
            read(tmp_path)
        assert str(caught.value).startswith(f"{path} {message}")
    assert path.read_bytes() == before
    path.write_text(f"{first}\n{second}\n")
    write(tmp_path, make_record(layer=3))  # the failed opening kept no lock
    assert [record["layer"] for record in read_records(tmp_path)] == [1, 2, 3]


def test_field_of_a_later_minor_version_is_kept(tmp_path):
    write(tmp_path, make_record() | {"record_version": "1.7", "loudness_db": -3.0})
    write(tmp_path, make_record(layer=2))
    assert read_records(tmp_path)[0]["loudness_db"] == -3.0


def test_second_writer_is_refused_until_the_first_is_done(tmp_path):
    with RecordFile(tmp_path) as first:
        with pytest.raises(OutputError, match="another process is writing"):
            RecordFile(tmp_path)
        first.append(make_record())
        assert len(read_records(tmp_path)) == 1
    write(tmp_path, make_record(layer=2))
    with pytest.raises(OutputError, match="after close"):
        first.append(make_record(layer=3))
    assert len(read_records(tmp_path)) == 2


def wait_for(event):
    event.wait(30)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_forked_worker_does_not_keep_the_lock(tmp_path):
    context = multiprocessing.get_context("fork")
    file, event = RecordFile(tmp_path), context.Event()
    worker = context.Process(target=wait_for, args=(event,))
    worker.start()
    try:
        time.sleep(0.2)
        with pytest.raises(OutputError):  # the parent's lock holds while its child lives
            RecordFile(tmp_path)
        file.close()
        write(tmp_path, make_record())
        assert worker.is_alive()
    finally:
        event.set()
        worker.join()


APPEND_FOR_EVER = """
import sys
from pathlib import Path
from probes.records import RecordFile
from tests.support.records import make_record
with RecordFile(Path(sys.argv[1])) as file:
    for layer in range(len(file.records) + 1, 100_000):
        file.append(make_record(layer=layer, probe_key=str(layer), reason="x" * 20_000))
        print(layer, flush=True)
"""


@pytest.mark.parametrize("n_seen", [1, 7, 20])
def test_killed_while_appending_loses_nothing_that_was_reported(tmp_path, n_seen):
    for _ in range(2):  # the second writer goes on from what the first left
        child = subprocess.Popen(
            [sys.executable, "-c", APPEND_FOR_EVER, str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT, text=True
        )
        for _ in range(n_seen):
            child.stdout.readline()
        os.kill(child.pid, signal.SIGKILL)
        reported = child.stdout.read().split()
        child.wait()
        child.stdout.close()
        with RecordFile(tmp_path) as file:
            keys = [record["probe_key"] for record in file.records]
        assert keys == [str(layer) for layer in range(1, len(keys) + 1)]
        assert len(keys) >= max([n_seen, *(int(layer) for layer in reported)])
        assert [row["probe_key"] for row in csv_rows(tmp_path)] == keys
    assert len(keys) >= 2 * n_seen


def test_full_disk_leaves_no_torn_line(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    with RecordFile(tmp_path) as file:
        file.append(make_record(layer=1))
        before = (tmp_path / "records.jsonl").read_bytes()
        with monkeypatch.context() as patched:
            patched.setattr(files.os, "fsync", full)
            with pytest.raises(OutputError, match="No space left on device"):
                file.append(make_record(layer=2))
        assert (tmp_path / "records.jsonl").read_bytes() == before
        file.append(make_record(layer=2))
    assert [record["layer"] for record in read_records(tmp_path)] == [1, 2]
    assert len(csv_rows(tmp_path)) == 2


def test_file_system_without_locks_still_works_with_a_warning(tmp_path, monkeypatch, caplog):
    def no_locks(descriptor, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files.fcntl, "flock", no_locks)
    write(tmp_path, make_record())
    assert "No locks available" in caplog.text
    assert len(read_records(tmp_path)) == 1


def test_folder_that_is_a_file_and_folder_without_records(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(OutputError, match="taken: expected a results folder, found a file"):
        RecordFile(tmp_path / "taken")
    with pytest.raises(OutputError, match=r"records\.jsonl: no such file"):
        read_records(tmp_path)
