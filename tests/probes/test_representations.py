"""cumulative, concat and latent probes through the runner: records, saved probes, samples, resume, refusals."""

import json
import shutil
import subprocess
import sys

import hdf5plugin  # noqa: F401
import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, mean_absolute_error, r2_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from featstore import memory
from featstore.errors import StoreError, UnknownNameError
from featstore.store import Store
from featstore.verify import verify_store
from probes import frame_rows
from probes.backends.cuml import CumlBackend
from probes.errors import BackendError, ProbeError, WrongUsageError
from probes.estimator import load_probe
from probes.latents import ask_latents
from probes.options import ProbeOptions
from probes.questions import Settings
from probes.representation import layers_seen, place_text
from probes.runner import run_probes
from probes.stacked import torch_pass
from schemas.record import check_record
from tests.probes.cuml_stand_in import stand_in
from tests.support.command_line import run, run_well
from tests.support.stores import StoreRecipe, edited, write_store

RECIPE = StoreRecipe(n_utterances=24, codecs=("alpha",))
REPRESENTATIONS = ("cumulative", "concat", "latent")
SHARP = {"tol": 1e-10, "max_iter": 20_000}


def add_latents(path, noise=0.3):
    """Store what would have been quantised: the sum of the codewords and what they miss."""
    rng = np.random.default_rng(5)
    with edited(path) as file:
        for group in file["codecs"].values():
            rows = sum(book[codes] for book, codes in zip(group["codebooks"][()], group["codes"][()], strict=True))
            group["latents"] = (rows + noise * rng.standard_normal(rows.shape)).astype(np.float32)
    return path


@pytest.fixture(scope="module")
def store_path(tmp_path_factory):
    return add_latents(write_store(tmp_path_factory.mktemp("store") / "store.h5", RECIPE))


@pytest.fixture(scope="module")
def runs(store_path, tmp_path_factory):
    """Of each representation the results folder and the records, fitted sharply."""
    found = {}
    for name in REPRESENTATIONS:
        output = tmp_path_factory.mktemp(name)
        found[name] = output, run_probes([store_path], output, ProbeOptions(representation=name, **SHARP))
    return found


def raw_rows(frames, record):
    """Every frame's row, by the definition of its representation."""
    if record["representation"] == "latent":
        return frames.latents(0, frames.n_frames).astype(float)
    each = [frames.layer(one)[0 : frames.n_frames].astype(float) for one in range(1, record["layer"] + 1)]
    return sum(each) if record["representation"] == "cumulative" else np.hstack(each)


def targets(store, frames, task):
    if task == "pitch":
        y = frames.labels("f0", 0, frames.n_frames).astype(float)
        return y, ~np.isnan(y)
    names = store.strings(f"vocab/{task}s")
    names = ["sil" if name in ("", "sp") else name for name in names]
    return np.array(names)[frames.labels(task, 0, frames.n_frames)], np.ones(frames.n_frames, dtype=bool)


@pytest.mark.parametrize("name", REPRESENTATIONS)
def test_records_are_complete_and_in_order(runs, name):
    output, found = runs[name]
    places = [None] if name == "latent" else [1, 2, 3]
    tasks = ("phoneme", "speaker", "pitch")
    assert [(r["layer"], r["task"]) for r in found] == [(place, task) for place in places for task in tasks]
    for record in found:
        check_record(record)
        assert record["outcome"] == "converged"
        assert record["representation"] == name
        assert record["rows"] == "dense"
        assert record["max_train_frames"] is None
        assert record["backend_used"] == ("sklearn" if name == "latent" else "exact")
        assert (record["fallback_reason"] is None) == (name != "latent")
        assert record["lookup_accuracy"] is record["oracle_accuracy"] is record["mutual_information_bits"] is None
        assert (record["v_information_bits"] is None) == (record["task"] == "pitch")
        assert (record["utterance_accuracy"] is None) == (record["task"] != "speaker")
        if record["task"] != "pitch":
            assert 0 <= record["gap_bound"] < 1e-6 * record["objective"]
    lines = [json.loads(line) for line in (output / "records.jsonl").read_text().splitlines()]
    assert lines == found


