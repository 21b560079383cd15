"""What surrounds the code: pins that cover the dependencies, chores that do what they say, licence and changelog."""

import os
import re
import shutil
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from featstore.store import Store
from probes.counting import count_frames
from probes.estimator import read_probe, save_probe
from probes.options import ProbeOptions
from probes.runner import run_probes
from probes.statistics import Statistics
from tests.support.stores import StoreRecipe, write_store

ROOT = Path(__file__).resolve().parents[1]
TARGETS = ("demo", "test", "test-slow", "lint", "types", "bench", "clean", "help")
needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def pins():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): Version(version) for name, version in pairs}


def direct_requirements():
    extras = project()["optional-dependencies"]
    return [Requirement(text) for text in [*project()["dependencies"], *extras["dev"], *extras["praat"]]]


def test_constraints_are_plain_pins():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    wrong = [line for line in lines if line and not line.startswith("#") and not re.fullmatch(r"[\w.-]+==[\w.]+", line)]
    assert wrong == []
    assert len(pins()) == len([line for line in lines if line and not line.startswith("#")])  # none twice


def test_constraints_pin_every_dependency_within_its_range():
    for requirement in direct_requirements():
        assert pins()[canonicalize_name(requirement.name)] in requirement.specifier, requirement


def test_constraints_cover_what_the_dependencies_need():
    """Follow the requirements of what is installed here; nothing on the way may be left to chance."""
    waiting = [(requirement, "") for requirement in direct_requirements()]
    seen, missing = set(), set()
    while waiting:
        requirement, extra = waiting.pop()
        name = canonicalize_name(requirement.name)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        if name not in pins():
            missing.add(name)
        for wanted in {"", *requirement.extras}:
            if (name, wanted) not in seen:
                seen.add((name, wanted))
                waiting += [(Requirement(text), wanted) for text in requirements_of(name)]
    assert missing == set()
    assert len(seen) > len(direct_requirements())


def requirements_of(name):
    try:
        return metadata.requires(name) or []
    except metadata.PackageNotFoundError:  # an optional tool that this environment does without
        return []


def test_torch_pair_is_equal():
    assert pins()["torch"] == pins()["torchaudio"]


@needs_make
@pytest.mark.parametrize("target", TARGETS)
def test_target_exists_is_documented_and_runs_from_the_environment(target):
    planned = make("-n", target, "STAMP=", "VENV=/some/env")
    assert planned.returncode == 0, planned.stderr
    assert "python3" not in planned.stdout
    assert re.search(rf"^make {target} ", make("help").stdout, flags=re.MULTILINE)


@needs_make
def test_targets_do_what_they_say():
    def plan(target):
        return " ".join(make("-n", target, "STAMP=").stdout.split())

    assert ".venv/bin/python cli.py demo --output results" in plan("demo")
    assert '-m pytest -q -m "not slow and not gpu"' in plan("test")
    assert all(f"--cov={package}" in plan("test") for package in ("featstore", "probes", "schemas"))
    assert "--cov-fail-under=90" in plan("test")
    assert '-m pytest -q -m "slow and not gpu"' in plan("test-slow")
    assert "ruff check ." in plan("lint")
    assert "ruff format --check ." in plan("lint")
    assert "-m mypy" in plan("types")
    assert "results" not in plan("clean")


# Stands for Python: new or old enough, makes an environment of itself, writes down every call.
FAKE_PYTHON = """#!/bin/sh
echo "$*" >>"$RECORD"
case "$*" in
    "-c "*) exit "${OLD:-0}" ;;
    "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
    *"pip install"*) exit "${BROKEN:-0}" ;;
esac
"""


@pytest.fixture
def fake(tmp_path):
    """Make's arguments for an environment made by a fake Python; `calls` reads and forgets what it was asked."""
    python = tmp_path / "python"
    python.write_text(FAKE_PYTHON, encoding="utf-8")
    python.chmod(0o755)
    return tmp_path, [f"PYTHON={python}", f"VENV={tmp_path / 'env'}"]


def calls(folder):
    text = (folder / "calls").read_text(encoding="utf-8")
    (folder / "calls").unlink()
    return text.splitlines()


@needs_make
def test_environment_is_installed_once_and_anew_when_the_pins_change(fake):
    folder, arguments = fake
    assert make("lint", *arguments, RECORD=folder / "calls").returncode == 0
    first = calls(folder)
    assert next(line for line in first if "pip install" in line).endswith("-c constraints.txt -e .[dev]")
    assert first[-1] == "-m ruff format --check ."
    make("lint", *arguments, RECORD=folder / "calls")
    assert calls(folder) == ["-m ruff check .", "-m ruff format --check ."]
    for changed in ("pyproject.toml", "constraints.txt"):
        make("lint", "-W", changed, *arguments, RECORD=folder / "calls")
        assert any("pip install" in line for line in calls(folder))


@needs_make
def test_failed_install_is_tried_again(fake):
    folder, arguments = fake
    assert make("lint", *arguments, RECORD=folder / "calls", BROKEN="1").returncode != 0
    assert "ruff" not in " ".join(calls(folder))
    assert make("lint", *arguments, RECORD=folder / "calls").returncode == 0
    assert any("pip install" in line for line in calls(folder))


@needs_make
def test_old_python_is_named(fake):
    folder, arguments = fake
    result = make("test", *arguments, RECORD=folder / "calls", OLD="1")
    assert result.returncode != 0
    assert "rvqprobe needs Python 3.11 or newer" in result.stderr
    assert not (folder / "env").exists()


