"""Paired comparisons: which pairs, which sign, how certain; from files that outlive the run that made them."""

import csv
import logging
import shutil

import numpy as np
import pytest

from probes.bootstrap import class_values, interval, interval_fields, resampled_path, save_resampled
from probes.comparisons import COMPARISONS_NAME, compare, p_value, write_comparisons
from probes.resamples import draw_resamples
from probes.unit_tables import class_tables
from tests.support.command_line import run_well
from tests.support.records import make_record
from tests.support.stores import StoreRecipe, write_store

N_UTTERANCES, N_FRAMES = 60, 25
OFFSETS = np.arange(0, N_UTTERANCES * N_FRAMES + 1, N_FRAMES)
NAMES = [f"u{index:02d}" for index in range(N_UTTERANCES)]
SPEAKERS = [f"s{index % 12}" for index in range(N_UTTERANCES)]


def record_of(folder, codec, layer, accuracy, task="phoneme", n=400, seed=0, names=NAMES, **changes):
    """Score a made-up probe that is right with a probability that differs by speaker, and keep it as a run would."""
    rng = np.random.default_rng(99)  # the same ease of each frame for every probe: scores rise and fall together
    ease = rng.normal(0, 1, N_UTTERANCES * N_FRAMES) + np.repeat(rng.normal(0, 1, 12)[np.arange(60) % 12], N_FRAMES)
    right = ease < np.quantile(ease, accuracy)
    labels = np.arange(len(ease)) % 5
    resamples = draw_resamples(task, names, SPEAKERS, n, seed)
    tables = class_tables(resamples, OFFSETS, labels, np.where(right, labels, (labels + 1) % 5), 5)
    values = class_values(resamples, tables)
    fields = {"accuracy": float(right.mean()), "probe_file": f"probes/{codec}-layer{layer:02d}-{task}.npz"}
    fields |= {"macro_f1": float(np.mean(values["macro_f1"]))} | interval_fields(resamples, values)
    record = make_record(codec, layer, task, **(fields | changes))
    save_resampled(resampled_path(folder, record["probe_file"]), resamples, values)
    return record


def places(lines):
    return [(line.what, line.codec_a, line.layer_a, line.codec_b, line.layer_b) for line in lines]


def test_the_pairs_are_adjacent_layers_layer_1_and_codecs_at_a_layer(tmp_path):
    records = [record_of(tmp_path, "melrvq", layer, 0.5) for layer in (1, 2, 4, 5)]
    records += [record_of(tmp_path, "encodec", layer, 0.6) for layer in (2, 1)]
    lines = [line for line in compare(records, tmp_path) if line.metric == "accuracy"]
    assert places(lines) == [
        ("adjacent layers", "encodec", 1, "encodec", 2),
        ("with layer 1", "encodec", 1, "encodec", 2),
        ("adjacent layers", "melrvq", 1, "melrvq", 2),
        ("adjacent layers", "melrvq", 4, "melrvq", 5),
        ("with layer 1", "melrvq", 1, "melrvq", 2),
        ("with layer 1", "melrvq", 1, "melrvq", 4),
        ("with layer 1", "melrvq", 1, "melrvq", 5),
        ("codecs", "encodec", 1, "melrvq", 1),
        ("codecs", "encodec", 2, "melrvq", 2),
    ]
    assert {line.metric for line in compare(records, tmp_path)} == {"accuracy", "macro_f1"}


def test_a_difference_is_b_minus_a_with_the_interval_of_paired_resamples(tmp_path):
    one, other = (record_of(tmp_path, "encodec", layer, share) for layer, share in ((1, 0.5), (2, 0.45)))
    line = next(line for line in compare([one, other], tmp_path) if line.metric == "accuracy")
    assert line.difference == other["accuracy"] - one["accuracy"] == pytest.approx(-0.05, abs=0.002)
    assert line.low < line.difference < line.high < 0
    assert (line.n_resamples, line.resampled_unit) == (400, "speaker")
    assert line.p_value == pytest.approx(2 / 401)
    # Paired: certain, though the two intervals overlap by far.
    assert other["accuracy_high"] > one["accuracy_low"]
    assert line.high - line.low < 0.2 * (one["accuracy_high"] - one["accuracy_low"])


def test_the_interval_of_a_difference_equals_a_loop(tmp_path):
    one, other = (record_of(tmp_path, "encodec", layer, share, n=50) for layer, share in ((1, 0.5), (2, 0.48)))
    line = next(line for line in compare([one, other], tmp_path) if line.metric == "accuracy")
    samples = []
    for record in (one, other):
        with np.load(resampled_path(tmp_path, record["probe_file"])) as arrays:
            samples.append(arrays["values/accuracy"].tolist())
    differences = sorted(b - a for a, b in zip(*samples, strict=True))
    assert (line.low, line.high) == pytest.approx(tuple(np.percentile(differences, [2.5, 97.5])))
    n_other = min(sum(d <= 0 for d in differences), sum(d >= 0 for d in differences))
    assert line.p_value == pytest.approx(min(1, 2 * (n_other + 1) / 51))