@pytest.mark.parametrize("name", REPRESENTATIONS)
def test_scores_and_saved_probes_are_those_of_scikit_learn_on_materialised_rows(runs, store_path, name):
    output, found = runs[name]
    with Store(store_path) as store:
        for record in found:
            frames = store[record["codec"]]
            (y, taken), X = targets(store, frames, record["task"]), raw_rows(frames, record)
            part = frames.frame_splits(0, frames.n_frames)
            train, held_out = taken & (part == 0), taken & (part == 1)
            assert (record["n_train"], record["n_eval"]) == (train.sum(), held_out.sum())
            model = load_probe(output / record["probe_file"])
            if record["task"] == "pitch":
                theirs = make_pipeline(StandardScaler(), LinearRegression()).fit(X[train], y[train])
                predicted = theirs.predict(X[held_out])
                np.testing.assert_allclose(model.predict(X[held_out]), predicted, rtol=1e-6)
                assert record["mae_hz"] == pytest.approx(mean_absolute_error(y[held_out], predicted), rel=1e-6)
                assert record["r2"] == pytest.approx(r2_score(y[held_out], predicted), abs=1e-6)
                continue
            theirs = make_pipeline(
                StandardScaler(), LogisticRegression(class_weight="balanced", tol=1e-8, max_iter=9999)
            )
            theirs.fit(X[train], y[train])
            np.testing.assert_allclose(model.predict_proba(X), theirs.predict_proba(X), atol=2e-4)
            predicted = model.predict(X[held_out])
            assert record["accuracy"] == pytest.approx(accuracy_score(y[held_out], predicted), abs=1e-12)
            macro = f1_score(y[held_out], predicted, average="macro", zero_division=0)
            assert record["macro_f1"] == pytest.approx(macro, abs=1e-12)


@pytest.mark.parametrize("name", ["cumulative", "concat"])
@pytest.mark.parametrize("settings", [{}, {"class_weight": "none", "standardize": False, "phones": "arpabet39"}])
def test_sklearn_on_rows_reaches_the_optimum_of_exact(store_path, tmp_path, name, settings):
    options = {"representation": name, "layers": [3], "keep_silence": not settings, **SHARP, **settings}
    ours = run_probes([store_path], tmp_path / "exact", ProbeOptions(**options))
    theirs = run_probes([store_path], tmp_path / "sklearn", ProbeOptions(**options, backend="sklearn"))
    for one, other in zip(ours, theirs, strict=True):
        assert (one["backend_used"], other["backend_used"]) == ("exact", "sklearn")
        assert other["objective"] == pytest.approx(one["objective"], rel=1e-8)
        assert one["n_train"] == other["n_train"]
        for field in ("accuracy", "macro_f1", "r2"):
            if one[field] is not None:
                assert other[field] == pytest.approx(one[field], abs=0.002)


def test_dense_rows_of_codewords_are_those_of_the_speakers_that_train(store_path, tmp_path):
    asked = {"layers": [1], "eval_by": "speaker", "tasks": ["phoneme", "pitch"], **SHARP}
    ours = run_probes([store_path], tmp_path / "exact", ProbeOptions(**asked))
    theirs = run_probes([store_path], tmp_path / "dense", ProbeOptions(**asked, backend="sklearn", rows="dense"))
    for one, other in zip(ours, theirs, strict=True):
        assert other["objective"] == pytest.approx(one["objective"], rel=1e-6)  # rows are read in single precision


def test_layer_1_is_the_codeword_probe_whatever_the_representation(store_path, runs, tmp_path):
    expected = run_probes([store_path], tmp_path, ProbeOptions(layers=[1], **SHARP))
    for name in ("cumulative", "concat"):
        for ours, alone in zip(runs[name][1][:3], expected, strict=True):
            assert ours["objective"] == pytest.approx(alone["objective"], rel=1e-8)
            assert ours["probe_key"] != alone["probe_key"]
            for field in ("accuracy", "macro_f1", "mae_hz", "r2", "v_information_bits", "utterance_accuracy"):
                assert ours[field] == (None if alone[field] is None else pytest.approx(alone[field], abs=1e-3))


