"""Bootstrap intervals: equal to a loop over resampled frames, and covering the truth as often as they say."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, mean_absolute_error, r2_score

from probes import bootstrap, metrics
from probes.bootstrap import (
    class_values,
    interval,
    interval_fields,
    pitch_values,
    read_resampled,
    resampled_path,
    save_resampled,
    weighted_counts,
)
from probes.errors import ProbeError, ProbeFileError
from probes.metrics import absolute_error_sum, score_classification
from probes.resamples import draw_resamples
from probes.unit_tables import class_tables, pitch_tables, utterance_sums
from schemas.record import check_record
from tests.support.command_line import run
from tests.support.records import make_record

TASK_AND_SPEAKERS = [("speaker", 4), ("phoneme", 12), ("phoneme", 4), ("pitch", 12), ("pitch", 4)]


def utterances_of(rng, n_speakers, n_utterances, mean_frames=20):
    """Names, speakers and offsets of a made-up evaluation part; some utterances are empty, every speaker is there."""
    speaker = np.concatenate([np.arange(n_speakers), rng.integers(0, n_speakers, n_utterances - n_speakers)])
    rng.shuffle(speaker)
    names = [f"{s}-{index:03d}" for index, s in enumerate(speaker)]
    lengths = rng.integers(0, 2 * mean_frames + 1, n_utterances)
    return names, [f"s{s}" for s in speaker], np.concatenate([[0], np.cumsum(lengths)])


def frames_of_resample(resamples, offsets, weights):
    """Frame indices of one resample, each as often as its unit was drawn: the definition, frame by frame."""
    spans = []
    for utterance, unit in enumerate(resamples.unit_of_utterance):
        spans += [np.arange(offsets[utterance], offsets[utterance + 1])] * int(weights[unit])
    return np.concatenate(spans)


@pytest.mark.parametrize(("task", "n_speakers"), TASK_AND_SPEAKERS[:3])
@pytest.mark.parametrize("seed", range(4))
def test_class_scores_of_resamples_equal_a_loop_over_frames(task, n_speakers, seed):
    rng = np.random.default_rng(seed)
    names, speakers, offsets = utterances_of(rng, n_speakers, 30)
    labels = rng.integers(-1, 9, offsets[-1])
    labels[labels == 5] = 4  # class 5 is never true, so it is not scored
    predicted = np.where(rng.random(offsets[-1]) < 0.5, np.maximum(labels, 0), rng.integers(0, 9, offsets[-1]))
    right, n = rng.integers(0, 2, 30).astype(float), np.ones(30)
    resamples = draw_resamples(task, names, speakers, 40, seed)
    tables = class_tables(resamples, offsets, labels, predicted, 9, {"utterance_accuracy": (right, n)})
    values = class_values(resamples, tables)
    scored = [0, 1, 2, 3, 4, 6, 7, 8]
    assert np.flatnonzero(tables.scored).tolist() == scored
    for b, weights in enumerate(resamples.weights):
        frames = frames_of_resample(resamples, offsets, weights)
        frames = frames[labels[frames] >= 0]
        true, said = labels[frames], predicted[frames]
        assert values["accuracy"][b] == pytest.approx(accuracy_score(true, said), abs=1e-14)
        expected = f1_score(true, said, labels=scored, average="macro", zero_division=0)
        assert values["macro_f1"][b] == pytest.approx(expected, abs=1e-14)
        times = weights[resamples.unit_of_utterance].astype(float)
        assert values["utterance_accuracy"][b] == pytest.approx((times @ right) / times.sum(), abs=1e-14)


@pytest.mark.parametrize(("task", "n_speakers"), TASK_AND_SPEAKERS[3:])
@pytest.mark.parametrize("offset_hz", [0.0, 150.0, 1e6])
def test_pitch_scores_of_resamples_equal_a_loop_over_frames(task, n_speakers, offset_hz):
    rng = np.random.default_rng(int(offset_hz) + n_speakers)
    names, speakers, offsets = utterances_of(rng, n_speakers, 30)
    f0_hz = (offset_hz + rng.normal(0, 30, offsets[-1])).astype(np.float32)
    predicted_hz = f0_hz.astype(np.float64) + rng.normal(0, 20, offsets[-1])
    f0_hz[rng.random(offsets[-1]) < 0.4] = np.nan
    resamples = draw_resamples(task, names, speakers, 40, 1)
    values = pitch_values(resamples, pitch_tables(resamples, offsets, f0_hz, predicted_hz))
    for b, weights in enumerate(resamples.weights):
        frames = frames_of_resample(resamples, offsets, weights)
        frames = frames[~np.isnan(f0_hz[frames])]
        y, said = f0_hz[frames].astype(np.float64), predicted_hz[frames]
        assert values["mae_hz"][b] == pytest.approx(mean_absolute_error(y, said), rel=1e-12)
        assert values["r2"][b] == pytest.approx(r2_score(y, said), abs=1e-9)


def test_each_utterance_once_is_the_score_of_the_record():
    """The resample that draws every unit once gives what probes.metrics computes from counts by code."""
    rng = np.random.default_rng(8)
    names, speakers, offsets = utterances_of(rng, 12, 40)
    n = offsets[-1]
    codes, labels = rng.integers(0, 30, n), rng.integers(0, 6, n)
    f0_hz = np.where(rng.random(n) < 0.5, np.nan, rng.uniform(80, 300, n))
    said, said_hz = rng.integers(0, 7, 30), rng.uniform(80, 300, 30)
    drawn = draw_resamples("phoneme", names, speakers, 1)
    once = replace(drawn, weights=np.ones_like(drawn.weights))
    values = class_values(once, class_tables(once, offsets, labels, said[codes], 7))
    values |= pitch_values(once, pitch_tables(once, offsets, f0_hz, said_hz[codes]))
    counts = np.zeros((30, 7))
    np.add.at(counts, (codes, labels), 1)
    scores = score_classification(counts, np.ones(7), said)
    assert values["accuracy"][0] == pytest.approx(scores.accuracy, abs=1e-15)
    assert values["macro_f1"][0] == pytest.approx(scores.macro_f1, abs=1e-15)
    voiced = ~np.isnan(f0_hz)
    moments = [np.bincount(codes[voiced], f0_hz[voiced] ** power, minlength=30) for power in range(3)]
    assert values["r2"][0] == pytest.approx(metrics.r2_score(*moments, said_hz), abs=1e-12)
    assert values["mae_hz"][0] == pytest.approx(absolute_error_sum(codes, f0_hz, said_hz) / voiced.sum(), rel=1e-13)


def test_blocks_do_not_change_the_tables(monkeypatch):
    rng = np.random.default_rng(3)
    names, speakers, offsets = utterances_of(rng, 12, 50)
    labels, predicted = rng.integers(-1, 7, offsets[-1]), rng.integers(0, 7, offsets[-1])
    f0_hz = np.where(rng.random(offsets[-1]) < 0.5, np.nan, rng.uniform(80, 300, offsets[-1]))
    resamples = draw_resamples("phoneme", names, speakers, 20)

    def values():
        tables = class_tables(resamples, offsets, labels, predicted, 7)
        pitch = pitch_tables(resamples, offsets, f0_hz, np.full(offsets[-1], 150.0))
        return class_values(resamples, tables) | pitch_values(resamples, pitch)

    whole = values()
    for size in (1, 37, 200):
        monkeypatch.setattr("probes.unit_tables._BLOCK_FRAMES", size)
        for name, sample in values().items():
            np.testing.assert_allclose(sample, whole[name], rtol=1e-11, atol=1e-12)


def test_utterance_sums_of_empty_utterances_are_zero():
    offsets = np.array([0, 0, 2, 2, 3, 3])
    np.testing.assert_array_equal(utterance_sums(offsets, np.array([1.0, 2.0, 5.0])), [0, 3, 0, 5, 0])
    np.testing.assert_array_equal(utterance_sums(np.array([0, 0]), np.zeros(0)), [0])


# --- the draws


@pytest.mark.parametrize(("task", "n_speakers"), TASK_AND_SPEAKERS)
def test_each_resample_draws_as_many_units_from_each_stratum_as_it_has(task, n_speakers):
    names, speakers, _ = utterances_of(np.random.default_rng(0), n_speakers, 60)
    resamples = draw_resamples(task, names, speakers, 200)
    expected = {"speaker": "utterance within speaker"}.get(task, "speaker" if n_speakers >= 10 else "utterance")
    assert resamples.unit == expected
    assert resamples.weights.shape == (200, n_speakers if expected == "speaker" else 60)
    for stratum in set(resamples.stratum_of_unit):
        inside = resamples.stratum_of_unit == stratum
        assert (resamples.weights[:, inside].sum(axis=1) == inside.sum()).all()
    n_strata = n_speakers if task == "speaker" else 1
    assert len(set(resamples.stratum_of_unit)) == n_strata
    if task == "speaker":
        stratum_of = {}
        for name, unit in zip(speakers, resamples.unit_of_utterance, strict=True):
            assert stratum_of.setdefault(name, resamples.stratum_of_unit[unit]) == resamples.stratum_of_unit[unit]


def test_every_unit_is_drawn_equally_often():
    """Counts of 12 units over 20,000 resamples: mean 1 and variance 11/12, to five standard errors."""
    speakers = [f"s{index}" for index in range(12)]
    weights = draw_resamples("phoneme", speakers, speakers, 20_000).weights.astype(np.float64)
    assert abs(weights.mean(axis=0) - 1).max() < 5 * np.sqrt(11 / 12 / 20_000)
    assert abs(weights.var(axis=0) - 11 / 12).max() < 0.06
    # Multinomial counts: negatively correlated, by -1 / 11.
    correlation = np.corrcoef(weights.T)[np.triu_indices(12, 1)]
    assert abs(correlation.mean() + 1 / 11) < 0.002


@pytest.mark.parametrize(("task", "n_speakers"), TASK_AND_SPEAKERS)
def test_draws_depend_on_names_and_seed_but_not_on_the_order_in_the_store(task, n_speakers):
    rng = np.random.default_rng(5)
    names, speakers, _ = utterances_of(rng, n_speakers, 40)
    order = rng.permutation(40)
    one = draw_resamples(task, names, speakers, 30, seed=7)
    other = draw_resamples(task, [names[i] for i in order], [speakers[i] for i in order], 30, seed=7)
    per_utterance, permuted = (r.weights[:, r.unit_of_utterance] for r in (one, other))
    np.testing.assert_array_equal(per_utterance[:, order], permuted)
    assert one.units_sha256 == other.units_sha256
    reseeded = draw_resamples(task, names, speakers, 30, seed=8)
    assert reseeded.units_sha256 == one.units_sha256
    assert (reseeded.weights != one.weights).any()
    renamed = draw_resamples(task, [f"x{name}" for name in names], [f"x{name}" for name in speakers], 30, seed=7)
    assert renamed.units_sha256 != one.units_sha256


@pytest.mark.parametrize(("task", "n_speakers"), TASK_AND_SPEAKERS)
def test_units_tell_utterances_and_their_speakers_apart(task, n_speakers):
    """Equal speaker names are not enough: what is scored are utterances."""
    names, speakers, _ = utterances_of(np.random.default_rng(5), n_speakers, 40)
    one = draw_resamples(task, names, speakers, 30)
    others = {
        "other utterances": ([f"x{name}" for name in names], speakers),
        "one utterance less": (names[:-1], speakers[:-1]),
        "speakers swapped": (names, speakers[::-1]),
    }
    hashes = {name: draw_resamples(task, *given, 30).units_sha256 for name, given in others.items()}
    assert len({one.units_sha256, *hashes.values()}) == 4


def test_draws_of_speakers_do_not_hang_on_their_utterances():
    names, speakers, _ = utterances_of(np.random.default_rng(5), 12, 40)
    one = draw_resamples("phoneme", names, speakers, 30)
    other = draw_resamples("phoneme", [f"x{name}" for name in names], speakers, 30)
    np.testing.assert_array_equal(one.weights, other.weights)


def test_draws_stay_what_they_were():
    """Pinned: another draw moves every interval that was ever written."""
    speakers = [f"s{index:02d}" for index in range(12)]
    assert draw_resamples("phoneme", speakers, speakers, 2, seed=3).weights.tolist() == [
        [1, 0, 0, 1, 0, 0, 1, 3, 2, 2, 0, 2],
        [0, 1, 3, 0, 2, 0, 0, 2, 0, 1, 1, 2],
    ]


def test_phoneme_and_pitch_of_the_same_utterances_are_scored_on_the_same_draws():
    names, speakers, _ = utterances_of(np.random.default_rng(1), 12, 40)
    assert draw_resamples("phoneme", names, speakers) is draw_resamples("pitch", names, speakers)


@pytest.mark.parametrize(
    ("names", "speakers", "n", "seed", "says"),
    [
        (["a"], ["s"], 0, 0, "at least 1 resample"),
        (["a"], ["s"], 5, -1, "found 5 and -1"),
        (["a", "a"], ["s", "t"], 5, 0, r"2 utterances \(1 different\)"),
        (["a", "b"], ["s"], 5, 0, "1 speakers"),
    ],
)
def test_what_cannot_be_drawn_is_refused(names, speakers, n, seed, says):
    with pytest.raises(ProbeError, match=says):
        draw_resamples("phoneme", names, speakers, n, seed)


# --- exactness of the products


@pytest.mark.parametrize("largest", [200, 40_000, 2**31])
@pytest.mark.parametrize("density", [0.005, 1.0])
@pytest.mark.parametrize("task", ["speaker", "phoneme"])
def test_weighted_counts_are_exact_whatever_their_size(task, density, largest, monkeypatch):
    """Equal to integer arithmetic, in float32 and float64, dense and sparse, in blocks."""
    rng = np.random.default_rng(largest)
    names, speakers, _ = utterances_of(rng, 9, 300)
    resamples = draw_resamples(task, names, speakers, 50)
    counts = rng.integers(0, largest, (300, 31)) * (rng.random((300, 31)) < density)
    counts = counts.astype(np.min_scalar_type(largest))
    expected = resamples.weights.astype(np.int64) @ counts.astype(np.int64)
    for block in (1000, 7):
        monkeypatch.setattr(bootstrap, "_BLOCK_RESAMPLES", block)
        monkeypatch.setattr(bootstrap, "_BLOCK_CLASSES", block)
        np.testing.assert_array_equal(weighted_counts(resamples, counts), expected)


def test_counts_that_float32_would_round_go_through_float64():
    names = [f"u{index}" for index in range(3)]
    resamples = draw_resamples("phoneme", names, ["s"] * 3, 20)
    counts = np.array([[2**24 + 1], [2**24 + 3], [1]], dtype=np.uint32)
    product = weighted_counts(resamples, counts)
    np.testing.assert_array_equal(product, resamples.weights.astype(np.int64) @ counts.astype(np.int64))
    assert (product != product.astype(np.float32)).any()  # the case is one that float32 gets wrong


# --- coverage


N_SIMULATIONS, N_RESAMPLES = 300, 300


def coverage(simulate, truth, task):
    """Share of simulated evaluation parts whose interval covers the truth, and the mean width of the intervals."""
    covered, widths = 0, []
    for seed in range(N_SIMULATIONS):
        low, high = interval(simulate(np.random.default_rng([seed, 11]), task))
        covered += low <= truth <= high
        widths.append(high - low)
    return covered / N_SIMULATIONS, np.mean(widths)


def simulated_accuracy(rng, task, n_speakers=40):
    """Speakers whose accuracies spread around 0.6, three utterances of 30 frames each."""
    speaker = np.repeat(np.arange(n_speakers), 3)
    accuracy = rng.beta(6, 4, n_speakers)[speaker]
    right = rng.random((len(speaker), 30)) < accuracy[:, None]
    labels = np.ones(right.size, dtype=np.int64)
    names = [f"{index:03d}-{rng.integers(1 << 30)}" for index in range(len(speaker))]
    spoken_by = [f"s{s}" for s in speaker] if task == "phoneme" else ["s"] * len(speaker)
    resamples = draw_resamples("phoneme", names, spoken_by, N_RESAMPLES, int(rng.integers(1 << 30)))
    offsets = np.arange(0, right.size + 1, 30)
    return class_values(resamples, class_tables(resamples, offsets, labels, right.ravel(), 2))["accuracy"]


def test_intervals_over_speakers_cover_the_truth_95_times_in_100():
    """300 simulations have a standard error of 1.3 %; percentile intervals of 40 units cover about 94 %."""
    share, _ = coverage(simulated_accuracy, 0.6, "phoneme")
    assert 0.91 <= share <= 0.98


def test_intervals_that_split_speakers_would_be_too_narrow():
    """The control: the same data, with utterances drawn as if they had nothing in common."""
    _, over_speakers = coverage(simulated_accuracy, 0.6, "phoneme")
    share, over_utterances = coverage(simulated_accuracy, 0.6, "utterances")
    assert share < 0.85
    assert over_utterances < 0.8 * over_speakers


def test_intervals_within_speakers_cover_the_truth_95_times_in_100():
    """Fixed speakers of unequal accuracy, eight utterances each: only utterances are drawn."""
    accuracy = np.linspace(0.2, 0.9, 15)

    def simulate(rng, task):
        speaker = np.repeat(np.arange(15), 8)
        rates = np.clip(accuracy[speaker] + rng.normal(0, 0.05, len(speaker)), 0, 1)
        right = rng.random((len(speaker), 20)) < rates[:, None]
        labels = np.repeat(speaker, 20)
        predicted = np.where(right.ravel(), labels, (labels + 1) % 15)
        names = [f"{index:03d}" for index in range(len(speaker))]
        resamples = draw_resamples(task, names, [f"s{s}" for s in speaker], N_RESAMPLES, int(rng.integers(1 << 30)))
        tables = class_tables(resamples, np.arange(0, right.size + 1, 20), labels, predicted, 15)
        return class_values(resamples, tables)["accuracy"]

    share, _ = coverage(simulate, accuracy.mean(), "speaker")
    assert 0.88 <= share <= 0.98  # eight units a stratum: the spread is understated by sqrt(7/8), so some 93 %


def test_mae_intervals_cover_the_truth_95_times_in_100():
    def simulate(rng, task):
        scale = rng.uniform(10, 30, 40)  # of each speaker's errors, whose mean size is scale * sqrt(2 / pi)
        f0_hz = np.full(40 * 25, 150.0)
        predicted = f0_hz + rng.normal(0, np.repeat(scale, 25))
        names = [f"s{index}" for index in range(40)]
        resamples = draw_resamples(task, names, names, N_RESAMPLES, int(rng.integers(1 << 30)))
        tables = pitch_tables(resamples, np.arange(0, 1001, 25), f0_hz, predicted)
        return pitch_values(resamples, tables)["mae_hz"]

    share, _ = coverage(simulate, 20 * np.sqrt(2 / np.pi), "pitch")
    assert 0.91 <= share <= 0.98


# --- degenerate evaluations


def test_one_utterance_has_no_interval():
    resamples = draw_resamples("phoneme", ["a"], ["s"], 10)
    values = class_values(resamples, class_tables(resamples, np.array([0, 3]), np.array([0, 1, 1]), np.ones(3, int), 2))
    np.testing.assert_allclose(values["accuracy"], 2 / 3)
    assert not resamples.can_vary
    fields = interval_fields(resamples, values)
    assert set(fields) == {f"{m}_{e}" for m in values for e in ("low", "high")} | {"n_bootstrap", "bootstrap_unit"}
    assert set(fields.values()) == {None}


def test_one_utterance_a_speaker_has_no_interval_for_speakers():
    names = [f"u{index}" for index in range(12)]
    assert not draw_resamples("speaker", names, names, 10).can_vary
    assert draw_resamples("speaker", names, [*names[:11], names[0]], 10).can_vary


def test_no_utterance_at_all():
    resamples = draw_resamples("phoneme", [], [], 10)
    none = np.zeros(0, dtype=np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values = class_values(resamples, class_tables(resamples, np.zeros(1, int), none, none, 3))
        values |= pitch_values(resamples, pitch_tables(resamples, np.zeros(1, int), np.zeros(0), np.zeros(0)))
    assert all(np.isnan(sample).all() for sample in values.values())
    assert set(interval_fields(resamples, values).values()) == {None}


def test_a_class_that_a_resample_lacks_counts_as_zero_and_stays_in_the_mean():
    """Class 1 is in one utterance of two: without it, macro-F1 is half of the other class's F1."""
    resamples = draw_resamples("phoneme", ["a", "b"], ["s", "s"], 50)
    offsets, labels = np.array([0, 2, 4]), np.array([0, 0, 1, 1])
    values = class_values(resamples, class_tables(resamples, offsets, labels, labels, 2))
    has_both = (resamples.weights > 0).all(axis=1)
    assert 0 < has_both.sum() < 50
    np.testing.assert_array_equal(values["macro_f1"], np.where(has_both, 1.0, 0.5))
    np.testing.assert_array_equal(values["accuracy"], 1.0)


