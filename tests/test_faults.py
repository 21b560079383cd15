"""Faults are thrown at real processes and real files, a few of each; what has to hold does, every time.

`benchmarks/faults.py --long` throws hundreds. Here it is also seen that a run in which it does not hold is counted as
such, and that a fault which did not strike is not counted at all.
"""

import itertools
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import pytest

from benchmarks.faults import asking
from benchmarks.faults.asking import Asked, NoAnswerError
from benchmarks.faults.checker import damaged
from benchmarks.faults.damage import PATIENCE_S, draw_place, metadata_regions, stores
from benchmarks.faults.disk import fill_up, free_again, small_disk
from benchmarks.faults.every import LONG, MALFORMED, SHORT, run_fault
from benchmarks.faults.scene import STORE_NAME, check_whole, small_scene
from benchmarks.faults.steps import Step, parse_step
from benchmarks.faults.tally import MAX_DRAWS, MissedError, NotHeldError, generator, strike_often

ROOT = Path(__file__).resolve().parents[1]
FEW = {
    "kill": 2,
    "signals": 2,
    "disk-full": 2,
    "bit-flips": 80,
    "truncation": 40,
    "two-builders": 2,
    "readers": 1,
    "failing-reads": 1,
    "kill-with-workers": 1,
    "signals-with-workers": 1,
    "worker-deaths": 2,
}


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """The corpus and the codec of most faults; undisturbed work is done once."""
    return small_scene(tmp_path_factory.mktemp("scene"))


def test_every_fault_is_tried_here():
    assert FEW.keys() | {MALFORMED} == LONG.keys() == SHORT.keys()  # that has tests of its own


@pytest.mark.parametrize("name", FEW)
def test_what_has_to_hold_under_a_fault_holds(scene, tmp_path, name):
    told = run_fault(name, scene, FEW[name], 1, tmp_path)
    assert told["failures"] == []
    assert (told["runs"], told["held"]) == (FEW[name], FEW[name])


# that a run in which it does not hold is seen


def test_runs_are_counted_by_what_became_of_them(tmp_path):
    """A run that the fault missed is drawn again, with other draws in an empty folder; none at all is no run."""
    seen = []

    def strike(rng, folder):
        seen.append(rng.random())
        assert list(folder.iterdir()) == []
        (folder / "left").touch()
        if len(seen) in (1, 2):
            raise MissedError
        if len(seen) == 4:
            raise NotHeldError("two\nlines")
        if len(seen) == 5:
            raise OSError("unforeseen")
        if len(seen) > 6:
            raise MissedError

    told = strike_often("made-up", 5, 0, tmp_path, strike)
    assert (told["runs"], told["held"], told["missed"]) == (4, 2, 2 + MAX_DRAWS)
    assert told["failures"] == ["run 1, draw 0: two lines", "run 2, draw 0: OSError: unforeseen"]
    assert len(set(seen)) == len(seen) == 6 + MAX_DRAWS
    assert list(tmp_path.iterdir()) == []
    assert generator("made-up", 0, 0, 0).random() == seen[0]


def test_another_store_and_anything_left_behind_are_seen(scene, tmp_path):
    work = scene.build("factored")
    reference = scene.reference(work)
    assert {"split.json", STORE_NAME} <= reference.names
    assert len(reference.steps) > 50
    scene.finish(work.command(tmp_path))
    check_whole(tmp_path, reference)
    with pytest.raises(NotHeldError, match="content digest"):
        check_whole(tmp_path, replace(reference, digest="00" * 32))
    (tmp_path / f".{STORE_NAME}.somewhere-1.partial").touch()
    with pytest.raises(NotHeldError, match=r"left behind \['\.store\.h5\.somewhere-1\.partial'\]"):
        check_whole(tmp_path, reference)