def test_worker_processes_give_the_records_of_one(store_path, runs, tmp_path):
    found = run_probes([store_path], tmp_path, ProbeOptions(representation="concat", n_workers=2, **SHARP))
    assert untimed(found) == untimed(runs["concat"][1])


def untimed(records):
    return [{name: value for name, value in r.items() if name not in ("seconds", "created")} for r in records]


class Interrupted(Exception):
    pass


def test_an_interrupted_run_goes_on_where_it_stopped(store_path, tmp_path, runs):
    done = []

    def stop(n_done, total, what):
        done.extend([what] if what.startswith("fit") else [])
        if len(done) == 4:
            raise Interrupted

    options = ProbeOptions(representation="cumulative", **SHARP)
    with pytest.raises(Interrupted):
        run_probes([store_path], tmp_path, options, stop)
    first = (tmp_path / "records.jsonl").read_text()
    assert len(first.splitlines()) == 4
    found = run_probes([store_path], tmp_path, options)
    assert (tmp_path / "records.jsonl").read_text().startswith(first)
    assert untimed(found) == untimed(runs["cumulative"][1])


@pytest.mark.parametrize("name", REPRESENTATIONS)
def test_a_sample_is_recorded_reproducible_and_another_probe(store_path, runs, tmp_path, name):
    asked = {"representation": name, "layers": [] if name == "latent" else [2], "tasks": ["phoneme"]}

    def probe(folder, **changes):
        return run_probes([store_path], tmp_path / folder, ProbeOptions(**asked, **changes))[0]

    sampled, again = (probe(folder, max_train_frames=400) for folder in ("one", "two"))
    assert (sampled["max_train_frames"], sampled["n_train"]) == (400, 400)
    assert untimed([sampled]) == untimed([again])
    reseeded, smaller = probe("one", max_train_frames=400, seed=1), probe("one", max_train_frames=300)
    whole, more_than_all = probe("one"), probe("one", max_train_frames=10**9)
    keys = [r["probe_key"] for r in (sampled, reseeded, smaller, whole, more_than_all)]
    assert len(set(keys)) == 5
    assert reseeded["objective"] != sampled["objective"]
    assert more_than_all["n_train"] == whole["n_train"] > 400
    assert more_than_all["objective"] == pytest.approx(whole["objective"], rel=1e-9)
    assert sampled["n_eval"] == whole["n_eval"]
    metadata = json.loads((tmp_path / "one" / sampled["probe_file"]).with_suffix(".json").read_text())["metadata"]
    assert (metadata["representation"], metadata["max_train_frames"]) == (name, 400)


@pytest.mark.parametrize("name", REPRESENTATIONS)
def test_intervals_unseen_speakers_and_comparisons(store_path, tmp_path, name):
    from probes.comparisons import compare

    options = ProbeOptions(representation=name, n_bootstrap=40)
    found = run_probes([store_path], tmp_path, options)
    for record in found:
        score = "mae_hz" if record["task"] == "pitch" else "accuracy"
        assert record[f"{score}_low"] <= record[score] <= record[f"{score}_high"]
    lines = compare(found, tmp_path)
    assert {(line.layer_a, line.layer_b) for line in lines} == (set() if name == "latent" else {(1, 2), (2, 3), (1, 3)})
    unseen = run_probes([store_path], tmp_path, ProbeOptions(representation=name, eval_by="speaker"))
    for before, record in zip(found, unseen, strict=True):
        if record["task"] == "speaker":
            assert record["outcome"] == "not_applicable"
            assert "unseen speakers" in record["reason"]
        else:
            assert record["n_train"] < before["n_train"]
            assert record["n_eval"] > before["n_eval"]


