"""From a store to a fitted and scored probe on several layers, against scikit-learn on the stored rows."""

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, mean_absolute_error, r2_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from featstore.errors import UnknownNameError
from featstore.store import Store
from probes.backends.exact import ExactBackend
from probes.counting import count_frames
from probes.errors import ProbeError
from probes.estimator import FittedProbe, to_sklearn
from probes.evaluation import EvaluationFrames
from probes.held_out import evaluation_split
from probes.problem import FitOptions
from probes.questions import NotApplicable, Settings, class_question
from probes.scores import Scoring
from probes.stacked import training
from probes.stacked.fit import fit_stacked, score_stacked
from probes.stacked.question import stacked_question
from probes.stacked.training import gather_training_frames
from tests.support.stores import StoreRecipe, write_store

RECIPE = StoreRecipe(n_utterances=24, dim=3, n_codewords=9)
REPRESENTATIONS = ("cumulative", "concat")
SHARP = FitOptions(tol=1e-11)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with Store(write_store(tmp_path_factory.mktemp("store") / "store.h5", RECIPE)) as opened:
        yield opened


def rows(frames, layer, representation):
    """Every frame's raw row, from the store's own embeddings."""
    each = [frames.layer(one)[0 : frames.n_frames].astype(float) for one in range(1, layer + 1)]
    return sum(each) if representation == "cumulative" else np.hstack(each)


def tracks(store, frames, name):
    return frames.labels(name, 0, frames.n_frames), frames.frame_splits(0, frames.n_frames)


@pytest.mark.parametrize("representation", REPRESENTATIONS)
@pytest.mark.parametrize("task", ["phoneme", "speaker"])
@pytest.mark.parametrize("standardize", [True, False])
def test_a_class_probe_is_that_of_scikit_learn_on_stored_rows(store, representation, task, standardize):
    frames = store["alpha"]
    question = stacked_question(frames, task, 2, representation, Settings(standardize=standardize))
    fit = fit_stacked(question, SHARP)
    found = score_stacked(question, fit, EvaluationFrames(frames), Scoring()).fields
    labels, split = tracks(store, frames, task)
    y = question.class_of_label[labels]
    X = rows(frames, 2, representation)
    scaler = [StandardScaler()] if standardize else []
    model = make_pipeline(*scaler, LogisticRegression(class_weight="balanced", tol=1e-10, max_iter=10_000))
    model.fit(X[split == 0], y[split == 0])
    expected = model.predict(X[split == 1])
    assert found["n_train"] == (split == 0).sum()
    assert found["n_eval"] == (split == 1).sum()
    assert found["n_unseen"] == 0
    assert found["accuracy"] == pytest.approx(accuracy_score(y[split == 1], expected), abs=2e-3)
    assert found["macro_f1"] == pytest.approx(f1_score(y[split == 1], expected, average="macro"), abs=4e-3)
    probe = FittedProbe(
        "logistic",
        fit.coef,
        fit.intercept,
        question.standardiser.mean,
        question.standardiser.scale,
        np.arange(len(question.classes)),
    )
    np.testing.assert_allclose(probe.predict_proba(X), model.predict_proba(X), atol=1e-4)
    np.testing.assert_allclose(to_sklearn(probe).predict_proba(X), probe.predict_proba(X), atol=1e-9)


@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_a_pitch_probe_is_that_of_scikit_learn_on_stored_rows(store, representation):
    frames = store["beta"]
    question = stacked_question(frames, "pitch", 3, representation, Settings())
    fit = fit_stacked(question, FitOptions())
    found = score_stacked(question, fit, EvaluationFrames(frames), Scoring()).fields
    f0, split = tracks(store, frames, "f0")
    X, voiced = rows(frames, 3, representation), ~np.isnan(f0)
    train, held_out = voiced & (split == 0), voiced & (split == 1)
    expected = LinearRegression().fit(X[train], f0[train].astype(float)).predict(X[held_out])
    assert found["n_train"] == train.sum()
    assert found["n_eval"] == held_out.sum()
    assert found["mae_hz"] == pytest.approx(mean_absolute_error(f0[held_out].astype(float), expected), rel=1e-6)
    assert found["r2"] == pytest.approx(r2_score(f0[held_out].astype(float), expected), rel=1e-6)
    baseline = np.abs(f0[held_out].astype(float) - f0[train].astype(float).mean()).mean()
    assert found["mean_baseline_mae_hz"] == pytest.approx(baseline, rel=1e-9)


