"""Exact codeword fits on a device of torch: the processor stands for it wherever there is no GPU."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from probes import logit_space
from probes.backends.exact import ExactBackend
from probes.backends.sklearn import SklearnBackend
from probes.class_blocks import inverse_blocks
from probes.errors import BackendError, WrongUsageError
from probes.feature_space import FeatureSpace
from probes.logit_space import LogitSpace
from probes.objective import softmax
from probes.options import ProbeOptions
from probes.problem import FitOptions
from probes.reduction import reduce_problem
from probes.runner import run_probes
from probes.shared_inverse import curvature_of
from probes.shared_space import SharedSpace
from probes.solver import Limits
from probes.spaces import solve
from probes.torch_blocks import ClassBlocks, SharedBlock, centred_inverse
from probes.torch_newton import _Newton, solve_on_device
from schemas.record import check_record
from tests.probes.problems import logistic_problem, with_dense_rows
from tests.probes.test_backends import TestExact as ExactSuite
from tests.probes.test_backends import TestSklearnCollapsed as SklearnSuite
from tests.support.command_line import run, run_well
from tests.support.stores import StoreRecipe, write_store

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
LIMITS = Limits(estimate=1e-12, bound=1e-9, max_iter=200)
WIDE = {"n_codes": 24, "dim": 40}  # fewer codes than dimensions: logits are the unknown


@pytest.fixture(params=DEVICES)
def device(request):
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    return torch.device(request.param)


@pytest.fixture
def processor_for_gpu(monkeypatch):
    """This machine's processor answers to the name cuda."""
    for module in ("probes.cores", "probes.backends.exact", "probes.backends.array_api", "probes.stacked.torch_pass"):
        monkeypatch.setattr(f"{module}.torch_device", lambda name: torch.device("cpu"))
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")


@pytest.mark.usefixtures("processor_for_gpu")
class TestExactOnDevice(ExactSuite):
    options = FitOptions(device="cuda")
    one_step = FitOptions(max_iter=1, device="cuda")


class TestExactUnweightedOnDevice(TestExactOnDevice):
    class_weight = "none"


@pytest.mark.usefixtures("processor_for_gpu")
class TestSklearnOnDevice(SklearnSuite):
    options = FitOptions(tol=1e-10, device="cuda")
    one_step = FitOptions(max_iter=1, device="cuda")


@pytest.mark.usefixtures("processor_for_gpu")
@pytest.mark.parametrize("class_weight", ["balanced", "none"])
def test_scikit_learn_takes_dense_rows_on_a_device(class_weight):
    problem = with_dense_rows(logistic_problem(n_frames=2_000, class_weight=class_weight))
    here, there = (FitOptions(tol=1e-8, rows="dense", device=name) for name in ("cpu", "cuda"))
    expected, found = (SklearnBackend().fit_logistic(problem, options) for options in (here, there))
    assert found.outcome == "converged"
    assert found.objective == pytest.approx(expected.objective, rel=1e-9)


@pytest.mark.gpu
def test_scikit_learn_on_a_real_gpu(monkeypatch):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")
    found, expected = (SklearnBackend().fit_logistic(logistic_problem(), FitOptions(device=d)) for d in ("cuda", "cpu"))
    assert found.objective == pytest.approx(expected.objective, rel=1e-7)


