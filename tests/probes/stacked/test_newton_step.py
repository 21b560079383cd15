import numpy as np
import pytest

from probes.problem import FitOptions
from probes.stacked import metric
from probes.stacked.logistic import fit_stacked_logistic
from probes.stacked.newton_step import newton_step
from tests.probes.stacked.problems import stacked_problem


def quadratic(seed=0, n=40):
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((n, n))
    return root @ root.T / n + np.eye(n), rng.standard_normal(n)


def test_the_exact_inverse_takes_one_step_and_gives_the_decrement():
    hessian, gradient = quadratic()
    inverse = np.linalg.inv(hessian)
    found = newton_step(gradient, lambda d: hessian @ d, lambda r: inverse @ r, goal=np.inf)
    np.testing.assert_allclose(found.direction, -inverse @ gradient, rtol=1e-9)
    assert found.decrement == pytest.approx(0.5 * gradient @ inverse @ gradient, rel=1e-12)


def test_a_direction_that_the_metric_takes_for_a_thousand_times_as_stiff_is_found():
    hessian, gradient = quadratic(1)
    values, vectors = np.linalg.eigh(hessian)
    soft = vectors[:, 0]
    hessian = hessian + (1e-3 - values[0]) * np.outer(soft, soft)  # the metric has not heard of it
    metric_of_old = np.linalg.inv(hessian + (values[0] - 1e-3) * np.outer(soft, soft))
    gradient = 1e-3 * gradient + 0.1 * soft  # what is left once all others are done
    exact = 0.5 * gradient @ np.linalg.solve(hessian, gradient)
    assert 0.5 * gradient @ metric_of_old @ gradient < 2e-3 * exact
    found = newton_step(gradient, lambda d: hessian @ d, lambda r: metric_of_old @ r, goal=0.0)
    assert found.decrement == pytest.approx(exact, rel=1e-3)
    # Conjugate steps and their changes: curvature pairs of the Hessian, which add up to the direction.
    np.testing.assert_allclose(sum(step for step, _ in found.pairs), found.direction, rtol=1e-4, atol=1e-4)
    for step, change in found.pairs:
        np.testing.assert_allclose(hessian @ step, change, rtol=1e-3, atol=1e-4)


def test_it_ends_early_only_where_the_goal_is_safe():
    hessian, gradient = quadratic(2)
    exact = 0.5 * gradient @ np.linalg.solve(hessian, gradient)

    def n_steps(goal):
        return len(newton_step(gradient, lambda d: hessian @ d, lambda r: r, goal).pairs)

    assert n_steps(1e3 * exact) == 3
    assert n_steps(0.5 * exact) == 8


def test_nothing_found_promises_everything_unless_there_is_no_gradient():
    hessian, gradient = quadratic(3)
    lost = newton_step(gradient, lambda d: -hessian @ d, lambda r: r, goal=np.inf)
    assert lost.decrement == np.inf
    assert not lost.direction.any()
    done = newton_step(np.zeros(40), lambda d: hessian @ d, lambda r: r, goal=0.0)
    assert done.decrement == 0.0


@pytest.mark.parametrize("representation", ["cumulative", "concat"])
def test_a_metric_that_believes_too_little_of_the_gap_does_not_end_a_fit(monkeypatch, representation):
    problem = stacked_problem(22, representation, n_frames=5000, n_codewords=30, dim=10, n_classes=8)
    best = fit_stacked_logistic(problem, FitOptions(tol=1e-12))
    whole = metric.DiagonalMetric.__call__
    monkeypatch.setattr(metric.DiagonalMetric, "__call__", lambda self, gradient: 1e-2 * whole(self, gradient))
    for tol in (1e-2, 1e-4, 1e-6):
        fit = fit_stacked_logistic(problem, FitOptions(tol=tol))
        assert fit.outcome == "converged"
        assert fit.objective - best.objective <= 2 * tol * best.objective