def test_p_value_of_no_difference_is_one_and_never_zero():
    assert p_value(np.zeros(100)) == 1.0
    assert p_value(np.full(999, 0.1)) == pytest.approx(0.002)
    assert p_value(np.full(999, -0.1)) == pytest.approx(0.002)
    assert p_value(np.array([1.0, 1.0, 1.0, -1.0])) == pytest.approx(0.8)


def test_p_values_of_equal_probes_are_small_as_often_as_they_say():
    """Two probes of equal truth on 60 speakers: p under 0.1 in about 10 % of 400 seeded simulations (error 1.5 %)."""
    n_small = 0
    names = [f"s{index}" for index in range(60)]
    labels, offsets = np.zeros(600, dtype=np.int64), np.arange(0, 601, 10)
    for seed in range(400):
        rng = np.random.default_rng([seed, 3])
        resamples = draw_resamples("phoneme", names, names, 200, seed)
        rate = np.repeat(rng.beta(5, 5, 60), 10)
        wrong = [(rng.random(600) > rate).astype(np.int64) for _ in range(2)]
        one, other = (class_values(resamples, class_tables(resamples, offsets, labels, w, 2)) for w in wrong)
        n_small += p_value(other["accuracy"] - one["accuracy"]) < 0.1
    assert 0.06 <= n_small / 400 <= 0.15


@pytest.mark.parametrize(
    "unlike",
    [
        {"n": 300},
        {"seed": 1},
        {"names": [f"x{index:02d}" for index in range(N_UTTERANCES)], "task": "speaker"},
        {"names": [f"x{index:02d}" for index in range(N_UTTERANCES)]},  # of the same speakers, who are drawn
        {"content_digest": "ef" * 32},
        {"eval_by": "speaker"},
        {"phones": "arpabet39"},
        {"class_weight": "none"},
        {"standardize": False},
        {"accuracy": None, "macro_f1": None},
        {"n_bootstrap": None},
        {"representation": "cumulative"},
    ],
)
def test_what_cannot_be_paired_is_left_out(tmp_path, unlike):
    task = unlike.get("task", "phoneme")
    records = [record_of(tmp_path, "encodec", 1, 0.5, task=task), record_of(tmp_path, "encodec", 2, 0.4, task=task)]
    assert len(compare(records, tmp_path)) == 4
    score = {} if "accuracy" not in unlike else unlike
    other = record_of(tmp_path, "encodec", 2, **({"accuracy": 0.4} | {k: v for k, v in unlike.items() if not score}))
    assert compare([records[0], other | score], tmp_path) == []


@pytest.mark.parametrize(("unlike", "n"), [({}, 2), ({"content_digest": "ef" * 32}, 2), ({"eval_by": "speaker"}, 0)])
def test_codecs_may_come_from_stores_of_their_own(tmp_path, unlike, n):
    records = [record_of(tmp_path, "encodec", 1, 0.5), record_of(tmp_path, "melrvq", 1, 0.4, **unlike)]
    assert len(compare(records, tmp_path)) == n


def test_codecs_scored_on_other_utterances_of_the_same_speakers_are_not_compared(tmp_path):
    others = [f"x{index:02d}" for index in range(N_UTTERANCES)]
    records = [record_of(tmp_path, "encodec", 1, 0.5), record_of(tmp_path, "melrvq", 1, 0.4, names=others)]
    assert compare(records, tmp_path) == []


def test_the_last_record_of_a_place_is_compared(tmp_path):
    first = record_of(tmp_path, "encodec", 1, 0.5)
    older, newer = (record_of(tmp_path, "encodec", 2, share) for share in (0.2, 0.4))
    line = compare([first, older, newer], tmp_path)[0]
    assert line.difference == pytest.approx(-0.1, abs=0.002)


def test_the_file_holds_every_comparison_and_the_origin_of_the_weights(tmp_path):
    records = [record_of(tmp_path, "encodec", layer, 0.6 - 0.02 * layer, weights="untrained") for layer in (1, 2, 3)]
    path = write_comparisons(records, tmp_path)
    assert path == tmp_path / COMPARISONS_NAME
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    lines = compare(records, tmp_path)
    assert len(rows) == len(lines) == 8
    for row, line in zip(rows, lines, strict=True):
        assert (row["what"], row["metric"]) == (line.what, line.metric)
        assert row["weights_a"] == row["weights_b"] == "untrained"
        assert [float(row[n]) for n in ("difference", "low", "high", "p_value")] == pytest.approx(
            [line.difference, line.low, line.high, line.p_value], rel=1e-5
        )
    assert list(rows[0])[:4] == ["task", "representation", "metric", "what"]


def test_a_rerun_that_makes_no_probe_anew_writes_the_same_file(tmp_path):
    records = [record_of(tmp_path, "encodec", layer, 0.5) for layer in (1, 2)]
    before = write_comparisons(records, tmp_path).read_bytes()
    assert write_comparisons(records, tmp_path).read_bytes() == before