@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_one_layer_is_the_probe_from_tables(store, representation):
    frames = store["alpha"]
    tables = count_frames(frames).layer(1)
    expected = class_question(frames, tables, 1, "phoneme", Settings())
    question = stacked_question(frames, "phoneme", 1, representation, Settings())
    assert question.classes == expected.classes
    np.testing.assert_allclose(question.standardiser.mean, expected.standardiser.mean)
    np.testing.assert_allclose(question.standardiser.scale, expected.standardiser.scale)
    ours = fit_stacked(question, SHARP)
    theirs = ExactBackend().fit_logistic(expected.problem, SHARP)
    assert ours.objective == pytest.approx(theirs.objective, rel=1e-10)
    np.testing.assert_allclose(ours.coef, theirs.coef, atol=1e-4)


def test_standardised_rows_have_mean_zero_and_deviation_one(store):
    frames = store["alpha"]
    for representation in REPRESENTATIONS:
        problem = stacked_question(frames, "speaker", 3, representation, Settings()).problem
        X = problem.stack.rows(problem.codes)
        np.testing.assert_allclose(X.mean(axis=0), 0.0, atol=1e-12)
        np.testing.assert_allclose(X.std(axis=0), 1.0, rtol=1e-12)


def test_v_information_is_the_bits_saved_over_the_training_shares(store):
    frames = store["alpha"]
    question = stacked_question(frames, "phoneme", 3, "concat", Settings(class_weight="none"))
    fit = fit_stacked(question, SHARP)
    found = score_stacked(question, fit, EvaluationFrames(frames), Scoring()).fields
    labels, split = tracks(store, frames, "phoneme")
    y = question.class_of_label[labels]
    X = (rows(frames, 3, "concat") - question.standardiser.mean) / question.standardiser.scale
    logits = X @ fit.coef.T + fit.intercept
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    shares = np.bincount(y[split == 0]) / (split == 0).sum()
    held_out = np.flatnonzero(split == 1)
    expected = np.mean(log_p[held_out, y[held_out]] - np.log(shares[y[held_out]])) / np.log(2)
    assert found["v_information_bits"] == pytest.approx(expected, rel=1e-9)


def test_utterances_are_answered_by_the_sum_of_their_frames(store, monkeypatch):
    from probes.stacked import predict

    frames = store["alpha"]
    question = stacked_question(frames, "speaker", 3, "concat", Settings())
    fit = fit_stacked(question, FitOptions())
    evaluation = EvaluationFrames(frames)
    whole = score_stacked(question, fit, evaluation, Scoring()).fields
    monkeypatch.setattr(predict, "_BLOCK_CELLS", 7 * len(question.classes))  # utterances straddle blocks
    assert score_stacked(question, fit, evaluation, Scoring()).fields == pytest.approx(whole, rel=1e-12)
    X = (rows(frames, 3, "concat") - question.standardiser.mean) / question.standardiser.scale
    logits = X @ fit.coef.T + fit.intercept
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    right = [
        log_p[frames.offsets[u] : frames.offsets[u + 1]].sum(axis=0).argmax() == store.numbers("utterances/speaker")[u]
        for u in evaluation.utterances
    ]
    assert whole["utterance_accuracy"] == pytest.approx(np.mean(right))


@pytest.mark.parametrize("task", ["phoneme", "speaker", "pitch"])
def test_intervals_hold_the_scores(store, task):
    frames = store["alpha"]
    question = stacked_question(frames, task, 2, "concat", Settings())
    scores = score_stacked(question, fit_stacked(question, FitOptions()), EvaluationFrames(frames), Scoring(200))
    for name in ("mae_hz", "r2") if task == "pitch" else ("accuracy", "macro_f1", "v_information_bits"):
        assert scores.fields[f"{name}_low"] <= scores.fields[name] <= scores.fields[f"{name}_high"]
    assert scores.resamples is not None


