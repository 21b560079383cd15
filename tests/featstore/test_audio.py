import hashlib

import numpy as np
import pytest
import soundfile

from featstore.audio import read_audio, resample
from featstore.errors import UtteranceError


def tone(n, rate_hz=16_000, f_hz=440.0):
    return (0.3 * np.sin(2 * np.pi * f_hz * np.arange(n) / rate_hz)).astype(np.float32)


def test_read_mono(tmp_path):
    path = tmp_path / "a.flac"
    soundfile.write(path, tone(16_000), 16_000)
    audio = read_audio(path)
    assert audio.sample_rate_hz == 16_000
    assert audio.samples.dtype == np.float32
    np.testing.assert_allclose(audio.samples, tone(16_000), atol=2e-5)
    assert audio.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_stereo_is_averaged(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.stack([tone(8000), np.zeros(8000)], axis=1), 16_000, subtype="FLOAT")
    np.testing.assert_allclose(read_audio(tmp_path / "a.wav").samples, tone(8000) / 2, atol=1e-7)


def bad_files():
    whole = np.linspace(-0.5, 0.5, 32_000).astype(np.float32)
    yield "silent.flac", lambda path: soundfile.write(path, 0 * whole, 16_000), "every sample is zero"
    yield (
        "short.flac",
        lambda path: soundfile.write(path, whole[:160], 16_000),
        r"at least 0\.1 s of audio, found 0\.010",
    )
    yield "empty.flac", lambda path: path.write_bytes(b""), "do not decode"
    yield "text.flac", lambda path: path.write_text("no audio at all"), "do not decode"
    yield "nan.wav", lambda path: soundfile.write(path, whole * np.nan, 16_000, subtype="FLOAT"), "NaN or infinity"
    yield "long.wav", lambda path: soundfile.write(path, np.ones(700 * 100), 100), "at most 600 s"
    yield "absent.flac", lambda path: None, "cannot be read"


@pytest.mark.parametrize(("name", "write", "message"), [pytest.param(*case, id=case[0]) for case in bad_files()])
def test_bad_audio_is_one_clear_line(tmp_path, name, write, message):
    write(tmp_path / name)
    with pytest.raises(UtteranceError, match=message) as caught:
        read_audio(tmp_path / name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.99])
def test_truncated_flac_is_found(tmp_path, share):
    path = tmp_path / "a.flac"
    rng = np.random.default_rng(0)
    soundfile.write(path, 0.1 * rng.standard_normal(48_000), 16_000)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(UtteranceError, match=r"a\.flac"):
        read_audio(path)


def test_resample_keeps_a_tone_and_counts_samples():
    assert resample(tone(1000), 16_000, 16_000).shape == (1000,)
    up = resample(tone(16_001), 16_000, 24_000)
    assert up.shape == (24_002,)
    np.testing.assert_allclose(up[500:-500], tone(24_002, 24_000)[500:-500], atol=2e-3)
    down = resample(tone(44_100, 44_100), 44_100, 16_000)
    assert down.shape == (16_000,)
    np.testing.assert_allclose(down[500:-500], tone(16_000)[500:-500], atol=2e-3)


def test_resample_is_what_encodec_does():
    torch = pytest.importorskip("torch")
    from encodec.utils import convert_audio

    samples = tone(5000)
    theirs = convert_audio(torch.from_numpy(samples)[None], 16_000, 24_000, 1)[0].numpy()
    np.testing.assert_array_equal(resample(samples, 16_000, 24_000), theirs)
