"""The cuml backend with a stand-in for cuML, and with the real one where there is a GPU."""

from dataclasses import replace

import numpy as np
import pytest

from probes.backends.cuml import CumlBackend
from probes.backends.exact import ExactBackend
from probes.backends.row_plan import least_squares_bytes, logistic_bytes
from probes.errors import BackendError, DeviceError, DeviceMemoryError
from probes.objective import LogisticObjective
from probes.problem import FitOptions, LogisticProblem
from tests.probes.backend_suite import BackendSuite
from tests.probes.cuml_stand_in import OutOfMemoryError, failing, stand_in
from tests.probes.problems import in_pieces, least_squares_problem, logistic_problem, moments, with_dense_rows

DENSE = FitOptions(rows="dense")


def with_room(n_bytes, **library):
    """A stand-in whose device has so much room for a fit: a tenth and half a gigabyte of it are left alone."""
    return stand_in(capacity=int((n_bytes + (1 << 29)) / 0.9) + 1, **library)


class TestFrames(BackendSuite):
    # Near the optimum the gap is quadratic in the gradient, so a tolerance of 1e-7 leaves far less.
    rows = "dense"
    class_weight = "none"
    options = FitOptions(tol=1e-7, rows="dense")
    one_step = FitOptions(max_iter=1, rows="dense")
    gap = 1e-7

    @pytest.fixture
    def backend(self):
        return CumlBackend(stand_in())


class TestWeighted(BackendSuite):
    """A cuML that honours weights: weighted distinct rows are the problem itself."""

    options = FitOptions(tol=1e-7)
    gap = 1e-7

    @pytest.fixture
    def backend(self):
        return CumlBackend(stand_in(honours=True))


class TestApportioned(BackendSuite):
    """A cuML that ignores weights: 128 rows a cell are or more are near the problem."""

    options = FitOptions(tol=1e-7)
    gap = 1e-5
    close = 1e-2

    @pytest.fixture
    def backend(self):
        return CumlBackend(stand_in())


class OnGpu:
    # cuML stops by its own rule, at a gradient of 1e-6.
    gap = 1e-5
    close = 1e-2

    @pytest.fixture
    def backend(self):
        backend = CumlBackend()
        availability = backend.availability()
        if not availability.available:
            pytest.skip(availability.reason)
        return backend


@pytest.mark.gpu
class TestFramesOnGpu(OnGpu, TestFrames):
    options = DENSE


@pytest.mark.gpu
class TestCollapsedOnGpu(OnGpu, TestApportioned):
    options = FitOptions()


