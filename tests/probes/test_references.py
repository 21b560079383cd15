"""Lookup and oracle against per-frame loops, and that nothing exceeds the oracle."""

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from probes.metrics import absolute_error_sum, accuracy, confusion_matrix, r2_score, score_classification
from probes.pitch_by_code import PitchByCode, pitch_order
from probes.problem import LogisticProblem
from probes.references import (
    lookup_classes,
    lookup_hz,
    oracle_accuracy,
    oracle_mae_hz,
    oracle_r2,
    prior_frames,
    smoothed_counts,
)

seeds = st.integers(0, 2**32 - 1)
many = settings(deadline=None, max_examples=80)


def draw_counts(rng, n_codes, n_classes):
    """Counts with rare classes and codes that are never met; at least one frame."""
    counts = rng.poisson(rng.choice([0.0, 0.3, 5.0], size=(n_codes, n_classes))).astype(float)
    counts[rng.random(n_codes) < 0.3] = 0
    counts[rng.integers(n_codes), rng.integers(n_classes)] += 1
    return counts


def draw_pitch(rng, n_frames, n_codes):
    """Codes and F0 with unvoiced frames, ties and codes that are never met."""
    codes = rng.integers(0, n_codes, n_frames).astype(np.uint16)
    f0_hz = (100 + 5 * codes % 17 + rng.integers(0, 40, n_frames)).astype(np.float32)
    f0_hz[rng.random(n_frames) < 0.3] = np.nan
    return codes, f0_hz


def moments(codes, f0_hz, n_codes):
    voiced = ~np.isnan(f0_hz)
    y = f0_hz[voiced].astype(float)
    return [np.bincount(codes[voiced], weights, n_codes).astype(float) for weights in (None, y, y**2)]


# --- lookup -------------------------------------------------------------------------------------------------------


def weights_of(counts, class_weight):
    return LogisticProblem(np.zeros((len(counts), 1)), counts, class_weight).class_weights


def likelihood(counts, weights, alpha):
    """Predict every training frame from all the others, one by one."""
    n_codes, total = len(counts), 0.0
    for code, class_ in np.ndindex(counts.shape):
        for _ in range(int(counts[code, class_])):
            others = counts.copy()
            others[code, class_] -= 1
            share = (others.sum(axis=1) + 0.5) / (others.sum() + 0.5 * n_codes)
            chance = (others[code, class_] + alpha * share[code]) / (others[:, class_].sum() + alpha)
            total += weights[class_] * np.log(chance)
    return total


@settings(deadline=None, max_examples=25)
@given(seeds, st.sampled_from(["balanced", "none"]))
def test_the_lookup_says_what_loops_over_frames_say(seed, class_weight):
    rng = np.random.default_rng(seed)
    counts = draw_counts(rng, 6, 4)
    counts = counts[:, counts.sum(axis=0) > 0]
    weights, n_per_class = weights_of(counts, class_weight), counts.sum(axis=0)
    alpha, smoothed = prior_frames(counts, weights), smoothed_counts(counts, weights)
    reached = likelihood(counts, weights, alpha)
    for other in (alpha / 1.05, alpha * 1.05):  # a maximum, or the end of the range
        assert not 1 <= other <= 1e6 or likelihood(counts, weights, other) <= reached + 1e-9
    share = (counts.sum(axis=1) + 0.5) / (counts.sum() + 3.0)
    for class_, n in enumerate(n_per_class):
        expected = n * (counts[:, class_] + alpha * share) / (n + alpha)
        np.testing.assert_allclose(smoothed[:, class_], expected, rtol=1e-12)
    predicted = lookup_classes(counts, weights)
    for code in range(6):
        if counts[code].sum() == 0:
            assert predicted[code] == n_per_class.argmax()
            continue
        score = smoothed[code] * weights
        best = [k for k, s in enumerate(score) if s >= max(score) * (1 - 1e-12)]
        assert predicted[code] == max(best, key=lambda k: (n_per_class[k], -k))


