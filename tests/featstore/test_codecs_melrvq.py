"""The log-mel baseline: spectra where they should be, codes by brute force, a checkpoint that says what it is."""

import struct
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
import soundfile

from featstore.codecs import melrvq
from featstore.codecs.base import Checkpoint
from featstore.codecs.logmel import MelSettings, log_mel, mel_filters
from featstore.errors import WeightsError
from tests.support.codec_contract import CodecContract, tones

RATE, HOP = 16_000, 320
SETTINGS = MelSettings()


def _audio() -> list[np.ndarray]:
    return [tones(3 * RATE, RATE, seed) for seed in range(8)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return melrvq.make_untrained(_audio(), 0, tmp_path_factory.mktemp("melrvq"))


@pytest.fixture(scope="module")
def codec(checkpoint):
    return melrvq.load(checkpoint, "cpu")


@pytest.fixture(scope="module")
def family():
    return melrvq.FAMILY


class TestContract(CodecContract):
    pass


def test_a_frame_is_the_spectrum_about_its_centre():
    """Against a plain transcription of the definition, one frame at a time."""
    samples = tones(10 * HOP + 7, RATE, seed=2)
    taper = 0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(400) + 0.5) / 400)
    for frame, found in enumerate(log_mel(samples, SETTINGS)):
        around = np.arange(400) - 200 + frame * HOP + HOP // 2
        inside = (around >= 0) & (around < samples.size)
        piece = np.where(inside, samples[np.clip(around, 0, samples.size - 1)], 0.0).astype(np.float64)
        power = np.abs(np.fft.rfft(piece * taper, 1024)) ** 2 * 4 / taper.sum() ** 2
        np.testing.assert_allclose(found, np.log(np.maximum(power @ mel_filters(SETTINGS), 1e-10)), atol=2e-3)


@pytest.mark.parametrize("window_samples", [200, 320, 400, 1024])
def test_an_impulse_is_loudest_in_the_frame_that_covers_it(window_samples):
    settings = MelSettings(window_samples=window_samples)
    for at in (160, 161, 2 * HOP + 160, 7 * HOP + 159):
        samples = np.zeros(9 * HOP, dtype=np.float32)
        samples[at] = 1
        loudness = log_mel(samples, settings).sum(axis=1)
        assert loudness.argmax() == at // HOP
    # Symmetric about the centre of the frame: an impulse as far before it as another one after it sounds as loud.
    before, after = (np.zeros(9 * HOP, dtype=np.float32) for _ in range(2))
    before[4 * HOP + 160 - 50] = after[4 * HOP + 159 + 50] = 1
    np.testing.assert_allclose(log_mel(before, settings)[4], log_mel(after, settings)[4], atol=1e-3)


@pytest.mark.parametrize("frequency_hz", [100, 440, 1000, 3000, 7000])
def test_a_full_scale_sine_peaks_in_its_band_near_power_one(frequency_hz):
    samples = np.sin(2 * np.pi * frequency_hz * np.arange(RATE) / RATE).astype(np.float32)
    frame = log_mel(samples, SETTINGS)[25]
    edges_mel = np.linspace(*(2595 * np.log10(1 + f / 700) for f in (20, 8000)), 82)
    band = np.abs(edges_mel[1:-1] - 2595 * np.log10(1 + frequency_hz / 700)).argmin()
    assert abs(int(frame.argmax()) - band) <= 1
    # At low frequencies one bin fills a band; higher up a band gathers the bins of the window's main lobe.
    assert -1.5 < frame.max() < 2.0


def test_filters_cover_the_band_and_none_is_empty():
    filters = mel_filters(SETTINGS)
    assert filters.shape == (513, 80)
    assert (filters.max(axis=0) > 0.3).all()
    assert filters[0].sum() == 0
    middle = filters[20:480].sum(axis=1)
    np.testing.assert_allclose(middle, 1, atol=1e-4)


