from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from probes.problem import FitOptions, LogisticProblem
from probes.stacked import directions, layer_metric, metric, passes, solver
from probes.stacked.certify import certify_stacked
from probes.stacked.logistic import fit_stacked_logistic
from probes.stacked.maps import LookupMap, RowMap, choose_map, seconds_per_frame
from probes.stacked.passes import BlockPass, softmax_rows
from probes.stacked.stack import Stack
from tests.probes.stacked.problems import objective, rows_of, stacked_problem

REPRESENTATIONS = ("cumulative", "concat")
SWEEP = [
    {"seed": 0},
    {"seed": 1, "class_weight": "none", "C": 0.05},
    {"seed": 2, "dim": 20, "n_codewords": 8},  # fewer codes than dimensions: rows of deficient rank
    {"seed": 3, "n_layers": 1},
    {"seed": 4, "n_classes": 2, "n_layers": 5, "C": 30.0},
    {"seed": 5, "n_frames": 60, "n_classes": 9},
    {"seed": 6, "offset": 30.0, "n_classes": 3},
]


def by_sklearn(problem):
    # newton-cholesky would stop at a singular Hessian where rows are of deficient rank.
    two = problem.n_classes == 2
    model = LogisticRegression(
        # Of two classes it penalises one row, the difference of ours: these, each other's opposite, cost half of that.
        C=2 * problem.C if two else problem.C,
        class_weight="balanced" if problem.class_weight == "balanced" else None,
        solver="lbfgs",
        tol=1e-10,
        max_iter=100_000,
    )
    X = rows_of(problem)
    mean = X.mean(axis=0)  # the intercept absorbs it; L-BFGS without it crawls
    model.fit(X - mean, problem.y)
    coef, intercept = model.coef_, model.intercept_
    if two:
        coef, intercept = np.vstack([-coef, coef]) / 2, np.concatenate([-intercept, intercept]) / 2
    coef = coef - coef.mean(axis=0)
    intercept = intercept - coef @ mean
    return coef, intercept - intercept.mean()


@pytest.mark.parametrize("representation", REPRESENTATIONS)
@pytest.mark.parametrize("settings", SWEEP, ids=str)
def test_the_optimum_is_that_of_scikit_learn_on_materialised_rows(representation, settings):
    problem = stacked_problem(representation=representation, **settings)
    fit = fit_stacked_logistic(problem, FitOptions(tol=1e-12))
    coef, intercept = by_sklearn(problem)
    assert fit.outcome == "converged"
    assert fit.objective == pytest.approx(objective(problem, fit.coef, fit.intercept), rel=1e-12)
    assert fit.objective <= objective(problem, coef, intercept) * (1 + 1e-12)
    X = rows_of(problem)
    ours, theirs = X @ fit.coef.T + fit.intercept, X @ coef.T + intercept
    # 1e-12 of the objective apart in value is about 1e-6 apart in the logits.
    np.testing.assert_allclose(ours - ours.mean(1)[:, None], theirs - theirs.mean(1)[:, None], atol=2e-4)
    np.testing.assert_allclose(fit.coef, coef, atol=2e-4)
    assert (ours.argmax(axis=1) == theirs.argmax(axis=1)).mean() > 0.999


@pytest.mark.parametrize("representation", REPRESENTATIONS)
@pytest.mark.parametrize("settings", SWEEP, ids=str)
def test_the_proof_holds_and_is_sharp(representation, settings):
    problem = stacked_problem(representation=representation, **settings)
    best = fit_stacked_logistic(problem, FitOptions(tol=1e-13))
    assert best.gap_bound <= 1e-7 * best.objective
    for tol in (1e-2, 1e-4, 1e-6):
        fit = fit_stacked_logistic(problem, FitOptions(tol=tol))
        gap = fit.objective - best.objective
        assert -best.gap_bound <= gap <= fit.gap_bound
        assert gap <= 2 * tol * best.objective


