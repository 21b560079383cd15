"""Rare classes and rare codes: what a sample of the frames would miss must neither be dropped nor called converged."""

import numpy as np
import pytest

from probes.problem import FitOptions
from probes.stacked import curvature_sample, directions
from probes.stacked.curvature_sample import CurvatureSample, draw_frames
from probes.stacked.directions import principal_directions
from probes.stacked.logistic import fit_stacked_logistic
from tests.probes.stacked.problems import rare_problem, rows_of, stacked_problem

CASES = [("cumulative", 20, 1, 24, 512), ("concat", 3, 4, 24, 0)]


@pytest.mark.parametrize(("representation", "n_rare", "n_codes", "size", "joint"), CASES)
def test_converged_means_near_the_optimum_for_rare_classes_too(
    monkeypatch, representation, n_rare, n_codes, size, joint
):
    problem = rare_problem(representation, n_rare, n_codes, size)
    monkeypatch.setattr(directions, "_MAX_JOINT_DIM", joint)
    fit = fit_stacked_logistic(problem, FitOptions(tol=1e-6))
    monkeypatch.undo()
    best = fit_stacked_logistic(problem, FitOptions(tol=1e-9))
    assert best.gap_bound <= 5e-7 * best.objective  # proved: nothing is further below it
    assert fit.outcome == "converged"
    assert fit.objective - best.objective <= 2e-6 * best.objective


@pytest.mark.parametrize("representation", ["cumulative", "concat"])
@pytest.mark.parametrize("joint", [512, 0])
def test_no_direction_of_a_codeword_in_use_is_dropped(monkeypatch, representation, joint):
    monkeypatch.setattr(directions, "_MAX_JOINT_DIM", joint)
    problem, _ = rare_problem(representation, 2, 6, 16).centred()
    found = principal_directions(problem)
    rows, weights = rows_of(problem), problem.weight_of_class[problem.y]
    _, once = np.unique(problem.codes[0] * 16 + problem.codes[1], return_index=True)
    for part, basis in found.parts:
        assert basis.shape[1] == np.linalg.matrix_rank(rows[once, part])
        np.testing.assert_allclose(weights @ np.square(rows[:, part] @ basis.astype(float)), 1.0, atol=1e-3)


def test_a_sample_has_frames_of_every_class_and_code_each_for_as_many_as_it_stands_for(monkeypatch):
    monkeypatch.setattr(curvature_sample, "_BLOCK_FRAMES", 1 << 16)
    problem = rare_problem("cumulative", 20, 2, 24)
    taken, stands_for = draw_frames(problem, 3000)
    assert len(taken) < 1.2 * 3000
    assert (np.diff(taken) > 0).all()
    # Classes of 20 frames are there whole, all others have their share: 250 of each, and as many as any sample gives.
    sampled = np.bincount(problem.y[taken], minlength=problem.n_classes)
    assert (sampled[-2:] == 20).all()
    assert sampled[:-2].min() > 200
    for layer in range(2):
        assert np.bincount(problem.codes[layer, taken], minlength=24).min() >= 4
        of_codes = np.bincount(problem.codes[layer, taken], stands_for, minlength=24)
        np.testing.assert_allclose(of_codes, np.bincount(problem.codes[layer], minlength=24), rtol=0.45)
    np.testing.assert_allclose(np.bincount(problem.y[taken], stands_for), problem.n_per_class, rtol=0.1)
    again, _ = draw_frames(problem, 3000)
    np.testing.assert_array_equal(again, taken)
    everything, ones = draw_frames(problem, problem.n_frames)
    np.testing.assert_array_equal(everything, np.arange(problem.n_frames))
    assert (ones == 1).all()


def test_moments_from_the_sample_are_near_those_of_all_frames_for_every_class(monkeypatch):
    monkeypatch.setattr(curvature_sample, "_FRAMES", 20_000)
    problem, _ = rare_problem("cumulative", 20, 2, 12).centred()
    found = principal_directions(problem)
    unknown = 0.5 * np.random.default_rng(1).standard_normal((problem.stack.dim + 1, problem.n_classes))
    ((_, basis),) = found.parts
    rows = rows_of(problem)
    logits = rows @ unknown[:-1] + unknown[-1]
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    features = np.column_stack([rows @ basis, np.ones(len(rows))])
    sample = CurvatureSample(problem, found, np.arange(basis.shape[1]), unknown)
    for k in range(problem.n_classes):
        share = problem.weight_of_class[problem.y] * p[:, k] * (1 - p[:, k])
        exact = (features * (share / share.sum())[:, None]).T @ features
        root = np.linalg.inv(np.linalg.cholesky(exact))
        ratios = np.linalg.eigvalsh(root @ sample.moment(k, 2000) @ root.T)
        assert 0.6 < ratios.min() < ratios.max() < 1.6


def test_a_class_that_no_frame_leaves_in_doubt_has_a_moment():
    problem, _ = stacked_problem().centred()
    unknown = np.zeros((problem.stack.dim + 1, problem.n_classes))
    unknown[-1, 0] = -1e4  # its probability is zero everywhere, to the last digit
    found = principal_directions(problem)
    with np.errstate(all="ignore"):
        sample = CurvatureSample(problem, found, np.arange(3), unknown)
    np.testing.assert_array_equal(sample.moment(0, 100), np.eye(4))
