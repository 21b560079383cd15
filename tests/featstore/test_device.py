"""The device that encodes: one clear line where the one asked for is not there, is hidden, too old, full or busy."""

import warnings

import pytest
import torch

from featstore.codecs.device import choose_device, describe_device
from featstore.errors import FeatstoreError
from featstore.torch_device import torch_device, try_device
from tests.support.command_line import corpus_options, run

TOO_OLD = (
    "CUDA initialization: The NVIDIA driver on your system is too old (found version 11040). Please update your GPU "
    "driver"
)


@pytest.fixture(autouse=True)
def without_mps(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.fixture
def gpus(monkeypatch):
    """Pretend that there are `n` GPUs, of which CUDA can use all or none."""

    def pretend(n, usable=True, warning=None):
        def is_available():
            if warning:
                warnings.warn(warning, UserWarning, stacklevel=1)
            return usable and n > 0

        monkeypatch.setattr(torch.cuda, "device_count", lambda: n)
        monkeypatch.setattr(torch.cuda, "is_available", is_available)

    return pretend


@pytest.fixture
def broken(monkeypatch):
    """Let nothing be computed on a GPU, for a reason."""

    def fail(reason):
        def ones(*_, device):
            raise RuntimeError(reason)

        monkeypatch.setattr(torch, "ones", ones)

    return fail


def test_devices_by_name(gpus):
    assert torch_device("cpu") == torch.device("cpu")
    gpus(0)
    for name in ("cuda", "cuda:0", "warp"):
        with pytest.raises(FeatstoreError, match=rf"--device {name}: torch .* sees only cpu; use one of these"):
            torch_device(name)
    gpus(2)
    assert torch_device("cuda") == torch.device("cuda:0")
    assert torch_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(FeatstoreError, match="--device cuda:2: torch .* sees only cpu, cuda:0, cuda:1; use one"):
        torch_device("cuda:2")


def test_gpus_that_are_hidden_are_told(gpus, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    gpus(0)
    with pytest.raises(FeatstoreError, match=r"sees only cpu \(CUDA_VISIBLE_DEVICES is ''\); use one of these"):
        torch_device("cuda")


def test_a_driver_too_old_is_told_in_one_line_and_warns_of_nothing(gpus):
    gpus(1, usable=False, warning=TOO_OLD)  # its management library counts the GPU all the same
    with pytest.raises(
        FeatstoreError, match=r"sees only cpu \(CUDA initialization: The NVIDIA driver .* too old"
    ) as info:
        torch_device("cuda")
    assert "\n" not in str(info.value)


def test_a_gpu_that_does_not_compute_is_told(gpus, broken):
    gpus(1)
    broken("CUDA error: all CUDA-capable devices are busy or unavailable\nCUDA kernel errors might be ...")
    with pytest.raises(
        FeatstoreError, match=r"^--device cuda:0: it is there, but does not compute \(CUDA .*unavailable\);"
    ):
        choose_device("cuda")


@pytest.mark.parametrize("is_broken", [True, False])
def test_auto_takes_the_cpu_where_no_gpu_works_and_says_so_once(gpus, broken, caplog, is_broken):
    gpus(1, usable=is_broken, warning=None if is_broken else TOO_OLD)
    if is_broken:
        broken("CUDA out of memory")
    assert choose_device("auto") == "cpu"
    (record,) = caplog.records
    assert record.message.startswith("note: encoding on the CPU, as no GPU can be used: --device cuda")


def test_auto_says_what_torch_warns_of_and_nothing_where_there_is_no_gpu(gpus, caplog, monkeypatch):
    gpus(0)
    assert choose_device("auto") == "cpu"
    assert not caplog.records
    monkeypatch.setattr(torch.cuda, "device_count", lambda: warnings.warn(TOO_OLD, UserWarning, stacklevel=1) or 0)
    assert choose_device("auto") == "cpu"
    assert [record.message for record in caplog.records] == [
        f"note: encoding on the CPU, as no GPU can be used: {TOO_OLD}"
    ]


def test_auto_takes_a_gpu_that_works(gpus, monkeypatch):
    gpus(2)
    tried = []
    monkeypatch.setattr("featstore.codecs.device.try_device", tried.append)
    assert choose_device("auto") == "cuda"
    assert choose_device("cuda:1") == "cuda:1"
    assert tried == [torch.device("cuda:0"), torch.device("cuda:1")]


def test_the_cpu_computes():
    try_device(torch.device("cpu"))
    assert describe_device("cpu").startswith("cpu, ")


def test_a_build_on_a_gpu_that_is_not_there_keeps_its_shards(tiny_corpus, melrvq_weights, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    arguments = [*corpus_options(tiny_corpus), "--weights", f"melrvq={melrvq_weights}", "--codec", "melrvq"]
    arguments += ["--eval-frac", "0.25", "--output", str(tmp_path / "store.h5"), "--shard", "1/2"]
    assert run("build-store", *arguments, "--device", "cpu").exit_code == 0
    (shard,) = (tmp_path / "store.h5.shards").glob("*.h5")
    before = shard.read_bytes()
    ended = run("build-store", *arguments, "--device", "cuda")
    assert ended.exit_code == 1
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert line.startswith("Error: --device cuda: torch")
    assert "CUDA_VISIBLE_DEVICES is ''" in line
    assert shard.read_bytes() == before