@pytest.mark.parametrize(
    "shape",
    [
        {"n_codes": 80, "dim": 10, "n_classes": 2},  # D < V
        {"n_codes": 80, "dim": 10, "n_classes": 5, "condition": 1e4},
        {"n_codes": 60, "dim": 60, "n_classes": 9, "condition": 1e3, "C": 1e2},  # D = V
        {"n_codes": 60, "dim": 60, "n_classes": 2, "unused": 0.5},
        {"n_codes": 60, "dim": 60, "n_classes": 9, "n_frames": 500},  # more cells than frames
        {"n_codes": 30, "dim": 30, "n_classes": 40, "n_frames": 10**6},
    ],
)
def test_the_optimum_is_the_processors_and_is_proved(shape, device):
    reduced = reduce_problem(logistic_problem(**shape))
    _, expected = solve(reduced, replace(LIMITS, max_iter=5000))
    space, found = solve_on_device(reduced, LIMITS, device)
    assert found.outcome == expected.outcome == "converged"
    assert space.name == ("feature" if shape["dim"] < 30 else "logit")
    assert found.n_iter < 40
    assert found.value == pytest.approx(expected.value, rel=2e-9)
    assert found.gap_estimate <= LIMITS.estimate * found.value


def test_codewords_of_lost_rank_go_to_the_features(device):
    problem = logistic_problem(n_codes=20, dim=30, n_classes=4)
    problem.codewords[7] = 0.5 * (problem.codewords[1] + problem.codewords[2])
    reduced = reduce_problem(problem)
    _, expected = solve(reduced, replace(LIMITS, max_iter=5000))
    space, found = solve_on_device(reduced, LIMITS, device)
    assert (space.name, found.outcome) == ("feature", "converged")
    assert found.value == pytest.approx(expected.value, rel=2e-9)


def test_the_inverse_that_the_penalty_is_made_of(device):
    X = reduce_problem(logistic_problem(**WIDE, condition=1e3)).codewords
    expected = logit_space.centred_inverse(X)
    np.testing.assert_allclose(centred_inverse(X, device), expected, rtol=1e-7, atol=1e-10 * np.abs(expected).max())
    for bad in (np.vstack([X, X[:2].mean(axis=0)]), np.full_like(X, np.inf)):
        with pytest.raises(np.linalg.LinAlgError, match="affinely dependent"):
            centred_inverse(bad, device)


@pytest.mark.parametrize("make", [LogitSpace, FeatureSpace])
def test_class_blocks_are_inverted(make, device):
    space = make(reduce_problem(logistic_problem(**WIDE, n_classes=4)))
    features, penalty = space.features_and_penalty
    probabilities, _ = softmax(space.logits(space.start()))
    curvature = space.problem.weights * probabilities * (1.0 - probabilities)
    there = [None if part is None else torch.from_numpy(part).to(device) for part in (features, penalty, curvature)]
    blocks = ClassBlocks(*there[:2])
    blocks.refresh(there[2])
    wanted = np.random.default_rng(0).standard_normal((len(penalty), 4))
    A = np.eye(len(penalty)) if features is None else features
    S = penalty if features is None else np.diag(penalty[:, 0])
    force = np.stack([(A.T * h) @ A @ w + S @ w for h, w in zip(curvature.T, wanted.T, strict=True)], axis=1)
    np.testing.assert_allclose(blocks(torch.from_numpy(force).to(device)).cpu().numpy(), wanted, rtol=1e-6, atol=1e-8)


def test_blocks_come_in_pieces_where_memory_is_short(monkeypatch):
    rng = np.random.default_rng(0)
    features, curvature = torch.from_numpy(rng.standard_normal((30, 6))), torch.from_numpy(rng.random((30, 7)))
    strength = torch.full((6, 1), 1e-3, dtype=torch.float64)
    monkeypatch.setattr("probes.torch_blocks._PIECE_BYTES", 3 * 8 * 30 * 6)
    blocks = ClassBlocks(features, strength)
    blocks.refresh(curvature)
    expected = inverse_blocks(features.numpy(), curvature.numpy(), strength[:, 0].numpy())
    np.testing.assert_allclose(blocks._inverses.numpy(), expected, rtol=1e-3, atol=1e-5 * np.abs(expected).max())