class TestRows:
    """Which rows cuML is given, and what the answer says of them."""

    def test_balanced_frames_of_a_cuml_that_ignores_weights(self):
        problem = with_dense_rows(logistic_problem())
        fit = CumlBackend(stand_in()).fit_logistic(problem, DENSE)
        assert fit.design.kind == "apportioned"
        assert "ignores class weights" in fit.design.note
        fit = CumlBackend(stand_in(honours=True)).fit_logistic(problem, replace(DENSE, tol=1e-9))
        assert (fit.design.kind, fit.design.n_rows, fit.design.note) == ("frames", 20_000, "")
        best = ExactBackend().fit_logistic(problem, FitOptions(tol=1e-12))
        np.testing.assert_allclose(fit.objective, best.objective, rtol=1e-9)

    @pytest.mark.parametrize("rows", ["dense", "collapsed"])
    def test_two_classes_take_weights(self, rows):
        problem = with_dense_rows(logistic_problem(n_classes=2, n_frames=3000))
        fit = CumlBackend(stand_in()).fit_logistic(problem, FitOptions(tol=1e-9, rows=rows))
        best = ExactBackend().fit_logistic(problem, FitOptions(tol=1e-12))
        np.testing.assert_allclose(fit.objective, best.objective, rtol=1e-9)
        assert fit.design.kind == ("frames" if rows == "dense" else "weighted")

    def test_whole_counts_without_weights_are_the_problem_itself(self):
        problem = logistic_problem(class_weight="none")
        fit = CumlBackend(stand_in()).fit_logistic(problem, FitOptions(tol=1e-9))
        best = ExactBackend().fit_logistic(problem, FitOptions(tol=1e-12))
        assert (fit.design.kind, fit.design.n_rows) == ("apportioned", 20_000)
        np.testing.assert_allclose(fit.objective, best.objective, rtol=1e-10)

    def test_more_cells_than_32_bits(self):
        counts = np.full((4, 251), 9_000_000 / 4)
        problem = LogisticProblem(np.eye(4), counts, "none", 1.0, lambda: [])
        plan = CumlBackend(stand_in(capacity=10**12))._plan(problem, DENSE)
        assert (plan.kind, plan.n_rows) == ("apportioned", 1 << 18)
        assert "32 bits" in plan.note
        assert "2,259,000,000 x 251" in plan.note
        many = LogisticProblem(np.eye(40), np.full((40, 2048), 7.5), "none")
        plan = CumlBackend(stand_in(capacity=10**12))._plan(many, FitOptions())
        assert plan.n_rows == 2**31 // 2048 - 1 < plan.n_rows_asked == 1 << 23
        assert "32 bits" in plan.note

    def test_frames_too_large_for_the_device_are_a_smaller_design(self):
        problem = with_dense_rows(logistic_problem(class_weight="none", n_frames=200_000))
        backend = CumlBackend(with_room(12_000_000))
        assert backend.refuses(problem, DENSE) is None
        fit = backend.fit_logistic(problem, DENSE)
        assert (fit.design.kind, fit.design.n_rows_asked) == ("apportioned", 200_000)
        assert 10_000 < fit.design.n_rows < 200_000
        assert "200,000 rows of 6 numbers need about" in fit.design.note
        best = ExactBackend().fit_logistic(problem, FitOptions())
        assert 0 < fit.objective - best.objective < 1e-3 * best.objective

    def test_a_device_too_small_for_anything_is_refused(self):
        for problem in (logistic_problem(), least_squares_problem()[0]):
            assert "0 B can be taken" in CumlBackend(stand_in(capacity=1 << 20)).refuses(problem, FitOptions())

    def test_regression_on_frames_too_many_is_on_the_means_of_codes(self):
        problem, _, _ = least_squares_problem(n_frames=400_000)
        large = CumlBackend(stand_in()).fit_least_squares(problem, DENSE)
        small = CumlBackend(with_room(1 << 24)).fit_least_squares(problem, DENSE)
        assert (large.design.kind, large.design.n_rows) == ("frames", 400_000)
        assert (small.design.kind, small.design.n_rows, small.design.n_rows_asked) == ("weighted", 38, 400_000)
        assert "device memory" in small.design.note
        np.testing.assert_allclose(small.objective, large.objective, rtol=1e-9)

    def test_one_distinct_row_is_no_regression_for_it(self):
        problem = moments(np.ones((1, 3)), np.zeros(4, dtype=int), np.arange(4.0))
        assert "two distinct rows" in CumlBackend(stand_in()).refuses(problem, FitOptions())

    def test_dense_rows_that_are_not_there(self):
        backend = CumlBackend(stand_in())
        assert "no frame-by-frame rows" in backend.refuses(logistic_problem(), DENSE)
        with pytest.raises(BackendError, match="no frame-by-frame rows"):
            backend.fit_logistic(logistic_problem(), DENSE)

    @pytest.mark.parametrize(
        ("rows", "honours", "shape"),
        [
            ("dense", True, {"n_codes": 30, "dim": 40, "n_classes": 5, "n_frames": 60_000}),
            ("collapsed", False, {"n_codes": 30, "dim": 40, "n_classes": 5}),
            ("collapsed", False, {"n_codes": 30, "dim": 2, "n_classes": 30}),
            ("collapsed", True, {"n_codes": 2000, "dim": 40, "n_classes": 3, "n_frames": 4000}),
        ],
    )
    def test_memory_is_predicted_before_it_is_taken(self, rows, honours, shape):
        """What the stand-in's arrays take at their peak is within what was predicted, and is most of it."""
        library = stand_in(honours=honours)
        problem = with_dense_rows(logistic_problem(**shape))
        fit = CumlBackend(library).fit_logistic(problem, FitOptions(rows=rows, max_iter=2))
        n_codes = shape["n_codes"] if rows == "collapsed" else 0
        predicted = logistic_bytes(fit.design.n_rows, shape["dim"], shape["n_classes"], n_codes)
        assert 0.6 * predicted < library("cupy").memory.peak <= predicted

    def test_memory_of_a_regression_is_predicted(self):
        library = stand_in()
        problem, _, _ = least_squares_problem(n_frames=50_000)
        CumlBackend(library).fit_least_squares(problem, DENSE)
        rows_and_values = 50_000 * 8 * (6 + 1)
        assert rows_and_values <= library("cupy").memory.peak
        assert 3 * 50_000 * 8 * 6 < least_squares_bytes(50_000, 6) < 4 * rows_and_values

    def test_frames_come_in_pieces_and_are_held_once(self):
        problem = with_dense_rows(logistic_problem(class_weight="none", n_frames=3000))
        seen = []

        def pieces():
            for X, y in in_pieces(
                *(np.concatenate(parts) for parts in zip(*problem.dense_rows(), strict=True)), n=1000
            ):
                seen.append(len(y))
                yield X, y

        fit = CumlBackend(stand_in()).fit_logistic(replace(problem, dense_rows=pieces), DENSE)
        assert seen == [1000, 1000, 1000]
        assert fit.outcome == "converged"


