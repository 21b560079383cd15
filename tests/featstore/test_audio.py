import hashlib
import os
import re
import struct

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
    yield "long.wav", lambda path: soundfile.write(path, np.ones(700 * 1000), 1000), "at most 600 s"
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


# Hostile files


def header_only_wav(n_samples, n_channels, rate_hz):
    """Return a WAV file of 8-bit silence that is whole, so that its header tells the truth."""
    n_bytes = n_samples * n_channels
    form = struct.pack("<HHIIHH", 1, n_channels, rate_hz, rate_hz * n_channels, n_channels, 8)
    chunks = b"fmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", n_bytes) + bytes(n_bytes)
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def refusal_of(path):
    with pytest.raises(UtteranceError) as caught:
        read_audio(path)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 600
    return message


def test_an_audio_bomb_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    path = tmp_path / "bomb.flac"
    # 590 s of 8 channels: a few hundred kB of FLAC that decode to 1.2 GB in float32
    with soundfile.SoundFile(path, "w", 64_000, 8, "PCM_16") as file:
        for _ in range(59):
            file.write(np.zeros((640_000, 8), np.int16))
    assert path.stat().st_size < 2**22
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda *_, **__: pytest.fail("decoded"))
    assert re.search(r"bomb\.flac: expected at most 67108864 values .* found 37760000 x 8; export it", refusal_of(path))


@pytest.mark.parametrize("rate_hz", [1, 999, 192_001, 655_350, 2**31 - 1])
def test_a_sample_rate_out_of_range_is_refused(tmp_path, rate_hz):
    (tmp_path / "a.wav").write_bytes(header_only_wav(20_000, 1, rate_hz))
    assert f"expected a sample rate from 1000 to 192000 Hz, found {rate_hz} Hz" in refusal_of(tmp_path / "a.wav")


def test_a_file_too_large_is_refused_unread(tmp_path):
    with (tmp_path / "huge.flac").open("wb") as file:
        file.truncate(2**40)  # a terabyte, all of it a hole
    assert "huge.flac: cannot be read (larger than 256 MiB)" in refusal_of(tmp_path / "huge.flac")


def test_what_is_no_regular_file_is_refused_and_never_hangs(tmp_path):
    os.mkfifo(tmp_path / "pipe.flac")
    (tmp_path / "device.flac").symlink_to("/dev/zero")
    (tmp_path / "folder.flac").mkdir()
    (tmp_path / "broken.flac").symlink_to(tmp_path / "nowhere")
    assert "a named pipe, not a regular file" in refusal_of(tmp_path / "pipe.flac")
    assert "a device, not a regular file" in refusal_of(tmp_path / "device.flac")
    assert "Is a directory" in refusal_of(tmp_path / "folder.flac")
    assert "No such file" in refusal_of(tmp_path / "broken.flac")


def test_a_name_that_is_no_utf8_gives_a_printable_message(tmp_path):
    assert r"\udcff\x1b[31m.flac: cannot be read" in refusal_of(tmp_path / os.fsdecode(b"\xff\x1b[31m.flac"))


def test_rates_without_a_common_divisor_are_refused_before_the_filter_is_made():
    for from_hz, to_hz in ((44_101, 24_000), (191_999, 16_000), (16_000, 23_999)):
        with pytest.raises(UtteranceError, match=f"audio at {from_hz} Hz cannot be brought to {to_hz} Hz"):
            resample(tone(1000, from_hz), from_hz, to_hz)
    for from_hz in (8000, 11_025, 16_000, 22_050, 32_000, 37_800, 44_100, 48_000, 88_200, 96_000, 176_400, 192_000):
        for to_hz in (16_000, 24_000):
            assert resample(tone(from_hz, from_hz), from_hz, to_hz).shape == (to_hz,)
