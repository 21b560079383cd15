"""Integer designs: apportionment by its rules, and the optimum of a design against the true one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from probes.backends.design import FEWEST_ROWS, MOST_ROWS, ROWS_A_CELL, apportion, integer_design, rows_wanted
from probes.backends.exact import ExactBackend
from probes.objective import logistic_value
from probes.problem import FitOptions, LogisticProblem
from tests.probes.problems import logistic_problem

SHARES = st_numpy.arrays(
    float, st.integers(1, 40), elements=st.floats(0, 1e6, allow_subnormal=False).filter(lambda x: x == 0 or x > 1e-6)
).filter(lambda shares: shares.sum() > 0)


@given(SHARES, st.integers(0, 100_000))
def test_rows_sum_to_what_is_given_and_keep_the_quota_and_the_order(shares, n_rows):
    rows = apportion(shares, n_rows)
    quota = shares * (n_rows / shares.sum())
    assert rows.sum() == n_rows
    assert (rows >= 0).all()
    assert (np.abs(rows - quota) < 1 + 1e-6 * quota).all()
    order = np.argsort(shares)
    sorted_shares, sorted_rows = shares[order], rows[order]
    larger = sorted_shares[1:] > sorted_shares[:-1] * (1 + 1e-6)
    assert (np.diff(sorted_rows)[larger] >= 0).all()


@given(SHARES, st.integers(0, 1000), st.integers(1, 3))
def test_each_gets_the_least_there_is(shares, more, at_least):
    rows = apportion(shares, at_least * len(shares) + more, at_least)
    assert rows.sum() == at_least * len(shares) + more
    assert (rows >= at_least).all()
    assert (np.diff(rows[np.argsort(shares)]) >= -1).all()


@given(st_numpy.arrays(np.int64, st.integers(1, 40), elements=st.integers(0, 1000)), st.integers(1, 5))
def test_whole_quotas_are_given_exactly(counts, times):
    counts[0] += 1
    np.testing.assert_array_equal(apportion(counts.astype(float), times * int(counts.sum())), times * counts)


def test_equal_remainders_are_drawn_by_the_seed():
    shares = np.ones(1000)
    one, again, other = apportion(shares, 300, seed=1), apportion(shares, 300, seed=1), apportion(shares, 300, seed=2)
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()
    assert 100 < one[:500].sum() < 200  # no end of the frames is favoured


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 8), st.integers(0, 500), st.sampled_from(["balanced", "none"]))
def test_no_class_is_lost_and_classes_have_their_share(seed, n_classes, more, class_weight):
    problem = logistic_problem(seed, n_codes=20, n_classes=n_classes, n_frames=400, class_weight=class_weight)
    n_rows = n_classes + more
    design = integer_design(problem, n_rows)
    assert design.total == n_rows
    assert (design.n_rows > 0).all()
    assert (problem.counts[design.codes, design.classes] > 0).all()  # only cells that occur
    per_class = np.bincount(design.classes, design.n_rows, minlength=n_classes)
    assert (per_class >= 1).all()
    quota = n_rows * problem.targets.sum(axis=0)
    if (quota >= 1).all():
        assert (np.abs(per_class - quota) < 1).all()
    within = problem.targets / problem.targets.sum(axis=0) * per_class
    table = np.zeros_like(problem.counts)
    table[design.codes, design.classes] = design.n_rows
    assert (np.abs(table - within) < 1 + 1e-9).all()


def test_a_class_too_rare_for_a_row_has_one_all_the_same():
    counts = np.zeros((4, 4))
    counts[[0, 1, 2], [0, 1, 2]], counts[3] = [3, 1, 1], [99_000, 990, 0, 1]
    design = integer_design(LogisticProblem(np.eye(4), counts, "none"), 1000)
    np.testing.assert_array_equal(np.bincount(design.classes, design.n_rows), [988, 10, 1, 1])


def test_frames_that_are_codes_of_their_own_become_a_sample_by_class():
    y = np.repeat([0, 1, 2], [900, 90, 10])
    problem = LogisticProblem(np.random.default_rng(0).standard_normal((1000, 3)), np.eye(3)[y])
    design = integer_design(problem, 300)
    np.testing.assert_array_equal(np.bincount(design.classes, design.n_rows), [100, 100, 100])
    assert set(design.n_rows[design.classes == 0]) == {1}
    assert set(design.n_rows[design.classes == 1]) == {1, 2}
    assert set(design.n_rows[design.classes == 2]) == {10}


def test_weights_that_are_whole_numbers_are_reproduced():
    """Weights 1, 2 and 4 by class: a design of as many rows is the problem, penalty and all."""
    rng = np.random.default_rng(3)
    counts = rng.integers(0, 9, (12, 3)).astype(float)
    counts *= np.array([4, 2, 1]) * counts[:, ::-1].sum() / counts.sum()
    counts = np.floor(counts) + 1
    weighted = counts * np.array([1.0, 2.0, 4.0])
    true = LogisticProblem(rng.standard_normal((12, 4)), weighted, "none", 0.7)
    design = integer_design(true, int(weighted.sum()))
    stated = design.as_problem(true)
    np.testing.assert_array_equal(stated.counts, weighted)
    assert stated.l2_strength == pytest.approx(true.l2_strength, rel=1e-14)
    twice = integer_design(true, 2 * int(weighted.sum())).as_problem(true)
    np.testing.assert_array_equal(twice.counts, 2 * weighted)
    assert twice.l2_strength == pytest.approx(true.l2_strength, rel=1e-14)
    best, fit = (ExactBackend().fit_logistic(p, FitOptions(tol=1e-13)) for p in (true, twice))
    np.testing.assert_allclose(fit.coef, best.coef, atol=1e-7)
    np.testing.assert_allclose(fit.objective, best.objective, rtol=1e-12)


@pytest.mark.parametrize("shape", [{"n_codes": 200, "dim": 20, "n_classes": 10}, {"n_codes": 60, "dim": 60}])
def test_the_error_shrinks_with_the_rows_and_is_far_under_a_thousandth(shape):
    problem = logistic_problem(n_frames=300_000, **shape)
    best = ExactBackend().fit_logistic(problem, FitOptions(tol=1e-10))
    n_cells = np.count_nonzero(problem.counts)
    errors = []
    for n_rows in (2 * n_cells, 8 * n_cells, 32 * n_cells, rows_wanted(problem)):
        stated = integer_design(problem, n_rows).as_problem(problem)
        fit = ExactBackend().fit_logistic(stated, FitOptions(tol=1e-10))
        errors.append((logistic_value(problem, fit.coef, fit.intercept) - best.objective) / best.objective)
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-5
    assert errors[0] > 1e-3


def test_how_many_rows_are_wanted():
    problem = logistic_problem(n_codes=300, n_classes=12, n_frames=200_000)
    n_cells = np.count_nonzero(problem.counts)
    assert rows_wanted(problem) == max(ROWS_A_CELL * n_cells, FEWEST_ROWS)
    few, many = logistic_problem(n_codes=10), LogisticProblem(np.eye(300), np.full((300, 300), 0.5))
    assert rows_wanted(few) == FEWEST_ROWS
    assert rows_wanted(many) == MOST_ROWS
    assert rows_wanted(logistic_problem(class_weight="none", n_frames=777)) == 777
    assert rows_wanted(LogisticProblem(np.eye(3), np.full((3, 3), 1e7), "none")) == FEWEST_ROWS
    assert rows_wanted(LogisticProblem(np.eye(3), np.full((3, 3), 1.5), "none")) == FEWEST_ROWS
