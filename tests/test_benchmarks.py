"""Every benchmark runs small and ends with one line of JSON."""

import json
import re
import shutil
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import probe_vs_sklearn, stacked_vs_sklearn
from benchmarks.growth.stages import STAGES
from benchmarks.reading.readers import READERS, Npy, can, missing
from benchmarks.reading.rows import draw_rows
from benchmarks.reading.timing import ACCESSES, CAN_DROP, Asked
from benchmarks.rivals.cells import load_cells
from benchmarks.rivals.race import Finish
from benchmarks.rivals.stacked import load_cell
from featstore.store import Store
from featstore.verify import verify_store
from tests.support.stores import write_store

ROOT = Path(__file__).resolve().parents[1]
SMALL = {
    "make_scale_store.py": ("--utterances", "80", "--speakers", "8"),
    "probe_scale.py": ("--layer", "1", "--n-bootstrap", "20"),
    "probe_vs_sklearn.py": ("--rows", "2000", "--gap", "1e-3", "--repeats", "1"),
    "stacked_vs_sklearn.py": ("--rows", "2000", "--gap", "1e-3", "--reference-gap", "1e-6", "--layers", "3"),
    "faults.py": ("--only", "truncation"),
    "bench_read.py": ("--frames-128", "3000", "--frames-1024", "1500", "--utterances", "3", "--batch-frames", "200"),
    "bench_size.py": ("--max-utterances", "6", "--max-dense-frames", "2000"),
    "bench_build.py": ("--utterances", "4", "--codec", "melrvq", "--standin-workers", "1"),
    "bench_design.py": ("--utterances", "80", "--speakers", "8", "--layer", "1", "--memory-gb", "1", "8"),
    "bench_encoding.py": ("--utterances", "3", "--codec", "melrvq", "--no-compile"),
    "bench_growth.py": ("--sizes", "40", "80", "--encode-utterances", "4", "--codec", "melrvq"),
    "gpu_suite.py": ("--small",),
    "real_curves.py": ("--codec", "melrvq", "--max-utterances", "12"),
}


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


def test_the_store_of_true_shape_is_a_whole_store_and_its_record_tells_of_it(tmp_path):
    told = run("make_scale_store.py", "--output", tmp_path / "store.h5")
    verify_store(tmp_path / "store.h5", full=True)
    assert (told["n_utterances"], told["n_speakers"]) == (80, 8)
    assert told["hours"] == pytest.approx(80 * 12.69 / 3600, rel=0.02)
    assert told["bytes"] == (tmp_path / "store.h5").stat().st_size
    assert told["seconds"] > 0
    assert told["peak_rss_gb"] > 0.05  # that it does not grow with the store: tests/test_scale_store.py
    assert json.loads((tmp_path / "store.json").read_text(encoding="utf-8")) == told
    with Store(tmp_path / "store.h5") as store:
        assert told["content_digest"] == store.content_digest
        assert list(told["codecs"]) == store.codec_names
        for name, of_codec in told["codecs"].items():
            frames = store[name]
            assert of_codec["n_train"] + of_codec["n_eval"] == of_codec["n_frames"] == frames.n_frames
            assert (of_codec["dim"], frames.n_layers, frames.n_codewords) == (frames.dim, 8, 1024)
            assert min(of_codec["perplexity"]) >= 500
            assert all(51 <= n_unused < 150 for n_unused in of_codec["n_unused_codes"])
            assert of_codec["condition"][0] == pytest.approx(1e2, rel=1e-2)
            assert of_codec["condition"][-1] == pytest.approx(1e5, rel=1e-2)