def test_resamples_without_a_scored_frame_are_left_out():
    resamples = draw_resamples("pitch", ["a", "b"], ["s", "s"], 50)
    f0_hz = np.array([100.0, 120.0, np.nan, np.nan])
    tables = pitch_tables(resamples, np.array([0, 2, 4]), f0_hz, np.full(4, 105.0))
    values = pitch_values(resamples, tables)
    silent = resamples.weights[:, 0] == 0
    np.testing.assert_array_equal(np.isnan(values["mae_hz"]), silent)
    np.testing.assert_allclose(values["mae_hz"][~silent], 10.0)
    assert interval(values["mae_hz"]) == pytest.approx((10.0, 10.0))


@pytest.mark.parametrize("constant", [0.1, 100.1, 437.3])
def test_a_constant_pitch_has_an_error_but_no_r2(constant):
    names = [f"u{index}" for index in range(20)]
    resamples = draw_resamples("pitch", names, names, 30)
    tables = pitch_tables(resamples, np.arange(0, 61, 3), np.full(60, constant), np.full(60, constant + 2))
    fields = interval_fields(resamples, pitch_values(resamples, tables))
    assert fields["mae_hz_low"] == pytest.approx(2.0)
    assert fields["r2_low"] is fields["r2_high"] is None
    assert fields["n_bootstrap"] == 30