def test_silence_is_the_floor():
    np.testing.assert_allclose(log_mel(np.zeros(1000, dtype=np.float32), SETTINGS), np.log(1e-10), rtol=1e-6)


def test_codes_are_the_nearest_codewords_to_what_is_left(codec):
    samples = tones(40 * HOP, RATE, seed=6)
    codes = codec.encode(samples)
    left = log_mel(samples, SETTINGS)
    for layer, codebook in enumerate(codec.codebooks):
        distances = np.square(left[:, None].astype(np.float64) - codebook[None]).sum(axis=2)
        chosen = distances[np.arange(40), codes[layer]]
        np.testing.assert_allclose(chosen, distances.min(axis=1), rtol=1e-4, atol=1e-3)
        left = left - codebook[codes[layer]]


def test_latents_are_the_log_mel_rows(codec):
    samples = tones(40 * HOP + 7, RATE, seed=6)
    _, latents = codec.encode_with_latents(samples)
    np.testing.assert_array_equal(latents, log_mel(samples, SETTINGS))


def test_checkpoint_has_the_same_bytes_again(checkpoint, tmp_path):
    assert (checkpoint.path.name, checkpoint.weights) == ("melrvq.npz", "untrained")
    again = melrvq.make_untrained(_audio(), 0, tmp_path)
    assert again.path.read_bytes() == checkpoint.path.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["melrvq.npz"]
    melrvq.make_untrained(_audio(), 1, tmp_path)
    assert again.path.read_bytes() != checkpoint.path.read_bytes()


def test_settings_of_the_checkpoint_are_honoured(codec, tmp_path):
    with np.load(codec_path := _write(tmp_path, codec, hop_samples=160, power_floor=1e-6)) as stored:
        assert stored["hop_samples"] == 160
    other = melrvq.load(Checkpoint(codec_path, "checkpoint"), "cpu")
    assert other.settings == MelSettings(hop_samples=160, power_floor=1e-6)
    assert other.encode(tones(3200, RATE, seed=0)).shape == (8, 20)


def _write(folder, codec, **changes):
    fields = {name: getattr(codec.settings, name) for name in MelSettings.__dataclass_fields__}
    np.savez(folder / "changed.npz", **(fields | {"codebooks": codec.codebooks} | changes))
    return folder / "changed.npz"


def test_checkpoints_that_do_not_fit(codec, tmp_path):
    (tmp_path / "text.npz").write_text("no archive")
    np.savez(tmp_path / "bare.npz", codebooks=codec.codebooks)
    np.savez(tmp_path / "pickled.npz", codebooks=np.array([{}], dtype=object))
    for name in ("absent", "text", "bare", "pickled"):
        with pytest.raises(WeightsError, match=rf"{name}\.npz: "):
            melrvq.load(Checkpoint(tmp_path / f"{name}.npz", "checkpoint"), "cpu")
    with pytest.raises(
        WeightsError, match=r"expected float32 codebooks of shape .* 80\), found float32 \(8, 1024, 9\)"
    ):
        melrvq.load(Checkpoint(_write(tmp_path, codec, codebooks=codec.codebooks[..., :9]), "checkpoint"), "cpu")