def test_probes_at_scale_are_timed_measured_and_proved(tmp_path):
    small = ("--utterances", "40", "--speakers", "4", "--growth-utterances", "80", "--growth-speakers", "8")
    told = run("probe_scale.py", "--store", tmp_path / "a.h5", "--growth", tmp_path / "b.h5", *small)
    assert told["n_probes"] == told["n_converged"] == told["n_proved"] == 6
    assert 0 <= told["max_relative_gap"] <= told["max_gap_bound"] <= 1e-6
    with Store(tmp_path / "a.h5") as store:
        assert told["n_frames"] == sum(store[name].n_frames for name in store.codec_names)
        assert told["content_digest"] == store.content_digest
    assert told["seconds_total"] > told["seconds_count"] + told["seconds_fit"] > 0
    assert sum(told["seconds_of_fits"].values()) <= told["seconds_total"] * told["n_workers"]
    assert told["peak_rss_gb"] > 0.05
    for of_store in (told, told["growth"]["larger"]):
        assert of_store["making"]["peak_rss_gb"] > 0.05
        for of_codec in (of_store["making"]["encodec"], of_store["making"]["speechtokenizer"]):
            assert 500 <= of_codec["perplexity"][0] < of_codec["perplexity"][1] < 1024
            assert 51 <= of_codec["n_unused_codes"][0] <= of_codec["n_unused_codes"][1] < 150
    assert told["seconds_total_with_bootstrap"] == pytest.approx(told["seconds_total"] + told["seconds_bootstrap"])
    growth = told["growth"]
    assert growth["larger"]["n_probes"] == growth["larger"]["n_proved"] == 6
    assert growth["ratio_frames"] == pytest.approx(growth["larger"]["n_frames"] / told["n_frames"], abs=1e-3)
    assert {name.partition("_")[2] for name in growth if name.startswith("ratio_seconds")} == {
        "seconds_total",
        "seconds_count",
        "seconds_phoneme_fits",
        "seconds_speaker_fits",
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.h5", "a.json", "b.h5", "b.json"]
    assert told["machine"]["n_cores"] >= 1


def test_the_same_probes_by_others_reach_the_same_gap(tmp_path):
    small = ("--utterances", "40", "--speakers", "4", "--codec", "encodec")
    told = run("probe_vs_sklearn.py", "--store", tmp_path / "store.h5", *small)
    rows = {(row["task"], row["method"]): row for row in told["rows"]}
    methods = ("exact", "exact_default", "sklearn_dense", "sklearn_collapsed", "torch_dense")
    assert list(rows) == [(task, method) for task in ("phoneme", "speaker") for method in methods]
    assert told["skipped"] == []
    for (_, method), row in rows.items():
        assert (row["codec"], row["ended"], row["at_least"]) == ("encodec", "reached", False)
        assert -1e-9 <= row["relative_gap"] <= 1.001e-3  # scikit-learn sees its float32 objective, good to 1e-7
        assert row["seconds"] >= 0.5 * row["cpu_seconds"] > 0
        assert row["n_rows"] == 2000 or not method.endswith("_dense")
        assert row["dtype"] == ("float32" if method.endswith("_dense") else row["dtype"])
    for task in ("phoneme", "speaker"):
        exact, collapsed, dense = (rows[task, m] for m in ("exact", "sklearn_collapsed", "sklearn_dense"))
        assert collapsed["objective"] == pytest.approx(exact["objective"], rel=1e-3)
        assert collapsed["macro_f1"] == pytest.approx(exact["macro_f1"], abs=0.05)
        assert collapsed["n_rows"] < exact["n_rows"]
        assert dense["speedup"] == pytest.approx(dense["seconds"] / exact["seconds"], rel=1e-2)
        whole = [row["seconds_prepare"] + row["seconds"] for row in (dense, exact)]
        assert dense["speedup_with_counting"] == pytest.approx(whole[0] / whole[1], rel=1e-2, abs=0.01)
    # fitted to fewer frames it fits all of them worse; every speaker is in the sample
    assert rows["speaker", "sklearn_dense"]["objective_full"] > 1.01 * rows["speaker", "exact"]["objective_full"]
    for name in ("speedup", "speedup_cpu", "speedup_with_counting"):
        assert told[name] == pytest.approx(sum(cell[name] for cell in told["speedup_of_cell"].values()) / 2, rel=1e-6)


def finish_of(n_classes, dim):
    """Say that all zeros are the optimum."""
    zeros = np.zeros((n_classes, dim))
    return Finish(zeros, zeros[:, 0], 2.0, 2.0, 1, "reached")


def test_ours_outside_the_gap_is_not_reached_and_gives_no_speedup(tmp_path, monkeypatch):
    arguments = Namespace(gap=1e-4, minutes=1.0, repeats=1, dtype="float32", threads=1)
    with Store(write_store(tmp_path / "store.h5")) as store:
        (cell,) = load_cells(store, ["alpha"], ["phoneme"], 1, 300, True, 0)
        well = probe_vs_sklearn.told_of(cell, "exact", arguments)
        rival = probe_vs_sklearn.told_of(cell, "sklearn_dense", arguments)
        monkeypatch.setattr(probe_vs_sklearn, "run_exact", lambda problem, *_: finish_of(*problem_shape(problem)))
        badly = probe_vs_sklearn.told_of(cell, "exact", arguments)
    assert (well["ended"], rival["ended"], badly["ended"], badly["at_least"]) == ("reached", "reached", "stalled", True)
    good, bad = (rival | probe_vs_sklearn.ratios(rival, ours) for ours in (well, badly))
    assert min(good[name] for name in probe_vs_sklearn.RATIOS) > 0
    assert [bad[name] for name in probe_vs_sklearn.RATIOS] == [None] * 3
    told = probe_vs_sklearn.speedups([good, bad | {"task": "speaker"}])
    assert [told[name] for name in probe_vs_sklearn.RATIOS] == [None] * 3
    assert told["speedup_of_cell"]["alpha phoneme"]["speedup"] == good["speedup"]
    assert told["speedup_of_cell"]["alpha speaker"]["speedup"] is None
    assert probe_vs_sklearn.speedups([good])["speedup_with_counting"] == good["speedup_with_counting"]


def problem_shape(problem):
    return problem.counts.shape[1], problem.codewords.shape[1]


def test_ours_on_several_layers_outside_the_gap_is_not_reached(tmp_path, monkeypatch):
    arguments = Namespace(gap=1e-4, reference_gap=1e-6, threads=1, repeats=1, minutes=1.0, dtype="float32")
    arguments.skip_rival = False
    run_well = stacked_vs_sklearn.run_stacked

    def run_badly(cell, tol, *rest):  # the reference alone is found
        if tol == arguments.reference_gap and not rest[1:]:
            return run_well(cell, tol, *rest)
        return finish_of(cell.problem.n_classes, cell.problem.stack.dim)

    monkeypatch.setattr(stacked_vs_sklearn, "run_stacked", run_badly)
    with Store(write_store(tmp_path / "store.h5")) as store:
        cell = load_cell(store["alpha"], "phoneme", "concat", 2, 300, True, 0)
        ours, rival = stacked_vs_sklearn.race(cell, arguments, [])
        # out of time, what is matched is not reached either
        late = stacked_vs_sklearn.race(cell, Namespace(**vars(arguments) | {"minutes": 1e-9}), [])
    assert (ours["ended"], ours["at_least"], rival["ended"]) == ("stalled", True, "reached")
    told = stacked_vs_sklearn.speedups([ours, rival])["alpha concat phoneme"]
    assert told == {"speedup": None, "speedup_cpu": None, "at_least": False}
    assert [row["method"] for row in late] == ["exact", "sklearn_rows", "exact_matched"]
    assert stacked_vs_sklearn.speedups(late)["alpha concat phoneme"]["matched"] == {
        "speedup": None,
        "speedup_cpu": None,
    }


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rows_that_do_not_fit_are_not_made(tmp_path, monkeypatch, dtype):
    with Store(write_store(tmp_path / "store.h5")) as store:
        cell = load_cell(store["alpha"], "phoneme", "concat", 2, 300, True, 0)
    for available, lacks in ((None, False), (10**10, False), (10**9, True)):
        monkeypatch.setattr(stacked_vs_sklearn, "available_bytes", lambda available=available: available)
        skipped = []
        assert stacked_vs_sklearn._lacks_memory(cell, dtype, skipped) == lacks
        assert bool(skipped) == lacks
    assert skipped[0]["reason"].endswith("1.0 GB are left")


@pytest.fixture(scope="module")
def small_store(tmp_path_factory):
    """A store with the codecs alpha and beta of three layers."""
    return write_store(tmp_path_factory.mktemp("small") / "store.h5")


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (
            ("probe_vs_sklearn.py", "--codec", "alpha", "--codec", "nope"),
            "no codec 'nope' in this store; it has alpha,",
        ),
        (("stacked_vs_sklearn.py", "--codec", "nope"), "no codec 'nope' in this store; it has alpha,"),
        (("probe_vs_sklearn.py", "--layer", "9"), "layers count from 1 to 3, asked was 9"),
        (("stacked_vs_sklearn.py", "--layers", "9"), "layers count from 1 to 3, asked was 9"),
        (("probe_scale.py", "--layer", "9"), "layers count from 1 to 3, asked was 9"),
        (("probe_vs_sklearn.py", "--rows", "1"), "a sample of 1 frames holds one class; ask for more --rows"),
        (("stacked_vs_sklearn.py", "--rows", "1"), "needs at least two classes in training, found 1"),
    ],
)
def test_what_is_not_there_ends_in_one_clear_line_before_anything_is_timed(small_store, arguments, found):
    name, *rest = arguments
    ended = start(name, "--store", small_store, *rest, check=False)
    assert (ended.returncode, ended.stdout) == (1, "")
    (line,) = ended.stderr.splitlines()
    assert line.startswith("Error: ")
    assert found in line