class TestCertificate:
    def test_the_gap_is_that_to_the_proved_optimum(self):
        problem = logistic_problem(n_codes=200, dim=30, n_classes=8, n_frames=50_000)
        backend = CumlBackend(stand_in())
        best = ExactBackend().fit_logistic(problem, FitOptions(tol=1e-12))
        fit = backend.fit_logistic(problem, FitOptions())
        error = fit.objective - best.objective
        assert fit.outcome == "converged"
        assert error <= fit.gap_bound <= error + 1e-5 * best.objective
        assert fit.gap_estimate == pytest.approx(error, abs=1e-6 * best.objective)
        # the design's optimum is not the true one, whose gradient there is far from zero
        gradient, _ = LogisticObjective.of(problem).gradient(fit.coef, fit.intercept)
        assert np.abs(gradient).max() > 1e-6

    def test_a_library_that_stops_early_is_not_believed(self):
        """An answer that is no optimum of what was given: its own iteration count would call it converged."""
        backend = CumlBackend(stand_in(honours=True, answer=[np.log(8.0), 0.0, 0.0]))
        fit = backend.fit_logistic(logistic_problem(n_classes=3), FitOptions())
        assert fit.outcome == "stalled"
        assert fit.gap_bound > 1e-3


class TestTestFit:
    """Whether weights are honoured is found out, once."""

    @pytest.mark.parametrize("honours", [True, False])
    def test_both_kinds_are_told(self, honours):
        plan = CumlBackend(stand_in(honours=honours, version="99.9"))._plan(logistic_problem(), FitOptions())
        assert plan.kind == ("weighted" if honours else "apportioned")

    def test_once_a_process(self, caplog):
        caplog.set_level("INFO")
        library = stand_in()
        for _ in range(3):
            CumlBackend(library).refuses(logistic_problem(), FitOptions())
        assert [r.message for r in caplog.records] == [
            "a test fit tells that cuML 26.10 ignores weights in multinomial fits"
        ]

    def test_an_answer_that_is_neither_is_refused(self):
        reason = CumlBackend(stand_in(answer=[0.5, 0.0, -0.5])).refuses(logistic_problem(), FitOptions())
        assert "cuML 26.10 answers a weighted problem of three classes with 1, where 2.08 is right" in reason