@many
@given(seeds, st.sampled_from(["balanced", "none"]))
def test_the_lookup_does_not_hang_on_the_order_of_the_classes(seed, class_weight):
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 3, (9, 4)).astype(float) + np.eye(9, 4)
    counts[rng.choice(9, 4, replace=False), np.arange(4)] += [30, 37, 50, 61]  # equals would be told by order alone
    weights = weights_of(counts, class_weight)
    order = rng.permutation(4)
    predicted = lookup_classes(counts, weights)
    if len(set(counts.sum(axis=0))) == 4:
        np.testing.assert_array_equal(order[lookup_classes(counts[:, order], weights[order])], predicted)


def test_codes_that_training_never_met_get_the_most_frequent_class():
    counts = np.array([[0.0, 0.0, 0.0], [1.0, 9.0, 2.0], [3.0, 0.0, 0.0]])
    for class_weight in ("balanced", "none"):
        assert lookup_classes(counts, weights_of(counts, class_weight))[0] == 1


def test_class_weights_decide_what_a_code_says():
    counts = np.array([[500.0, 400.0], [9500.0, 0.0]])
    assert lookup_classes(counts, np.ones(2)).tolist() == [0, 0]
    assert lookup_classes(counts, weights_of(counts, "balanced")).tolist() == [1, 0]


@pytest.mark.parametrize("class_weight", ["balanced", "none"])
def test_plenty_of_frames_need_no_smoothing(class_weight):
    rng = np.random.default_rng(2)
    counts = rng.integers(1, 100, (30, 5)) * 1e6
    weights = weights_of(counts, class_weight)
    np.testing.assert_allclose(smoothed_counts(counts, weights), counts, rtol=1e-3)
    np.testing.assert_array_equal(lookup_classes(counts, weights), (counts * weights).argmax(axis=1))


def test_a_rare_class_does_not_take_the_codes_its_few_frames_met():
    """On new frames the smoothed table is right more often, by frame and by class, than bare weighted counts."""
    rng = np.random.default_rng(4)
    share = np.concatenate([np.full(10, 1e-3), np.full(10, 0.099)])
    tables = np.array([rng.dirichlet(np.full(200, 1.0)) for _ in share])

    def draw(n_frames):
        return np.array(
            [rng.multinomial(n, t) for n, t in zip(rng.multinomial(n_frames, share), tables, strict=True)]
        ).T

    train, held_out = draw(20_000).astype(float), draw(400_000).astype(float)
    weights = weights_of(train, "balanced")
    scores = [
        score_classification(held_out, train.sum(axis=0), predicted)
        for predicted in (lookup_classes(train, weights), (train * weights).argmax(axis=1))
    ]
    assert scores[0].accuracy > scores[1].accuracy + 0.05
    assert scores[0].macro_f1 > scores[1].macro_f1 + 0.01


@many
@given(seeds)
def test_the_pitch_lookup_lies_between_the_code_mean_and_the_mean_of_all(seed):
    rng = np.random.default_rng(seed)
    codes, f0_hz = draw_pitch(rng, 60, 9)
    f0_hz[0] = 123.0
    n, sum_y, sum_y2 = moments(codes, f0_hz, 9)
    predicted = lookup_hz(n, sum_y, sum_y2)
    mean = sum_y.sum() / n.sum()
    np.testing.assert_allclose(predicted[n == 0], mean)
    code_mean = sum_y[n > 0] / n[n > 0]
    inside = predicted[n > 0]
    assert np.all(inside >= np.minimum(code_mean, mean) - 1e-9)
    assert np.all(inside <= np.maximum(code_mean, mean) + 1e-9)


@many
@given(seeds)
def test_the_pitch_lookup_shrinks_as_an_analysis_of_variance_says(seed):
    rng = np.random.default_rng(seed)
    groups = [150 + 15 * rng.standard_normal() + 20 * rng.standard_normal(rng.integers(2, 9)) for _ in range(6)]
    n, sum_y, sum_y2 = np.array([[len(y), y.sum(), (y**2).sum()] for y in groups]).T
    ratio = scipy.stats.f_oneway(*groups).statistic  # F, of mean squares between and within
    frames_a_code = (n.sum() - (n**2).sum() / n.sum()) / 5
    mean = sum_y.sum() / n.sum()
    kappa = frames_a_code / (ratio - 1) if ratio > 1 else np.inf
    expected = [mean + (y.mean() - mean) * len(y) / (len(y) + kappa) for y in groups]
    np.testing.assert_allclose(lookup_hz(n, sum_y, sum_y2), expected, rtol=1e-7)


