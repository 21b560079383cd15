"""Every benchmark runs small and ends with one line of JSON."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SMALL = {"real_curves.py": ("--codec", "melrvq", "--max-utterances", "12")}


def test_every_benchmark_is_tried_here():
    assert {path.name for path in (ROOT / "benchmarks").glob("[a-z]*.py")} == set(SMALL)


def test_curves_on_real_speech_fall_with_depth(shared_data, tmp_path):
    told = run("real_curves.py", "--output", tmp_path)
    accuracy = told["melrvq"]["phoneme"]["accuracy"]
    assert told["n_converged"] == told["n_probes"] == 24
    assert accuracy[0] > 1.3 * max(accuracy[1:])
    assert (tmp_path / "none" / "figures" / "phoneme_probing.png").is_file()


def test_without_real_data_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("RVQPROBE_SHARED_DATA", str(tmp_path / "nowhere"))
    ended = start("real_curves.py", "--output", tmp_path)
    assert ended.stdout == ""
    assert ended.stderr.startswith("skipped: no real data at")


def start(name, *arguments):
    command = [sys.executable, ROOT / "benchmarks" / name, *SMALL[name], *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)


def run(name, *arguments):
    return json.loads(start(name, *arguments).stdout.splitlines()[-1])
