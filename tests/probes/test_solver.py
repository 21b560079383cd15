"""The exact solver from the inside: derivatives, reductions, parametrisations, line search, memory and certificate."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize

from probes.backends.exact import ExactBackend
from probes.certificate import certify, solve_intercept
from probes.class_blocks import inverse_blocks, is_due
from probes.feature_space import FeatureSpace
from probes.lbfgs import CurvatureMemory
from probes.line_search import Trial, search
from probes.logit_space import LogitSpace, centred_inverse
from probes.newton_space import NewtonSpace
from probes.objective import LogisticObjective, cross_entropy, softmax
from probes.problem import FitOptions, LogisticProblem
from probes.reduction import reduce_problem
from probes.shared_space import SharedSpace
from probes.single import Matrix
from probes.solver import Limits, _Run, minimise
from probes.spaces import carry_over, solve
from probes.stiff_space import StiffSpace
from tests.probes.problems import logistic_problem

TIGHT = Limits(estimate=1e-13, bound=1e-9, max_iter=5_000)
WIDE = {"n_codes": 24, "dim": 40}  # fewer codes than dimensions: both spaces exist


def random_point(objective, seed=0):
    rng = np.random.default_rng(seed)
    shape = objective.targets.shape[1], objective.codewords.shape[1]
    return rng.standard_normal(shape), rng.standard_normal(shape[0])


@pytest.mark.parametrize("class_weight", ["balanced", "none"])
def test_gradient_is_the_difference_quotient_of_the_value(class_weight):
    objective = LogisticObjective.of(logistic_problem(class_weight=class_weight, C=1e-4))
    coef, intercept = random_point(objective)
    along_coef, along_intercept = random_point(objective, 1)
    gradient_coef, gradient_intercept = objective.gradient(coef, intercept)
    h = 1e-6
    forward = objective.value(coef + h * along_coef, intercept + h * along_intercept)
    backward = objective.value(coef - h * along_coef, intercept - h * along_intercept)
    expected = np.vdot(gradient_coef, along_coef) + gradient_intercept @ along_intercept
    assert (forward - backward) / (2 * h) == pytest.approx(expected, rel=1e-7)


def test_hessian_product_is_the_difference_quotient_of_the_gradient():
    objective = LogisticObjective.of(logistic_problem(C=1e-4))
    coef, intercept = random_point(objective)
    along_coef, along_intercept = random_point(objective, 1)
    h = 1e-5
    forward = objective.gradient(coef + h * along_coef, intercept + h * along_intercept)
    backward = objective.gradient(coef - h * along_coef, intercept - h * along_intercept)
    product = objective.hessian_product(coef, intercept, along_coef, along_intercept)
    for plus, minus, exact in zip(forward, backward, product, strict=True):
        np.testing.assert_allclose((plus - minus) / (2 * h), exact, atol=1e-7)


def test_softmax_does_not_overflow():
    logits = np.array([[1e4, 0.0, -1e4], [-1e4, -1e4, -1e4]])
    probabilities, log_sum_exp = softmax(logits)
    np.testing.assert_allclose(probabilities, [[1, 0, 0], [1 / 3, 1 / 3, 1 / 3]])
    np.testing.assert_allclose(log_sum_exp, [1e4, -1e4 + np.log(3)])


def stiff_space(reduced):
    return StiffSpace(LogitSpace(reduced))


def shared_space(reduced):
    return SharedSpace(LogitSpace(reduced))


@pytest.mark.parametrize("space_class", [LogitSpace, FeatureSpace, stiff_space, shared_space])
class TestSpace:
    def space(self, space_class, **shape):
        return space_class(reduce_problem(logistic_problem(**(WIDE | {"n_classes": 4} | shape))))

    def value(self, space, unknown):
        logits = space.logits(unknown)
        _, log_sum_exp = softmax(logits)
        loss = cross_entropy(logits, log_sum_exp, space.problem.targets)
        return loss + 0.5 * np.vdot(unknown, space.penalty_product(unknown))

    def test_value_is_that_of_its_coefficients(self, space_class):
        space = self.space(space_class)
        unknown = space.start()
        coef, intercept = space.coefficients(unknown)
        reduced = space.problem
        objective = LogisticObjective(reduced.codewords, reduced.targets, reduced.l2_strength)
        # the same function of W and b, up to the intercept that the saturated space has already solved for
        best = solve_intercept(reduced.codewords @ coef.T, reduced.targets, intercept)
        assert objective.value(coef, best) <= self.value(space, unknown) * (1 + 1e-9)
        assert objective.value(coef, intercept) == pytest.approx(self.value(space, unknown), rel=1e-6)

    def test_gradient_is_the_difference_quotient_of_its_value(self, space_class):
        space = self.space(space_class)
        unknown = space.start()
        along = np.random.default_rng(0).standard_normal(unknown.shape)
        probabilities, _ = softmax(space.logits(unknown))
        residual = space.problem.weights * probabilities - space.problem.targets
        gradient = space.gradient(residual, space.penalty_product(unknown))
        h = 1e-6
        quotient = (self.value(space, unknown + h * along) - self.value(space, unknown - h * along)) / (2 * h)
        assert quotient == pytest.approx(np.vdot(gradient, along), rel=1e-6)

    def test_metric_is_symmetric_and_positive(self, space_class):
        space = self.space(space_class)
        unknown = space.start()
        probabilities, _ = softmax(space.logits(unknown))
        space.refresh(probabilities)
        apply = space.metric(probabilities)
        rng = np.random.default_rng(0)
        a, b = rng.standard_normal((2, *unknown.shape))
        a, b = (x - x.mean(axis=1, keepdims=True) for x in (a, b))
        # class blocks are in single precision
        scale = np.sqrt(np.vdot(a, apply(a)) * np.vdot(b, apply(b)))
        assert np.vdot(a, apply(b)) == pytest.approx(np.vdot(b, apply(a)), abs=1e-5 * scale)
        assert np.vdot(a, apply(a)) > 0
        assert np.abs(apply(a).sum(axis=1)).max() < 1e-9 * np.abs(apply(a)).max()

    def test_coefficients_come_back(self, space_class):
        space = self.space(space_class)
        unknown = space.start()
        again = space.from_coefficients(*space.coefficients(unknown))
        np.testing.assert_allclose(space.logits(again), space.logits(unknown), atol=1e-6)

    def test_bound_holds_all_the_way_down(self, space_class):
        space = self.space(space_class)
        best = minimise(space, space.start(), TIGHT).value
        for n_iter in (1, 3, 6):
            solution = minimise(space, space.start(), Limits(1e-15, 1e-15, n_iter))
            coef, intercept = space.coefficients(solution.unknown)
            reduced = space.problem
            certificate = certify(
                LogisticObjective(reduced.codewords, reduced.targets, reduced.l2_strength), coef, intercept
            )
            assert certificate.gap_bound >= certificate.objective - best - 1e-12

    def test_the_dual_point_gives_a_bound_too_and_a_sharper_one(self, space_class):
        # mild, then so steep that stiff and soft directions differ
        for condition, n_frames in ((1e2, 20_000), (1e5, 200_000)):
            space = self.space(space_class, condition=condition, n_frames=n_frames)
            best = minimise(space, space.start(), TIGHT).value
            solution = minimise(space, space.start(), Limits(1e-15, 1e-15, 5))
            coef, intercept = space.coefficients(solution.unknown)
            reduced = space.problem
            objective = LogisticObjective(reduced.codewords, reduced.targets, reduced.l2_strength)
            probabilities, _ = softmax(space.logits(solution.unknown))
            residual = reduced.weights * probabilities - reduced.targets
            gradient = space.gradient(residual, space.penalty_product(solution.unknown))
            dual = space.dual_point(probabilities, gradient)
            if dual is None:
                assert space_class is FeatureSpace
                continue
            np.testing.assert_allclose(dual.sum(axis=1), 1.0, rtol=1e-12)
            assert np.abs((reduced.weights * dual - reduced.targets).sum(axis=0)).max() < 1e-10
            plain, sharp = certify(objective, coef, intercept), certify(objective, coef, intercept, dual)
            assert sharp.gap_bound >= sharp.objective - best - 1e-12
            # a code's own block knows of no stiff directions, and helps only where there are none
            assert sharp.gap_bound <= (1.0 if space_class is LogitSpace else 0.6) * plain.gap_bound


class TestSharedSpace:
    """One inverse for all classes, where their curvature is alike."""

    def problem(self, n_classes=40, n_frames=2_000_000, **shape):
        """Codes that say little of many classes, as of speakers."""
        rng = np.random.default_rng(3)
        X = rng.standard_normal((100, 120)) * 10.0 ** (-3 * np.arange(120) / 120)
        lean = 0.4 * X @ rng.standard_normal((120, n_classes)) / np.sqrt((X**2).sum(axis=1).mean())
        shares, _ = softmax(lean + rng.normal(0, 0.5, (100, 1)))
        return LogisticProblem(X, rng.poisson(n_frames / 100 * shares).astype(float))

    def test_it_is_taken_for_like_classes_and_needs_few_iterations(self):
        reduced = reduce_problem(self.problem())
        assert shared_space(reduced).is_promising
        space, solution = solve(reduced, Limits(1e-9, 8e-7, 1000))
        assert (space.name, solution.outcome) == ("shared", "converged")
        assert solution.n_iter <= 20
        plain = LogitSpace(reduced)
        assert minimise(plain, plain.start(), Limits(1e-9, 8e-7, 1000)).n_iter > 2 * solution.n_iter

    def test_not_where_a_class_has_hardly_a_frame(self):
        problem = self.problem()
        counts = problem.counts.copy()
        counts[5:, 0] = 0.0
        reduced = reduce_problem(LogisticProblem(problem.codewords, counts))
        assert not shared_space(reduced).is_promising

    def test_not_where_codes_tell_the_class(self):
        problem = self.problem()
        counts = problem.counts + 0.0
        counts[np.arange(100), np.arange(100) % 40] *= 1000
        reduced = reduce_problem(LogisticProblem(problem.codewords, np.maximum(counts, 1.0)))
        assert not shared_space(reduced).is_promising

    def test_its_proof_is_nearly_the_gap_itself(self):
        problem = self.problem()
        reduced = reduce_problem(problem)
        space = shared_space(reduced)
        best = minimise(space, space.start(), TIGHT).value
        solution = minimise(space, space.start(), Limits(1e-6, 1e-4, 1000))
        coef, intercept = reduced.restore(*space.coefficients(solution.unknown))
        objective = LogisticObjective.of(problem)
        dual = space.dual_point(softmax(solution.unknown)[0], self.gradient(space, solution.unknown))
        certificate = certify(objective, coef, intercept, dual[reduced.group])
        gap = certificate.objective - best
        assert gap <= certificate.gap_bound <= 10 * gap
        assert certify(objective, coef, intercept).gap_bound > 100 * gap

    def gradient(self, space, unknown):
        probabilities, _ = softmax(unknown)
        residual = space.problem.weights * probabilities - space.problem.targets
        return space.gradient(residual, space.penalty_product(unknown))


class TestStiffSpace:
    """Woodbury's identity in single precision, held directions apart, against the blocks it stands for."""

    @pytest.mark.parametrize("condition", [1e4, 1e5, 1e6])
    def test_metric_is_close_to_the_inverse_of_each_class_s_block(self, condition):
        """Eigenvalues of metric times block, which decide the number of iterations, stay within a modest range."""
        reduced = reduce_problem(logistic_problem(n_codes=60, dim=80, n_classes=4, condition=condition, C=1e3))
        space = stiff_space(reduced)
        assert space.n_stiff > 0
        probabilities, _ = softmax(space.start())
        space.refresh(probabilities)
        apply = space.metric(probabilities)
        n = len(reduced.targets)
        penalty = space.penalty_product(np.eye(n))
        # a class pushed against all others: such unknowns have two classes' blocks
        curvature = reduced.weights * probabilities * (1 - probabilities)
        push = np.array([1.0, -1.0, 0.0, 0.0])
        image = np.stack([apply(np.outer(unit, push))[:, 0] for unit in np.eye(n)], axis=1)
        block = 0.5 * (np.diag(curvature[:, 0]) + np.diag(curvature[:, 1])) + penalty
        ratios = np.linalg.eigvals(image @ block).real
        assert 0.02 < ratios.min() < ratios.max() < 20

    def test_steep_spectra_take_few_iterations(self):
        reduced = reduce_problem(logistic_problem(n_codes=200, dim=210, n_classes=12, condition=1e5, C=1e2))
        stiff, plain = (
            minimise(s, s.start(), Limits(1e-9, 1e-6, 2000)) for s in (stiff_space(reduced), LogitSpace(reduced))
        )
        assert stiff.outcome == "converged"
        assert stiff.n_iter < 0.3 * plain.n_iter