def test_the_pitch_lookup_is_the_posterior_mean_of_the_model_it_assumes():
    # Code means scatter with 20 Hz, frames with 40 Hz: kappa is 4 frames, so a code of 4 frames goes half-way.
    rng = np.random.default_rng(5)
    n = np.where(np.arange(4000) % 2, 4.0, 60.0)
    code = np.repeat(np.arange(4000), n.astype(int))
    true_hz = 150 + 20 * rng.standard_normal(4000)
    y = true_hz[code] + 40 * rng.standard_normal(len(code))
    sum_y, sum_y2 = np.bincount(code, y), np.bincount(code, y**2)
    predicted = lookup_hz(n, sum_y, sum_y2)
    mean = y.mean()
    drawn = np.polyfit((sum_y / n - mean)[n == 4], (predicted - mean)[n == 4], 1)[0]
    assert drawn == pytest.approx(0.5, abs=0.02)
    few = n == 4
    assert np.mean((predicted - true_hz)[few] ** 2) < 0.6 * np.mean((sum_y / n - true_hz)[few] ** 2)


def test_pitch_that_codes_do_not_tell_is_the_training_mean():
    rng = np.random.default_rng(7)
    y = 150 + 30 * rng.standard_normal(3000)
    for seed in range(8):
        code = np.random.default_rng(seed).integers(0, 300, 3000)
        n, sum_y, sum_y2 = (np.bincount(code, w, 300).astype(float) for w in (None, y, y**2))
        assert np.abs(lookup_hz(n, sum_y, sum_y2) - y.mean()).max() < 6.0  # code means are off by up to 30 Hz
        assert np.abs(sum_y / np.maximum(n, 1) - y.mean())[n > 0].max() > 20.0


def test_degenerate_pitch_tables():
    one_code = lookup_hz(np.array([3.0, 0.0]), np.array([300.0, 0.0]), np.array([30002.0, 0.0]))
    np.testing.assert_allclose(one_code, 100.0)
    one_frame_each = lookup_hz(np.ones(3), np.array([100.0, 130.0, 160.0]), np.array([1e4, 1.69e4, 2.56e4]))
    np.testing.assert_allclose(one_frame_each, 130.0)  # nothing tells code means from scatter
    exact = lookup_hz(np.full(2, 4.0), np.array([400.0, 800.0]), np.array([4e4, 16e4]))
    np.testing.assert_allclose(exact, [100.0, 200.0])  # no scatter within codes: the code means


# --- oracle -------------------------------------------------------------------------------------------------------


@many
@given(seeds)
def test_no_table_of_answers_exceeds_the_oracle_accuracy(seed):
    rng = np.random.default_rng(seed)
    counts = draw_counts(rng, 8, 5)
    bound = oracle_accuracy(counts)
    for predicted in [*rng.integers(0, 5, (20, 8)), counts.argmax(axis=1)]:
        reached = accuracy(confusion_matrix(counts, predicted))
        assert reached <= bound + 1e-15
    assert reached == pytest.approx(bound)


@many
@given(seeds)
def test_no_table_of_answers_exceeds_the_oracle_r2_and_mae(seed):
    rng = np.random.default_rng(seed)
    codes, f0_hz = draw_pitch(rng, int(rng.integers(2, 80)), 6)
    f0_hz[:2] = 90.0, 211.0
    n_moments = moments(codes, f0_hz, 6)
    n_voiced = n_moments[0].sum()
    code_mean = n_moments[1] / np.maximum(n_moments[0], 1)
    r2, mae_hz = oracle_r2(*n_moments), oracle_mae_hz(PitchByCode(codes, f0_hz, 6))
    for spread in (0.0, 1e-9, 0.1, 10.0, 100.0):
        predicted = code_mean + spread * rng.standard_normal(6)
        assert r2_score(*n_moments, predicted) <= r2 + 1e-15
        assert absolute_error_sum(codes, f0_hz, predicted) / n_voiced >= mae_hz * (1 - 1e-12)
    assert r2_score(*n_moments, code_mean) == pytest.approx(r2)


