import subprocess
import sys

import pytest

from probes.backends.answers import library_c
from probes.backends.cuml import CumlBackend
from probes.backends.exact import ExactBackend
from probes.backends.registry import backend as backend_called
from probes.backends.registry import backend_names, resolve
from probes.backends.sklearn import SklearnBackend, choose_solver
from probes.errors import BackendError, UnknownBackendError
from probes.problem import FitOptions
from schemas.errors import RvqprobeError
from tests.probes.backend_suite import BackendSuite
from tests.probes.cuml_stand_in import stand_in
from tests.probes.problems import logistic_problem, with_dense_rows


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