def test_no_torch_and_no_numba(tmp_path):
    program = (
        "import sys, numpy; from pathlib import Path; from featstore.codecs import melrvq;"
        "noise = numpy.random.default_rng(0).standard_normal(9999).astype('f4');"
        "codec = melrvq.load(melrvq.make_untrained([noise], 0, Path(sys.argv[1])), 'cpu'); codec.encode(noise);"
        "print(sorted({'torch', 'numba', 'librosa', 'sklearn', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_layers_of_real_speech_lose_information_with_depth(shared_data, tmp_path):
    """Layer 1 tells the loud from the quiet, and every layer takes less of the spectrum than the one before."""
    paths = sorted(shared_data.glob("LibriSpeech/train-clean-100/*/*/*.flac"))
    speech = [soundfile.read(path, dtype="float32")[0] for path in paths[::12]]
    codec = melrvq.load(melrvq.make_untrained(speech[:-1], 0, tmp_path), "cpu")
    start = time.perf_counter()
    codes = codec.encode(speech[-1])
    seconds = time.perf_counter() - start
    left = log_mel(speech[-1], codec.settings)
    left = left - left.mean(axis=0)
    variance = [np.square(left).mean()]
    rebuilt = np.zeros_like(left)
    for layer in range(8):
        rebuilt += codec.codebooks[layer][codes[layer]]
        variance.append(np.square(log_mel(speech[-1], codec.settings) - rebuilt).mean())
    taken = -np.diff(variance)
    assert taken[0] > 0.5 * variance[0]
    assert (taken > 0).all()
    assert (taken[1:] < taken[:-1] * 1.05).all()
    assert seconds < len(speech[-1]) / RATE / 20, "hundreds of times real time alone, twenty on the busiest machine"


# Hostile files


def refusal_of(path):
    with pytest.raises(WeightsError) as caught:
        melrvq.load(Checkpoint(path, "checkpoint"), "cpu")
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert message.isprintable()
    assert len(message) < 700
    return message


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("codebooks.npy", bytes(10**8))
    assert (tmp_path / "bomb.npz").stat().st_size < 200_000
    assert "unpacks to 100000000 bytes, expected at most 67108864" in refusal_of(tmp_path / "bomb.npz")


def test_a_header_that_asks_for_terabytes_is_refused(tmp_path):
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (8, 1024, 1000000000), }"
    for version, size in ((b"\x01\x00", "<H"), (b"\x02\x00", "<I")):
        content = b"\x93NUMPY" + version + struct.pack(size, len(header)) + header
        with zipfile.ZipFile(tmp_path / "large.npz", "w") as archive:
            archive.writestr("codebooks.npy", content + bytes(100))
        assert "says float32 of shape (8, 1024, 1000000000) but has 100 bytes" in refusal_of(tmp_path / "large.npz")


def test_any_damage_is_a_weights_error(codec, tmp_path):
    content = _write(tmp_path, codec, codebooks=codec.codebooks[:1, :4]).read_bytes()
    rng = np.random.default_rng(0)
    messages = []
    for _ in range(300):
        damaged = bytearray(content)
        for at in rng.integers(len(content), size=2):
            damaged[at] = rng.integers(256)
        (tmp_path / "damaged.npz").write_bytes(damaged)
        try:
            melrvq.load(Checkpoint(tmp_path / "damaged.npz", "checkpoint"), "cpu")
        except WeightsError as error:
            messages.append(str(error))
    assert len(messages) > 150
    assert all(message.isprintable() for message in messages)


@pytest.mark.parametrize(
    "changes",
    [
        {"sample_rate_hz": 0},
        {"sample_rate_hz": 10**12},
        {"hop_samples": 0},
        {"hop_samples": 1},  # a frame a sample would fill the memory
        {"window_samples": 10**9},
        {"fft_samples": 10**9},
        {"fft_samples": 16_384},
        {"n_bands": -1},
        {"lowest_hz": 9000.0},
        {"highest_hz": np.nan},
        {"power_floor": 0.0},
        {"power_floor": np.inf},
        {"hop_samples": 320.5},
        {"hop_samples": "320"},
        {"hop_samples": [320]},
        {"codebooks": np.full((1, 4, 80), np.nan, np.float32)},
        {"codebooks": np.zeros((0, 4, 80), np.float32)},
        {"codebooks": np.zeros((1, 0, 80), np.float32)},
        {"codebooks": np.zeros((1, 65_537, 80), np.float32)},
    ],
)
def test_settings_out_of_range_are_refused(codec, tmp_path, changes):
    refusal_of(_write(tmp_path, codec, **changes))
