import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from probes.backends.answers import library_c
from probes.backends.cuml import CumlBackend
from probes.backends.exact import ExactBackend
from probes.backends.registry import backend as backend_called
from probes.backends.registry import backend_names, resolve
from probes.backends.sklearn import SklearnBackend, choose_solver
from probes.errors import BackendError, UnknownBackendError
from probes.problem import FitOptions, LogisticProblem
from schemas.errors import RvqprobeError
from tests.probes.backend_suite import BackendSuite
from tests.probes.problems import least_squares_problem, logistic_problem, with_dense_rows


class TestExact(BackendSuite):
    # The estimate that stops the fit is within a few times of the gap. Near the optimum the gap is quadratic in the
    # distance, so a relative gap of 1e-8 leaves about its square root, 1e-4, in probabilities and coefficients.
    options = FitOptions()
    gap = 3e-8

    @pytest.fixture
    def backend(self):
        return ExactBackend()


class TestExactUnweighted(TestExact):
    class_weight = "none"


class TestSklearnCollapsed(BackendSuite):
    # At its tol of 1e-10 (largest gradient entry) scipy's L-BFGS ends on its own limit of relative decrease, 1e-14.
    options = FitOptions(tol=1e-10)
    gap = 1e-7

    @pytest.fixture
    def backend(self):
        return SklearnBackend()


class TestSklearnUnweighted(TestSklearnCollapsed):
    class_weight = "none"


class TestSklearnDense(TestSklearnCollapsed):
    rows = "dense"
    options = FitOptions(tol=1e-10, rows="dense")
    one_step = FitOptions(max_iter=1, rows="dense")

    def test_refuses_dense_rows_where_there_are_none(self, backend):
        problem = logistic_problem()
        assert "no frame-by-frame rows" in backend.refuses(problem, self.options)
        assert backend.refuses(with_dense_rows(problem), self.options) is None
        with pytest.raises(BackendError, match="collapsed"):
            backend.fit_logistic(problem, self.options)


class ScikitLearnAsCuml:
    """cuML's names and conventions over scikit-learn: softmax without weights, and a penalty scaled by the rows."""

    class LogisticRegression:
        def __init__(self, C, tol, max_iter, output_type):
            assert output_type == "numpy"
            self.C, self.tol, self.max_iter = C, tol, max_iter

        def fit(self, X, y, sample_weight=None):
            from sklearn.linear_model import LogisticRegression

            if sample_weight is not None and len(np.unique(y)) == 2:
                assert sample_weight.mean() == pytest.approx(1.0)
            else:
                sample_weight = None  # what cuML does to a softmax loss
            # cuML's tol is of the sum over rows, scikit-learn's of the mean.
            model = LogisticRegression(C=self.C, tol=self.tol * len(X), max_iter=self.max_iter)
            import warnings

            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model.fit(X, y, sample_weight=sample_weight)
            self.coef_, self.intercept_ = OnDevice(model.coef_), OnDevice(model.intercept_)
            self.n_iter_ = OnDevice(model.n_iter_)

    class LinearRegression:
        def __init__(self, algorithm, output_type):
            assert (algorithm, output_type) == ("svd", "numpy")

        def fit(self, X, y, sample_weight=None):
            from sklearn.linear_model import LinearRegression

            assert X.flags.f_contiguous
            model = LinearRegression(tol=1e-13).fit(X, y, sample_weight=sample_weight)
            self.coef_, self.intercept_ = OnDevice(model.coef_), OnDevice(np.array(model.intercept_))


class OnDevice:
    """An array that has to be fetched, as CuPy's are."""

    def __init__(self, array):
        self._array = array

    def get(self):
        return self._array


def stand_in(gpu=True, error=None):
    """An import function that gives stand-ins for cuml and cupy."""

    def is_available():
        if error:
            raise error
        return gpu

    runtime = SimpleNamespace(getDeviceProperties=lambda index: {"name": b"Stand-in GPU"})
    cuda = SimpleNamespace(is_available=is_available, runtime=runtime, Device=lambda: SimpleNamespace(id=0))
    modules = {
        "cuml": SimpleNamespace(__version__="26.10", linear_model=ScikitLearnAsCuml),
        "cupy": SimpleNamespace(__version__="14.0", cuda=cuda),
    }
    return modules.__getitem__


class TestCumlStandIn(BackendSuite):
    rows = "dense"
    class_weight = "none"
    options = FitOptions(tol=1e-10, rows="dense")
    one_step = FitOptions(max_iter=1, rows="dense")
    gap = 1e-7

    @pytest.fixture
    def backend(self):
        return CumlBackend(stand_in())

    def test_two_classes_take_weights(self, backend):
        for rows in ("dense", "collapsed"):
            problem = with_dense_rows(logistic_problem(n_classes=2, n_frames=3000))
            fit = backend.fit_logistic(problem, FitOptions(tol=1e-10, rows=rows))
            best = ExactBackend().fit_logistic(problem, FitOptions())
            np.testing.assert_allclose(fit.objective, best.objective, rtol=1e-7)


