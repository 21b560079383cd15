"""Weights files: fetched whole or not at all, checked, and loaded without running what is in them."""

import copy
import hashlib
import os
import struct
import threading
import zipfile
import zlib
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

from featstore.codecs import weights
from featstore.codecs.torch_support import batch_on, build_seeded, codebooks_of, exact_float32, lower_precision
from featstore.errors import WeightsError

CONTENT = b"weights" * 300_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
NOWHERE = "http://127.0.0.1:9/weights.th"  # the discard port: nothing listens there


@pytest.fixture
def served():
    """A web server that gives CONTENT, or half of it under /half; yields its address and the list of paths asked."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT[: len(CONTENT) // 2] if self.path == "/half" else CONTENT)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_hash_runs_over_all_files_in_order(tmp_path):
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "b").write_bytes(b"two")
    assert weights.sha256_of(tmp_path / "a", tmp_path / "b") == hashlib.sha256(b"onetwo").hexdigest()
    with pytest.raises(WeightsError, match=r"absent.*No such file"):
        weights.sha256_of(tmp_path / "absent")


def test_fetch_downloads_once(served, tmp_path, capsys):
    address, asked = served
    path = tmp_path / "hub" / "checkpoints" / "weights.th"
    for _ in range(2):
        assert weights.fetch(f"{address}/weights.th", path, SHA256, "pass a file") == path
        assert path.read_bytes() == CONTENT
    assert asked == ["/weights.th"]
    assert list(path.parent.iterdir()) == [path]
    assert capsys.readouterr().err == ""


def test_a_wrong_download_leaves_nothing(served, tmp_path):
    address, _ = served
    path = tmp_path / "weights.th"
    with pytest.raises(WeightsError, match=f"/weights.th: expected SHA-256 {'0' * 64}, downloaded {SHA256}"):
        weights.fetch(f"{address}/weights.th", path, "0" * 64, "pass a file")
    with pytest.raises(WeightsError, match="/half"):
        weights.fetch(f"{address}/half", path, SHA256, "pass a file")
    assert list(tmp_path.iterdir()) == []


def test_without_a_network_the_message_says_what_to_do(tmp_path):
    path = tmp_path / "weights.th"
    with pytest.raises(WeightsError) as caught:
        weights.fetch(NOWHERE, path, SHA256, "put the file there by hand")
    message = str(caught.value)
    assert NOWHERE in message
    assert str(path) in message
    assert message.endswith("put the file there by hand")
    assert "\n" not in message
    assert list(tmp_path.iterdir()) == []


def test_a_cached_file_with_another_hash_is_refused_and_kept(tmp_path):
    path = tmp_path / "weights.th"
    path.write_bytes(b"half a download")
    with pytest.raises(WeightsError, match=rf"{path}.*expected SHA-256 {SHA256}, found .*delete it"):
        weights.fetch(NOWHERE, path, SHA256, "")
    assert path.read_bytes() == b"half a download"


class _Trap:
    """Unpickled the ordinary way, this makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_what_is_in_a_file_is_never_executed(tmp_path):
    torch.save({"weight": torch.zeros(2), "trap": _Trap(tmp_path / "sprung")}, tmp_path / "trap.th")
    with pytest.raises(WeightsError, match=r"trap\.th: expected a PyTorch state dict.*UnpicklingError") as caught:
        weights.read_state_dict(tmp_path / "trap.th")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "sprung").exists()
    torch.load(tmp_path / "trap.th", weights_only=False)
    assert (tmp_path / "sprung").exists(), "the trap itself must work, or this test shows nothing"


def test_files_that_are_no_state_dict(tmp_path):
    state = torch.nn.Linear(30, 40).state_dict()
    torch.save(state, tmp_path / "good.th")
    whole = (tmp_path / "good.th").read_bytes()
    (tmp_path / "cut.th").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.th").write_bytes(b"")
    (tmp_path / "text.th").write_text("version https://git-lfs.github.com/spec/v1\n")
    torch.save({"model": state, "epoch": 3}, tmp_path / "nested.th")
    torch.save([1, 2], tmp_path / "list.th")
    for name in ("cut", "empty", "text", "nested", "list", "absent"):
        with pytest.raises(WeightsError, match=rf"{name}\.th: ") as caught:
            weights.read_state_dict(tmp_path / f"{name}.th")
        assert "\n" not in str(caught.value)
    with pytest.raises(WeightsError, match=r"text\.th: is no PyTorch checkpoint but a file that begins with b'version"):
        weights.read_state_dict(tmp_path / "text.th")
    with pytest.raises(WeightsError, match=r"empty\.th: is no PyTorch checkpoint but an empty file"):
        weights.read_state_dict(tmp_path / "empty.th")
    torch.save(state, tmp_path / "old.th", _use_new_zipfile_serialization=False)
    assert weights.read_state_dict(tmp_path / "old.th").keys() == state.keys()
    with pytest.raises(WeightsError, match=r"entries model, epoch; save model\.state_dict\(\) alone"):
        weights.read_state_dict(tmp_path / "nested.th")
    assert weights.read_state_dict(tmp_path / "good.th").keys() == state.keys()