def test_the_interval_is_the_middle_95_per_cent():
    assert interval(np.arange(1001.0)) == (25.0, 975.0)
    assert interval(np.array([np.nan, *np.arange(1001.0), np.nan])) == (25.0, 975.0)
    assert interval(np.full(3, np.nan)) is None


def test_one_resample_makes_no_interval():
    """Its two ends would be one number, which claims a certainty that was never measured."""
    assert interval(np.array([0.5])) is None
    assert interval(np.array([np.nan, 0.5, np.nan])) is None
    assert interval(np.array([0.4, 0.6])) == pytest.approx((0.405, 0.595))
    names, speakers, offsets = utterances_of(np.random.default_rng(2), 12, 40)
    labels = np.random.default_rng(3).integers(0, 5, offsets[-1])
    resamples = draw_resamples("phoneme", names, speakers, 1)
    values = class_values(resamples, class_tables(resamples, offsets, labels, labels, 5))
    assert set(interval_fields(resamples, values).values()) == {None}


def test_the_command_line_refuses_a_single_resample(tmp_path):
    ended = run("probe", tmp_path / "s.h5", "--output", tmp_path / "out", "--n-bootstrap", "1")
    assert "'--n-bootstrap': expected 0 for no intervals or at least 2 resamples, found 1" in ended.usage_error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("task", ["phoneme", "speaker"])
