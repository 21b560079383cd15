import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from probes.least_squares import solve_least_squares
from probes.stacked.cooccurrence import pair_counts, second_moment, squares
from probes.stacked.least_squares import fit_stacked_least_squares
from probes.stacked.predict import predicted_hz
from probes.stacked.problem import StackedLeastSquaresProblem
from probes.stacked.stack import Stack
from tests.probes import problems
from tests.probes.stacked.problems import codes_and_labels, rows_of

REPRESENTATIONS = ("cumulative", "concat")


def pitch_problem(
    seed=0, representation="concat", n_frames=800, n_layers=3, n_codewords=12, dim=4, condition=10.0, offset=0.5
):
    rng = np.random.default_rng(seed)
    codes, _ = codes_and_labels(rng, n_frames, n_layers, n_codewords, 2)
    tables = np.stack([problems.codebook(rng, n_codewords, dim, condition) for _ in range(n_layers)]) + offset
    stack = Stack(tables, representation)
    y = 150.0 + 20.0 * rng.standard_normal(n_codewords)[codes[0]] + 5.0 * rng.standard_normal(n_frames)
    return StackedLeastSquaresProblem(stack, codes, y)


@pytest.mark.parametrize("representation", REPRESENTATIONS)
@pytest.mark.parametrize(
    "settings",
    [
        {"seed": 0},
        {"seed": 1, "condition": 1e3},
        {"seed": 2, "condition": 1e5, "dim": 8},
        {"seed": 3, "dim": 30},  # more dimensions than codes
        {"seed": 4, "n_layers": 1},
        {"seed": 5, "n_frames": 20, "dim": 9},  # fewer frames than features
        {"seed": 6, "offset": 100.0},
    ],
    ids=str,
)
def test_the_solution_is_that_of_scikit_learn_on_materialised_rows(representation, settings):
    problem = pitch_problem(representation=representation, **settings)
    fit = fit_stacked_least_squares(problem)
    X = rows_of(problem)
    model = LinearRegression(tol=np.finfo(float).eps * max(X.shape)).fit(X, problem.y)
    expected = model.predict(X)
    # Directions 1e5 fainter than the strongest carry what rounding leaves of them: 1e-16 * 1e5 of the predictions.
    np.testing.assert_allclose(X @ fit.coef[0] + fit.intercept[0], expected, rtol=1e-9)
    np.testing.assert_allclose(predicted_hz(problem.stack, fit, problem.codes), expected, rtol=1e-9)
    np.testing.assert_allclose(fit.coef[0], model.coef_, rtol=1e-5, atol=1e-6 * np.abs(model.coef_).max())
    assert fit.objective == pytest.approx(np.mean((problem.y - expected) ** 2), rel=1e-9, abs=1e-18)
    assert 0 <= fit.gap_bound <= 1e-12 * np.var(problem.y)


@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_codes_without_training_frames_get_the_least_norm_answer(representation):
    problem = pitch_problem(7, representation, dim=30)
    kept = (problem.codes < 9).all(axis=0)  # codes 9 and up are never trained on
    trained = StackedLeastSquaresProblem(problem.stack, problem.codes[:, kept], problem.y[kept])
    fit = fit_stacked_least_squares(trained)
    X = rows_of(trained)
    model = LinearRegression(tol=np.finfo(float).eps * max(X.shape)).fit(X, trained.y)
    unseen = rows_of(problem)[~kept]
    np.testing.assert_allclose(predicted_hz(problem.stack, fit, problem.codes)[~kept], model.predict(unseen), rtol=1e-7)


def test_layers_that_repeat_each_other_share_the_weight():
    problem = pitch_problem(8, n_layers=2)
    doubled = Stack(np.concatenate([problem.stack.tables[:1]] * 2), "concat")
    codes = np.concatenate([problem.codes[:1]] * 2)
    fit = fit_stacked_least_squares(StackedLeastSquaresProblem(doubled, codes, problem.y))
    first, second = np.split(fit.coef[0], 2)
    np.testing.assert_allclose(first, second, rtol=1e-6)