def test_a_block_that_rounding_has_spoiled_becomes_its_diagonal():
    features = torch.ones((5, 2), dtype=torch.float64)  # rank 1, and no penalty
    blocks = ClassBlocks(features, torch.full((2, 1), -1e-9, dtype=torch.float64))
    blocks.refresh(torch.ones((5, 1), dtype=torch.float64))
    image = blocks(torch.ones((2, 1), dtype=torch.float64))
    np.testing.assert_allclose(image.numpy(), 0.2, rtol=1e-6)


def test_the_shared_block_is_that_of_the_processor(device):
    space = SharedSpace(LogitSpace(reduce_problem(logistic_problem(**WIDE, n_classes=4))))
    probabilities, _ = softmax(space.start())
    space.refresh(probabilities)
    gradient = np.random.default_rng(0).standard_normal(probabilities.shape)
    gradient -= gradient.mean(axis=1, keepdims=True)
    block = SharedBlock(torch.from_numpy(space.features_and_penalty[1]).to(device))
    block.refresh(torch.from_numpy(curvature_of(space.problem.weights, probabilities)).to(device))
    image = block(torch.from_numpy(gradient).to(device)).cpu().numpy()
    image -= image.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(image, space.metric(probabilities)(gradient), rtol=1e-3, atol=1e-4 * np.abs(image).max())


def test_classes_that_are_alike_share_a_block():
    rng = np.random.default_rng(0)
    reduced = reduce_problem(replace(logistic_problem(**WIDE), counts=1000.0 + rng.integers(0, 300, (24, 6))))
    assert isinstance(_Newton(LogitSpace(reduced), LIMITS, torch.device("cpu"))._blocks, SharedBlock)
    _, found = solve_on_device(reduced, LIMITS, torch.device("cpu"))
    _, expected = solve(reduced, replace(LIMITS, max_iter=5000))
    assert found.value == pytest.approx(expected.value, rel=2e-9)


def test_where_newton_stalls_the_processor_begins_again(monkeypatch):
    monkeypatch.setattr(_Newton, "_step", lambda *_: None)
    reduced = reduce_problem(logistic_problem())
    _, found = solve_on_device(reduced, replace(LIMITS, max_iter=5000), torch.device("cpu"))
    _, expected = solve(reduced, replace(LIMITS, max_iter=5000))
    assert (found.outcome, found.value) == ("converged", expected.value)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "--device cpu: too little memory for the Hessian of this probe"),
        (RuntimeError("CUDA error: no such\nline"), r"--device cpu: failed \(CUDA error: no such\); "),
        (RuntimeError("cusolver error: 7"), r"--device cpu: failed \(cusolver error: 7\); "),
    ],
)
def test_a_device_that_fails_is_one_clear_error(monkeypatch, error, message):
    def fail(*_):
        raise error

    monkeypatch.setattr(ClassBlocks, "refresh", fail)
    with pytest.raises(BackendError, match=f"^{message}.* or use --device cpu$"):
        solve_on_device(reduce_problem(logistic_problem()), LIMITS, torch.device("cpu"))


def test_our_own_bugs_stay_what_they_are(monkeypatch):
    def fail(*_):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(ClassBlocks, "refresh", fail)
    with pytest.raises(RuntimeError, match="^shapes do not match$"):
        solve_on_device(reduce_problem(logistic_problem()), LIMITS, torch.device("cpu"))


@pytest.fixture(scope="module")
def store_path(tmp_path_factory):
    recipe = StoreRecipe(n_utterances=12, codecs=("alpha",), n_layers=2)
    return write_store(tmp_path_factory.mktemp("store") / "store.h5", recipe)


