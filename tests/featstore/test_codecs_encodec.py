"""EnCodec: the library's own codes, exactly, from checkpoints in its hub's format."""

import warnings
import weakref

import encodec.model
import numpy as np
import pytest
import soundfile
import torch

from featstore.audio import resample
from featstore.codecs import encodec as our_encodec
from featstore.codecs import weights
from featstore.codecs.base import Checkpoint
from featstore.errors import DeviceMemoryError, FeatstoreError, StoreError, UtteranceError, WeightsError
from tests.support.codec_contract import CodecContract, tones
from tests.support.near_ties import NEAR_TIE, tie_margins

RATE, HOP = 24_000, 320


def _audio(n_utterances: int = 4, n_samples: int = 90_000) -> list[np.ndarray]:
    return [tones(n_samples, RATE, seed) for seed in range(n_utterances)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return our_encodec.make_untrained(_audio(), 0, tmp_path_factory.mktemp("encodec"))


@pytest.fixture(scope="module")
def codec(checkpoint):
    return our_encodec.load(checkpoint, "cpu")


@pytest.fixture(scope="module")
def family():
    return our_encodec.FAMILY


@pytest.fixture(scope="module")
def library_model(checkpoint):
    """The model as the library's user would have it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = encodec.model.EncodecModel.encodec_model_24khz(pretrained=False)
    model.load_state_dict(torch.load(checkpoint.path, weights_only=True))
    model.set_target_bandwidth(6.0)
    return model


def _library_codes(model, samples: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        ((codes, scale),) = model.encode(torch.from_numpy(samples)[None, None])
    assert scale is None
    return codes[0].numpy()


class TestContract(CodecContract):
    pass


def _check_against_library(codec, model, samples):
    n_whole = samples.size // HOP
    padded = np.pad(samples, (0, -samples.size % HOP))
    codes = codec.encode(samples)
    np.testing.assert_array_equal(codes, _library_codes(model, padded))
    np.testing.assert_array_equal(codes[:, :n_whole], _library_codes(model, samples)[:, :n_whole])
    return codes


@pytest.mark.parametrize("n_samples", [40 * HOP, 40 * HOP + 1, 40 * HOP + 319, 24_000])
def test_codes_equal_the_librarys(codec, library_model, n_samples):
    codes = _check_against_library(codec, library_model, tones(n_samples, RATE, seed=9))
    assert len(np.unique(codes[0])) > 5, "an encoder that says one thing would agree with anything"


def test_codes_of_real_speech_equal_the_librarys(codec, library_model, shared_data):
    paths = sorted(shared_data.glob("LibriSpeech/train-clean-100/*/*/*.flac"), key=lambda path: path.stat().st_size)
    speech, rate = soundfile.read(paths[0], dtype="float32")
    _check_against_library(codec, library_model, resample(speech, rate, RATE))


@pytest.mark.parametrize("n_samples", [40 * HOP, 40 * HOP + 1])
def test_latents_are_what_the_librarys_encoder_gives(codec, library_model, n_samples):
    samples = tones(n_samples, RATE, seed=9)
    codes, latents = codec.encode_with_latents(samples)
    with torch.no_grad():
        output = library_model.encoder(torch.from_numpy(np.pad(samples, (0, -n_samples % HOP)))[None, None])
    assert latents.shape == (codes.shape[1], 128)
    np.testing.assert_array_equal(latents, output[0].T.numpy())


def _speech(shared_data, n):
    """Return the shortest recordings of different speakers, at 24 kHz."""
    paths = sorted(shared_data.glob("LibriSpeech/train-clean-100/*/*/*.flac"), key=lambda path: path.stat().st_size)
    return [resample(*soundfile.read(path, dtype="float32"), RATE) for path in paths[: 3 * n : 3]]


def test_a_batch_of_real_speech_has_the_codes_of_one_at_a_time_but_for_near_ties(codec, shared_data):
    speech = _speech(shared_data, 6)
    assert len({item.size for item in speech}) > 4
    margins = []
    for item, codes in zip(speech, codec.encode_batch(speech), strict=True):
        expected, latents = codec.encode_with_latents(item)
        margins.append(tie_margins(latents, expected, codes, codec.codebooks))
        # Of untrained codewords the next nearest is often within rounding; in trained ones that is rare.
        assert (codes == expected).mean() > 0.5
    assert np.concatenate(margins).max(initial=0) < NEAR_TIE


def test_latents_in_a_batch_are_those_of_one_at_a_time_but_for_rounding(codec):
    """What the codes of a frame depend on, without the ties."""
    samples = [tones(n * HOP, RATE, n) for n in (7, 40, 130, 300)]
    _, together = codec._encode(samples)
    for item, found in zip(samples, together, strict=True):
        _, expected = codec.encode_with_latents(item)
        np.testing.assert_allclose(
            found.T.numpy()[: len(expected)], expected, rtol=0, atol=2e-5 * np.sqrt(np.square(expected).mean())
        )


def test_an_utterance_too_short_to_be_padded_goes_alone(codec, monkeypatch):
    """A beginning of up to six frames is padded with a reflection of what follows: in a batch, of other zeros."""
    lengths = []
    encode = codec._encode
    monkeypatch.setattr(codec, "_encode", lambda samples: lengths.append([i.size for i in samples]) or encode(samples))
    batch = [tones(n * HOP, RATE, n) for n in (6, 40, 7)]
    codes = codec.encode_batch(batch)
    assert sorted(lengths) == [[6 * HOP], [40 * HOP, 7 * HOP]]
    alone, latents = codec.encode_with_latents(batch[0])
    np.testing.assert_array_equal(codes[0], alone)
    (_, in_batch), _ = encode([batch[1], batch[0]])
    assert tie_margins(latents, alone, in_batch, codec.codebooks).max(initial=0) > NEAR_TIE, "the rule is needed"


def test_too_little_memory_is_told_and_leaves_nothing_behind(codec, monkeypatch):
    kept = []

    def full(batch):
        activations = batch + 1
        kept.append(weakref.ref(activations))
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nMore advice")

    monkeypatch.setattr(codec.model.encoder, "forward", full)
    samples = tones(40 * HOP, RATE, 1)
    with pytest.raises(DeviceMemoryError, match=r"^cpu: too little memory \(OutOfMemoryError: CUDA .* 20\.00 GiB\.\)$"):
        codec.encode_batch([samples, samples])
    assert kept[0]() is None
    for message in ("MPS backend out of memory", "cuDNN error: CUDNN_STATUS_ALLOC_FAILED"):
        monkeypatch.setattr(codec.model.encoder, "forward", _raising(RuntimeError(message)))
        with pytest.raises(DeviceMemoryError):
            codec.encode(samples)
    monkeypatch.setattr(codec.model.encoder, "forward", _raising(RuntimeError("CUDA error: launch failure")))
    with pytest.raises(StoreError, match=r"^cpu failed \(RuntimeError: CUDA error: launch failure\); finished shards"):
        codec.encode(samples)
    monkeypatch.setattr(codec.model.encoder, "forward", _raising(RuntimeError("a fault of ours")))
    with pytest.raises(RuntimeError, match="a fault of ours"):
        codec.encode(samples)


def _raising(error):
    def raise_it(*_):
        raise error

    return raise_it


def test_bfloat16_changes_latents_a_little_and_the_search_not_at_all(codec, monkeypatch):
    samples = tones(60 * HOP, RATE, 8)
    expected, latents = codec.encode_with_latents(samples)
    monkeypatch.setattr(codec, "precision", "bf16")
    codes, found = codec.encode_with_latents(samples)
    assert found.dtype == np.float32
    error = np.linalg.norm(found - latents) / np.linalg.norm(latents)
    assert 1e-4 < error < 3e-2  # one rounding to 7 bits is 2e-3
    with torch.inference_mode():
        again = codec._quantise(torch.from_numpy(found.T[None].copy()))[:, 0].numpy()
    np.testing.assert_array_equal(codes, again)
    assert (codes != expected).any()
    monkeypatch.setattr(codec, "precision", "float32")
    np.testing.assert_array_equal(codec.encode(samples), expected)


def test_latents_that_overflow_in_bfloat16_are_told(codec, monkeypatch):
    samples = tones(40 * HOP, RATE, 8)
    monkeypatch.setattr(codec, "precision", "bf16")
    forward = codec.model.encoder.forward
    monkeypatch.setattr(codec.model.encoder, "forward", lambda batch: forward(batch) * float("inf"))
    with pytest.raises(UtteranceError, match="the encoder's output overflows in bf16; leave --precision out"):
        codec.encode(samples)


@pytest.mark.gpu
@pytest.mark.parametrize("is_batched", [False, True])
def test_codes_on_the_gpu_are_those_on_the_cpu_but_for_near_ties(codec, checkpoint, is_batched):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU")
    on_gpu = our_encodec.load(checkpoint, "cuda")
    samples = [tones(n * HOP, RATE, n) for n in (20, 75, 300, 750)]
    found = on_gpu.encode_batch(samples) if is_batched else [on_gpu.encode(item) for item in samples]
    for item, codes in zip(samples, found, strict=True):
        expected, latents = codec.encode_with_latents(item)
        # Kernels of another library: some roundings more in each of the encoder's sums.
        assert tie_margins(latents, expected, codes, codec.codebooks).max(initial=0) < 10 * NEAR_TIE


def test_codebook_rows_add_up_to_the_quantisers_decode(codec, library_model):
    codes = codec.encode(tones(24_000, RATE, seed=4))
    summed = sum(codec.codebooks[layer][codes[layer]] for layer in range(8))
    decoded = library_model.quantizer.decode(torch.from_numpy(codes.astype(np.int64))[:, None])
    np.testing.assert_allclose(summed, decoded[0].T.detach().numpy(), rtol=1e-6, atol=1e-7)


def test_untrained_checkpoint_has_the_hub_files_form_and_the_same_bytes_again(checkpoint, codec, tmp_path):
    assert checkpoint.weights == "untrained"
    assert checkpoint.path.name == "encodec-untrained.th"
    assert list(checkpoint.path.parent.iterdir()) == [checkpoint.path]
    state = weights.read_state_dict(checkpoint.path)
    assert all(state[f"quantizer.vq.layers.{layer}._codebook.inited"] == 1 for layer in range(8))
    assert "quantizer.vq.layers.31._codebook.embed" in state
    torch.manual_seed(99)  # nothing global may matter
    again = our_encodec.make_untrained(_audio(), 0, tmp_path)
    assert weights.sha256_of(again.path) == codec.weights_sha256 == weights.sha256_of(checkpoint.path)
    other = our_encodec.make_untrained(_audio(1), 1, tmp_path)
    assert weights.sha256_of(other.path) != codec.weights_sha256


def test_weights_kind_is_kept(checkpoint):
    named = our_encodec.load(Checkpoint(checkpoint.path, "checkpoint"), "cpu")
    assert named.weights == "checkpoint"


def test_pretrained_comes_from_the_librarys_address_into_torchs_cache(checkpoint, tmp_path, monkeypatch):
    served, home = tmp_path / "served", tmp_path / "home"
    served.mkdir()
    (served / our_encodec.CHECKPOINT_NAME).symlink_to(checkpoint.path)
    monkeypatch.setenv("TORCH_HOME", str(home))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setattr(encodec.model, "ROOT_URL", served.as_uri() + "/")
    with pytest.raises(WeightsError, match=f"expected SHA-256 {our_encodec.CHECKPOINT_SHA256}"):
        our_encodec.fetch_pretrained()
    monkeypatch.setattr(our_encodec, "CHECKPOINT_SHA256", weights.sha256_of(checkpoint.path))
    fetched = our_encodec.fetch_pretrained()
    assert fetched == Checkpoint(home / "hub" / "checkpoints" / our_encodec.CHECKPOINT_NAME, "pretrained")
    codec = our_encodec.load(fetched, "cpu")
    assert codec.weights == "pretrained"

    monkeypatch.setattr(encodec.model, "ROOT_URL", "http://127.0.0.1:9/")
    assert our_encodec.fetch_pretrained() == fetched
    fetched.path.unlink()
    with pytest.raises(WeightsError, match=r"http://127\.0\.0\.1:9/encodec_24khz.*--encodec-ckpt FILE.*untrained"):
        our_encodec.fetch_pretrained()


def test_the_known_hash_is_the_one_in_the_librarys_file_name():
    assert our_encodec.CHECKPOINT_SHA256.startswith(our_encodec.CHECKPOINT_NAME.removesuffix(".th").split("-")[1])


def test_checkpoints_that_do_not_fit(checkpoint, tmp_path):
    state = weights.read_state_dict(checkpoint.path)
    del state["encoder.model.0.conv.conv.bias"]
    weights.save_state_dict(state, tmp_path / "short.th")
    with pytest.raises(WeightsError, match=r"1 of \d+ parameters differ: no encoder\.model\.0\.conv\.conv\.bias"):
        our_encodec.load(Checkpoint(tmp_path / "short.th", "checkpoint"), "cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        never_trained = encodec.model.EncodecModel.encodec_model_24khz(pretrained=False).state_dict()
    weights.save_state_dict(never_trained, tmp_path / "zero.th")
    with pytest.raises(WeightsError, match="layer 1 is all zero"):
        our_encodec.load(Checkpoint(tmp_path / "zero.th", "checkpoint"), "cpu")
    with pytest.raises(FeatstoreError, match="--device warp"):
        our_encodec.load(checkpoint, "warp")


def test_no_audio_to_fit_on(tmp_path):
    with pytest.raises(FeatstoreError, match="at least one utterance"):
        our_encodec.make_untrained([], 0, tmp_path)