@pytest.mark.parametrize("name", REPRESENTATIONS)
@pytest.mark.parametrize(
    ("recipe", "task", "reason"),
    [
        ({"n_speakers": 1}, "speaker", "speaker needs at least two classes in training"),
        ({"unvoiced": True}, "pitch", "pitch needs voiced frames, found none in training"),
        ({"eval_every": 99}, "phoneme", "phoneme: the store has no evaluation frame"),
    ],
)
def test_a_task_that_cannot_be_asked(tmp_path, name, recipe, task, reason):
    path = add_latents(write_store(tmp_path / "a.h5", StoreRecipe(codecs=("alpha",), n_layers=2, **recipe)))
    found = run_probes([path], tmp_path / "out", ProbeOptions(representation=name))
    asked = [record for record in found if record["task"] == task]
    assert {record["outcome"] for record in asked} == {"not_applicable"}
    assert all(record["reason"].startswith(reason) for record in asked)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_train_frames": 10}, "--max-train-frames: codeword probes are fitted from counts"),
        ({"representation": "concat", "n_permutations": 5}, "--n-permutations: the mutual information is that of"),
        ({"representation": "latent", "layers": [1]}, "--layer: latents are the encoder's output before all layers"),
        ({"representation": "concat", "max_train_frames": 0}, "--max-train-frames 0: expected at least one frame"),
        ({"representation": "sum"}, "--representation sum: expected one of codeword, cumulative, concat, latent"),
        ({"n_threads": 2}, "--threads 2: threads share the cumulative and concat probes of exact alone"),
        ({"representation": "latent", "n_threads": 2}, "--threads 2: .* give processes by --workers"),
        ({"representation": "concat", "backend": "sklearn", "n_threads": 2}, "--threads 2: threads share"),
        ({"representation": "latent", "device": "mps"}, "--device mps: has no float64"),
        ({"representation": "concat", "backend": "cuml", "device": "cuda"}, "--device cuda: cuml takes the GPU by"),
        ({"backend": "cuml", "device": "cpu"}, "--device cpu: cuml is for GPUs; choose --backend sklearn"),
    ],
)
def test_options_that_make_no_sense_together(options, message):
    with pytest.raises(WrongUsageError, match=message):
        ProbeOptions(**options)


def test_class_probes_run_on_the_device_that_was_asked_for_and_say_so(store_path, runs, tmp_path, monkeypatch):
    import torch

    made = []

    class Seen(torch_pass.TorchPass):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            made.append(arguments[1])

    for module in ("probes.cores", "probes.stacked.torch_pass"):  # this machine's processor stands for its GPU
        monkeypatch.setattr(f"{module}.torch_device", lambda name: torch.device("cpu"))
    monkeypatch.setattr(torch_pass, "TorchPass", Seen)
    options = ProbeOptions(representation="concat", layers=[2], device="cuda:1", n_workers=None, **SHARP)
    found = run_probes([store_path], tmp_path, options)
    assert made == ["cuda:1"] * 2
    assert [r["device"] for r in found] == [f"cpu, torch {torch.__version__}"] * 2 + ["cpu"]
    assert [r["n_threads"] for r in found] == [1, 1, 1]
    expected = [r for r in runs["concat"][1] if r["layer"] == 2]
    assert [r["device"] for r in expected] == ["cpu"] * 3
    for record, theirs in zip(found, expected, strict=True):
        check_record(record)
        assert record["objective"] == pytest.approx(theirs["objective"], rel=1e-9)


def test_a_device_that_is_not_there_is_one_clear_error_before_anything_is_counted(store_path, tmp_path, monkeypatch):
    monkeypatch.setattr("probes.prober.count_frames", None)
    ended = run("probe", store_path, "--output", tmp_path, "--representation", "concat", "--device", "cuda:99")
    assert ended.error.startswith("--device cuda:99: torch ")
    assert "use one of these, or install a torch build that fits the driver" in ended.error