class TestFailures:
    @pytest.mark.parametrize(
        "error",
        [
            OutOfMemoryError("Out of memory allocating 1,024 bytes"),
            MemoryError("std::bad_alloc: out_of_memory: CUDA error at: /rmm/cuda_memory_resource.hpp"),
            RuntimeError("CUDA error encountered: cudaErrorMemoryAllocation out of memory"),
        ],
    )
    def test_out_of_device_memory(self, error):
        backend = CumlBackend(stand_in(during_fit=failing(error)))
        with pytest.raises(DeviceMemoryError, match="too little free memory for this fit"):
            backend.fit_logistic(logistic_problem(), FitOptions())
        with pytest.raises(DeviceMemoryError):
            backend.fit_least_squares(least_squares_problem()[0], FitOptions())

    def test_memory_that_others_take_in_the_meantime(self):
        library = stand_in()
        backend, problem = CumlBackend(library), with_dense_rows(logistic_problem(class_weight="none"))
        assert backend.refuses(problem, DENSE) is None
        plan = backend._plan(problem, DENSE)
        library("cupy").memory.capacity = 1000
        backend._plan = lambda *_: plan
        with pytest.raises(DeviceMemoryError, match="Out of memory allocating"):
            backend.fit_logistic(problem, DENSE)

    @pytest.mark.parametrize(
        "error", [RuntimeError("cudaErrorIllegalAddress: illegal\nstack"), TypeError("no such option")]
    )
    def test_a_device_or_a_library_that_fails_gives_one_line(self, error):
        with pytest.raises(DeviceError, match="failed during a fit") as caught:
            CumlBackend(stand_in(during_fit=failing(error))).fit_logistic(logistic_problem(), FitOptions())
        assert not isinstance(caught.value, DeviceMemoryError)
        assert "\n" not in str(caught.value)

    def test_a_damaged_store_is_not_the_device_s_fault(self):
        def pieces():
            raise MemoryError("host")
            yield

        problem = replace(with_dense_rows(logistic_problem(class_weight="none")), dense_rows=pieces)
        with pytest.raises(MemoryError, match="host") as caught:
            CumlBackend(stand_in()).fit_logistic(problem, DENSE)
        assert not isinstance(caught.value, DeviceError)


class TestAvailability:
    def found(self, monkeypatch, visible=None, **library):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        return CumlBackend(stand_in(**library)).availability()

    def test_no_gpu(self, monkeypatch):
        found = self.found(monkeypatch, gpu=False)
        assert (found.available, found.version) == (False, "26.10")
        assert "no usable NVIDIA GPU" in found.reason

    @pytest.mark.parametrize("visible", ["", "-1", " "])
    def test_every_gpu_is_hidden(self, monkeypatch, visible):
        found = self.found(monkeypatch, visible, gpu=False)
        assert f"CUDA_VISIBLE_DEVICES={visible!r} hides every GPU" in found.reason

    def test_a_number_of_no_gpu(self, monkeypatch):
        assert "no usable NVIDIA GPU" in self.found(monkeypatch, "7", gpu=False).reason

    def test_a_driver_too_old(self, monkeypatch):
        error = RuntimeError(
            "cudaErrorInsufficientDriver: CUDA driver version is insufficient\nfor CUDA runtime version"
        )
        found = self.found(monkeypatch, error=error)
        assert not found.available
        assert "driver is too old" in found.reason
        assert "580" in found.reason
        assert "535" in found.reason
        assert "\n" not in found.reason

    def test_a_driver_that_fails(self, monkeypatch):
        found = self.found(monkeypatch, error=RuntimeError("cudaErrorUnknown: unknown error"))
        assert not found.available
        assert "does not answer (RuntimeError: cudaErrorUnknown" in found.reason

    def test_not_installed(self):
        def missing(name):
            raise ModuleNotFoundError(f"No module named {name!r}")

        found = CumlBackend(missing).availability()
        assert not found.available
        assert "No module named 'cuml'" in found.reason
        assert "cuml-cu12" in found.install

    def test_an_import_that_asks_for_the_driver(self):
        def broken(name):
            raise RuntimeError("cudaErrorInsufficientDriver")

        assert "driver is too old" in CumlBackend(broken).availability().reason

    def test_names_the_device(self, monkeypatch):
        assert self.found(monkeypatch).device == "Stand-in GPU"
        assert (
            self.found(monkeypatch, n_devices=2).device == "Stand-in GPU (GPU 0 of 2, chosen by CUDA_VISIBLE_DEVICES)"
        )