def test_a_metric_that_does_not_descend_is_no_convergence():
    """Without a descent there is no estimate of the gap: a broken metric must not pass for an optimum."""

    class Broken(LogitSpace):
        def metric(self, probabilities):
            return lambda gradient: -gradient

    reduced = reduce_problem(logistic_problem(**WIDE, n_classes=4))
    space = Broken(reduced)
    assert minimise(space, space.start(), Limits(1e-9, 1e-6, 50)).outcome == "stalled"


def test_a_step_up_at_a_refresh_is_no_lack_of_progress():
    space = stiff_space(reduce_problem(logistic_problem(**WIDE)))
    run = _Run(space, space.start(), Limits(1e-9, 1e-6, 100))
    run._progress = [1e-3 * 0.5**i for i in range(15)]
    run._splice(before=1e-3 * 0.5**15, after=1e-1 * 0.5**15)  # the new metric finds a hundred times as much ahead
    run._progress += [1e-1 * 0.5**i for i in range(15, 20)]
    np.testing.assert_allclose(run._progress, [1e-1 * 0.5**i for i in range(20)])
    assert 0 < run._iterations_ahead() < 30
    run._progress = [1e-3] * 20
    assert run._iterations_ahead() == float("inf")


@pytest.mark.parametrize("seed", range(4))
def test_directions_too_faint_to_count_leave_a_bound_of_zero(seed):
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 50, (40, 5)) * 10.0 ** rng.uniform(0, 3, 5)
    problem = LogisticProblem(1e-12 * rng.standard_normal((40, 8)), counts, "none", 1.0)
    space, found = solve(reduce_problem(problem), Limits(1e-9, 1e-6, 100))
    assert found.outcome == "converged"
    shares = counts.sum(axis=0) / counts.sum()
    _, intercept = space.coefficients(found.unknown)
    np.testing.assert_allclose(softmax(intercept[None])[0][0], shares, rtol=1e-3)