@pytest.mark.gpu
class TestCumlOnGpu(TestCumlStandIn):
    # cuML stops at a loss change over ten steps of 0.01 tol, so its gaps are wider.
    gap = 1e-6
    close = 1e-2

    @pytest.fixture
    def backend(self):
        backend = CumlBackend()
        availability = backend.availability()
        if not availability.available:
            pytest.skip(availability.reason)
        return backend


class TestCumlRefuses:
    @pytest.mark.parametrize(
        ("class_weight", "rows", "reason"),
        [("balanced", "dense", "class weights"), ("none", "collapsed", "weights of collapsed rows")],
    )
    def test_weighted_multinomial(self, class_weight, rows, reason):
        problem = with_dense_rows(logistic_problem(class_weight=class_weight))
        backend, options = CumlBackend(stand_in()), FitOptions(rows=rows)
        assert reason in backend.refuses(problem, options)
        with pytest.raises(BackendError, match=reason):
            backend.fit_logistic(problem, options)

    def test_more_cells_than_32_bits(self):
        counts = np.full((4, 251), 9_000_000 / 4)
        problem = LogisticProblem(np.eye(4), counts, "none", 1.0, lambda: None)
        assert "32 bits" in CumlBackend(stand_in()).refuses(problem, FitOptions(rows="dense"))

    def test_takes_regression_and_two_classes(self):
        backend = CumlBackend(stand_in())
        assert backend.refuses(least_squares_problem()[0], FitOptions()) is None
        assert backend.refuses(logistic_problem(n_classes=2), FitOptions()) is None


class TestCumlAvailability:
    def test_no_gpu(self):
        availability = CumlBackend(stand_in(gpu=False)).availability()
        assert not availability.available
        assert "no usable NVIDIA GPU" in availability.reason

    def test_a_driver_that_fails(self):
        availability = CumlBackend(stand_in(error=RuntimeError("cudaErrorInsufficientDriver"))).availability()
        assert not availability.available
        assert "cudaErrorInsufficientDriver" in availability.reason

    def test_not_installed(self):
        def missing(name):
            raise ModuleNotFoundError(f"No module named {name!r}")

        availability = CumlBackend(missing).availability()
        assert not availability.available
        assert "No module named 'cuml'" in availability.reason
        assert "cuml-cu12" in availability.install

    def test_names_the_device(self):
        assert CumlBackend(stand_in()).availability().device == "Stand-in GPU"


class TestRegistry:
    def test_auto_is_exact(self):
        assert backend_called("auto").name == "exact"
        assert [backend_called(name).name for name in backend_names()] == backend_names()

    def test_an_unknown_name_lists_the_known(self):
        with pytest.raises(UnknownBackendError, match="'torch'.*exact, sklearn, cuml") as caught:
            backend_called("torch")
        assert isinstance(caught.value, RvqprobeError)
        assert isinstance(caught.value, KeyError)

    def test_an_unavailable_backend_becomes_sklearn(self, monkeypatch):
        monkeypatch.setattr(CumlBackend, "__init__", lambda self: setattr(self, "_import", stand_in(gpu=False)))
        used, reason = resolve("cuml")
        assert used.name == "sklearn"
        assert "no usable NVIDIA GPU" in reason

    def test_an_available_backend_stays(self, monkeypatch):
        monkeypatch.setattr(CumlBackend, "__init__", lambda self: setattr(self, "_import", stand_in()))
        for name in backend_names():
            used, reason = resolve(name)
            assert (used.name, reason) == (name, None)

    def test_the_exact_path_loads_no_other_library(self):
        script = """
import sys
import numpy as np
from probes.backends.registry import backend
from probes.problem import FitOptions, LogisticProblem
problem = LogisticProblem(np.random.default_rng(0).standard_normal((20, 4)), np.ones((20, 3)))
assert backend("auto").fit_logistic(problem, FitOptions()).outcome == "converged"
import probes.estimator
heavy = {"torch", "sklearn", "librosa", "numba", "encodec", "speechtokenizer", "cuml", "h5py", "matplotlib"}
print(sorted(heavy & set(sys.modules)))
"""
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]"


def test_scikit_learn_is_given_our_objective():
    """Its own objective at our solution is C S times ours, whatever the number of classes."""
    for n_classes in (2, 3):
        problem = logistic_problem(n_classes=n_classes, C=0.3)
        total = float(problem.class_weights @ problem.counts.sum(axis=0))
        expected = 0.3 if n_classes > 2 else 0.6
        assert library_c(problem, total) == pytest.approx(expected)


def test_the_solver_of_scikit_learn_follows_the_size():
    assert choose_solver(n_rows=3000, dim=64, n_classes=4) == "newton-cholesky"
    assert choose_solver(n_rows=70_000, dim=1024, n_classes=71) == "lbfgs"
