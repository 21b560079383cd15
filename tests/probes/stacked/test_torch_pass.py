import numpy as np
import pytest

from featstore.errors import FeatstoreError
from featstore.torch_device import torch_device
from probes.errors import BackendError
from probes.problem import FitOptions
from probes.stacked import torch_pass
from probes.stacked.logistic import fit_stacked_logistic
from probes.stacked.passes import BlockPass, make_pass
from probes.stacked.torch_pass import TorchPass
from tests.probes.stacked.problems import stacked_problem


def device_or_skip(device):
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    return device


DEVICES = [pytest.param("cuda", marks=pytest.mark.gpu), "cpu"]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("has_double", [True, False])
@pytest.mark.parametrize("representation", ["cumulative", "concat"])
@pytest.mark.parametrize("precise", [True, False])
def test_the_pass_is_that_of_numpy(device, has_double, representation, precise, monkeypatch):
    monkeypatch.setattr(torch_pass, "_BLOCK_CELLS", 3000)  # several blocks
    problem = stacked_problem(20, representation)
    unknown, direction = np.random.default_rng(0).standard_normal((2, problem.stack.dim + 1, problem.n_classes))
    frame_pass = TorchPass(problem, device_or_skip(device), has_double)
    found = frame_pass.loss(unknown, precise)
    expected = BlockPass(problem).loss(unknown, precise=True)
    tolerance = 1e-12 if precise else 5e-6
    assert found.value == pytest.approx(expected.value, rel=tolerance)
    np.testing.assert_allclose(found.gradient, expected.gradient, atol=tolerance)
    np.testing.assert_allclose(found.curvature, expected.curvature, atol=tolerance)
    if precise:
        np.testing.assert_allclose(found.products, expected.products, atol=tolerance)
    else:
        assert found.products is None
    image = frame_pass.curved(unknown, direction)
    np.testing.assert_allclose(image, BlockPass(problem).curved(unknown, direction), atol=5e-6)


@pytest.mark.parametrize("has_double", [True, False])
def test_sums_over_blocks_do_not_lose_what_single_precision_would(monkeypatch, has_double):
    """Ten thousand blocks' shares of one code, which a sum in single precision gets wrong by 9e-5."""
    n_frames = 20_000
    problem = stacked_problem(23, "concat", n_frames=n_frames, n_layers=2, n_classes=2, class_weight="none")
    problem.codes[:] = 3
    problem.y[:] = np.arange(n_frames) % 2
    monkeypatch.setattr(torch_pass, "_BLOCK_CELLS", 8)  # two frames a block
    unknown = np.zeros((problem.stack.dim + 1, 2))
    unknown[-1] = 0.5, -0.5
    found = TorchPass(problem, "cpu", has_double).loss(unknown, precise=False)
    expected = BlockPass(problem).loss(unknown, precise=True)
    np.testing.assert_allclose(found.gradient, expected.gradient, rtol=1e-6)
    np.testing.assert_allclose(found.curvature, expected.curvature, rtol=1e-6)


@pytest.mark.gpu
@pytest.mark.parametrize("representation", ["cumulative", "concat"])
def test_a_fit_on_the_gpu_is_that_on_the_cpu(representation):
    problem = stacked_problem(21, representation, n_frames=5000)
    device = device_or_skip("cuda")
    found, expected = (fit_stacked_logistic(problem, FitOptions(tol=1e-10), device=d) for d in (device, "cpu"))
    assert found.outcome == "converged"
    assert found.objective == pytest.approx(expected.objective, rel=1e-9)
    np.testing.assert_allclose(found.coef, expected.coef, atol=1e-4)


@pytest.mark.parametrize("has_double", [True, False])
def test_a_fit_through_torch_is_that_of_numpy(monkeypatch, has_double):
    problem = stacked_problem(21, "concat", n_frames=3000)
    expected = fit_stacked_logistic(problem, FitOptions(tol=1e-10))
    monkeypatch.setattr(
        "probes.stacked.logistic.make_pass", lambda problem, n_threads, device: TorchPass(problem, "cpu", has_double)
    )
    found = fit_stacked_logistic(problem, FitOptions(tol=1e-10))
    assert found.outcome == "converged"
    assert found.objective == pytest.approx(expected.objective, rel=1e-9)
    np.testing.assert_allclose(found.coef, expected.coef, atol=1e-4)


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "mps"])
def test_a_device_that_is_not_there_is_told_with_those_that_are(monkeypatch, device):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(FeatstoreError, match=rf"^--device {device}: torch \S+ sees only cpu; use one of these"):
        make_pass(stacked_problem(), device=device)


def test_a_second_gpu_that_is_not_there_is_told(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert torch_device("cuda") == torch.device("cuda:0")
    with pytest.raises(FeatstoreError, match="sees only cpu, cuda:0"):
        torch_device("cuda:1")


def test_without_torch_a_device_says_how_to_go_on(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)  # importing it fails
    with pytest.raises(FeatstoreError, match="--device cuda needs torch, .* install it, or use --device cpu"):
        torch_device("cuda")


def test_too_little_memory_on_a_device_is_told_with_the_way_out(monkeypatch):
    import torch

    frame_pass = TorchPass(stacked_problem(), "cpu")

    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(frame_pass, "_spread", fail)
    unknown = np.zeros((frame_pass._problem.stack.dim + 1, frame_pass._problem.n_classes))
    for work in (lambda: frame_pass.loss(unknown, precise=False), lambda: frame_pass.curved(unknown, unknown)):
        with pytest.raises(BackendError, match="--device cpu: too little memory .* --max-train-frames"):
            work()