def test_weights_of_another_model_are_named_in_one_line():
    model = torch.nn.Sequential(*(torch.nn.Linear(3, 3) for _ in range(4)))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = {name: torch.zeros_like(tensor) for name, tensor in before.items()}
    state["0.weight"] = torch.zeros(3, 5)
    state["9.bias"] = state.pop("3.bias")
    with pytest.raises(WeightsError) as caught:
        weights.fill_model(model, state, Path("other.th"))
    assert str(caught.value) == (
        "other.th: weights of another model: 3 of 8 parameters differ: no 3.bias, unknown 9.bias, "
        "0.weight has shape (3, 5), expected (3, 3); check that file and codec belong together"
    )
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())
    with pytest.raises(WeightsError, match=r"8 of 8 parameters differ: .*, \.\.\.;"):
        weights.fill_model(model, {}, Path("other.th"))


def test_saved_bytes_depend_on_the_tensors_alone(tmp_path):
    state = build_seeded(lambda: torch.nn.Linear(30, 40), seed=3).state_dict()
    (tmp_path / "elsewhere").mkdir()
    paths = [tmp_path / "a.th", tmp_path / "elsewhere" / "another-name.pt"]
    for path in paths:
        weights.save_state_dict(state, path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.th", "elsewhere"]
    assert torch.equal(weights.read_state_dict(paths[1])["weight"], state["weight"])


def test_a_seeded_network_leaves_the_global_generator_alone():
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    first = build_seeded(lambda: torch.nn.Linear(4, 4), seed=5)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(first.weight, build_seeded(lambda: torch.nn.Linear(4, 4), seed=5).weight)
    assert not torch.equal(first.weight, build_seeded(lambda: torch.nn.Linear(4, 4), seed=6).weight)


def _float32_settings() -> tuple[bool, ...]:
    cudnn = torch.backends.cudnn
    return torch.backends.cuda.matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic


def _fail_in_exact_float32() -> None:
    with exact_float32():
        assert torch.is_inference_mode_enabled()
        assert _float32_settings() == (False, False, False, True)
        raise KeyError


def test_exact_float32_restores_the_settings(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    before = _float32_settings()
    with exact_float32(), lower_precision("tf32", torch.device("cpu")):
        assert _float32_settings() == (True, True, False, True)
    with exact_float32(), lower_precision("float32", torch.device("cpu")):
        assert _float32_settings() == (False, False, False, True)
    with pytest.raises(KeyError):
        _fail_in_exact_float32()
    assert _float32_settings() == before
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=pytest.mark.gpu), "cpu"])
def test_a_batch_is_padded_with_zeros(device):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA GPU")
    rng = np.random.default_rng(0)
    samples = [rng.standard_normal(n).astype(np.float32) for n in (3, 5, 1)]
    batch = batch_on(torch.device(device), samples, 6)
    assert batch.shape == (3, 1, 6)
    assert batch.dtype == torch.float32
    assert batch.device.type == device
    for row, item in zip(batch.cpu().numpy(), samples, strict=True):
        np.testing.assert_array_equal(row[0], np.pad(item, (0, 6 - item.size)))


class _Layer(torch.nn.Module):
    def __init__(self, embed: torch.Tensor) -> None:
        super().__init__()
        self._codebook = torch.nn.Module()
        self._codebook.register_buffer("embed", embed)


def test_codebooks_that_were_never_set_are_refused():
    good = torch.ones(4, 2)
    assert codebooks_of([_Layer(good), _Layer(good)], "x.th").shape == (2, 4, 2)
    with pytest.raises(WeightsError, match=r"x\.th: the codebook of layer 2 is all zero"):
        codebooks_of([_Layer(good), _Layer(torch.zeros(4, 2))], "x.th")
    with pytest.raises(WeightsError, match=r"x\.th: codebooks hold NaN"):
        codebooks_of([_Layer(good * float("nan"))], "x.th")


# Hostile files


