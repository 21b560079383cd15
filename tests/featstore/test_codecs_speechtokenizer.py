"""SpeechTokenizer: the library's own codes, exactly; configuration honoured; files checked before they are trusted."""

import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch

from featstore.codecs import speechtokenizer as ours
from featstore.codecs import torch_support, weights
from featstore.codecs.base import Checkpoint, LatentCodec, n_frames_of
from featstore.errors import UtteranceError, WeightsError
from tests.support.codec_contract import CodecContract, tones
from tests.support.near_ties import NEAR_TIE, tie_margins

# The released architecture made narrow, with another clock and other sizes: 12 kHz, hop 120, 3 layers of 64 entries.
SMALL = ours.RELEASED_CONFIG | {
    "n_filters": 4,
    "strides": [5, 4, 3, 2],
    "dimension": 24,
    "semantic_dimension": 16,
    "sample_rate": 12_000,
    "codebook_size": 64,
    "n_q": 3,
}


def _audio() -> list[np.ndarray]:
    return [tones(6000, 12_000, seed) for seed in range(4)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return ours.make_untrained(_audio(), 0, tmp_path_factory.mktemp("speechtokenizer"), SMALL)


@pytest.fixture(scope="module")
def codec(checkpoint):
    return ours.load(checkpoint, "cpu")


@pytest.mark.gpu
def test_codes_on_the_gpu_are_those_on_the_cpu_but_for_near_ties(codec, checkpoint):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU")
    on_gpu = ours.load(checkpoint, "cuda")
    samples = [tones(n, 12_000, n) for n in (2_401, 36_000, 120_000)]
    together = on_gpu.encode_batch([samples[1], samples[1][::-1].copy()])
    for item, codes in [*((item, on_gpu.encode(item)) for item in samples), (samples[1], together[0])]:
        expected, latents = codec.encode_with_latents(item)
        # Kernels of another library: some roundings more in each of the encoder's sums.
        assert tie_margins(latents, expected, codes, codec.codebooks).max(initial=0) < 10 * NEAR_TIE


def test_a_batch_of_different_lengths_is_a_fault_of_ours(codec):
    assert not codec.mixes_lengths
    with pytest.raises(AssertionError, match="batch of different lengths"):
        codec.encode_batch([tones(6_000, 12_000, 1), tones(6_001, 12_000, 2)])


def _library_model(checkpoint: Checkpoint):
    def build():
        from speechtokenizer import SpeechTokenizer

        return SpeechTokenizer.load_from_checkpoint(str(checkpoint.config_path), str(checkpoint.path))

    model = torch_support.build_quietly(build)
    model.eval()
    return model


def _check_against_library(codec, model, samples):
    """Codes equal the library's, and each layer's features are its codebook's rows, bit for bit."""
    codes = codec.encode(samples)
    wave = torch.from_numpy(samples)[None, None]
    with torch.no_grad():
        np.testing.assert_array_equal(codes, model.encode(wave)[:, 0].numpy())
        features = model.forward_feature(wave)
        decoded = model.quantizer.decode(torch.from_numpy(codes.astype(np.int64))[:, None])
    rows = [codebook[codes[layer]] for layer, codebook in enumerate(codec.codebooks)]
    assert len(features) == len(rows)
    for layer, feature in enumerate(features):
        assert feature[0].T.contiguous().numpy().tobytes() == rows[layer].tobytes(), f"layer {layer + 1}"
    np.testing.assert_allclose(sum(rows), decoded[0].T.numpy(), rtol=1e-6, atol=1e-7)
    return codes


class TestContract(CodecContract):
    def test_family_and_codec_agree(self, codec):
        # The family's values are the released model's (the slow test below); this codec follows its own configuration.
        assert codec.name == ours.FAMILY.name
        assert (codec.sample_rate_hz, codec.hop_samples) == (12_000, 120)
        assert codec.codebooks.shape == (3, 64, 24)
        assert isinstance(codec, LatentCodec) == ours.FAMILY.has_latents


@pytest.mark.parametrize("n_samples", [1, 119, 1200, 1201, 12_345])
def test_codes_equal_the_librarys(codec, checkpoint, n_samples):
    _check_against_library(codec, _library_model(checkpoint), tones(n_samples, 12_000, seed=8))


@pytest.mark.parametrize("n_samples", [1200, 1201])
def test_latents_are_what_the_librarys_encoder_gives(codec, checkpoint, n_samples):
    samples = tones(n_samples, 12_000, seed=8)
    codes, latents = codec.encode_with_latents(samples)
    with torch.no_grad():
        output = _library_model(checkpoint).encoder(torch.from_numpy(samples)[None, None])
    assert latents.shape == (codes.shape[1], 24)
    np.testing.assert_array_equal(latents, output[0].T.numpy())


def test_every_length_gives_the_promised_number_of_frames(codec):
    samples = tones(500, 12_000, seed=5)
    for n_samples in range(1, 500):
        assert codec.encode(samples[:n_samples]).shape == (3, n_frames_of(n_samples, 120))


def test_another_number_of_frames_is_an_utterance_error(checkpoint, monkeypatch):
    codec = ours.load(checkpoint, "cpu")
    monkeypatch.setattr(codec.model.quantizer, "encode", lambda latents: torch.zeros(3, 1, 7, dtype=torch.int64))
    with pytest.raises(UtteranceError, match="gave 7 frames for 1200 samples, expected 10"):
        codec.encode(np.ones(1200, dtype=np.float32))


def test_network_is_frozen_and_its_codebooks_stay(checkpoint):
    codec = ours.load(checkpoint, "cpu")
    assert not codec.model.training
    assert not any(parameter.requires_grad for parameter in codec.model.parameters())
    before = {name: tensor.clone() for name, tensor in codec.model.state_dict().items()}
    codec.encode(tones(5000, 12_000, seed=1))
    assert all(torch.equal(before[name], tensor) for name, tensor in codec.model.state_dict().items())


def test_untrained_files_have_the_same_bytes_again(checkpoint, codec, tmp_path):
    assert (checkpoint.path.name, checkpoint.weights) == ("speechtokenizer-untrained.pt", "untrained")
    assert checkpoint.config_path == checkpoint.path.with_suffix(".json")
    assert json.loads(checkpoint.config_path.read_text()) == SMALL
    assert codec.weights_sha256 == weights.sha256_of(checkpoint.path, checkpoint.config_path)
    again = ours.make_untrained(_audio(), 0, tmp_path, SMALL)
    assert again.path.read_bytes() == checkpoint.path.read_bytes()
    ours.make_untrained(_audio(), 1, tmp_path, SMALL)
    assert again.path.read_bytes() != checkpoint.path.read_bytes()


def test_pretrained_says_where_the_two_files_are():
    with pytest.raises(WeightsError, match=r"huggingface\.co/fnlp/SpeechTokenizer.*--st-ckpt .*--st-config"):
        ours.fetch_pretrained()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "found no JSON"),
        ("[1]", "found a JSON list"),
        ('{"n_q": 8}', "without n_filters, strides"),
        (json.dumps(SMALL | {"strides": [8, 0]}), r"strides is \[8, 0\], expected something like"),
        (json.dumps(SMALL | {"n_q": "8"}), "n_q is '8'"),
        (json.dumps(SMALL | {"bidirectional": 1}), "bidirectional is 1"),
        (json.dumps(SMALL | {"activation": "Elu?"}), r"no network that can be built \(AttributeError"),
        (json.dumps(SMALL | {"codebook_size": 32}), "weights of another model"),
    ],
)
def test_configurations_that_do_not_fit(checkpoint, tmp_path, text, message):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(WeightsError, match=message) as caught:
        ours.load(Checkpoint(checkpoint.path, "checkpoint", tmp_path / "config.json"), "cpu")
    assert "\n" not in str(caught.value)