def test_a_store_that_is_not_damaged_passes_the_checker(scene, tmp_path):
    path = stores(scene)[0]
    with Asked("checker", [str(path), str(tmp_path)]) as checker:
        assert checker.ask({}, PATIENCE_S) == {"outcome": "passed", "told": ""}
        assert checker.ask({"cut": 0}, PATIENCE_S)["outcome"] == "refused"
        assert checker.ask({}, PATIENCE_S)["outcome"] == "passed"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("code", "start_s", "told"),
    [
        ("import time; time.sleep(60)", 0.3, r"^no answer in 0\.5 s$"),
        ("import os; os.abort()", 60.0, "^the process ended with exit code -6$"),
    ],
)
def test_a_process_that_hangs_or_crashes_is_told_and_replaced(monkeypatch, code, start_s, told):
    with Asked("checker", []) as checker:
        monkeypatch.setattr(checker, "_command", [sys.executable, "-c", code])
        monkeypatch.setattr(asking, "PATIENCE_S", start_s)
        with pytest.raises(NoAnswerError, match=told):
            checker.ask({}, 0.2)
        monkeypatch.setattr(checker, "_command", [sys.executable, "-c", "input(); print('{}')"])
        monkeypatch.setattr(asking, "PATIENCE_S", 60.0)
        assert checker.ask({}, 0.2) == {}


def test_damage_is_what_was_asked_for():
    assert damaged(b"abc", {}) == b"abc"
    assert damaged(b"abc", {"flip": [1, 0]}) == b"acc"
    assert damaged(b"abc", {"cut": 2}) == b"ab"


def test_flips_reach_all_of_a_file_and_most_of_all_its_metadata(scene):
    path = stores(scene)[0]
    regions = metadata_regions(path)
    size_bytes = path.stat().st_size
    with h5py.File(path, "r") as file:
        values = file["codecs/small/codes"].id.get_chunk_info(0).byte_offset
    assert regions[0][0] == 0
    assert all(stop <= start for (_, stop), (start, _) in itertools.pairwise(regions))
    assert not any(start <= values < stop for start, stop in regions)
    places = [draw_place(generator("made-up", 0, index), size_bytes, regions) for index in range(400)]
    assert 0 <= min(places) < max(places) < size_bytes
    in_metadata = [any(start <= place < stop for start, stop in regions) for place in places]
    assert 200 < sum(in_metadata) < 400


def test_steps_are_told_in_order_and_hold_what_was_done(scene):
    steps = scene.reference(scene.build("factored")).steps
    assert [step.index for step in steps] == list(range(len(steps)))
    assert {"write", "close", "fsync", "replace", "unlink"} <= {step.name for step in steps}
    assert [step.time_s for step in steps] == sorted(step.time_s for step in steps)
    assert parse_step("step 3 1.500000 replace /a b/c\n") == Step(3, 1.5, "replace", "/a b/c")


def test_a_small_disk_fills_up_and_is_free_again(tmp_path):
    try:
        with small_disk(tmp_path / "disk", 2**20) as disk:
            fill_up(disk, 65_536)
            with pytest.raises(OSError, match="No space left"):
                (disk / "more").write_bytes(bytes(100_000))
            free_again(disk)
            (disk / "more").write_bytes(bytes(100_000))
    except PermissionError:
        pytest.skip("mounting a disk is not permitted here")
    assert list((tmp_path / "disk").iterdir()) == []


# the script


def start(*arguments):
    command = [sys.executable, ROOT / "benchmarks" / "faults.py", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_the_record_of_some_faults_completes_an_earlier_one(tmp_path):
    counts = {"runs": 1, "held": 0, "failures": ["something"], "missed": 0, "seconds": 1.0}
    record = {"benchmark": "faults", "mode": "short", "faults": {"kill": counts, "truncation": counts}}
    (tmp_path / "earlier.json").write_text(json.dumps(record), encoding="utf-8")
    ended = start("--only", "truncation", "--folder", tmp_path / "scratch", "--add-to", tmp_path / "earlier.json")
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout.splitlines()[-1])
    assert (told["benchmark"], told["mode"]) == ("faults", "short")
    assert told["faults"]["kill"] == counts
    assert told["faults"]["truncation"]["runs"] == told["faults"]["truncation"]["held"] == SHORT["truncation"]
    assert told["machine"]["n_cores"] >= 1
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"benchmark": "faults", "mode": "long", "faults": {}}', "expected a record of the mode short, found long"),
        ("[]", "expected a record of this benchmark, found something else"),
        ("", "expected a record of this benchmark, found something else"),
    ],
)
def test_an_earlier_record_of_another_kind_is_refused_before_anything_runs(tmp_path, text, found):
    (tmp_path / "earlier.json").write_text(text, encoding="utf-8")
    ended = start("--add-to", tmp_path / "earlier.json")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert found in ended.stderr