@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_one_layer_is_the_probe_from_moments(representation):
    problem = pitch_problem(9, representation, n_layers=1)
    expected_coef, expected_intercept, _ = solve_least_squares(
        problems.moments(problem.stack.tables[0], problem.codes[0], problem.y)
    )
    fit = fit_stacked_least_squares(problem)
    np.testing.assert_allclose(fit.coef, expected_coef, rtol=1e-8)
    np.testing.assert_allclose(fit.intercept, expected_intercept, rtol=1e-10)


def test_numbers_that_are_not_finite_are_told():
    problem = pitch_problem(10)
    spoilt = StackedLeastSquaresProblem(Stack(problem.stack.tables * np.nan, "concat"), problem.codes, problem.y)
    unheard = StackedLeastSquaresProblem(problem.stack, problem.codes, problem.y * np.inf)
    tiny = StackedLeastSquaresProblem(Stack(problem.stack.tables * 1e-315, "concat"), problem.codes, problem.y)
    for bad in (spoilt, unheard, tiny):  # the last has coefficients beyond all numbers
        fit = fit_stacked_least_squares(bad)
        assert fit.outcome == "non_finite"
        assert np.isnan(fit.objective)


@pytest.mark.parametrize("representation", REPRESENTATIONS)
@pytest.mark.parametrize("scale", [1e-200, 1e250])
def test_rows_of_any_scale_give_the_same_answers(representation, scale):
    problem = pitch_problem(10, representation)
    scaled = StackedLeastSquaresProblem(Stack(problem.stack.tables * scale, representation), problem.codes, problem.y)
    fit, expected = fit_stacked_least_squares(scaled), fit_stacked_least_squares(problem)
    assert fit.outcome == "converged"
    np.testing.assert_allclose(fit.coef * scale, expected.coef, rtol=1e-9)
    np.testing.assert_allclose(fit.intercept, expected.intercept, rtol=1e-12)
    assert fit.objective == pytest.approx(expected.objective, rel=1e-12)


@pytest.mark.parametrize("representation", REPRESENTATIONS)
@pytest.mark.parametrize("left", ["one frame", "one code", "equal codewords", "codewords of zeros"])
def test_without_a_feature_that_varies_the_mean_is_the_answer(representation, left, capfd):
    """LAPACK complains of empty matrices on standard output."""
    problem = pitch_problem(10, representation)
    tables, codes, y = problem.stack.tables, problem.codes, problem.y
    if left == "one frame":
        codes, y = codes[:, :1], y[:1]
    elif left == "one code":
        codes = np.full_like(codes, 3)
    else:
        tables = np.full_like(tables, 2.0 if left == "equal codewords" else 0.0)
    fit = fit_stacked_least_squares(StackedLeastSquaresProblem(Stack(tables, representation), codes, y))
    assert fit.outcome == "converged"
    assert not fit.coef.any()
    assert fit.intercept[0] == pytest.approx(y.mean(), rel=1e-15)
    assert fit.objective == pytest.approx(np.var(y), rel=1e-12)
    assert 0 <= fit.gap_bound <= 1e-20
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_second_moments_are_those_of_the_rows(representation):
    problem = pitch_problem(11, representation)
    weights = np.random.default_rng(0).random(len(problem.y))
    X = rows_of(problem)
    np.testing.assert_allclose(second_moment(problem.stack, problem.codes, weights), (X * weights[:, None]).T @ X)
    np.testing.assert_allclose(second_moment(problem.stack, problem.codes), X.T @ X)


def test_squares_and_pairs_are_those_of_a_loop(monkeypatch):
    from probes.stacked import cooccurrence

    monkeypatch.setattr(cooccurrence, "_BLOCK_FRAMES", 100)
    problem = pitch_problem(12, "cumulative")
    np.testing.assert_allclose(squares(problem.stack.tables, problem.codes), np.square(rows_of(problem)).sum(axis=0))
    pairs = list(pair_counts(problem.codes, problem.stack.n_codewords))
    assert [(first, second) for first, second, _ in pairs] == [(1, 0), (2, 0), (2, 1)]
    expected = np.zeros_like(pairs[1][2])
    for v, w in zip(problem.codes[2], problem.codes[0], strict=True):
        expected[v, w] += 1
    np.testing.assert_array_equal(pairs[1][2], expected)
