"""What every probe backend answers alike. A backend's test class inherits `BackendSuite` and states its tolerances."""

import numpy as np
import pytest

from probes.backends.exact import ExactBackend
from probes.objective import LogisticObjective, logistic_value, mean_squared_error, softmax
from probes.problem import FitOptions, LeastSquaresProblem, LogisticProblem
from tests.probes.problems import (
    known_optimum,
    least_squares_problem,
    logistic_problem,
    moments,
    permuted_classes,
    with_dense_rows,
)


def probabilities(problem, fit):
    return softmax(problem.codewords @ fit.coef.T + fit.intercept)[0]


class BackendSuite:
    """Inherit, set `rows`, `options` and the tolerances, and give `backend`."""

    rows = "collapsed"
    options = FitOptions()
    one_step = FitOptions(max_iter=1)
    class_weight = "balanced"
    gap = 1e-8  # relative to the objective
    close = 1e-3  # absolute, of probabilities: a gap of d moves those of a code of weight r by up to sqrt(2 d / r)

    @pytest.fixture
    def backend(self):
        raise NotImplementedError

    def problem(self, **shape):
        problem = logistic_problem(**({"class_weight": self.class_weight} | shape))
        return with_dense_rows(problem) if self.rows == "dense" else problem

    def fit(self, backend, problem, options=None):
        return backend.fit_logistic(problem, options or self.options)

    @pytest.mark.parametrize(
        "shape",
        [
            {},
            {"n_codes": 16, "dim": 64, "n_classes": 4},
            {"n_codes": 60, "dim": 1, "n_classes": 3},
            {"n_codes": 8, "dim": 8, "n_classes": 12, "n_frames": 300},
            {"n_codes": 50, "dim": 20, "n_classes": 2},
            {"n_codes": 30, "dim": 10, "n_classes": 6, "condition": 1e4},
        ],
    )
    def test_reaches_the_optimum(self, backend, shape):
        problem = self.problem(**shape)
        fit = self.fit(backend, problem)
        best = ExactBackend().fit_logistic(problem, FitOptions(tol=1e-13))
        assert best.gap_bound <= 1e-9 * best.objective
        assert fit.outcome == "converged"
        assert fit.objective - best.objective <= self.gap * best.objective
        assert fit.objective >= best.objective - best.gap_bound - 1e-14
        np.testing.assert_allclose(probabilities(problem, fit), probabilities(problem, best), atol=self.close)

    def test_objective_is_that_of_its_solution(self, backend):
        problem = self.problem()
        fit = self.fit(backend, problem)
        np.testing.assert_allclose(fit.objective, logistic_value(problem, fit.coef, fit.intercept), rtol=1e-12)
        assert fit.coef.shape == (5, 6)
        assert fit.intercept.shape == (5,)
        assert fit.coef.dtype == fit.intercept.dtype == np.float64
        assert fit.n_iter >= 1
        assert fit.seconds > 0

    def test_gap_bound_holds(self, backend):
        problem = self.problem()
        best = ExactBackend().fit_logistic(problem, FitOptions(tol=1e-13))
        for options in (self.options, self.one_step):
            fit = self.fit(backend, problem, options)
            assert fit.gap_bound is None or fit.gap_bound >= fit.objective - best.objective - 1e-13

    def test_finds_a_constructed_optimum(self, backend):
        if self.rows == "dense" or self.class_weight != "none":
            pytest.skip("the constructed counts are fractions and unweighted")
        problem, coef, intercept = known_optimum()
        for gradient in LogisticObjective.of(problem).gradient(coef, intercept):
            np.testing.assert_allclose(gradient, 0.0, atol=1e-15)
        fit = self.fit(backend, problem)
        np.testing.assert_allclose(fit.coef - fit.coef.mean(axis=0), coef, atol=self.close)
        np.testing.assert_allclose(fit.intercept - fit.intercept.mean(), intercept, atol=self.close)

    def test_balanced_weights_matter_and_are_used(self, backend):
        if self.class_weight == "none":
            pytest.skip("this backend's multinomial fits are unweighted")
        balanced, plain = self.problem(), self.problem(class_weight="none")
        fit, other = self.fit(backend, balanced), self.fit(backend, plain)
        assert fit.objective < logistic_value(balanced, other.coef, other.intercept) - 1e-3
        assert other.objective < logistic_value(plain, fit.coef, fit.intercept) - 1e-3

    def test_two_classes_state_both_rows(self, backend):
        problem = self.problem(n_classes=2)
        fit = self.fit(backend, problem)
        assert fit.coef.shape == (2, 6)
        np.testing.assert_allclose(fit.coef.sum(axis=0), 0.0, atol=1e-9)
        gradient_coef, _ = LogisticObjective.of(problem).gradient(fit.coef, fit.intercept)
        assert np.abs(gradient_coef).max() < 1e-3

    def test_order_of_classes_is_no_matter(self, backend):
        problem = self.problem()
        order = np.array([3, 0, 4, 2, 1])
        turned = permuted_classes(problem, order)
        turned = with_dense_rows(turned) if self.rows == "dense" else turned
        expected = probabilities(problem, self.fit(backend, problem))[:, order]
        np.testing.assert_allclose(probabilities(turned, self.fit(backend, turned)), expected, atol=self.close)

    def test_shift_of_all_classes_is_no_matter(self, backend):
        problem = self.problem()
        fit = self.fit(backend, problem)
        shifted = softmax(problem.codewords @ (fit.coef + 3.0).T + fit.intercept - 7.0)[0]
        np.testing.assert_allclose(shifted, probabilities(problem, fit), atol=1e-10)

    def test_a_repeated_row_is_a_weight_of_two(self, backend):
        if self.rows == "dense":
            pytest.skip("counts of repeated frames are what dense rows are")
        problem = self.problem(n_frames=2000)
        half = problem.counts / 2
        twice = LogisticProblem(
            np.vstack([problem.codewords] * 2), np.vstack([half, half]), problem.class_weight, problem.C
        )
        one, two = self.fit(backend, problem), self.fit(backend, twice)
        np.testing.assert_allclose(two.objective, one.objective, rtol=2 * self.gap)
        np.testing.assert_allclose(probabilities(problem, two), probabilities(problem, one), atol=self.close)

    def test_unused_codes_change_nothing(self, backend):
        problem = self.problem()
        used = problem.counts.sum(axis=1) > 0
        assert not used.all()
        fewer = LogisticProblem(problem.codewords[used], problem.counts[used], problem.class_weight, problem.C)
        fewer = with_dense_rows(fewer) if self.rows == "dense" else fewer
        one, two = self.fit(backend, problem), self.fit(backend, fewer)
        np.testing.assert_allclose(two.objective, one.objective, rtol=2 * self.gap)

    def test_standardised_and_raw_rows_are_different_problems(self, backend):
        raw = self.problem(condition=1e3, n_frames=2000)
        n = raw.counts.sum(axis=1)
        mean = n @ raw.codewords / n.sum()
        scale = np.sqrt(n @ (raw.codewords - mean) ** 2 / n.sum())
        scaled = LogisticProblem((raw.codewords - mean) / scale, raw.counts, raw.class_weight, raw.C)
        scaled = with_dense_rows(scaled) if self.rows == "dense" else scaled
        one, two = self.fit(backend, raw), self.fit(backend, scaled)
        in_raw_units = two.coef / scale
        assert two.objective < logistic_value(
            scaled, one.coef * scale, one.intercept + one.coef @ mean
        ) + self.gap * abs(two.objective)
        assert np.abs(in_raw_units - one.coef).max() > 1e-3

    def test_says_that_the_iterations_ran_out(self, backend):
        fit = self.fit(backend, self.problem(n_codes=80, dim=20, n_classes=8, condition=1e3), self.one_step)
        assert fit.outcome == "iteration_limit"
        assert np.isfinite(fit.objective)

    def test_one_class_is_nothing_to_learn(self, backend):
        fit = self.fit(backend, LogisticProblem(np.eye(3), np.ones((3, 1)), self.class_weight))
        assert fit.outcome == "converged"
        assert fit.objective == 0.0
        assert not fit.coef.any()

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_input_that_is_not_finite(self, backend, bad):
        problem = self.problem()
        problem.codewords[3, 2] = bad
        fit = self.fit(backend, problem)
        assert fit.outcome == "non_finite"
        assert np.isnan(fit.coef).all()

    def test_least_squares_reaches_the_optimum(self, backend):
        problem, codes, y = least_squares_problem()
        if self.rows == "dense":
            problem = moments(problem.codewords.astype(np.float32).astype(float), codes, y)
        fit = backend.fit_least_squares(problem, FitOptions(rows=self.rows))
        rows = np.hstack([problem.codewords[codes], np.ones((len(codes), 1))])
        expected = np.linalg.lstsq(rows, y, rcond=None)[0]
        assert fit.outcome == "converged"
        assert fit.coef.shape == (1, 6)
        np.testing.assert_allclose(np.append(fit.coef[0], fit.intercept), expected, rtol=1e-8)
        np.testing.assert_allclose(fit.objective, np.mean((rows @ expected - y) ** 2), rtol=1e-10)
        np.testing.assert_allclose(fit.objective, mean_squared_error(problem, fit.coef, fit.intercept), rtol=1e-12)

    def test_least_squares_of_least_norm(self, backend):
        # Twelve dimensions, six codes: every exact fit is a minimiser, the shortest is asked for.
        rng = np.random.default_rng(0)
        X = rng.standard_normal((6, 12)).astype(np.float32).astype(float)
        codes = np.repeat(np.arange(6), 5)
        y = rng.standard_normal(6)[codes] * 40 + 150
        fit = backend.fit_least_squares(moments(X, codes, y), FitOptions(rows=self.rows))
        centred = X - X.mean(axis=0)
        expected = np.linalg.pinv(centred, rcond=1e-12) @ y[::5]
        np.testing.assert_allclose(fit.coef[0], expected, rtol=1e-6, atol=1e-8)
        assert fit.objective < 1e-15 * 150**2

    def test_least_squares_input_that_is_not_finite(self, backend):
        problem = LeastSquaresProblem(np.eye(3), np.ones(3), np.array([1.0, np.nan, 2.0]), np.ones(3))
        assert backend.fit_least_squares(problem, FitOptions()).outcome == "non_finite"

    def test_says_what_it_runs_on(self, backend):
        availability = backend.availability()
        assert availability.available
        assert availability.device
        assert all(isinstance(version, str) and version for version in backend.versions().values())