def test_missing_files(checkpoint, tmp_path):
    with pytest.raises(WeightsError, match="--st-config"):
        ours.load(Checkpoint(checkpoint.path, "checkpoint"), "cpu")
    with pytest.raises(WeightsError, match=r"absent\.json: expected .* found a file that cannot be read"):
        ours.load(Checkpoint(checkpoint.path, "checkpoint", tmp_path / "absent.json"), "cpu")
    with pytest.raises(WeightsError, match=r"absent\.pt: weights file cannot be read"):
        ours.load(Checkpoint(tmp_path / "absent.pt", "checkpoint", checkpoint.config_path), "cpu")


def test_entries_of_the_authors_config_that_only_training_uses_are_kept(checkpoint, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(SMALL | {"resblock": "1", "learning_rate": 1e-4}))
    codec = ours.load(Checkpoint(checkpoint.path, "checkpoint", tmp_path / "config.json"), "cpu")
    assert codec.weights == "checkpoint"
    assert codec.weights_sha256 == weights.sha256_of(checkpoint.path, tmp_path / "config.json")


def test_importing_and_loading_warns_of_nothing(checkpoint):
    """In a fresh process, since a module that is already loaded has nothing left to warn of."""
    program = (
        "import sys; from pathlib import Path; from featstore.codecs import speechtokenizer as ours;"
        "from featstore.codecs.base import Checkpoint;"
        "ours.load(Checkpoint(Path(sys.argv[1]), 'checkpoint', Path(sys.argv[2])), 'cpu'); print('loaded')"
    )
    command = [sys.executable, "-W", "error", "-c", program, str(checkpoint.path), str(checkpoint.config_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("loaded\n", "", 0)


@pytest.mark.slow
def test_the_released_architecture_on_real_speech(tmp_path, shared_data):
    paths = sorted(shared_data.glob("LibriSpeech/train-clean-100/*/*/*.flac"), key=lambda path: path.stat().st_size)
    speech = [soundfile.read(path, dtype="float32")[0] for path in paths[:4]]
    checkpoint = ours.make_untrained(speech, 0, tmp_path)
    codec = ours.load(checkpoint, "cpu")
    family = ours.FAMILY
    assert (codec.sample_rate_hz, codec.hop_samples) == (family.sample_rate_hz, family.hop_samples)
    assert codec.codebooks.shape == (family.n_layers, family.n_codewords, family.dim)
    codes = _check_against_library(codec, _library_model(checkpoint), speech[0])
    assert codes.shape == (8, n_frames_of(len(speech[0]), 320))
    again, latents = codec.encode_with_latents(speech[0])
    np.testing.assert_array_equal(again, codes)
    assert latents.shape == (codes.shape[1], 1024)
    # The authors' file has 481,906,997 bytes: the same tensors, but for the names that torch.save puts into the zip.
    assert abs(checkpoint.path.stat().st_size - 481_906_997) < 20_000


# Hostile configurations


@pytest.mark.parametrize(
    "changes",
    [
        {"n_filters": 10**12},
        {"dimension": 10**12},
        {"codebook_size": 65_537},  # codes are uint16
        {"n_q": 10**9},
        {"lstm_layers": 10**9},
        {"n_residual_layers": 10**9},
        {"residual_kernel_size": 10**9},
        {"dilation_base": 10**9},
        {"sample_rate": 10**9},
        {"strides": [10**9]},
        {"strides": [2] * 10_000},
        {"strides": [64] * 4},
        {"n_filters": 1024, "strides": [2] * 8},  # each in range, the network 70 GB
        {"dilation_base": 16, "n_residual_layers": 8},
        {"codebook_size": 65_536, "n_q": 64, "dimension": 16_384},
        {"activation": "x" * 10_000},
        {"activation": "\x1b[31m\n"},
        {"activation": "Module"},
        {"n_q": 10**400},
        {"strides": "8542"},
        {"strides": [8, True]},
    ],
)
def test_a_configuration_out_of_range_is_refused_before_the_network_is_built(
    checkpoint, tmp_path, monkeypatch, changes
):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(SMALL | changes))
    if "activation" not in changes:
        monkeypatch.setattr(ours, "_new_model", lambda config: pytest.fail("built"))
    with pytest.raises(WeightsError, match=r"config\.json: ") as caught:
        ours.load(Checkpoint(checkpoint.path, "checkpoint", path), "cpu")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "content", [b"[" * 10**6, b'{"n_q": ' + b"8" * 10_000 + b"}", b"\xff", b'{"n_q": NaN}', b'{"n_q": 1, "n_q": 8}']
)
def test_a_hostile_configuration_file_is_a_weights_error(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(WeightsError, match=r"config\.json: expected speechtokenizer's config\.json, found ") as caught:
        ours.read_config(tmp_path / "config.json")
    assert str(caught.value).isprintable()


def test_the_number_of_parameters_is_foreseen():
    for config in (SMALL, SMALL | {"bidirectional": False, "lstm_layers": 0, "n_residual_layers": 3}):
        model = torch_support.build_quietly(lambda config=config: ours._new_model(config))
        n_true = sum(tensor.numel() for tensor in model.state_dict().values())
        assert 0.6 * n_true < ours.n_parameters_of(config) < 1.5 * n_true
    assert 120_000_000 < ours.n_parameters_of(ours.RELEASED_CONFIG) < 150_000_000 < ours.MAX_PARAMETERS