class TestRecords:
    @pytest.mark.usefixtures("processor_for_gpu")
    @pytest.mark.parametrize("backend", ["auto", "sklearn"])
    def test_they_say_where_a_probe_was_fitted(self, backend, store_path, tmp_path):
        asked = {"backend": backend, "layers": [2], "tol": 1e-9}
        found = run_probes([store_path], tmp_path / "a", ProbeOptions(**asked, device="cuda", n_workers=None))
        expected = run_probes([store_path], tmp_path / "b", ProbeOptions(**asked))
        there = f"cpu, torch {torch.__version__}"
        assert {record["task"]: record["device"] for record in found} == {
            "phoneme": there,
            "speaker": there,
            "pitch": "cpu",  # one factorisation
        }
        for record, theirs in zip(found, expected, strict=True):
            check_record(record)
            assert (record["outcome"], theirs["device"]) == ("converged", "cpu")
            assert record["probe_key"] == theirs["probe_key"]  # a rerun elsewhere has nothing to do
            assert record["objective"] == pytest.approx(theirs["objective"], rel=1e-6)

    @pytest.mark.usefixtures("processor_for_gpu")
    def test_the_command_fits_codewords_on_a_device(self, store_path, tmp_path):
        asked = ("probe", store_path, "--output", tmp_path, "--layer", "1", "--task", "speaker", "--device", "cuda")
        (record,) = json.loads(run_well(*asked, "--json").stdout)
        assert (record["outcome"], record["representation"]) == ("converged", "codeword")
        assert record["device"] == f"cpu, torch {torch.__version__}"
        assert record["gap_bound"] <= 1e-6 * record["objective"]

    def test_the_command_says_what_devices_there_are(self, store_path, tmp_path):
        ended = run("probe", store_path, "--output", tmp_path, "--device", "cuda:99")
        assert ended.error.startswith("--device cuda:99: torch ")
        assert (tmp_path / "records.jsonl").read_text() == ""

    def test_the_command_fits_by_scikit_learn_on_a_device(self, store_path, tmp_path):
        """SciPy has to be told before it is imported, which only a process of its own shows."""
        code = (
            "import sys, torch, featstore.torch_device as there\n"
            "there.torch_device = lambda name: torch.device('cpu')\n"
            "import cli\n"
            f"sys.argv = ['cli.py', 'probe', {str(store_path)!r}, '--output', {str(tmp_path)!r}, '--layer', '1',"
            " '--task', 'phoneme', '--backend', 'sklearn', '--device', 'cuda', '--json', '--quiet']\n"
            "try:\n    cli.main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
            "from scipy._lib._array_api import SCIPY_ARRAY_API\n"
            "assert SCIPY_ARRAY_API\n"
        )
        environment = {name: value for name, value in os.environ.items() if name != "SCIPY_ARRAY_API"}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        assert f'"device": "cpu, torch {torch.__version__}"' in done.stdout


def test_scipy_that_was_not_told_is_one_clear_error(processor_for_gpu, monkeypatch):
    monkeypatch.delenv("SCIPY_ARRAY_API")
    with pytest.raises(BackendError, match="^--device cuda: set SCIPY_ARRAY_API=1 before Python starts"):
        SklearnBackend().fit_logistic(logistic_problem(), FitOptions(device="cuda"))


def test_a_scikit_learn_that_takes_no_tensors_is_one_clear_error(processor_for_gpu, monkeypatch):
    monkeypatch.setattr("sklearn.utils.get_tags", lambda model: None)
    with pytest.raises(BackendError, match="^--device cuda: LogisticRegression of scikit-learn .* takes no tensors"):
        SklearnBackend().fit_logistic(logistic_problem(), FitOptions(device="cuda"))


@pytest.mark.parametrize("backend", [ExactBackend(), SklearnBackend()])
def test_a_device_that_is_not_there(backend):
    with pytest.raises(Exception, match="^--device cuda:99: torch .* sees only cpu"):
        backend.fit_logistic(logistic_problem(), FitOptions(device="cuda:99"))


@pytest.mark.parametrize("asked", [{}, {"backend": "sklearn", "representation": "concat"}])
def test_a_device_without_float64_is_refused(asked):
    with pytest.raises(WrongUsageError, match="^--device mps: has no float64"):
        ProbeOptions(device="mps", **asked)