def refusal_of(path):
    with pytest.raises(WeightsError) as caught:
        weights.read_state_dict(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert message.isprintable()
    assert len(message) < 1000
    return message


def rewritten(source, target, change, **options):
    """Write a torch archive anew, each member's bytes as `change` returns them."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", **options) as new:
        for member in old.infolist():
            new.writestr(member.filename, change(member.filename, old.read(member)))
    return target


def test_an_archive_that_unpacks_to_more_than_itself_is_refused_before_it_is_loaded(tmp_path, monkeypatch):
    torch.save({"weight": torch.zeros(10_000_000)}, tmp_path / "plain.th")
    bomb = rewritten(
        tmp_path / "plain.th", tmp_path / "bomb.th", lambda _, data: data, compression=zipfile.ZIP_DEFLATED
    )
    assert bomb.stat().st_size < 100_000
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("loaded"))
    assert "an archive of" in refusal_of(bomb)
    assert "bytes that unpacks to 4000" in refusal_of(bomb)
    monkeypatch.setattr(weights, "MAX_BYTES", 10**7)
    assert "at most 10000000 bytes, found 4000" in refusal_of(tmp_path / "plain.th")


def test_members_that_share_their_bytes_are_refused(tmp_path):
    """Each entry of the directory points at the same bytes: a bomb without compression."""
    torch.save({"weight": torch.zeros(1000)}, tmp_path / "a.th")
    with zipfile.ZipFile(tmp_path / "a.th", "a") as archive:
        largest = max(archive.infolist(), key=lambda member: member.file_size)
        for index in range(50):
            twin = copy.copy(largest)
            twin.filename = twin.orig_filename = f"twin{index}"
            archive.filelist.append(twin)
        archive._didModify = True
    assert "that unpacks to" in refusal_of(tmp_path / "a.th")


def test_any_damage_to_a_checkpoint_is_a_weights_error(tmp_path):
    torch.save(torch.nn.Linear(3, 4).state_dict(), tmp_path / "new.th")
    torch.save(torch.nn.Linear(3, 4).state_dict(), tmp_path / "old.th", _use_new_zipfile_serialization=False)
    rng = np.random.default_rng(0)
    messages = []
    for name in ("new.th", "old.th"):
        content = (tmp_path / name).read_bytes()
        for _ in range(150):
            damaged = bytearray(content)
            for at in rng.integers(len(content), size=3):
                damaged[at] = rng.integers(256)
            (tmp_path / "damaged.th").write_bytes(damaged)
            try:
                weights.read_state_dict(tmp_path / "damaged.th")
            except WeightsError as error:
                messages.append(str(error))
    assert len(messages) > 50
    assert all(message.isprintable() for message in messages)


def test_any_exception_of_torchs_reader_is_a_weights_error(tmp_path, monkeypatch):
    torch.save({"weight": torch.zeros(2)}, tmp_path / "a.th")
    for kind in (MemoryError, RecursionError, OverflowError, struct.error, zlib.error, NotImplementedError, IndexError):

        def fail(*_, kind=kind, **__):
            raise kind("first line\nsecond line")

        monkeypatch.setattr(torch, "load", fail)
        assert f"{kind.__name__}: first line; use" in refusal_of(tmp_path / "a.th")


def test_tensors_that_are_no_plain_numbers_are_refused(tmp_path):
    odd = {
        "sparse": torch.eye(3).to_sparse(),
        "meta": torch.zeros(10**6, device="meta"),
        "complex": torch.zeros(2, dtype=torch.complex64),
    }
    for name, tensor in odd.items():
        torch.save({"good": torch.zeros(2), name: tensor}, tmp_path / f"{name}.th")
        refusal_of(tmp_path / f"{name}.th")
    torch.save({1: torch.zeros(2)}, tmp_path / "number.th")
    assert "found 1, which is none" in refusal_of(tmp_path / "number.th")


def test_names_in_a_checkpoint_are_printable_and_short(tmp_path):
    torch.save({"\x1b[31m\n" + "x" * 10_000: torch.zeros(2), "b": 3}, tmp_path / "a.th")
    assert r"\x1b[31m\n" in refusal_of(tmp_path / "a.th")
    with pytest.raises(WeightsError) as caught:
        weights.fill_model(torch.nn.Linear(2, 2), {"\x1b\n" + "x" * 10_000: torch.zeros(2)}, Path("a.th"))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 700


def test_weights_with_nan_are_refused_and_the_model_is_unchanged():
    model = torch.nn.Linear(3, 3)
    before = model.weight.clone()
    with pytest.raises(WeightsError, match=r"a\.th: bias holds NaN or infinity"):
        weights.fill_model(model, {"weight": torch.zeros(3, 3), "bias": torch.tensor([0, 0, torch.nan])}, Path("a.th"))
    assert torch.equal(model.weight, before)


def test_special_and_giant_files_are_refused_and_never_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe.th")
    with (tmp_path / "giant.th").open("wb") as file:
        file.truncate(2**42)
    for read in (weights.read_state_dict, weights.sha256_of):
        with pytest.raises(WeightsError, match=r"pipe\.th: expected a weights file, found a named pipe"):
            read(tmp_path / "pipe.th")
        with pytest.raises(WeightsError, match=r"giant\.th: expected a weights file of at most 4294967296 bytes"):
            read(tmp_path / "giant.th")


def test_a_download_without_end_is_ended(served, tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "MAX_BYTES", 1000)
    with pytest.raises(WeightsError, match="no end after 1000 bytes"):
        weights.fetch(f"{served[0]}/weights.th", tmp_path / "weights.th", SHA256, "pass a file")
    assert list(tmp_path.iterdir()) == []