def test_layers_together_on_the_processor_load_no_torch(store_path, tmp_path):
    code = (
        "import sys, cli\n"
        f"sys.argv = ['cli.py', 'probe', {str(store_path)!r}, '--output', {str(tmp_path)!r}, '--layer', '2',"
        " '--device', 'cpu', '--representation', 'concat', '--quiet']\n"
        "try:\n    cli.main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "print([name for name in ('torch', 'sklearn') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_threads_that_were_asked_for_share_the_class_fits(store_path, runs, tmp_path):
    ended = run_well(
        *("probe", store_path, "--output", tmp_path, "--representation", "concat", "--layer", "2", "--threads", "2"),
        *("--workers", "1", "--tol", "1e-10", "--max-iter", "20000", "--json", "--quiet"),
    )
    found = json.loads(ended.stdout)
    assert [r["n_threads"] for r in found] == [2, 2, 1]
    for record, theirs in zip(found, [r for r in runs["concat"][1] if r["layer"] == 2], strict=True):
        assert record["probe_key"] == theirs["probe_key"]
        assert record["objective"] == pytest.approx(theirs["objective"], rel=1e-9)


@pytest.mark.parametrize("name", ["cumulative", "concat"])
def test_a_sample_of_one_frame_has_the_mean_for_its_pitch(store_path, tmp_path, capfd, name):
    options = ProbeOptions(representation=name, tasks=["pitch"], max_train_frames=1)
    for record in run_probes([store_path], tmp_path, options):
        check_record(record)
        assert (record["outcome"], record["n_train"], record["objective"]) == ("converged", 1, 0.0)
        assert record["mae_hz"] == pytest.approx(record["mean_baseline_mae_hz"], rel=1e-9)
    assert capfd.readouterr().out == ""


def test_unknown_layer_and_absent_latents_are_refused_before_anything_is_counted(tmp_path):
    path = write_store(tmp_path / "a.h5", RECIPE)
    with pytest.raises(UnknownNameError, match="layers count from 1 to 3, asked was 9"):
        run_probes([path], tmp_path / "out", ProbeOptions(representation="concat", layers=[9]))
    with pytest.raises(ProbeError, match=r"alpha/latents: expected the encoder's output .*; use --representation"):
        run_probes([path], tmp_path / "out", ProbeOptions(representation="latent"))
    assert not (tmp_path / "out").exists()
    with Store(path) as store, pytest.raises(StoreError, match="alpha/latents: expected the encoder's output"):
        store["alpha"].latents(0, 1)


def test_latents_that_are_not_finite_are_refused(store_path, tmp_path):
    path = shutil.copy(store_path, tmp_path / "a.h5")
    with edited(path) as file:
        file["codecs/alpha/latents"][7, 1] = np.nan
    with pytest.raises(ProbeError, match=r"alpha/latents: expected finite numbers, .* rebuild it"):
        run_probes([path], tmp_path / "out", ProbeOptions(representation="latent"))


@pytest.mark.parametrize("max_train_frames", [None, 50])
def test_latents_are_read_in_blocks(store_path, monkeypatch, max_train_frames):
    def rows():
        with Store(store_path) as store:
            asked = ask_latents(store["alpha"], "phoneme", Settings(), None, max_train_frames)
        return asked._problem.codewords

    whole = rows()
    monkeypatch.setattr("probes.latents._BLOCK_FRAMES", 7)
    np.testing.assert_array_equal(rows(), whole)


def test_a_store_with_latents_follows_the_format_and_says_so(store_path):
    from featstore.describe import describe, describe_text

    verify_store(store_path, full=True)
    with Store(store_path) as store:
        assert describe(store)["codecs"]["alpha"]["has_latents"]
        assert "factored with latents" in describe_text(store)
        assert store["alpha"].latents(3, 9).shape == (6, RECIPE.dim)


@pytest.mark.parametrize("name", ["concat", "latent"])
def test_rows_that_would_not_fit_are_refused_with_the_way_out(store_path, tmp_path, monkeypatch, name):
    monkeypatch.setattr(frame_rows, "available_bytes", lambda: 300_000)
    options = ProbeOptions(representation=name, backend="sklearn", tasks=["phoneme"])
    with pytest.raises(BackendError, match=rf"^{name} phoneme probe of alpha.* rows of .*--max-train-frames 1000$"):
        run_probes([store_path], tmp_path, options)
    fitting = ProbeOptions(representation=name, backend="sklearn", tasks=["phoneme"], max_train_frames=100)
    assert {r["n_train"] for r in run_probes([store_path], tmp_path, fitting)} == {100}
    monkeypatch.setattr(frame_rows, "available_bytes", lambda: None)  # a system that does not say
    assert run_probes([store_path], tmp_path, options)[0]["outcome"] == "converged"


def test_a_sample_of_more_frames_than_can_be_drawn_from_is_refused(store_path, tmp_path, monkeypatch):
    monkeypatch.setattr("probes.stacked.training._MOST_TO_DRAW_FROM", 100)
    options = ProbeOptions(representation="concat", layers=[1], tasks=["phoneme"], max_train_frames=50)
    with pytest.raises(ProbeError, match=r"h5: alpha has [\d,]+ training frames, .* leave out --max-train-frames"):
        run_probes([store_path], tmp_path, options)


def test_cuml_without_a_gpu_is_sklearn_on_the_same_rows(store_path, tmp_path):
    from probes.backends.registry import backend

    if backend("cuml").availability().available:
        pytest.skip("a GPU with cuML is here: there is no fallback to test")
    options = ProbeOptions(representation="concat", backend="cuml", layers=[2], tasks=["pitch"])
    (record,) = run_probes([store_path], tmp_path, options)
    assert (record["backend_asked"], record["backend_used"]) == ("cuml", "sklearn")
    assert "cuml is not available" in record["fallback_reason"]


@pytest.mark.parametrize("name", REPRESENTATIONS)
def test_cuml_gets_rows_of_frames(store_path, runs, tmp_path, monkeypatch, name):
    library = stand_in()
    monkeypatch.setattr(CumlBackend, "__init__", lambda self: setattr(self, "_import", library))
    options = {"representation": name, "layers": [] if name == "latent" else [2], "backend": "cuml", **SHARP}
    plain = run_probes([store_path], tmp_path, ProbeOptions(**options, class_weight="none"))
    assert [(r["backend_used"], r["design"]) for r in plain] == [("cuml", "frames")] * 3
    reference = run_probes(
        [store_path], tmp_path, ProbeOptions(**options | {"backend": "sklearn"}, class_weight="none")
    )
    for record, theirs in zip(plain, reference, strict=True):
        assert record["objective"] == pytest.approx(theirs["objective"], rel=1e-6)
    balanced = run_probes([store_path], tmp_path, ProbeOptions(**options))
    assert [(r["backend_used"], r["design"]) for r in balanced] == [
        ("cuml", "apportioned"),
        ("cuml", "apportioned"),
        ("cuml", "frames"),
    ]
    assert all("issue 7298" in r["design_note"] for r in balanced[:2])
    expected = [r for r in runs[name][1] if r["layer"] in (None, 2)]
    for record, ours in zip(balanced, expected, strict=True):
        assert record["objective"] == pytest.approx(ours["objective"], rel=1e-4)


def test_places():
    assert layers_seen("codeword", 3) == (3,)
    assert layers_seen("concat", 3) == (1, 2, 3)
    assert layers_seen("latent", None) == ()
    assert [place_text("codeword", 2), place_text("concat", 2), place_text("concat", 1)] == ["2", "1..2", "1"]
    assert place_text("latent", None) == "encoder"


@pytest.mark.parametrize("limit", [1 << 40, 1 << 25, 0])
def test_freed_memory_is_kept_as_far_as_the_c_library_allows(limit, monkeypatch):
    """Older versions of glibc refuse large thresholds, and a second setting alone would make arrays slower."""
    made = []

    class Library:
        @staticmethod
        def mallopt(name, value):
            allowed = name != memory._MMAP_THRESHOLD or value <= limit
            if allowed:
                made.append((name, value))
            return int(allowed)

    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: Library)
    memory.keep_freed_memory()
    threshold = min(limit, memory._LARGEST_KEPT_BYTES)
    expected = [(memory._MMAP_THRESHOLD, threshold), (memory._TRIM_THRESHOLD, memory._MOST_FREE_BYTES)]
    assert made == (expected if limit else [])
