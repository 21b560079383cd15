import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from probes.metrics import (
    absolute_error_sum,
    confusion_matrix,
    mean_baseline,
    r2_score,
    score_classification,
)

seeds = st.integers(0, 2**32 - 1)


def expanded(counts, predicted):
    """One (true, predicted) pair a frame."""
    codes, classes = np.nonzero(counts)
    repeats = counts[codes, classes].astype(int)
    return np.repeat(classes, repeats), np.repeat(predicted[codes], repeats)


def draw(seed, n_codes=9, n_classes=6):
    """Evaluation counts, training counts and a prediction; some classes are absent from either side."""
    rng = np.random.default_rng(seed)
    counts = rng.poisson(rng.choice([0.0, 0.3, 4.0], size=(n_codes, n_classes))).astype(float)
    counts[:, rng.random(n_classes) < 0.2] = 0
    train = rng.poisson(20, n_classes).astype(float) * (rng.random(n_classes) < 0.7)
    train[rng.integers(n_classes)] = 11.0
    return counts, train, rng.choice(np.flatnonzero(train), n_codes)


@settings(deadline=None, max_examples=60)
@given(seeds)
def test_scores_are_those_of_scikit_learn_on_the_frames(seed):
    counts, train, predicted = draw(seed)
    true, said = expanded(counts, predicted)
    seen = train[true] > 0
    scores = score_classification(counts, train, predicted)
    assert scores.n_unseen == (~seen).sum()
    assert scores.n_eval == seen.sum()
    if not seen.any():
        assert scores.accuracy is None
        assert scores.n_classes_scored == 0
        return
    true, said = true[seen], said[seen]
    labels = np.unique(true)
    assert scores.n_classes_scored == len(labels)
    assert scores.accuracy == pytest.approx(sklearn.metrics.accuracy_score(true, said))
    macro = {"labels": labels, "average": "macro", "zero_division": 0}
    assert scores.macro_f1 == pytest.approx(sklearn.metrics.f1_score(true, said, **macro))
    majority = np.full(len(true), np.argmax(train))
    assert scores.majority_accuracy == pytest.approx(np.mean(majority == true))
    assert scores.majority_macro_f1 == pytest.approx(sklearn.metrics.f1_score(true, majority, **macro))
    matrix = sklearn.metrics.confusion_matrix(true, said, labels=np.arange(6))
    np.testing.assert_array_equal(confusion_matrix(np.where(train > 0, counts, 0), predicted), matrix)


def test_chance_is_what_uniform_guesses_come_to():
    rng = np.random.default_rng(1)
    counts = np.array([[400.0, 90.0, 10.0, 0.0, 7.0]])
    train = np.array([5.0, 3.0, 1.0, 2.0, 0.0])
    scores = score_classification(counts, train, np.array([0]))
    assert scores.chance_accuracy == pytest.approx(1 / 4)
    true = np.repeat([0, 1, 2], [40_000, 9_000, 1_000])
    guesses = rng.integers(0, 4, len(true))
    expected = sklearn.metrics.f1_score(true, guesses, labels=[0, 1, 2], average="macro")
    assert scores.chance_macro_f1 == pytest.approx(expected, abs=5e-3)
    assert scores.n_unseen == 7


def test_a_false_alarm_on_an_unscored_class_is_a_miss_only():
    # Class 2 is known from training and absent here: saying it costs class 1 its recall, and is no term of the mean.
    counts = np.array([[6.0, 0.0, 0.0], [0.0, 4.0, 0.0]])
    scores = score_classification(counts, np.ones(3), np.array([0, 2]))
    assert scores.n_classes_scored == 2
    assert scores.macro_f1 == pytest.approx(0.5)


@settings(deadline=None, max_examples=40)
@given(seeds)
def test_r2_and_errors_are_those_of_the_frames(seed):
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 5, 200)
    y = 150 + 30 * rng.standard_normal(200) + 10 * codes
    predicted = 150 + 20 * rng.standard_normal(6)
    n, sum_y, sum_y2 = (np.bincount(codes, weights, 6).astype(float) for weights in (None, y, y**2))
    assert r2_score(n, sum_y, sum_y2, predicted) == pytest.approx(sklearn.metrics.r2_score(y, predicted[codes]))
    total = absolute_error_sum(codes, y, predicted)
    assert total / 200 == pytest.approx(sklearn.metrics.mean_absolute_error(y, predicted[codes]))
    np.testing.assert_allclose(mean_baseline(n, sum_y), y.mean())
    with_unvoiced = np.append(y, np.nan)
    assert absolute_error_sum(np.append(codes, 0), with_unvoiced, predicted) == pytest.approx(total)


def test_r2_of_a_constant_is_not_defined():
    n, y = np.array([3.0, 4.0]), 123.456
    assert r2_score(n, n * y, n * y**2, np.array([1.0, 2.0])) is None
    assert r2_score(np.zeros(2), np.zeros(2), np.zeros(2), np.zeros(2)) is None