@pytest.mark.parametrize("representation", REPRESENTATIONS)
@pytest.mark.parametrize("map_type", [LookupMap, RowMap])
@pytest.mark.parametrize("n_threads", [1, 3])
def test_a_pass_gives_value_and_gradient_of_the_definition(representation, map_type, n_threads):
    problem = stacked_problem(7, representation)
    rng = np.random.default_rng(0)
    unknown, direction = rng.standard_normal((2, problem.stack.dim + 1, problem.n_classes))
    frame_pass = BlockPass(problem, map_type(problem.stack), n_threads)

    def loss(at):
        coef = at[:-1].T
        return objective(problem, coef, at[-1]) - 0.5 * problem.l2_strength * np.sum(coef**2)

    told = frame_pass.loss(unknown, precise=True)
    assert told.value == pytest.approx(loss(unknown), rel=1e-12)
    step = 1e-5
    slope = (loss(unknown + step * direction) - loss(unknown - step * direction)) / (2 * step)
    assert np.vdot(told.gradient, direction) == pytest.approx(slope, rel=1e-8)
    single = frame_pass.loss(unknown, precise=False)
    assert single.value == pytest.approx(told.value, rel=1e-6)
    np.testing.assert_allclose(single.gradient, told.gradient, atol=3e-6)


@pytest.mark.parametrize("representation", REPRESENTATIONS)
@pytest.mark.parametrize("map_type", [LookupMap, RowMap])
@pytest.mark.parametrize("n_threads", [1, 3])
def test_a_pass_gives_the_hessian_s_image(monkeypatch, representation, map_type, n_threads):
    monkeypatch.setattr(passes, "_BLOCK_BYTES", 1)  # 256 frames a block
    problem = stacked_problem(7, representation)
    unknown, direction = np.random.default_rng(0).standard_normal((2, problem.stack.dim + 1, problem.n_classes))
    frame_pass = BlockPass(problem, map_type(problem.stack), n_threads)
    step = 1e-5
    ahead, behind = (frame_pass.loss(unknown + sign * step * direction, precise=True).gradient for sign in (1, -1))
    found = frame_pass.curved(unknown, direction)
    np.testing.assert_allclose(found, (ahead - behind) / (2 * step), atol=1e-6)
    assert np.abs(found).max() > 0.1


@pytest.mark.parametrize("offset", [0.0, 1e3, -1e3])
def test_probabilities_and_their_logarithms_are_those_of_any_logits(offset):
    logits = np.random.default_rng(0).standard_normal((50, 7)) * 3 + offset
    expected = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected /= expected.sum(axis=1, keepdims=True)
    p = logits.copy()
    log_sum = softmax_rows(p)
    np.testing.assert_allclose(p, expected, rtol=1e-12)
    np.testing.assert_allclose(logits - log_sum[:, None], np.log(expected), atol=1e-12)


