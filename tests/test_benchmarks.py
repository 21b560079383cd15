"""Every benchmark runs small and ends with one line of JSON."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from featstore.store import Store
from featstore.verify import verify_store

ROOT = Path(__file__).resolve().parents[1]
SMALL = {
    "make_scale_store.py": ("--utterances", "80", "--speakers", "8"),
    "probe_scale.py": ("--layer", "1", "--n-bootstrap", "20"),
    "probe_vs_sklearn.py": ("--rows", "2000", "--gap", "1e-3", "--repeats", "1"),
    "stacked_vs_sklearn.py": ("--rows", "2000", "--gap", "1e-3", "--reference-gap", "1e-6", "--layers", "3"),
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
    assert 0.05 < told["peak_rss_gb"] < 2
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
    assert 0.05 < told["peak_rss_gb"] < 2
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
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.h5", "b.h5"]
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
        assert -1e-9 <= row["relative_gap"] <= 1e-3
        assert row["seconds"] >= 0.5 * row["cpu_seconds"] > 0
        assert row["n_rows"] == 2000 or not method.endswith("_dense")
    for task in ("phoneme", "speaker"):
        exact, collapsed, dense = (rows[task, m] for m in ("exact", "sklearn_collapsed", "sklearn_dense"))
        assert collapsed["objective"] == pytest.approx(exact["objective"], rel=1e-3)
        assert collapsed["macro_f1"] == pytest.approx(exact["macro_f1"], abs=0.05)
        assert collapsed["n_rows"] < exact["n_rows"]
        assert dense["speedup"] == pytest.approx(dense["seconds"] / exact["seconds"], rel=1e-2)
    # fitted to fewer frames it fits all of them worse; every speaker is in the sample
    assert rows["speaker", "sklearn_dense"]["objective_full"] > 1.01 * rows["speaker", "exact"]["objective_full"]
    assert told["speedup"] == pytest.approx(
        sum(cell["speedup"] for cell in told["speedup_of_cell"].values()) / 2, rel=1e-6
    )


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


def start(name, *arguments):
    command = [sys.executable, ROOT / "benchmarks" / name, *SMALL[name], *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)


def run(name, *arguments):
    return json.loads(start(name, *arguments).stdout.splitlines()[-1])