@many
@given(seeds)
def test_the_oracle_mae_is_that_of_the_medians(seed):
    rng = np.random.default_rng(seed)
    n_codes = int(rng.integers(1, 12))
    codes, f0_hz = draw_pitch(rng, int(rng.integers(1, 90)), n_codes)
    f0_hz[0] = 77.0
    voiced = ~np.isnan(f0_hz)
    medians = np.array(
        [np.median(f0_hz[voiced & (codes == v)]) if np.any(voiced & (codes == v)) else 0.0 for v in range(n_codes)]
    )
    expected = sklearn.metrics.mean_absolute_error(f0_hz[voiced].astype(float), medians[codes[voiced]])
    found = oracle_mae_hz(PitchByCode(codes, f0_hz, n_codes))
    assert found == pytest.approx(expected, rel=1e-12, abs=1e-12)
    assert oracle_mae_hz(PitchByCode(codes, f0_hz, n_codes, pitch_order(f0_hz))) == found


@many
@given(seeds)
def test_absolute_errors_by_code_are_those_of_the_frames(seed):
    rng = np.random.default_rng(seed)
    n_codes = int(rng.integers(1, 12))
    codes, f0_hz = draw_pitch(rng, int(rng.integers(1, 90)), n_codes)
    pitch = PitchByCode(codes, f0_hz.astype(rng.choice([np.float32, np.float64])), n_codes)
    # Answers between the frames' own, at one of them (ties), under and above all of them.
    for predicted in (rng.uniform(90, 160, n_codes), rng.integers(90, 160, n_codes) * 1.0, np.full(n_codes, 0.0)):
        assert pitch.absolute_error_sum(predicted) == pytest.approx(
            absolute_error_sum(codes, f0_hz, predicted), rel=1e-12, abs=1e-9
        )


def test_frames_are_ordered_by_f0_in_either_precision():
    rng = np.random.default_rng(0)
    f0_hz = rng.choice(rng.uniform(50, 600, 300), 1000).astype(np.float32)
    f0_hz[rng.random(1000) < 0.4] = np.nan
    expected = np.argsort(f0_hz, kind="stable")[: np.count_nonzero(~np.isnan(f0_hz))]
    np.testing.assert_array_equal(pitch_order(f0_hz), expected)
    np.testing.assert_array_equal(pitch_order(f0_hz.astype(np.float64)), expected)


def test_many_codes_of_few_frames():
    rng = np.random.default_rng(3)
    codes = rng.integers(0, 60_000, 200_000).astype(np.uint16)
    f0_hz = rng.uniform(60, 400, 200_000).astype(np.float32)
    order = np.lexsort((f0_hz, codes))
    groups = np.split(f0_hz[order].astype(float), np.cumsum(np.bincount(codes, minlength=60_000))[:-1])
    expected = sum(np.abs(group - np.median(group)).sum() for group in groups if len(group)) / 200_000
    assert oracle_mae_hz(PitchByCode(codes, f0_hz, 60_000)) == pytest.approx(expected, rel=1e-12)


def test_without_frames_there_is_no_oracle():
    nothing = np.full(4, np.nan, dtype=np.float32)
    assert oracle_mae_hz(PitchByCode(np.zeros(4, dtype=np.uint16), nothing, 3)) is None
    assert oracle_r2(np.zeros(3), np.zeros(3), np.zeros(3)) is None
    assert oracle_accuracy(np.zeros((3, 2))) is None


def test_the_references_are_scored_like_the_probe():
    train, held_out = np.array([[9.0, 1.0], [2.0, 7.0]]), np.array([[3.0, 1.0], [4.0, 2.0]])
    predicted = lookup_classes(train, np.ones(2))
    scores = score_classification(held_out, train.sum(axis=0), predicted)
    assert scores.accuracy == pytest.approx(0.5)
    assert scores.accuracy <= oracle_accuracy(held_out) == pytest.approx(0.7)