def test_fields_are_those_of_the_record(task):
    names, speakers, offsets = utterances_of(np.random.default_rng(2), 12, 40)
    labels = np.random.default_rng(3).integers(0, 5, offsets[-1])
    resamples = draw_resamples(task, names, speakers, 25, seed=3)
    fields = interval_fields(resamples, class_values(resamples, class_tables(resamples, offsets, labels, labels, 5)))
    record = make_record(task=task)
    assert set(fields) <= set(record)
    check_record(record | fields)
    assert fields["n_bootstrap"] == 25
    assert fields["bootstrap_unit"] == resamples.unit


# --- on disk


def test_resampled_scores_come_back_equal(tmp_path):
    names, speakers, _ = utterances_of(np.random.default_rng(2), 12, 40)
    resamples = draw_resamples("pitch", names, speakers, 25, seed=3)
    values = {"mae_hz": np.random.default_rng(0).random(25), "r2": np.full(25, np.nan)}
    path = resampled_path(tmp_path, "probes/encodec-layer01-pitch-12345678.npz")
    assert path == tmp_path / "bootstrap" / "encodec-layer01-pitch-12345678.npz"
    save_resampled(path, resamples, values)
    back = read_resampled(path)
    assert list(back.values) == ["mae_hz", "r2"]
    for name, sample in values.items():
        np.testing.assert_array_equal(back.values[name], sample)
    assert (back.unit, back.units_sha256, back.seed) == ("speaker", resamples.units_sha256, 3)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 torn", b"text", b"\x93NUMPY\x01\x00"])
