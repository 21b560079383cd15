"""Probing stores made from random codes: counting, questions, records, resume."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from featstore.errors import FeatstoreError, UnknownNameError
from featstore.store import Store
from probes.counting import count_frames
from probes.errors import BackendError, ProbeError
from probes.evaluation import EvaluationFrames
from probes.held_out import evaluation_split
from probes.options import ProbeOptions
from probes.questions import NotApplicable, Settings, class_question
from probes.runner import run_probes
from probes.spool import Spool, Spooled
from probes.standardiser import Standardiser
from probes.statistics import Statistics
from probes.tasks import phoneme_classes
from schemas.record import check_record
from tests.support.command_line import run_well
from tests.support.stores import PHONEMES, StoreRecipe, edited, write_store

RECIPE = StoreRecipe(n_utterances=24)


@pytest.fixture(scope="module")
def store_path(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("store") / "store.h5", RECIPE, "dense")


@pytest.fixture(scope="module")
def records(store_path, tmp_path_factory):
    output = tmp_path_factory.mktemp("results")
    return output, run_probes([store_path], output, ProbeOptions())


def test_counts_are_those_of_a_loop_over_frames(store_path, monkeypatch):
    from probes import counting

    monkeypatch.setattr(counting, "_BLOCK_FRAMES", 333)  # utterances straddle blocks
    monkeypatch.setattr(counting, "_MOMENT_FRAMES", 50)
    with Store(store_path) as store:
        frames = store["beta"]
        found = count_frames(frames)
        codes = frames.codes(0, frames.n_frames)
        phoneme, speaker, f0 = (frames.labels(name, 0, frames.n_frames) for name in ("phoneme", "speaker", "f0"))
        split = np.repeat(store.numbers("utterances/split"), np.diff(frames.offsets))
        expected_phoneme, expected_speaker = np.zeros_like(found.phoneme), np.zeros_like(found.speaker)
        expected_pitch = np.zeros_like(found.pitch)
        for layer in range(frames.n_layers):
            for t in range(frames.n_frames):
                expected_phoneme[split[t], layer, phoneme[t], codes[layer, t]] += 1
                expected_speaker[split[t], layer, speaker[t], codes[layer, t]] += 1
                if not np.isnan(f0[t]):
                    y = float(f0[t])
                    expected_pitch[split[t], :, layer, codes[layer, t]] += (1, y, y * y)
    np.testing.assert_array_equal(found.phoneme, expected_phoneme)
    np.testing.assert_array_equal(found.speaker, expected_speaker)
    np.testing.assert_allclose(found.pitch, expected_pitch, rtol=1e-12)


def test_tables_of_a_layer_are_by_code(store_path):
    with Store(store_path) as store:
        counted = count_frames(store["beta"])
        some = count_frames(store["beta"], layers=[3, 1])
    tables = counted.layer(2)
    np.testing.assert_array_equal(tables.phoneme[1], counted.phoneme[1, 1].T)
    np.testing.assert_array_equal(tables.speaker[0], counted.speaker[0, 1].T)
    np.testing.assert_array_equal(tables.pitch, counted.pitch[:, :, 1])
    assert some.layers == (1, 3)
    np.testing.assert_array_equal(some.layer(3).phoneme, counted.layer(3).phoneme)
    with pytest.raises(ProbeError, match="beta: layer 2 was not counted, only 1, 3"):
        some.layer(2)


def test_utterances_of_neither_part_are_not_counted(store_path):
    with Store(store_path) as store:
        frames = store["alpha"]
        split = store.numbers("utterances/split").copy()
        split[::3] = -1
        found = count_frames(frames, split=split)
        part = np.repeat(split, np.diff(frames.offsets))
        assert found.phoneme[:, 0].sum() == (part >= 0).sum()
        expected = np.bincount(frames.codes(0, frames.n_frames)[0][part == 1], minlength=frames.n_codewords)
        np.testing.assert_array_equal(found.phoneme[1, 0].sum(axis=0), expected)
        kept = EvaluationFrames(frames, split)
        assert kept.n_frames == (part == 1).sum()


def assert_equal_statistics(found, expected):
    for name in ("codec", "layers", "phonemes", "speakers", "codebooks_sha256"):
        assert getattr(found, name) == getattr(expected, name)
    np.testing.assert_array_equal(found.phoneme, expected.phoneme)
    np.testing.assert_array_equal(found.speaker, expected.speaker)
    np.testing.assert_allclose(found.pitch, expected.pitch, rtol=1e-12)


def test_counts_of_stores_and_spans_add_up_in_any_order(store_path, tmp_path):
    """Parts made apart have vocabularies of their own: speakers and phonemes are matched by name."""
    cuts = [range(5), range(5, 9), range(9, 24)]
    parts = [write_store(tmp_path / f"{i}.h5", RECIPE, only=part) for i, part in enumerate(cuts)]
    counted = []
    for path in parts:
        with Store(path) as store:
            counted.append(count_frames(store["alpha"]))
    with Store(store_path) as whole:
        expected = count_frames(whole["alpha"])
        n = whole["alpha"].n_frames
        spans = [count_frames(whole["alpha"], span=span) for span in ((0, 100), (100, n // 2), (n // 2, n))]
        other_codec = count_frames(whole["beta"])
    for a, b, c in ((0, 1, 2), (2, 0, 1), (1, 2, 0)):
        assert_equal_statistics(counted[a] + counted[b] + counted[c], expected)
        assert_equal_statistics(spans[a] + (spans[b] + spans[c]), expected)
    with pytest.raises(ProbeError, match="statistics of different codec do not add: alpha and beta"):
        expected + other_codec
    with pytest.raises(ProbeError, match="statistics of different codebooks_sha256 do not add"):
        expected + replace(expected, codebooks_sha256="other")


def test_statistics_save_and_load(store_path, tmp_path):
    with Store(store_path) as store:
        counted = count_frames(store["beta"])
    path = tmp_path / "counts.npz"
    counted.save(path)
    assert_equal_statistics(Statistics.load(path), counted)
    path.write_bytes(path.read_bytes()[:-200])
    says = r"counts.npz: expected rvqprobe-statistics 1.0, found (a damaged|no whole) .*; count the store again"
    with pytest.raises(ProbeError, match=says):
        Statistics.load(path)


def small_statistics():
    """Two layers of four codes, three phonemes and two speakers: a file of some kilobytes."""
    rng = np.random.default_rng(0)
    tables = [rng.integers(0, 9, (2, 2, n, 4)) for n in (3, 2)]
    return Statistics("alpha", (1, 3), ("AA", "B", "sil"), ("s1", "s2"), "ab" * 32, *tables, rng.random((2, 3, 2, 4)))


@pytest.mark.parametrize(("first", "flip"), [(0, 0xFF), (1, 0x01), (2, 0x06)])
def test_a_flipped_byte_of_statistics_is_refused_or_harmless(tmp_path, first, flip):
    path, saved = tmp_path / "counts.npz", small_statistics()
    saved.save(path)
    whole = path.read_bytes()
    n_refused = 0
    for place in range(first, len(whole), 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ flip]) + whole[place + 1 :])
        try:
            assert_equal_statistics(Statistics.load(path), saved)
        except ProbeError:
            n_refused += 1
    assert len(whole) // 6 < n_refused < len(whole) // 3


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda about, tables: ({"format": "other"}, tables), "other None"),
        (lambda about, tables: (about | {"format_version": "2.0"}, tables), "rvqprobe-statistics 2.0"),
        (lambda about, tables: ([], tables), "an .npz file that does not say what it is"),
        (lambda about, tables: (without(about, ["layers"]), tables), "layers that are no list of int"),
        (lambda about, tables: (about | {"layers": [True, 3]}, tables), "layers that are no list of int"),
        (lambda about, tables: (about | {"layers": [0, 3]}, tables), r"layers \[0, 3\], which count from 1"),
        (lambda about, tables: (about | {"layers": []}, tables), r"layers \[\], which count from 1"),
        (lambda about, tables: (about | {"layers": [3, 3]}, tables), "layers named twice"),
        (lambda about, tables: (about | {"phonemes": "AAB"}, tables), "phonemes that are no list of str"),
        (lambda about, tables: (about | {"speakers": ["s1", "s1"]}, tables), "speakers named twice"),
        (lambda about, tables: (about | {"codec": None}, tables), "codec None"),
        (lambda about, tables: (without(about, ["codebooks_sha256"]), tables), "codebooks_sha256 None"),
        (lambda about, tables: (about, without(tables, ["speaker", "pitch"])), "no table speaker, pitch"),
        (
            lambda about, tables: (about, tables | {"phoneme": tables["phoneme"][:, :, :2]}),
            r"table phoneme of shape \(2, 2, 2, 4\) where its names and layers make \(2, 2, 3, 4\)",
        ),
        (lambda about, tables: (about, tables | {"speaker": tables["speaker"][..., :3]}), "table speaker of shape"),
        (lambda about, tables: (about, tables | {"pitch": tables["pitch"][:, :, :1]}), "table pitch of shape"),
        (lambda about, tables: (about, tables | {"pitch": np.float64(1)}), r"table phoneme of shape .* make .*, 0\)"),
        (lambda about, tables: (about, tables | {"phoneme": tables["phoneme"] * 1.0}), "table phoneme of float64"),
        (lambda about, tables: (about, tables | {"speaker": -tables["speaker"]}), "table speaker with negative"),
        (
            lambda about, tables: (about, tables | {"pitch": tables["pitch"] * np.nan}),
            "table pitch with negative or un",
        ),
    ],
)
def test_statistics_that_do_not_fit_together_are_refused(tmp_path, change, says):
    path = tmp_path / "counts.npz"
    small_statistics().save(path)
    with np.load(path) as arrays:
        about, tables = json.loads(str(arrays["about"])), without(arrays, ["about"])
    np.savez(path, about=json.dumps(about), **tables)
    assert_equal_statistics(Statistics.load(path), small_statistics())
    about, tables = change(about, tables)
    np.savez(path, about=json.dumps(about), **tables)
    with pytest.raises(ProbeError, match=f"counts.npz: expected rvqprobe-statistics 1.0, found {says}.*; count the"):
        Statistics.load(path)


@pytest.mark.parametrize("about", ["no JSON", "[" * 100_000])
def test_statistics_that_do_not_say_what_they_are_are_refused(tmp_path, about):
    np.savez(tmp_path / "counts.npz", about=about)
    with pytest.raises(ProbeError, match="counts.npz: expected rvqprobe-statistics 1.0, found .*; count the store"):
        Statistics.load(tmp_path / "counts.npz")


def test_evaluation_frames_are_those_of_a_mask(store_path, monkeypatch, tmp_path):
    from probes import evaluation

    monkeypatch.setattr(evaluation, "_BLOCK_FRAMES", 97)
    with Store(store_path) as store:
        frames = store["beta"]
        kept = EvaluationFrames(frames)
        mask = frames.frame_splits(0, frames.n_frames) == 1
        for name, found in (("phoneme", kept.phoneme), ("speaker", kept.speaker), ("f0", kept.f0_hz)):
            np.testing.assert_array_equal(found, frames.labels(name, 0, frames.n_frames)[mask])
        np.testing.assert_array_equal(kept.codes(2), frames.codes(0, frames.n_frames)[1, mask])
        sizes = np.diff(frames.offsets)[kept.utterances]
        np.testing.assert_array_equal(np.diff(kept.offsets), sizes)
        np.testing.assert_array_equal(np.repeat(kept.speaker_of_utterance, sizes), kept.speaker)
        with Spool(tmp_path / "spool", [2, 3]) as spool:
            count_frames(frames, layers=[2, 3], spool=spool)
        again = EvaluationFrames(frames, spooled=Spooled([tmp_path / "spool"]))
        np.testing.assert_array_equal(again.codes(3), kept.codes(3))
        for name in ("phoneme", "speaker", "f0_hz"):
            np.testing.assert_array_equal(getattr(again, name), getattr(kept, name))
        assert kept.utterance_ids == [store.strings("utterances/id")[u] for u in kept.utterances]


def test_worker_processes_give_the_records_of_one(store_path, tmp_path, records):
    found = run_probes([store_path], tmp_path, ProbeOptions(n_workers=2))
    timed = ("seconds", "created")
    assert [without(r, timed) for r in found] == [without(r, timed) for r in records[1]]
    assert len((tmp_path / "records.jsonl").read_text().splitlines()) == len(found)


def test_a_damaged_store_is_told_by_a_worker_too(tmp_path):
    store_path = write_store(tmp_path / "a.h5")
    with edited(store_path) as file:
        file["codecs/alpha/codes"][0, 5] = 99
    with pytest.raises(ProbeError, match="codes: expected values from 0 to 15, found 0 to 99"):
        run_probes([store_path], tmp_path / "out", ProbeOptions(n_workers=2))


@pytest.mark.parametrize(
    ("path", "place", "value", "message"),
    [
        ("codes", (0, 5), 99, "codes: expected values from 0 to 15, found 0 to 99"),
        ("labels/phoneme", 7, 60, "labels/phoneme: expected values from 0 to 5"),
        ("labels/f0", 3, np.inf, "labels/f0: expected positive Hz or NaN"),
    ],
)
def test_values_out_of_range_are_refused(tmp_path, path, place, value, message):
    store_path = write_store(tmp_path / "a.h5")
    with edited(store_path) as file:
        file[f"codecs/alpha/{path}"][place] = value
    with pytest.raises(ProbeError, match=message):
        run_probes([store_path], tmp_path / "out", ProbeOptions())


def test_standardiser_is_scikit_learns():
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(0)
    codebook = rng.standard_normal((16, 6)).astype(np.float32) * [1, 10, 1e-4, 1, 0, 1]
    codebook[:, 3] = 0.1  # constant
    codebook = codebook.astype(np.float32)
    n = rng.integers(0, 50, 16).astype(float)
    ours = Standardiser.fit(codebook, n)
    theirs = StandardScaler().fit(np.repeat(codebook.astype(np.float64), n.astype(int), axis=0))
    np.testing.assert_allclose(ours.mean, theirs.mean_, rtol=1e-12)
    np.testing.assert_allclose(ours.scale, theirs.scale_, rtol=1e-10)


def test_phoneme_classes():
    labels = ["", "AA0", "AA1", "S", "sil", "sp", "spn"]
    raw = phoneme_classes(labels)
    assert raw.names == ("AA0", "AA1", "S", "sil", "spn")
    assert raw.of_label.tolist() == [3, 0, 1, 2, 3, 3, 4]
    folded = phoneme_classes(labels, "arpabet39", keep_silence=False)
    assert folded.names == ("AA", "S", "spn")
    assert folded.of_label.tolist() == [-1, 0, 0, 1, -1, -1, 2]
    counts = np.arange(14).reshape(2, 7)
    np.testing.assert_array_equal(folded.fold(counts), [[3, 3, 6], [17, 10, 13]])


def test_classes_of_real_alignments(shared_data):
    from featstore.labels.alignment import read_alignment

    labels = {label for path in shared_data.rglob("*.TextGrid") for label in read_alignment(path).labels}
    assert len(labels) == 72
    # 68 of LibriSpeech's 69 stress-marked phones occur in these utterances; with silence and spoken noise 70 of 71
    assert len(phoneme_classes(sorted(labels)).names) == 70
    assert len(phoneme_classes(sorted(labels), "arpabet39").names) == 41
    assert len(phoneme_classes(sorted(labels), "arpabet39", keep_silence=False).names) == 40


def test_records_are_complete_valid_and_ordered(records):
    output, found = records
    assert [(r["codec"], r["layer"], r["task"]) for r in found] == [
        (codec, layer, task)
        for codec in ("alpha", "beta")
        for layer in (1, 2, 3)
        for task in ("phoneme", "speaker", "pitch")
    ]
    for record in found:
        check_record(record)
        assert record["outcome"] == "converged"
        assert record["weights"] == "untrained"
        assert (output / record["probe_file"]).is_file()
    lines = [json.loads(line) for line in (output / "records.jsonl").read_text().splitlines()]
    assert lines == found
    assert len((output / "records.csv").read_text().splitlines()) == len(found) + 1


def test_scores_are_those_of_the_saved_probe_on_the_stored_rows(records, store_path):
    from sklearn.metrics import accuracy_score, f1_score, mean_absolute_error, r2_score

    from probes.estimator import load_probe

    output, found = records
    with Store(store_path) as store:
        for record in found:
            frames = store[record["codec"]]
            model = load_probe(output / record["probe_file"])
            X = frames.layer(record["layer"])[:]
            held_out = frames.frame_splits(0, frames.n_frames) == 1
            if record["task"] == "pitch":
                y = frames.labels("f0", 0, frames.n_frames)
                held_out &= ~np.isnan(y)
                predicted = model.predict(X[held_out])
                assert record["mae_hz"] == pytest.approx(mean_absolute_error(y[held_out], predicted), rel=1e-6)
                assert record["r2"] == pytest.approx(r2_score(y[held_out], predicted), abs=1e-6)
            else:
                index = frames.labels(record["task"], 0, frames.n_frames)[held_out]
                silent = {"": "sil", "sp": "sil"}
                names = [silent.get(name, name) for name in PHONEMES]
                y = np.array(names if record["task"] == "phoneme" else store.strings("vocab/speakers"))[index]
                predicted = model.predict(X[held_out])
                assert record["accuracy"] == pytest.approx(accuracy_score(y, predicted), abs=1e-12)
                macro = f1_score(y, predicted, labels=np.unique(y), average="macro", zero_division=0)
                assert record["macro_f1"] == pytest.approx(macro, abs=1e-12)
            assert record["n_eval"] == held_out.sum()


def test_probes_tell_layers_apart_and_permuted_labels_are_at_chance(records, tmp_path):
    _, found = records
    first, last = ([r for r in found if r["layer"] == layer and r["task"] == "phoneme"] for layer in (1, 3))
    assert all(a["accuracy"] > b["accuracy"] + 0.1 for a, b in zip(first, last, strict=True))
    assert all(r["accuracy"] > r["chance_accuracy"] + 0.15 for r in first)
    path = write_store(tmp_path / "permuted.h5", RECIPE)
    with edited(path) as file:
        for codec in ("alpha", "beta"):
            labels = file[f"codecs/{codec}/labels/phoneme"]
            labels[...] = np.random.default_rng(1).permutation(labels[()])
    for record in run_probes([path], tmp_path / "out", ProbeOptions(tasks=["phoneme"])):
        assert record["accuracy"] == pytest.approx(record["chance_accuracy"], abs=0.07)


def test_rerun_skips_finished_probes(records, store_path, caplog):
    output, found = records
    before = (output / "records.jsonl").read_bytes()
    again = run_probes([store_path], output, ProbeOptions())
    assert again == found
    assert (output / "records.jsonl").read_bytes() == before


class Interrupted(Exception):
    pass


def test_interrupted_run_goes_on_where_it_stopped(store_path, tmp_path, records):
    fitted = 0

    def stop(done, total, what):
        nonlocal fitted
        fitted += what.startswith("fit")
        if fitted == 7:
            raise Interrupted

    with pytest.raises(Interrupted):
        run_probes([store_path], tmp_path, ProbeOptions(), stop)
    assert len((tmp_path / "records.jsonl").read_text().splitlines()) == 7
    first = (tmp_path / "records.jsonl").read_text()
    found = run_probes([store_path], tmp_path, ProbeOptions())
    assert (tmp_path / "records.jsonl").read_text().startswith(first)
    timed = ("seconds", "created")
    assert [without(r, timed) for r in found] == [without(r, timed) for r in records[1]]


def without(record, names):
    return {name: value for name, value in record.items() if name not in names}


def test_other_settings_are_other_probes(store_path, tmp_path):
    options = {"layers": [1], "tasks": ["phoneme"], "codecs": ["alpha"]}
    keys = {
        run_probes([store_path], tmp_path, ProbeOptions(**options | changes))[0]["probe_key"]
        for changes in (
            {},
            {"phones": "arpabet39"},
            {"keep_silence": False},
            {"standardize": False},
            {"tol": 1e-4},
            {"class_weight": "none"},
        )
    }
    assert len(keys) == 6
    assert len((tmp_path / "records.jsonl").read_text().splitlines()) == 6


@pytest.mark.parametrize("rows", ["collapsed", "dense"])
def test_exact_and_sklearn_agree_on_every_probe(records, store_path, tmp_path, rows):
    found = run_probes([store_path], tmp_path, ProbeOptions(backend="sklearn", rows=rows, tol=1e-10, max_iter=20_000))
    for ours, theirs in zip(records[1], found, strict=True):
        assert theirs["backend_used"] == "sklearn"
        assert theirs["objective"] == pytest.approx(ours["objective"], rel=1e-6)
        for name in ("accuracy", "macro_f1", "r2"):
            if ours[name] is not None:
                assert theirs[name] == pytest.approx(ours[name], abs=0.002)


def test_cuml_without_a_gpu_is_sklearn_and_says_so(store_path, tmp_path, caplog):
    from probes.backends.registry import backend

    if backend("cuml").availability().available:
        pytest.skip("a GPU with cuML is here: there is no fallback to test")
    options = ProbeOptions(backend="cuml", layers=[1])
    found = run_probes([store_path], tmp_path, options)
    assert {(r["backend_asked"], r["backend_used"]) for r in found} == {("cuml", "sklearn")}
    assert all("cuml is not available" in r["fallback_reason"] for r in found)
    assert sum("falling back to sklearn" in message for message in caplog.messages) == 1
    with pytest.raises(BackendError, match="--require-gpu: cuml cannot be used"):
        run_probes([store_path], tmp_path, ProbeOptions(backend="cuml", require_gpu=True))
    with pytest.raises(BackendError, match="--require-gpu: the backend auto runs on the CPU"):
        run_probes([store_path], tmp_path, ProbeOptions(require_gpu=True))
    with pytest.raises(FeatstoreError, match="--device cuda"):  # asked for and absent: not the same complaint
        run_probes([store_path], tmp_path, ProbeOptions(require_gpu=True, device="cuda"))


@pytest.mark.parametrize(
    ("recipe", "task", "reason"),
    [
        (StoreRecipe(n_speakers=1), "speaker", r"speaker needs at least two classes in training, found 1 \(s0\)"),
        (StoreRecipe(unvoiced=True), "pitch", "pitch needs voiced frames, found none in training"),
        (StoreRecipe(eval_every=99), "phoneme", "phoneme: the store has no evaluation frame"),
        (StoreRecipe(eval_every=99), "pitch", "found none in evaluation"),
    ],
)
def test_a_task_that_cannot_be_asked(tmp_path, recipe, task, reason):
    path = write_store(tmp_path / "a.h5", recipe)
    found = run_probes([path], tmp_path / "out", ProbeOptions(layers=[1], codecs=["alpha"]))
    (record,) = [r for r in found if r["task"] == task]
    assert record["outcome"] == "not_applicable"
    import re

    assert re.search(reason, record["reason"])
    assert record["accuracy"] is None
    assert len(found) == 3
    if recipe.eval_every < 99:
        assert sum(r["outcome"] == "converged" for r in found) == 2


def test_classes_never_seen_in_training_are_left_out_and_counted(tmp_path):
    path = write_store(tmp_path / "a.h5", RECIPE)
    with edited(path) as file:
        split, offsets = file["utterances/split"][()], file["codecs/alpha/offsets"][()]
        labels = file["codecs/alpha/labels/phoneme"]
        values = labels[()]
        held_out = np.repeat(split, np.diff(offsets)) == 1
        values[~held_out & (values == PHONEMES.index("S"))] = PHONEMES.index("AA1")
        labels[...] = values
    n_unseen = int((values[held_out] == PHONEMES.index("S")).sum())
    (record,) = run_probes([path], tmp_path / "out", ProbeOptions(layers=[1], codecs=["alpha"], tasks=["phoneme"]))
    assert record["n_unseen"] == n_unseen > 0
    assert record["n_classes"] == 4
    assert record["n_eval"] + n_unseen == held_out.sum()


def test_unknown_codec_layer_and_doubled_codec(store_path, tmp_path):
    with pytest.raises(UnknownNameError, match="no codec 'gamma' in the stores given; they have alpha, beta"):
        run_probes([store_path], tmp_path, ProbeOptions(codecs=["gamma"]))
    with pytest.raises(KeyError, match="layers count from 1 to 3, asked was 4"):
        run_probes([store_path], tmp_path, ProbeOptions(layers=[4]))
    with pytest.raises(ProbeError, match="alpha is both in .* give one store of each codec"):
        run_probes([store_path, store_path], tmp_path, ProbeOptions())


def test_a_codec_in_two_stores_is_refused_only_where_it_is_asked_for(store_path, tmp_path):
    alone = write_store(tmp_path / "alone.h5", StoreRecipe(codecs=("alpha",)))
    options = ProbeOptions(codecs=["beta"], layers=[1], tasks=["pitch"])
    assert [record["codec"] for record in run_probes([store_path, alone], tmp_path / "out", options)] == ["beta"]
    for codecs in ((), ("alpha",), ("beta", "alpha")):
        with pytest.raises(ProbeError, match=r"alpha is both in .*store.h5 and in .*alone.h5; give one store of each"):
            run_probes([store_path, alone], tmp_path / "refused", ProbeOptions(codecs=codecs))


def test_dense_rows_are_the_store_s_rows(store_path):
    with Store(store_path) as store:
        frames = store["alpha"]
        question = class_question(frames, count_frames(frames).layer(2), 2, "phoneme", Settings())
        X, y = (np.concatenate(parts) for parts in zip(*question.problem.dense_rows(), strict=True))
        train = frames.frame_splits(0, frames.n_frames) == 0
        np.testing.assert_array_equal(X, question.standardiser(frames.layer(2)[:][train]))
        np.testing.assert_array_equal(np.bincount(y), question.problem.counts.sum(axis=0))
        with pytest.raises(NotApplicable):
            class_question(frames, empty(count_frames(frames).layer(2)), 2, "phoneme", Settings())


def empty(tables):
    tables.phoneme[:] = 0
    return tables


def test_exact_probing_loads_nothing_heavy(store_path, tmp_path):
    heavy = ["torch", "encodec", "speechtokenizer", "librosa", "numba", "sklearn", "torchaudio", "textgrid"]
    code = (
        "import sys, cli\n"
        f"sys.argv = ['cli.py', 'probe', {str(store_path)!r}, '--output', {str(tmp_path)!r}, '--backend', 'exact']\n"
        "try:\n    cli.main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        f"print([name for name in {heavy!r} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert (tmp_path / "figures" / "phoneme_probing.png").is_file()


def test_scores_against_brute_force_over_frames(store_path, tmp_path):
    """Lookup, oracle, information and votes of a record, from the saved probe and the stored frames alone."""
    from sklearn.metrics import mutual_info_score

    from probes.estimator import read_probe

    options = ProbeOptions(codecs=["alpha"], layers=[1], n_bootstrap=50, n_permutations=9)
    records = {record["task"]: record for record in run_probes([store_path], tmp_path, options)}
    with Store(store_path) as store:
        frames = store["alpha"]
        part = np.repeat(store.numbers("utterances/split"), np.diff(frames.offsets))
        codes, speaker = frames.codes(0, frames.n_frames)[0], frames.labels("speaker", 0, frames.n_frames)
        X, f0 = frames.layer(1)[:], frames.labels("f0", 0, frames.n_frames)
        utterance = np.repeat(np.arange(store.n_utterances), np.diff(frames.offsets))
        names = np.array(store.strings("vocab/speakers"))
    found, held_out = records["speaker"], part == 1
    most = sum(np.bincount(speaker[held_out & (codes == code)]).max(initial=0) for code in range(frames.n_codewords))
    assert found["oracle_accuracy"] == pytest.approx(most / held_out.sum())
    plug_in = mutual_info_score(codes[held_out], speaker[held_out]) / np.log(2)
    assert found["mutual_information_plug_in_bits"] == pytest.approx(plug_in, rel=1e-9)
    probe = read_probe(tmp_path / found["probe_file"])
    log_p = np.log(probe.predict_proba(X))
    hits = [
        probe.classes[log_p[utterance == u].sum(axis=0).argmax()] == names[speaker[utterance == u][0]]
        for u in np.unique(utterance[held_out])
    ]
    assert found["utterance_accuracy"] == pytest.approx(np.mean(hits))
    assert found["accuracy_low"] <= found["accuracy"] <= found["accuracy_high"]
    assert found["n_permutations"] == 9
    assert 0.1 <= found["mutual_information_p_value"] <= 1
    pitch, voiced = records["pitch"], held_out & ~np.isnan(f0)
    error = sum(
        np.abs(f0[at] - np.median(f0[at])).sum()
        for code in np.unique(codes[voiced])
        if (at := voiced & (codes == code)).any()
    )
    assert pitch["oracle_mae_hz"] == pytest.approx(error / voiced.sum(), rel=1e-5)
    assert pitch["oracle_mae_hz"] <= pitch["mae_hz"]
    assert pitch["bootstrap_unit"] is not None
    assert (tmp_path / "bootstrap").is_dir()
    assert not list(tmp_path.glob(".evaluation*"))


def test_unseen_speakers(store_path, tmp_path):
    options = ProbeOptions(codecs=["alpha"], layers=[1], eval_by="speaker")
    records = {record["task"]: record for record in run_probes([store_path], tmp_path, options)}
    assert records["speaker"]["outcome"] == "not_applicable"
    assert "unseen speakers" in records["speaker"]["reason"]
    with Store(store_path) as store:
        frames, split = store["alpha"], evaluation_split(store, "speaker", 0)
        speaker = store.numbers("utterances/speaker")
        assert len(np.unique(speaker[split == 1])) == 1
        assert not set(speaker[split == 1]) & set(speaker[split == 0])
        assert (split[store.numbers("utterances/split") == 1] != 0).all()
        n = np.diff(frames.offsets)
        assert records["phoneme"]["n_train"] == n[split == 0].sum()
        assert records["phoneme"]["n_eval"] + records["phoneme"]["n_unseen"] == n[split == 1].sum()
    assert records["phoneme"]["eval_by"] == "speaker"
    again = run_probes([store_path], tmp_path, replace(options, eval_by="utterance"))
    assert again[0]["probe_key"] != records["phoneme"]["probe_key"]


def test_the_seed_of_the_command_line_draws_the_speakers_held_out(store_path, tmp_path):
    with Store(store_path) as store:
        splits = [evaluation_split(store, "speaker", seed) for seed in range(9)]
        n_frames = np.diff(store["alpha"].offsets)
    other = next(seed for seed, split in enumerate(splits) if (split != splits[0]).any())
    options = ["--codec", "alpha", "--layer", 1, "--task", "phoneme", "--eval-by", "speaker", "--json", "--quiet"]
    for seed, chosen in ((0, []), (other, ["--seed", other])):
        ended = run_well("probe", store_path, "--output", tmp_path / f"{seed}", *options, *chosen)
        (record,) = json.loads(ended.stdout)
        assert record["seed"] == seed
        assert record["n_train"] == n_frames[splits[seed] == 0].sum()
        assert record["n_eval"] + record["n_unseen"] == n_frames[splits[seed] == 1].sum()
