"""Least squares from moments: QR and singular values give one answer, and QR declines where the rank is in doubt."""

import numpy as np
import pytest

from probes import least_squares
from probes.full_rank import triangular
from probes.least_squares import solve_least_squares
from probes.problem import LeastSquaresProblem

SHAPES = {"tall": (60, 12), "square": (30, 29), "square centred": (30, 30), "wide": (20, 50)}


def _problem(codewords, rng, n_unseen=3):
    n = rng.integers(1, 400, len(codewords)).astype(np.float64)
    n[rng.choice(len(n), n_unseen, replace=False)] = 0.0
    mean_y = rng.normal(150.0, 40.0, len(n))
    sum_y = n * mean_y
    return LeastSquaresProblem(codewords, n, sum_y, sum_y * mean_y + 20.0 * n)


def _minimum(problem):
    """Return NumPy's least-norm answer for the centred, weighted rows."""
    share = problem.n / problem.n.sum()
    mean_y = problem.sum_y / np.maximum(problem.n, 1.0)
    offset, root = share @ problem.codewords, np.sqrt(share)[:, None]
    rows, wanted = (problem.codewords - offset) * root, (mean_y - share @ mean_y) * root[:, 0]
    coef = np.linalg.lstsq(rows, wanted, rcond=max(rows.shape) * np.finfo(float).eps)[0]
    return coef, share @ mean_y - offset @ coef


def _forbid_singular_values(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the rank is full: QR should have answered")

    monkeypatch.setattr(least_squares, "svd", refuse)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("seed", range(3))
def test_full_rank_is_solved_by_qr_as_by_lstsq(shape, seed, monkeypatch):
    rng = np.random.default_rng(seed)
    problem = _problem(rng.normal(size=shape) * rng.uniform(0.1, 5.0, shape[1]), rng)
    _forbid_singular_values(monkeypatch)
    coef, intercept, gap = solve_least_squares(problem)
    expected, expected_intercept = _minimum(problem)
    np.testing.assert_allclose(coef[0], expected, rtol=1e-8, atol=1e-9 * np.abs(expected).max())
    np.testing.assert_allclose(intercept, expected_intercept, rtol=1e-9)
    assert 0 <= gap < 1e-15


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_gap_of_a_wrong_answer_is_what_the_rows_could_still_explain(shape):
    rng = np.random.default_rng(1)
    rows, root = rng.normal(size=shape), np.sqrt(rng.dirichlet(np.ones(shape[0])))
    rows -= np.outer(root, root @ rows)
    factors = triangular(rows, root)
    assert factors is not None
    residual = rng.normal(size=shape[0])
    explained = rows @ np.linalg.lstsq(rows, residual, rcond=1e-12)[0]
    part = factors.explainable(residual - 0.25 * explained - root * (root @ residual))
    assert part @ part == pytest.approx(0.75**2 * (explained @ explained), rel=1e-9)


def _equal_codewords(rng):
    codewords = rng.normal(size=(40, 60))
    codewords[30:] = codewords[:10]
    return codewords


def _constant_feature(rng):
    codewords = rng.normal(size=(40, 8))
    codewords[:, 3] = 2.0
    return codewords


def _dependent_features(rng):
    return rng.normal(size=(40, 5)) @ rng.normal(size=(5, 12))


def _one_direction_at_rounding_level(rng):
    codewords = rng.normal(size=(40, 12))
    codewords[:, 11] = codewords[:, 0] + 1e-15 * rng.normal(size=40)
    return codewords


DEFICIENT = [_equal_codewords, _constant_feature, _dependent_features, _one_direction_at_rounding_level]


@pytest.mark.parametrize("make", DEFICIENT)
@pytest.mark.parametrize("seed", range(3))
def test_deficient_rank_keeps_the_least_norm_answer(make, seed):
    rng = np.random.default_rng(seed)
    problem = _problem(make(rng), rng, n_unseen=0)
    share = problem.n / problem.n.sum()
    root = np.sqrt(share)
    assert triangular((problem.codewords - share @ problem.codewords) * root[:, None], root) is None
    coef, intercept, gap = solve_least_squares(problem)
    expected, expected_intercept = _minimum(problem)
    np.testing.assert_allclose(coef[0], expected, rtol=1e-7, atol=1e-8 * np.abs(expected).max())
    np.testing.assert_allclose(intercept, expected_intercept, rtol=1e-7)
    assert 0 <= gap < 1e-12


@pytest.mark.parametrize("smallest", [1e-3, 1e-6, 1e-9, 1e-12, 1e-15])
def test_qr_answers_only_above_any_doubt(smallest):
    """Between the two methods no singular value is judged differently: those QR accepts are far above the cut."""
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.normal(size=(50, 50)))[0] for _ in range(2))
    root = left[:, 49] * np.sign(left[0, 49])
    deviations = np.geomspace(1.0, smallest, 20)
    rows = (left[:, :20] * deviations) @ right[:20]
    assert triangular(rows, root) is None  # 50 rows and columns, but rank 20
    accepted = triangular(rows @ right[:20].T, root) is not None
    assert accepted == (smallest > 1e-11)


def test_a_single_code_is_answered_by_its_mean():
    problem = LeastSquaresProblem(np.ones((1, 3)), np.array([5.0]), np.array([600.0]), np.array([72_500.0]))
    coef, intercept, gap = solve_least_squares(problem)
    np.testing.assert_array_equal(coef, np.zeros((1, 3)))
    assert intercept[0] == pytest.approx(120.0)
    assert gap == pytest.approx(0.0, abs=1e-20)


def test_overflow_is_an_error():
    problem = _problem(np.full((6, 2), 1e308) * np.array([1.0, -1.0]), np.random.default_rng(0), n_unseen=0)
    with np.errstate(all="ignore"), pytest.raises(ValueError, match="infs or NaNs"):
        solve_least_squares(LeastSquaresProblem(problem.codewords * 1e2, problem.n, problem.sum_y, problem.sum_y2))