def test_without_pairs_there_is_no_file_and_no_stale_one(tmp_path):
    records = [record_of(tmp_path, "encodec", layer, 0.5) for layer in (1, 2)]
    assert write_comparisons(records, tmp_path).exists()
    assert write_comparisons(records[:1], tmp_path) is None
    assert not (tmp_path / COMPARISONS_NAME).exists()
    assert write_comparisons([], tmp_path) is None


def no_block(content):
    """Change the first byte of the compressed scores to a block type that DEFLATE lacks: zlib raises its own error."""
    name = content.index(b"values/accuracy.npy")  # of the first local header, which ends with it and an extra field
    start = name + len("values/accuracy.npy") + int.from_bytes(content[name - 2 : name], "little")
    return content[:start] + b"\x07" + content[start + 1 :]


@pytest.mark.parametrize("damage", [None, lambda content: b"torn", no_block])
def test_a_damaged_file_costs_its_own_comparisons_and_says_so(tmp_path, caplog, damage):
    records = [record_of(tmp_path, "encodec", layer, 0.5) for layer in (1, 2, 3)]
    path = resampled_path(tmp_path, records[2]["probe_file"])
    content = path.read_bytes()
    path.unlink()
    if damage is not None:
        path.write_bytes(damage(content))
    with caplog.at_level(logging.WARNING):
        assert {line.layer_b for line in compare(records, tmp_path)} == {2}
    assert len(caplog.messages) == 1
    assert path.name in caplog.text


def test_an_undefined_resample_is_left_out_of_the_pair(tmp_path):
    records = [record_of(tmp_path, "encodec", layer, 0.6 - 0.1 * layer) for layer in (1, 2)]
    resamples = draw_resamples("phoneme", NAMES, SPEAKERS, 400)
    sample = np.linspace(0.3, 0.4, 400)
    for record, missing in zip(records, (slice(0, 10), slice(5, 20)), strict=True):
        values = sample + (record["layer"] == 2)
        values[missing] = np.nan
        save_resampled(resampled_path(tmp_path, record["probe_file"]), resamples, {"accuracy": values})
    line = compare(records, tmp_path)[0]
    assert line.n_resamples == 380
    assert (line.low, line.high) == pytest.approx((1.0, 1.0))
    assert interval(np.full(3, np.nan)) is None


# --- of the whole folder


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    """A small store and a folder with all of its probes, resampled; tests must not change it."""
    folder = tmp_path_factory.mktemp("studied")
    store = write_store(folder / "store.h5", StoreRecipe(n_utterances=24))
    run_well("probe", store, "--output", folder / "out", "--n-bootstrap", "20", "--backend", "sklearn", "--quiet")
    return store, folder / "out"


@pytest.mark.parametrize("resampled", [["--n-bootstrap", "20"], []])
def test_a_later_run_of_one_probe_keeps_the_comparisons_of_the_folder(studied, tmp_path, resampled):
    """With resamples it is found as recorded; without, it is the same probe, whose resampled scores are still there."""
    store, before = studied
    folder = tmp_path / "out"
    shutil.copytree(before, folder)
    expected = (folder / COMPARISONS_NAME).read_bytes()
    assert expected.count(b"\n") > 36
    part = ["--layer", "1", "--task", "pitch", "--backend", "sklearn", "--quiet"]
    ended = run_well("probe", store, "--output", folder, *part, *resampled)
    assert (folder / COMPARISONS_NAME).read_bytes() == expected
    assert f"paired comparisons: {folder / COMPARISONS_NAME}" in ended.stdout


def test_a_later_run_with_other_settings_takes_its_own_comparisons_only(studied, tmp_path):
    store, before = studied
    folder = tmp_path / "out"
    shutil.copytree(before, folder)
    rows = rows_of(folder)
    part = ["--codec", "alpha", "--layer", "1", "--task", "pitch", "--no-standardize", "--backend", "sklearn"]
    run_well("probe", store, "--output", folder, *part, "--quiet")

    def concerned(row):
        places = [(row[f"codec_{side}"], row[f"layer_{side}"]) for side in "ab"]
        return row["task"] == "pitch" and ("alpha", "1") in places

    assert rows_of(folder) == [row for row in rows if not concerned(row)]
    assert any(concerned(row) for row in rows)
    # What was asked for last counts, though the other record was written later.
    run_well("probe", store, "--output", folder, "--n-bootstrap", "20", "--backend", "sklearn", "--quiet")
    assert rows_of(folder) == rows


def rows_of(folder):
    with (folder / COMPARISONS_NAME).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_report_of_a_folder_with_a_damaged_byte_warns_and_goes_on(studied, tmp_path):
    _, before = studied
    folder = tmp_path / "out"
    shutil.copytree(before, folder)
    path = sorted((folder / "bootstrap").glob("alpha-layer01-phoneme-*.npz"))[0]
    path.write_bytes(no_block(path.read_bytes()))
    ended = run_well("report", folder)
    assert path.name in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert (folder / "report.md").is_file()