def test_the_curvatures_of_a_pass_are_second_derivatives_over_the_intercept():
    problem = stacked_problem(8)
    unknown = np.random.default_rng(1).standard_normal((problem.stack.dim + 1, problem.n_classes))
    frame_pass = BlockPass(problem)
    told = frame_pass.loss(unknown, precise=True)
    hessian = np.empty((problem.n_classes, problem.n_classes))
    for k in range(problem.n_classes):
        shifts = []
        for step in (1e-5, -1e-5):
            at = unknown.copy()
            at[-1, k] += step
            shifts.append(frame_pass.loss(at, precise=True).gradient[-1])
        hessian[k] = (shifts[0] - shifts[1]) / 2e-5
    np.testing.assert_allclose(told.curvature, np.diag(hessian), rtol=1e-6)
    off_diagonal = ~np.eye(problem.n_classes, dtype=bool)
    np.testing.assert_allclose(-told.products[off_diagonal], hessian[off_diagonal], rtol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_logits_of_any_size_do_not_overflow(scale):
    problem = stacked_problem(9)
    unknown = scale * np.random.default_rng(2).standard_normal((problem.stack.dim + 1, problem.n_classes))
    frame_pass = BlockPass(problem)
    told = frame_pass.loss(unknown, precise=True)
    expected = objective(problem, unknown[:-1].T, unknown[-1]) - 0.5 * problem.l2_strength * np.sum(unknown[:-1] ** 2)
    assert told.value == pytest.approx(expected, rel=1e-12)
    assert frame_pass.loss(unknown, precise=False).value == pytest.approx(expected, rel=1e-4)


def test_blocks_and_threads_change_nothing_but_rounding(monkeypatch):
    problem = stacked_problem(10, n_frames=3000)
    unknown = np.random.default_rng(3).standard_normal((problem.stack.dim + 1, problem.n_classes))
    whole = BlockPass(problem).loss(unknown, precise=True)
    monkeypatch.setattr(passes, "_BLOCK_BYTES", 1)  # 256 frames a block
    parts = BlockPass(problem, n_threads=2).loss(unknown, precise=True)
    assert parts.value == pytest.approx(whole.value, rel=1e-14)
    np.testing.assert_allclose(parts.gradient, whole.gradient, atol=1e-14)


@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_one_layer_is_the_probe_from_counts(representation):
    from probes.backends.exact import ExactBackend

    problem = stacked_problem(11, representation, n_layers=1, n_frames=2000)
    counts = np.zeros((problem.stack.n_codewords, problem.n_classes))
    np.add.at(counts, (problem.codes[0], problem.y), 1.0)
    one_layer = LogisticProblem(problem.stack.tables[0], counts)
    expected = ExactBackend().fit_logistic(one_layer, FitOptions(tol=1e-12))
    fit = fit_stacked_logistic(problem, FitOptions(tol=1e-12))
    assert fit.objective == pytest.approx(expected.objective, rel=1e-11)
    np.testing.assert_allclose(fit.coef, expected.coef, atol=1e-5)
    np.testing.assert_allclose(fit.intercept, expected.intercept, atol=1e-5)


def test_a_frame_of_weight_two_is_a_repeated_frame():
    problem = stacked_problem(12, class_weight="none")
    twice = np.tile(np.arange(problem.n_frames), 2)
    repeated = type(problem)(problem.stack, problem.codes[:, twice], problem.y[twice], problem.n_classes, "none", 0.5)
    fit, other = (fit_stacked_logistic(p, FitOptions(tol=1e-12)) for p in (problem, repeated))
    np.testing.assert_allclose(fit.coef, other.coef, atol=1e-5)


def test_separable_frames_are_fitted_to_their_finite_optimum():
    problem = stacked_problem(13, n_codewords=5, n_classes=5, dim=6, n_frames=400)
    separable = type(problem)(problem.stack, problem.codes, problem.codes[0].astype(int), 5, "balanced", 1e4)
    fit = fit_stacked_logistic(separable, FitOptions(tol=1e-8))
    assert fit.outcome == "converged"
    assert fit.objective < 1e-2
    assert fit.gap_bound < 0.1 * fit.objective


def test_the_ends_of_a_fit_are_told_apart():
    problem = stacked_problem(14)
    assert fit_stacked_logistic(problem, FitOptions(max_iter=2)).outcome == "iteration_limit"
    huge = type(problem)(Stack(problem.stack.tables * 1e200, "concat"), problem.codes, problem.y, problem.n_classes)
    fit = fit_stacked_logistic(huge, FitOptions())
    assert fit.outcome == "non_finite"
    assert np.isnan(fit.objective)
    one_class = type(problem)(problem.stack, problem.codes, np.zeros_like(problem.y), 1)
    assert fit_stacked_logistic(one_class, FitOptions()).objective == 0.0


def test_the_certificate_solves_for_the_intercept():
    problem = stacked_problem(15)
    centred, _ = problem.centred()
    fit = fit_stacked_logistic(centred, FitOptions(tol=1e-13))
    unknown = np.vstack([fit.coef.T, fit.intercept + 0.1 * np.arange(problem.n_classes)])
    solved, certificate = certify_stacked(centred, BlockPass(centred), unknown)
    np.testing.assert_allclose(solved[-1] - solved[-1].mean(), fit.intercept, atol=1e-6)
    assert certificate.gap_bound <= 1e-9 * certificate.objective
    assert certificate.objective == pytest.approx(fit.objective, rel=1e-12)


def test_rows_win_where_dimensions_are_few_and_lookups_where_they_are_many():
    few = Stack(np.zeros((8, 16, 2)), "cumulative")
    many = Stack(np.zeros((8, 16, 1024)), "concat")
    assert choose_map(few, 900).name == "rows"
    assert choose_map(many, 71).name == "lookups"
    assert np.argmin(seconds_per_frame(few, 900)) == 1


@pytest.mark.parametrize(
    ("shape", "representation", "n_classes", "name"),
    # The cheaper one as measured on one core.
    [
        ((8, 1024, 128), "cumulative", 251, "rows"),
        ((8, 1024, 128), "cumulative", 71, "lookups"),
        ((8, 1024, 80), "cumulative", 251, "rows"),
        ((8, 1024, 80), "cumulative", 71, "lookups"),
        ((8, 1024, 128), "concat", 251, "lookups"),
        ((8, 1024, 1024), "cumulative", 251, "lookups"),
        ((46, 16, 64), "cumulative", 251, "rows"),
        ((32, 1024, 128), "cumulative", 251, "rows"),
    ],
)
def test_the_map_of_real_codecs_is_the_one_that_was_measured_to_be_cheaper(shape, representation, n_classes, name):
    assert choose_map(Stack(np.zeros(shape, np.float32), representation), n_classes).name == name


def test_class_blocks_help_and_their_size_follows_the_work(monkeypatch):
    problem = stacked_problem(16, n_frames=20_000, n_codewords=40, dim=12, n_classes=8)
    with_blocks = fit_stacked_logistic(problem, FitOptions(tol=1e-10))
    monkeypatch.setattr(metric, "largest_block", lambda problem, n_directions: 0)
    without = fit_stacked_logistic(problem, FitOptions(tol=1e-10))
    assert with_blocks.objective == pytest.approx(without.objective, rel=1e-9)
    assert with_blocks.n_iter < without.n_iter
    monkeypatch.undo()
    assert metric.largest_block(problem, 36) == 36
    assert metric.largest_block(stacked_problem(n_frames=600, n_classes=71), 5000) < 200


def true_value(problem, unknown):
    penalty = 0.5 * problem.l2_strength * np.sum(unknown[:-1] ** 2)
    return BlockPass(problem).loss(unknown, precise=True).value + penalty


def test_single_precision_ends_before_its_rounding_matters():
    problem = stacked_problem(17, n_frames=3000)
    centred, _ = problem.centred()
    seen = []

    class Spy(BlockPass):
        def loss(self, unknown, precise):
            seen.append(precise)
            return super().loss(unknown, precise)

    start = np.zeros((problem.stack.dim + 1, problem.n_classes))
    rough = solver.minimise(centred, Spy(centred), start, 1e-4, 100)
    assert not any(seen)
    assert rough.outcome == "converged"
    sharp = solver.minimise(centred, Spy(centred), start, 1e-13, 200)
    assert seen[-1]
    assert seen == sorted(seen[: rough.n_passes]) + sorted(seen[rough.n_passes :])
    assert sharp.outcome == "converged"
    assert sharp.value < true_value(centred, rough.unknown) == pytest.approx(rough.value, rel=1e-6)


def layerwise(monkeypatch):
    monkeypatch.setattr(directions, "_MAX_JOINT_DIM", 0)


@pytest.mark.parametrize("settings", SWEEP, ids=str)
def test_layers_with_blocks_of_their_own_reach_the_same_optimum(monkeypatch, settings):
    problem = stacked_problem(representation="concat", **settings)
    joint = fit_stacked_logistic(problem, FitOptions(tol=1e-10))
    layerwise(monkeypatch)
    fit = fit_stacked_logistic(problem, FitOptions(tol=1e-10))
    assert fit.outcome == "converged"
    assert fit.objective == pytest.approx(joint.objective, rel=1e-9)
    assert fit.gap_bound <= 1e-5 * fit.objective


def test_layer_blocks_take_fewer_iterations_than_the_mean_moment(monkeypatch):
    problem = stacked_problem(16, "concat", n_frames=20_000, n_codewords=40, dim=12, n_classes=8)
    layerwise(monkeypatch)
    with_blocks = fit_stacked_logistic(problem, FitOptions(tol=1e-8))
    monkeypatch.setattr(solver, "_REFRESHES", ())
    without = fit_stacked_logistic(problem, FitOptions(tol=1e-8))
    assert with_blocks.objective == pytest.approx(without.objective, rel=1e-7)
    assert with_blocks.n_iter < without.n_iter


def test_curvature_by_code_is_that_of_the_definition():
    problem = stacked_problem(18, "concat", n_classes=4)
    unknown = np.random.default_rng(4).standard_normal((problem.stack.dim + 1, 4))
    logits = rows_of(problem) @ unknown[:-1] + unknown[-1]
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    of_frame = problem.weight_of_class[problem.y][:, None] * p * (1.0 - p)
    found = layer_metric.code_curvature(problem, unknown)
    for layer, codes in enumerate(problem.codes):
        expected = np.zeros((problem.stack.n_codewords, 4))
        np.add.at(expected, codes, of_frame)
        np.testing.assert_allclose(found[layer], expected, rtol=1e-3, atol=1e-9)


def test_the_layer_metric_is_symmetric_positive_and_exact_for_one_layer_and_two_classes(monkeypatch):
    layerwise(monkeypatch)
    monkeypatch.setattr(layer_metric, "OWN_SHARE", 1.0)
    monkeypatch.setattr(metric, "OWN_SHARE", 1.0)
    problem, _ = stacked_problem(19, "concat", n_layers=1, n_classes=2, dim=5, n_codewords=30).centred()
    rng = np.random.default_rng(5)
    unknown = 0.3 * rng.standard_normal((problem.stack.dim + 1, 2))
    unknown[:, 1] = -unknown[:, 0]
    made = layer_metric.LayerMetric(problem, directions.principal_directions(problem), unknown)
    rows = np.hstack([rows_of(problem), np.ones((problem.n_frames, 1))])
    p = 1.0 / (1.0 + np.exp(-2.0 * rows @ unknown[:, 0]))
    ridge = problem.l2_strength * np.diag([1.0] * problem.stack.dim + [0.0])
    hessian = rows.T @ ((problem.weight_of_class[problem.y] * p * (1.0 - p))[:, None] * rows) + ridge
    gradient = rng.standard_normal(problem.stack.dim + 1)
    image = made(np.column_stack([gradient, -gradient]))
    np.testing.assert_allclose(image[:, 0], np.linalg.solve(hessian, gradient), rtol=2e-2, atol=1e-2)
    first, second = rng.standard_normal((2, problem.stack.dim + 1, 2))
    first, second = (x - x.mean(axis=1, keepdims=True) for x in (first, second))
    assert np.vdot(first, made(second)) == pytest.approx(np.vdot(second, made(first)), rel=1e-4)
    assert np.vdot(first, made(first)) > 0


def test_a_layer_of_one_code_says_nothing_of_itself(monkeypatch, capfd):
    """It has no direction left once it is centred, and LAPACK complains of empty blocks on standard output."""
    layerwise(monkeypatch)
    problem = stacked_problem(representation="concat", n_layers=3)
    problem.codes[1] = 2
    others = replace(problem, stack=Stack(problem.stack.tables[[0, 2]], "concat"), codes=problem.codes[[0, 2]])
    fits = [fit_stacked_logistic(one, FitOptions(1e-10)) for one in (problem, others)]
    assert [fit.outcome for fit in fits] == ["converged", "converged"]
    assert fits[0].n_iter > solver._REFRESHES[0]
    assert fits[0].objective == pytest.approx(fits[1].objective, rel=1e-9)
    assert capfd.readouterr() == ("", "")