def test_a_damaged_file_of_resampled_scores_is_a_clear_error(tmp_path, content):
    path = tmp_path / "x.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ProbeFileError, match=r"x\.npz: expected resampled scores, found .*probe again"):
        read_resampled(path)


@pytest.mark.parametrize(("first", "flip"), [(0, 0xFF), (1, 0x01), (2, 0x06)])
def test_a_flipped_byte_of_resampled_scores_is_refused_or_harmless(tmp_path, first, flip):
    """Every third byte in turn; what loads (a time stamp has changed, say) is what was saved."""
    resamples = draw_resamples("phoneme", ["a", "b"], ["s", "t"], 9)
    values = {"accuracy": np.linspace(0.1, 0.9, 9), "macro_f1": np.linspace(0.2, 0.8, 9)}
    path = tmp_path / "x.npz"
    save_resampled(path, resamples, values)
    whole = path.read_bytes()
    expected = read_resampled(path)
    n_refused = 0
    for place in range(first, len(whole), 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ flip]) + whole[place + 1 :])
        try:
            found = read_resampled(path)
        except ProbeFileError:
            n_refused += 1
            continue
        assert (found.unit, found.units_sha256, found.seed) == (expected.unit, expected.units_sha256, expected.seed)
        assert list(found.values) == list(values)
        for name, sample in values.items():
            np.testing.assert_array_equal(found.values[name], sample)
    assert len(whole) // 6 < n_refused < len(whole) // 3