def make(*arguments, **variables):
    # MAKEFLAGS and the like of an outer `make test` must not reach this one.
    prefixes = ("MAKE", "MFLAGS", "PYTHON", "VENV", "STAMP")
    env = {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}
    env |= {name: str(value) for name, value in variables.items()}
    return subprocess.run(["make", *arguments], cwd=ROOT, env=env, capture_output=True, text=True, check=False)


FAKE_MAKE = """#!/bin/sh
echo "make $1"
case "$1" in
    test) echo "=== 312 passed, 4 skipped in 210.33s (0:03:30) ==="; echo "make: trailing line"; exit "${TESTS:-0}" ;;
    lint) exit "${LINT:-0}" ;;
esac
"""


@pytest.mark.parametrize(
    ("variables", "status", "n_lines", "last"),
    [
        ({}, 0, 6, "=== 312 passed, 4 skipped in 210.33s (0:03:30) ==="),
        ({"TESTS": "2"}, 2, 6, "=== 312 passed, 4 skipped in 210.33s (0:03:30) ==="),
        ({"LINT": "2"}, 2, 1, "make lint"),
    ],
)
def test_ci_runs_the_chores_in_order_and_ends_with_pytest_s_line(tmp_path, variables, status, n_lines, last):
    (tmp_path / "make").write_text(FAKE_MAKE, encoding="utf-8")
    (tmp_path / "make").chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}"} | variables
    result = subprocess.run([ROOT / ".ci/run"], env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    lines = result.stdout.splitlines()
    assert result.returncode == status, result.stderr
    assert [line for line in lines if line.startswith("make ")] == ["make lint", "make types", "make test"][:n_lines]
    assert (len(lines), lines[-1]) == (n_lines, last)


def test_licence_is_mit_and_named_in_the_project():
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert text.startswith("MIT License\n\nCopyright (c) 2026 rvqprobe contributors\n")
    assert 'THE SOFTWARE IS PROVIDED "AS IS"' in text
    assert project()["license"] == "MIT"


def test_changelog_keeps_its_form():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    releases = re.findall(r"^## (.*)$", text, flags=re.MULTILINE)
    assert releases[0] == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", release) for release in releases[1:])
    kinds = set(re.findall(r"^### (.*)$", text, flags=re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Changed results", "Deprecated", "Removed", "Fixed", "Security"}


def test_hooks_fetch_nothing():
    text = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    assert re.findall(r"repo: (\S+)", text) == ["local"]
    assert len(re.findall(r"- id: ", text)) == len(re.findall(r"language: system", text)) == 3


# README's Python, run in order and in one namespace, as a reader would paste it


@pytest.fixture(scope="module")
def readme_folder(tmp_path_factory):
    """A folder with the files that README's blocks name: a store, its two parts, and a probe of its layer 3."""
    folder = tmp_path_factory.mktemp("readme")
    recipe = StoreRecipe(codecs=("encodec",), dim=128, n_utterances=24, frames_per_utterance=(100, 160))
    write_store(folder / "store.h5", recipe)
    write_store(folder / "part1.h5", recipe, only=range(0, 24, 2))
    write_store(folder / "part2.h5", recipe, only=range(1, 24, 2))
    (named,) = re.findall(r'load_probe\(.*?"(results/probes/[\w./-]+)"', (ROOT / "README.md").read_text("utf-8"))
    (record,) = run_probes([folder / "store.h5"], folder / "fitted", ProbeOptions(layers=(3,), tasks=("phoneme",)))
    save_probe(folder / named, read_probe(folder / "fitted" / record["probe_file"]))
    return folder


@pytest.fixture
def run_readme(readme_folder, monkeypatch):
    """Run README's blocks in order, up to the one that has a text in it; return the names they leave."""
    monkeypatch.chdir(readme_folder)

    def run(last, without=()):
        names = {}
        for block in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), flags=re.DOTALL):
            if not any(text in block for text in without):
                exec(compile(block, "README.md", "exec"), names)
            if last in block:
                return names
        raise AssertionError(f"README has no block with {last!r}")

    return run


def test_the_readme_s_reading_of_a_store_runs(run_readme):
    names = run_readme("layer(3)")
    assert (names["rows"].shape, names["rows"].dtype) == ((1000, 128), "float32")
    assert (names["codes"].shape, names["codes"].dtype) == ((1000,), "uint16")
    assert names["f0_hz"].shape == (1000,)


def test_the_readme_s_saved_probe_predicts(run_readme):
    phonemes = run_readme("load_probe(")["phonemes"]
    assert len(phonemes) == 1000
    assert set(phonemes) <= {"AA1", "AH0", "S", "sil", "spn"}
    assert len(set(phonemes)) > 1


def test_the_readme_s_counts_of_parts_are_those_of_the_whole(run_readme):
    run_readme("counts.save(", without=["load_probe("])
    saved = Statistics.load("encodec-counts.npz")
    with Store("store.h5") as store:
        whole = count_frames(store["encodec"])
    for table in ("phoneme", "speaker", "pitch"):
        np.testing.assert_allclose(getattr(saved, table), getattr(whole, table), rtol=1e-12)


def test_no_block_of_the_readme_s_python_is_left_out():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), flags=re.DOTALL)
    tried = ("layer(3)", "load_probe(", "counts.save(")
    assert [sum(text in block for text in tried) for block in blocks] == [1] * len(tried)
