import numpy as np
import pytest

from probes.errors import BackendError
from probes.problem import FitOptions
from probes.stacked import torch_pass
from probes.stacked.logistic import fit_stacked_logistic
from probes.stacked.passes import BlockPass
from probes.stacked.torch_pass import TorchPass
from tests.probes.stacked.problems import stacked_problem


def device_or_skip(device):
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    return device


DEVICES = [pytest.param("cuda", marks=pytest.mark.gpu), "cpu"]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("representation", ["cumulative", "concat"])
@pytest.mark.parametrize("precise", [True, False])
def test_the_pass_is_that_of_numpy(device, representation, precise, monkeypatch):
    monkeypatch.setattr(torch_pass, "_BLOCK_CELLS", 3000)  # several blocks
    problem = stacked_problem(20, representation)
    unknown = np.random.default_rng(0).standard_normal((problem.stack.dim + 1, problem.n_classes))
    found = TorchPass(problem, device_or_skip(device)).loss(unknown, precise)
    expected = BlockPass(problem).loss(unknown, precise=True)
    tolerance = 1e-12 if precise else 5e-6
    assert found.value == pytest.approx(expected.value, rel=tolerance)
    np.testing.assert_allclose(found.gradient, expected.gradient, atol=tolerance)
    np.testing.assert_allclose(found.curvature, expected.curvature, atol=tolerance)
    if precise:
        np.testing.assert_allclose(found.products, expected.products, atol=tolerance)
    else:
        assert found.products is None


@pytest.mark.gpu
@pytest.mark.parametrize("representation", ["cumulative", "concat"])
def test_a_fit_on_the_gpu_is_that_on_the_cpu(representation):
    problem = stacked_problem(21, representation, n_frames=5000)
    device = device_or_skip("cuda")
    found, expected = (fit_stacked_logistic(problem, FitOptions(tol=1e-10), device=d) for d in (device, "cpu"))
    assert found.outcome == "converged"
    assert found.objective == pytest.approx(expected.objective, rel=1e-9)
    np.testing.assert_allclose(found.coef, expected.coef, atol=1e-4)


def test_a_device_that_is_not_there_is_told(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BackendError, match="finds no usable GPU; use the CPU"):
        fit_stacked_logistic(stacked_problem(), FitOptions(), device="cuda")