def test_unseen_speakers_are_held_out(store):
    frames = store["alpha"]
    split = evaluation_split(store, "speaker", 0)
    question = stacked_question(frames, "phoneme", 2, "concat", Settings(), split)
    part = np.repeat(split, np.diff(frames.offsets))
    assert question.problem.n_frames == (part == 0).sum() < (frames.frame_splits(0, frames.n_frames) == 0).sum()
    fields = score_stacked(
        question, fit_stacked(question, FitOptions()), EvaluationFrames(frames, split), Scoring()
    ).fields
    assert fields["n_eval"] + fields["n_unseen"] == (part == 1).sum()


def everything(labels):
    return labels.astype(int), np.ones(len(labels), dtype=bool)


def test_a_sample_is_uniform_without_replacement_and_seeded(store, monkeypatch):
    monkeypatch.setattr(training, "_BLOCK_FRAMES", 100)
    frames = store["alpha"]
    in_training = np.flatnonzero(frames.frame_splits(0, frames.n_frames) == 0)
    codes = frames.codes(0, frames.n_frames)
    monkeypatch.setattr(frames, "labels", lambda name, start, stop: np.arange(start, stop))  # a frame's label: itself
    n_drawn, times = len(in_training) // 3, np.zeros(frames.n_frames)
    for seed in range(300):
        sample = gather_training_frames(frames, 2, "phoneme", everything, max_frames=n_drawn, seed=seed)
        assert len(np.unique(sample.y)) == n_drawn
        assert (np.diff(sample.y) > 0).all()
        np.testing.assert_array_equal(sample.codes, codes[:2, sample.y])
        times[sample.y] += 1
    assert sample.n_available == len(in_training)
    assert times.sum() == times[in_training].sum()
    # Each frame is drawn 100 times on average, with a standard deviation of 8.2.
    deviations = (times[in_training] - 300 * n_drawn / len(in_training)) / np.sqrt(300 * (1 / 3) * (2 / 3))
    assert abs(deviations).max() < 5
    assert 0.9 < deviations.std() < 1.1
    again = gather_training_frames(frames, 2, "phoneme", everything, max_frames=n_drawn, seed=299)
    np.testing.assert_array_equal(again.y, sample.y)
    all_of_it = gather_training_frames(frames, 2, "phoneme", everything, max_frames=10**9)
    np.testing.assert_array_equal(all_of_it.y, in_training)


def test_a_probe_on_a_sample_says_how_much_it_saw(store):
    question = stacked_question(store["alpha"], "phoneme", 3, "concat", Settings(), max_train_frames=300, seed=1)
    assert question.problem.n_frames == 300 < question.n_available
    other = stacked_question(store["alpha"], "phoneme", 3, "concat", Settings(), max_train_frames=300, seed=2)
    assert (question.problem.codes != other.problem.codes).any()


def test_what_cannot_be_asked_is_said(store, tmp_path):
    with pytest.raises(UnknownNameError, match="layers count from 1 to 3"):
        stacked_question(store["alpha"], "phoneme", 4, "concat", Settings())
    with pytest.raises(NotApplicable, match="at least two classes in training, found 1"):
        stacked_question(store["alpha"], "phoneme", 2, "concat", Settings(), max_train_frames=1)
    path = write_store(tmp_path / "unvoiced.h5", StoreRecipe(unvoiced=True))
    with Store(path) as unvoiced, pytest.raises(NotApplicable, match="found none in training"):
        stacked_question(unvoiced["alpha"], "pitch", 2, "cumulative", Settings())
    path = write_store(tmp_path / "untested.h5", StoreRecipe(eval_every=100))
    with Store(path) as untested, pytest.raises(NotApplicable, match="no evaluation frame"):
        stacked_question(untested["alpha"], "phoneme", 2, "cumulative", Settings())


def test_codes_out_of_range_are_refused(store, monkeypatch):
    frames = store["alpha"]
    monkeypatch.setattr(frames, "n_codewords", 4)
    with pytest.raises(ProbeError, match=r"alpha/codes: expected values from 0 to 3, found 8; .* rebuild it"):
        gather_training_frames(frames, 2, "phoneme", everything)