def test_a_block_that_float32_cannot_factorise_stays_positive():
    """Class blocks of rank 3: the failed factorisation must not leave its negative pivot in the metric."""
    n_failed = 0
    for seed in range(10):
        rows = np.random.default_rng(seed).standard_normal((3, 100))
        blocks = inverse_blocks(rows, np.ones((3, 1)), np.full(100, 1e-12))
        n_failed += int((blocks[0] == np.diag(np.diag(blocks[0]))).all())
        assert np.diag(blocks[0]).min() > 0
    assert n_failed > 0


class TestSinglePrecision:
    def test_product_is_in_the_precision_of_its_argument(self):
        matrix = Matrix(np.random.default_rng(0).standard_normal((5, 4)))
        unknown = np.arange(4.0)
        assert (matrix @ unknown.astype(np.float32)).dtype == np.float32
        np.testing.assert_array_equal(matrix @ unknown, matrix.values @ unknown)
        np.testing.assert_allclose(matrix @ unknown.astype(np.float32), matrix.values @ unknown, rtol=1e-5)
        np.testing.assert_allclose(matrix.transposed_times(np.arange(5.0)), matrix.values.T @ np.arange(5.0))

    @pytest.mark.parametrize("size", [1e-30, 1e30])
    def test_what_float32_cannot_hold_stays_float64(self, size):
        matrix = Matrix(np.full((2, 2), size))
        assert not matrix.in_single
        np.testing.assert_allclose(matrix @ np.ones(2, dtype=np.float32), 2 * size)

    @pytest.mark.parametrize("scale", [1e-12, 1e12])
    def test_codewords_of_any_size_are_fitted(self, scale):
        """Not standardised, and C such that it is the same problem."""
        plain = logistic_problem(**WIDE, n_classes=4)
        scaled = replace(plain, codewords=plain.codewords * scale, C=plain.C / scale**2)
        reference, found = (solve(reduce_problem(problem), Limits(1e-10, 1e-6, 2000))[1] for problem in (plain, scaled))
        assert found.outcome == reference.outcome == "converged"
        assert found.value == pytest.approx(reference.value, rel=1e-8)