@pytest.mark.parametrize(
    "arguments",
    [
        ("probe_vs_sklearn.py", "--seed", "-1"),
        ("probe_vs_sklearn.py", "--gap", "0"),
        ("stacked_vs_sklearn.py", "--minutes", "0"),
        ("real_curves.py", "--codec", "nope"),
        ("bench_read.py", "--repeats", "0"),
        ("bench_size.py", "--max-utterances", "0"),
    ],
)
def test_wrong_usage_says_how_it_is_used(arguments):
    ended = start(*arguments, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("usage: ")
    assert "error: " in ended.stderr.splitlines()[-1]


def test_the_folder_s_readme_has_a_row_for_every_script_and_names_records_that_are_there():
    text = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    rows = [re.match(r"\| `(\w+\.py)` \|", line) for line in text.splitlines()]
    assert sorted(row[1] for row in rows if row) == sorted(SMALL)
    named = set(re.findall(r"`results/(\w+\.json)`", text))
    assert named == {path.name for path in (ROOT / "benchmarks" / "results").iterdir()}


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_the_chore_can_be_kept_short():
    planned = subprocess.run(["make", "-n", "bench", "STAMP=", "MINUTES=2"], cwd=ROOT, capture_output=True, text=True)
    assert 'case "$script" in *_vs_sklearn.py) limit="--minutes 2"' in planned.stdout
    for path in (ROOT / "benchmarks").glob("[a-z]*.py"):
        takes_limit = '"--minutes"' in path.read_text(encoding="utf-8")
        has_its_own = path.name == "gpu_suite.py"  # 8 minutes for all of it
        assert takes_limit == (path.name.endswith("_vs_sklearn.py") or has_its_own)
        assert f"benchmarks/{path.name}" in planned.stdout


def test_stacked_probes_by_scikit_learn_reach_the_same_gap(tmp_path):
    store = ("--store", tmp_path / "store.h5", "--utterances", "40", "--speakers", "4", "--codec", "encodec")
    told = run("stacked_vs_sklearn.py", *store)
    rows = {(row["representation"], row["method"]): row for row in told["rows"]}
    assert list(rows) == [(way, method) for way in ("cumulative", "concat") for method in ("exact", "sklearn_rows")]
    for (way, _), row in rows.items():
        assert (row["n_rows"], row["dim"], row["ended"]) == (2000, 128 if way == "cumulative" else 384, "reached")
        assert -1e-6 <= row["relative_gap"] <= 1.01e-3
        assert row["seconds"] >= 0.5 * row["cpu_seconds"] > 0
    for way in ("cumulative", "concat"):
        ours, rival = (rows[way, method] for method in ("exact", "sklearn_rows"))
        speedup = told["speedup_of_cell"][f"encodec {way} phoneme"]
        assert speedup["speedup"] == pytest.approx(rival["seconds"] / ours["seconds"], rel=1e-2)
        assert not speedup["at_least"]
    assert told["skipped"] == []


def test_stacked_scikit_learn_out_of_time_is_compared_at_the_objective_it_had_reached(tmp_path):
    store = ("--store", tmp_path / "store.h5", "--utterances", "40", "--speakers", "4", "--codec", "encodec")
    told = run("stacked_vs_sklearn.py", *store, "--minutes", "1e-4", "--representation", "concat")
    exact, rival, matched = told["rows"]
    assert (rival["ended"], rival["at_least"]) == ("time_limit", True)
    assert matched["method"] == "exact_matched"
    assert matched["n_iter"] <= exact["n_iter"]
    assert optimum_of(exact) < matched["objective"] <= rival["objective"]
    assert told["speedup_of_cell"]["encodec concat phoneme"]["at_least"]
    assert told["speedup_of_cell"]["encodec concat phoneme"]["matched"]["speedup"] > 0


def optimum_of(row):
    return row["objective"] / (1.0 + row["relative_gap"])


def test_reading_is_timed_beside_what_else_there_is():
    told = run("bench_read.py", "--batches", "1", "--repeats", "1")
    readers = [reader for reader in READERS if not missing(reader)]
    n_accesses = sum(can(reader, access) for reader in readers for access in ACCESSES)
    assert len(told["rows"]) == 2 * n_accesses * (1 + CAN_DROP)  # two dimensions
    assert {row["access"] for row in told["rows"]} == {"layer", "utterance", "random-frames"}
    assert {row["layout"] for row in told["rows"]} >= {"dense", "factored", "npy", "npz", "hdf5-groups"}
    assert len(told["skipped"]) == len(READERS) - len(readers)
    for row in told["rows"]:
        assert row["mb_per_second"] > 0
        same = [other for other in told["rows"] if all(other[name] == row[name] for name in ("dim", "access", "cache"))]
        reference = "np.load" if row["access"] == "layer" else "np.memmap"
        (npy,) = (other for other in same if (other["layout"], other["method"]) == ("npy", reference))
        (npz,) = (other for other in same if other["layout"] == "npz")
        for name, other in (("ratio_to_npy", npy), ("ratio_to_npz", npz)):
            assert row[name] == pytest.approx(row["mb_per_second"] / other["mb_per_second"], rel=0.01)
    assert [goal["dim"] for goal in told["goals"]] == [128] * 4 + [1024] * 4
    assert all(goal["reached"] == (goal["ratio"] >= goal["least"]) for goal in told["goals"])
    for sizes in told["bytes"]:
        assert sizes["factored"] < sizes["dense"]
        assert 4 * sizes["dim"] * sizes["n_frames"] < sizes["npy"] < sizes["npz"]
    assert [row["n_workers"] for row in told["training"]] == [0, 2, 0, 2]


def test_a_build_is_timed_beside_the_bare_codec():
    told = run("bench_build.py")
    bare = told["bare_seconds_by_threads"][str(told["n_threads"])]
    # of so short a time the record keeps few digits
    assert told["ratio_to_bare"] == pytest.approx(sum(bare.values()) / told["build_seconds"], rel=0.3)
    assert told["audio_seconds_per_second"] == pytest.approx(told["audio_seconds"] / told["build_seconds"], rel=0.1)
    assert told["peak_rss_gb"] > 0.05
    for shares in (told["share_by_stage"], told["standin"]["share_by_stage"]):
        assert sum(shares.values()) == pytest.approx(1, abs=0.001)
    alone = [told["standin"][f"{stage}_seconds_alone"] for stage in ("prepare", "encode")]
    assert (
        0
        < told["standin"]["ratio_to_slowest_stage"]
        == pytest.approx(max(alone) / told["standin"]["build_seconds"], rel=0.2)
    )


def test_designs_come_nearer_with_more_memory():
    told = run("bench_design.py")
    assert len(told["rows"]) == 2 * 2 * 2  # codecs, tasks, memories
    for small, large in zip(told["rows"][::2], told["rows"][1::2], strict=True):
        assert (small["memory_gb"], large["memory_gb"]) == (1.0, 8.0)
        assert small["n_rows"] <= large["n_rows"] <= large["n_rows_wanted"] == small["n_rows_wanted"]
        assert large["relative_gap"] <= small["relative_gap"] < 1e-2
        assert large["relative_gap"] >= large["proved_to"]
    for codec, largest in told["largest_relative_gap"].items():
        assert largest["8 GB"] == max(row["relative_gap"] for row in told["rows"][1::2] if row["codec"] == codec)


def test_encoding_is_timed_by_processes_and_threads():
    told = run("bench_encoding.py")
    settings = [(row["n_processes"], row["n_threads"]) for row in told["rows"]]
    assert settings[0] == (1, 1)
    assert len(set(settings)) == len(settings)
    for row in told["rows"]:
        assert row["times_real_time"] == pytest.approx(row["audio_seconds"] / row["seconds"], rel=0.1)
        assert (row["compiled"], row["codes_equal"]) == (False, 1.0)  # NumPy's sums do not depend on them
    assert told["rows"][0]["ratio_to_one_thread"] == 1


def test_growth_is_told_by_stage_and_by_part_of_a_build():
    told = run("bench_growth.py")
    small, large = told["stages"]
    assert (small["n_utterances"], large["n_utterances"]) == (40, 80)
    assert 1.5 * small["n_frames"] < large["n_frames"] < 2.5 * small["n_frames"]
    assert small["n_frames_read"] < small["n_frames"]
    assert told["exponents"].keys() == small["seconds"].keys() == set(STAGES)
    doubling = np.log(large["n_frames"] / small["n_frames"])
    for stage, exponent in told["exponents"].items():
        assert exponent == pytest.approx(np.log(large["seconds"][stage] / small["seconds"][stage]) / doubling, abs=0.1)
    minutes = [part["audio_minutes"] for part in told["encoding"]["parts"]]
    assert minutes == sorted(minutes)
    assert minutes[-1] == told["encoding"]["audio_minutes"]
    assert all(part["memory_gb"] > 0.05 for part in told["encoding"]["parts"])


def test_a_reader_of_other_rows_is_not_timed(tmp_path):
    rows = draw_rows(1000, 8, 0)
    asked = Asked(rows, 3, 2, 10, 0)

    class Wrong(Npy):
        def random_frames(self, frames):
            return self.rows.layer()[frames] + (frames[:, None] == asked.batches[1][3])

    reader = Wrong(tmp_path, rows)
    reader.write()
    asked.check(reader, "layer")
    with pytest.raises(AssertionError, match=r"npy, np\.load: random_frames returned other rows"):
        asked.check(reader, "random_frames")
    assert asked.megabytes("random_frames") == pytest.approx(20 * 8 * 4 / 1e6)
    assert asked.megabytes("layer") == pytest.approx(1000 * 8 * 4 / 1e6)


def test_sizes_are_weighed_and_extrapolated(monkeypatch, tmp_path):
    monkeypatch.setenv("RVQPROBE_SHARED_DATA", str(tmp_path / "nowhere"))
    check_sizes(run("bench_size.py"), "a synthetic store of LibriSpeech's shape")


def test_sizes_of_real_codes_are_weighed(shared_data):
    told = run("bench_size.py")
    check_sizes(told, "melrvq on up to 6 utterances of LibriSpeech train-clean-100")
    assert told["dim"] == 80


def check_sizes(told, source):
    assert told["codes_of"] == source
    assert "100.6 hours" in told["assumption"]
    own, encodec, speechtokenizer = told["rows"]
    assert (encodec["dim"], speechtokenizer["dim"]) == (128, 1024)
    for row, rate_hz in ((encodec, 75), (speechtokenizer, 50)):
        assert row["n_frames"] <= 2000
        assert row["bytes_float32"] == 4 * row["n_layers"] * row["n_frames"] * row["dim"]
        n_codebooks = 4 * row["n_layers"] * 1024 * row["dim"]
        assert n_codebooks < row["bytes_factored"] < row["bytes_dense"]
        whole = row["train_clean_100"]
        scale = whole["n_frames"] / row["n_frames"]
        assert whole["n_frames"] == 100.6 * 3600 * rate_hz
        for name in ("bytes_factored", "bytes_dense"):
            assert whole[name] == pytest.approx(n_codebooks + scale * (row[name] - n_codebooks), abs=1)
        assert whole["bytes_float32"] == pytest.approx(scale * row["bytes_float32"], abs=1)
    for name in ("bytes_factored", "bytes_dense", "bytes_float32", "n_frames", "dim"):
        assert told[name] == own[name]


def start(name, *arguments, check=True):
    command = [sys.executable, ROOT / "benchmarks" / name, *SMALL[name], *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=check)


def run(name, *arguments):
    return json.loads(start(name, *arguments).stdout.splitlines()[-1])