GOOD = {"values/accuracy": np.zeros(3), "unit": "speaker", "units_sha256": "ab" * 32, "seed": 1}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"values/accuracy": None}, "an .npz file without values"),
        ({"unit": None, "seed": None}, "an .npz file without unit, seed"),
        ({"values/accuracy": np.zeros((3, 1))}, r"values/accuracy of type float64 and shape \(3, 1\)"),
        ({"values/accuracy": np.zeros(3, int)}, r"values/accuracy of type int64 and shape \(3,\)"),
        ({"values/accuracy": np.array(["0.5"] * 3)}, r"values/accuracy of type <U3 and shape \(3,\)"),
        ({"values/macro_f1": np.zeros(4)}, "values of unequal numbers of resamples"),
        ({"unit": "frame"}, "unit 'frame' and seed 1"),
        ({"unit": ["speaker"]}, "unit, units_sha256 or seed of another type"),
        ({"units_sha256": 7}, "unit, units_sha256 or seed of another type"),
        ({"seed": -1}, "unit 'speaker' and seed -1"),
        ({"seed": "1"}, "unit 'speaker' and seed '1'"),
        ({"seed": None, "seed.txt": "1"}, "an .npz file without seed"),
    ],
)
def test_a_file_of_other_arrays_is_refused(tmp_path, changes, says):
    path = tmp_path / "x.npz"
    np.savez(path, **GOOD)
    assert read_resampled(path).seed == 1
    np.savez(path, **{name: array for name, array in (GOOD | changes).items() if array is not None})
    with pytest.raises(ProbeFileError, match=f"x.npz: expected resampled scores, found {says}; remove .* probe again"):
        read_resampled(path)


def test_pickled_objects_are_not_read(tmp_path):
    np.savez(tmp_path / "x.npz", **GOOD | {"unit": np.array(["speaker"], dtype=object)})
    with pytest.raises(ProbeFileError, match="found no whole .npz file .*unit.npy says object"):
        read_resampled(tmp_path / "x.npz")