class TestRefreshes:
    def test_none_where_the_end_is_near(self):
        fast, slow = list(10.0 ** np.arange(6.0, -4.0, -1)), list(10.0 ** np.linspace(6.0, 5.0, 10))
        assert not is_due(fast, 1, 20.0)
        assert is_due(slow, 1, 20.0)

    def test_ever_rarer(self):
        estimates = list(10.0 ** np.linspace(6.0, 5.0, 25))
        assert [is_due(estimates, n, 10.0) for n in (1, 2, 3, 4)] == [True, True, True, False]

    def test_one_where_the_gap_grows(self):
        assert is_due([1.0] * 10 + [2.0], 1, 5.0)


class TestNewtonSpace:
    def dense_hessian(self, space, probabilities):
        """H over the logits, (n_codes * n_classes)^2, written out."""
        n, k = probabilities.shape
        hessian = np.einsum("vw,kl->vkwl", space.penalty_product(np.eye(n)), np.eye(k))
        for v, (weight, p) in enumerate(zip(space.problem.weights[:, 0], probabilities, strict=True)):
            hessian[v, :, v, :] += weight * (np.diag(p) - np.outer(p, p))
        return hessian.reshape(n * k, n * k)

    def test_metric_is_the_inverse_hessian(self):
        space = NewtonSpace(reduce_problem(logistic_problem(**WIDE, n_classes=4)))
        probabilities, _ = softmax(space.start())
        space.refresh(probabilities)
        wanted = np.random.default_rng(0).standard_normal(probabilities.shape)
        wanted -= wanted.mean(axis=1, keepdims=True)
        gradient = (self.dense_hessian(space, probabilities) @ wanted.ravel()).reshape(wanted.shape)
        np.testing.assert_allclose(space.metric(probabilities)(gradient), wanted, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("condition", [10.0, 1e5])
    def test_converges_quadratically_where_others_need_hundreds(self, condition):
        reduced = reduce_problem(logistic_problem(seed=4, n_codes=60, dim=70, n_classes=9, condition=condition, C=1e2))
        newton, feature = NewtonSpace(reduced), FeatureSpace(reduced)
        limits = Limits(1e-12, 1e-9, 3_000)
        found, reference = minimise(newton, newton.start(), limits), minimise(feature, feature.start(), limits)
        assert found.outcome == "converged"
        assert found.n_iter < 60
        assert found.value <= reference.value * (1 + 1e-10)

    def test_probabilities_that_died_out(self):
        space = NewtonSpace(reduce_problem(logistic_problem(**WIDE, n_classes=4)))
        probabilities = np.zeros_like(space.start())
        probabilities[:, 0] = 1.0
        space.refresh(probabilities)
        step = space.metric(probabilities)(np.random.default_rng(0).standard_normal(probabilities.shape))
        assert np.isfinite(step).all()

    def test_what_would_not_fit_into_memory_is_not_tried(self, monkeypatch):
        reduced = reduce_problem(logistic_problem(**WIDE, n_classes=4))
        assert NewtonSpace.fits_memory(reduced)
        monkeypatch.setattr("probes.newton_space.MAX_BYTES", 8 * 24 * 24 * 3)
        assert not NewtonSpace.fits_memory(reduced)


@pytest.mark.parametrize("shape", [WIDE, {"n_codes": 60, "dim": 59}, {"n_codes": 30, "dim": 30, "n_classes": 9}])
@pytest.mark.parametrize("condition", [3.0, 1e3, 1e5])
def test_every_way_that_converges_ends_at_the_same_optimum(shape, condition):
    reduced = reduce_problem(logistic_problem(condition=condition, C=1e3, **shape))
    limits = replace(TIGHT, max_iter=600)
    alone = [minimise(space, space.start(), limits) for space in (LogitSpace(reduced), FeatureSpace(reduced))]
    _, chosen = solve(reduced, TIGHT)
    assert chosen.outcome == "converged"  # whichever of the two is hopeless here
    for solution in alone:
        assert solution.value >= chosen.value * (1 - 1e-9)
        if solution.outcome == "converged":
            assert solution.value == pytest.approx(chosen.value, rel=1e-9)


@pytest.mark.parametrize("first", ["logit", "feature"])
def test_a_slow_space_hands_over_to_the_other(first, monkeypatch):
    monkeypatch.setattr("probes.spaces._PATIENCE", 60.0)
    reduced = reduce_problem(logistic_problem(seed=3, n_codes=80, dim=90, n_classes=12, condition=3e5, C=1e4))
    space, solution = solve(reduced, Limits(1e-9, 1e-6, 20_000), first)
    assert solution.outcome == "converged"
    assert space.name != first
    _, reference = solve(reduced, Limits(1e-12, 1e-9, 50_000))
    assert solution.value == pytest.approx(reference.value, rel=1e-7)
    assert carry_over(solution.unknown, space, FeatureSpace(reduced)).shape[1] == 12
    assert carry_over(solution.unknown, space, space) is solution.unknown


def test_a_newton_step_that_fails_loses_nothing(monkeypatch):
    def fail(*_):
        raise np.linalg.LinAlgError("singular")

    reduced = reduce_problem(logistic_problem(seed=3, n_codes=80, dim=90, n_classes=12, condition=3e5, C=1e4))
    monkeypatch.setattr("probes.spaces._PATIENCE", 5.0)
    monkeypatch.setattr(NewtonSpace, "total_cost", staticmethod(lambda problem: 1.0))  # it comes first
    asked = []
    monkeypatch.setattr(NewtonSpace, "refresh", lambda *_: (asked.append(1), fail()))
    space, solution = solve(reduced, Limits(1e-9, 1e-6, 20_000))
    assert asked
    assert space.name != "newton"
    assert solution.outcome == "converged"


class TestHarshProblems:
    """Where plain methods stop early: every fit has to end with a proof."""

    def check(self, problem, rel=1e-6):
        fit = ExactBackend().fit_logistic(problem, FitOptions())
        assert fit.outcome == "converged"
        assert fit.gap_bound <= rel * max(fit.objective, 1e-3)
        return fit

    @pytest.mark.parametrize("condition", [1e2, 1e4, 1e6])
    @pytest.mark.parametrize("dim", [8, 40, 64])
    def test_decaying_spectra(self, condition, dim):
        self.check(logistic_problem(seed=5, n_codes=60, dim=dim, n_classes=7, condition=condition, n_frames=200_000))

    def test_rank_deficient_codebook(self):
        problem = logistic_problem(seed=6, n_codes=50, dim=20)
        X = problem.codewords.copy()
        X[:, 10:] = X[:, :10] @ np.random.default_rng(0).standard_normal((10, 10))
        self.check(LogisticProblem(X, problem.counts))

    @pytest.mark.parametrize(("n_codes", "n_constant"), [(18, 1), (65, 1), (120, 2)])
    def test_one_code_more_than_the_dimensions_can_tell_apart(self, n_codes, n_constant):
        """The Gram matrix is singular by one direction, and rounding may hide that from its Cholesky factor."""
        for seed in range(12):
            rng = np.random.default_rng(seed)
            X = rng.standard_normal((n_codes, n_codes + n_constant - 2))
            X[:, :n_constant] = 0.0
            X -= X.mean(axis=0)
            with pytest.raises(np.linalg.LinAlgError, match="affinely dependent"):
                centred_inverse(X)
            counts = rng.poisson(20, (n_codes, 6)) + 200.0 * (rng.random((n_codes, 6)) < 0.1)
            self.check(LogisticProblem(X, counts))

    @pytest.mark.parametrize("distance", 10.0 ** -np.arange(3, 9))
    def test_near_duplicate_codewords(self, distance):
        problem = logistic_problem(seed=7, n_codes=40, dim=60)
        X = problem.codewords.copy()
        X[1::2] = X[::2] + distance * np.random.default_rng(0).standard_normal(X[::2].shape)
        self.check(LogisticProblem(X, problem.counts))

    def test_what_the_weights_lose_of_the_logits_is_noticed(self):
        # Two codewords 2e-6 apart: the logits reach the optimum, the weights made of them by the inverse Gram matrix
        # do not, and only going on over features gives the proof.
        rng = np.random.default_rng(5)
        X = rng.standard_normal((120, 128))
        X[1] = X[0] + 2e-6 * rng.standard_normal(128)
        shares = rng.dirichlet(np.full(120, 0.7))[:, None] * rng.dirichlet(np.full(8, 0.3), 120)
        problem = LogisticProblem(X, rng.poisson(1e5 * shares).astype(float))
        reduced = reduce_problem(problem)
        space, solution = solve(reduced, Limits(1e-9, 8e-7, 1000))
        assert solution.outcome == "converged"
        coef, intercept = reduced.restore(*space.coefficients(solution.unknown))
        assert certify(LogisticObjective.of(problem), coef, intercept).gap_bound > 1e-4
        self.check(problem)

    @pytest.mark.parametrize("offset", [1e2, 1e4])
    def test_codewords_far_from_the_origin(self, offset):
        problem = logistic_problem(seed=11, n_codes=40, dim=20, n_frames=100_000)
        moved = LogisticProblem(problem.codewords + offset, problem.counts)
        here, there = self.check(problem), self.check(moved)
        assert there.objective == pytest.approx(here.objective, rel=1e-6)

    def test_exact_duplicates_are_one_code(self):
        problem = logistic_problem(seed=8, n_codes=40)
        doubled = LogisticProblem(np.repeat(problem.codewords, 2, axis=0), np.repeat(problem.counts, 2, axis=0) / 2)
        once, twice = self.check(problem), self.check(doubled)
        assert len(reduce_problem(doubled).codewords) == len(reduce_problem(problem).codewords)
        assert twice.objective == pytest.approx(once.objective, rel=1e-7)

    def test_separable_labels(self):
        X = np.random.default_rng(0).standard_normal((20, 30))
        self.check(LogisticProblem(X, np.eye(20) * 1e4), rel=1e-3)

    def test_few_frames(self):
        self.check(logistic_problem(seed=9, n_codes=100, dim=120, n_classes=8, n_frames=300))

    def test_one_frame_in_a_class(self):
        problem = logistic_problem(seed=10)
        counts = problem.counts.copy()
        counts[:, 0] = 0.0
        counts[3, 0] = 1.0
        self.check(LogisticProblem(problem.codewords, counts))

    def test_constant_codewords_learn_the_shares(self):
        counts = np.random.default_rng(0).integers(1, 50, (10, 3)).astype(float)
        fit = self.check(LogisticProblem(np.ones((10, 4)), counts, "none"))
        probabilities, _ = softmax(np.ones((1, 4)) @ fit.coef.T + fit.intercept)
        np.testing.assert_allclose(probabilities[0], counts.sum(axis=0) / counts.sum(), rtol=1e-6)


def test_reduction_keeps_the_objective():
    problem = logistic_problem(n_codes=30, dim=50, unused=0.3)
    reduced = reduce_problem(problem)
    assert reduced.codewords.shape[1] <= len(reduced.codewords)
    rng = np.random.default_rng(0)
    coef, intercept = rng.standard_normal((5, reduced.codewords.shape[1])), rng.standard_normal(5)
    coef -= coef.mean(axis=0)
    inside = LogisticObjective(reduced.codewords, reduced.targets, reduced.l2_strength).value(coef, intercept)
    assert LogisticObjective.of(problem).value(*reduced.restore(coef, intercept)) == pytest.approx(inside, rel=1e-12)


def test_equal_codewords_share_a_row_wherever_they_stand():
    problem = logistic_problem(n_codes=30)
    X, counts = problem.codewords.copy(), problem.counts.copy()
    X[29], X[3], X[4] = X[2], X[2], -0.0 * X[4]
    X[20] = 0.0
    counts[7] = 0.0
    reduced = reduce_problem(LogisticProblem(X, counts))
    used = np.flatnonzero(counts.sum(axis=1))
    same = np.abs(X[used][:, None] - X[used][None]).max(axis=2) == 0
    np.testing.assert_array_equal(reduced.group[:, None] == reduced.group, same)
    np.testing.assert_allclose(reduced.codewords[reduced.group] + reduced.mean, X[used], atol=1e-12)
    assert reduced.targets.sum() == pytest.approx(1.0)


class TestCertificate:
    def test_any_dual_point_is_right(self):
        problem = logistic_problem(C=1e-2)
        objective = LogisticObjective.of(problem)
        best = ExactBackend().fit_logistic(problem, FitOptions()).objective
        rng = np.random.default_rng(0)
        for scale in (0.0, 0.1, 1.0):
            coef, intercept = (scale * part for part in random_point(objective))
            dual, _ = softmax(rng.standard_normal(objective.targets.shape))
            certificate, plain = certify(objective, coef, intercept, dual), certify(objective, coef, intercept)
            assert certificate.objective - best <= certificate.gap_bound <= plain.gap_bound

    def test_bound_covers_a_bad_point(self):
        problem = logistic_problem(C=1e-3)
        objective = LogisticObjective.of(problem)
        best = ExactBackend().fit_logistic(problem, FitOptions()).objective
        for scale in (0.0, 0.1, 1.0, 10.0):
            coef, intercept = (scale * part for part in random_point(objective))
            certificate = certify(objective, coef, intercept)
            assert certificate.objective - best <= certificate.gap_bound
            assert certificate.objective <= objective.value(coef, intercept) + 1e-12

    def test_intercept_is_that_of_a_general_minimiser(self):
        objective = LogisticObjective.of(logistic_problem(seed=2))
        coef, intercept = random_point(objective)
        found = solve_intercept(objective.codewords @ coef.T, objective.targets, intercept)
        general = minimize(
            lambda b: objective.value(coef, b), np.zeros(5), jac=lambda b: objective.gradient(coef, b)[1]
        )
        assert objective.value(coef, found) <= general.fun + 1e-12
        assert np.abs(objective.gradient(coef, found)[1]).max() < 1e-12

    def test_intercept_of_a_class_that_is_a_millionth(self):
        counts = np.array([[1e6, 1.0], [1e6, 0.0]])
        objective = LogisticObjective.of(LogisticProblem(np.array([[0.0], [1.0]]), counts, "none"))
        found = solve_intercept(np.zeros((2, 2)), objective.targets, np.zeros(2))
        assert found[0] - found[1] == pytest.approx(np.log(2e6), rel=1e-9)


class TestLineSearch:
    def parabola(self, curvature):
        return lambda step: Trial(step, -step + curvature * step**2 / 2, -1 + curvature * step, None)

    @pytest.mark.parametrize("curvature", [1e-3, 0.3, 1.0, 5.0, 1e3, 1e6])
    def test_slope_is_halved_at_least(self, curvature):
        found = search(self.parabola(curvature), 0.0, -1.0, 1e-15)
        assert abs(found.slope) <= 0.5
        assert found.value < 0

    def test_no_lower_point_is_none(self):
        assert search(lambda step: Trial(step, 1.0 + step, 1.0, None), 0.0, -1.0, 1e-15) is None

    def test_overflow_on_the_way_is_walked_back_from(self):
        def evaluate(step):
            return Trial(step, np.nan, np.nan, None) if step > 0.01 else self.parabola(100.0)(step)

        assert search(evaluate, 0.0, -1.0, 1e-15).value < 0


class TestCurvatureMemory:
    def test_learns_a_quadratic_s_hessian(self):
        """After as many exact pairs as dimensions a direction is Newton's."""
        rng = np.random.default_rng(0)
        square = rng.standard_normal((4, 4))
        hessian = square @ square.T + np.eye(4)
        memory = CurvatureMemory((4,), size=10)
        unknown = rng.standard_normal(4)
        for _ in range(12):
            gradient = hessian @ unknown
            direction = memory.direction(gradient, lambda g: g)
            step = -(gradient @ direction) / (direction @ hessian @ direction) * direction
            memory.store(step, hessian @ step)
            unknown = unknown + step
        assert np.abs(unknown).max() < 1e-8

    def test_agrees_with_the_textbook_recursion(self):
        rng = np.random.default_rng(1)
        memory, pairs = CurvatureMemory((6,), size=3), []
        for _ in range(7):  # more pairs than places
            step = rng.standard_normal(6)
            change = step * rng.uniform(0.5, 2, 6)
            memory.store(step, change)
            pairs = [*pairs, (step, change)][-3:]
        gradient = rng.standard_normal(6)
        q, shares = -gradient, []
        for step, change in reversed(pairs):
            shares.append(step @ q / (step @ change))
            q = q - shares[-1] * change
        for (step, change), share in zip(pairs, reversed(shares), strict=True):
            q = q + step * (share - change @ q / (step @ change))
        np.testing.assert_allclose(memory.direction(gradient, lambda g: g), q, rtol=1e-10)

    def test_negative_curvature_and_forgetting(self):
        memory = CurvatureMemory((2,))
        memory.store(np.array([1.0, 0.0]), np.array([-1.0, 0.0]))
        np.testing.assert_array_equal(memory.direction(np.array([1.0, 2.0]), lambda g: g), [-1.0, -2.0])
        memory.store(np.array([1.0, 0.0]), np.array([4.0, 0.0]))
        np.testing.assert_allclose(memory.direction(np.array([1.0, 2.0]), lambda g: g), [-0.25, -2.0])
        memory.forget()
        np.testing.assert_array_equal(memory.direction(np.array([1.0, 2.0]), lambda g: g), [-1.0, -2.0])
