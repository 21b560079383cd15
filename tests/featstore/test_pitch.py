"""F0 per token: right on signals of known F0, centred, voiced where there is a voice, in agreement with others."""

import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from featstore.codecs.base import n_frames_of
from featstore.corpora.synthetic import make_corpus
from featstore.errors import DependencyError, UnknownNameError, UtteranceError
from featstore.labels import pitch
from featstore.labels.pitch import check_f0_method, f0_method_names, token_f0_hz
from featstore.labels.token_clock import TokenClock, windows_at

RATE_HZ = 16_000
CLOCK_75_HZ = TokenClock(320, 24_000)
CLOCK_50_HZ = TokenClock(320, 16_000)
CLOCKS = pytest.mark.parametrize("clock", [CLOCK_75_HZ, CLOCK_50_HZ], ids=["75 Hz", "50 Hz"])


def estimate(samples, clock: TokenClock, sample_rate_hz: int = RATE_HZ, method: str = "yin") -> NDArray[np.float32]:
    """Estimate F0 at every token that the audio has."""
    n_codec_samples = -(-len(samples) * clock.codec_rate_hz // sample_rate_hz)
    n_frames = n_frames_of(max(n_codec_samples, 1), clock.hop_samples)
    return token_f0_hz(samples, sample_rate_hz, n_frames, clock.hop_samples, clock.codec_rate_hz, method)


def voice(f0_hz: NDArray[np.float64], sample_rate_hz: int = RATE_HZ) -> NDArray[np.float32]:
    """A harmonic sound with the given F0 at each sample, its harmonics out of phase and up to 0.45 of the rate."""
    phase = 2 * np.pi * np.cumsum(f0_hz) / sample_rate_hz
    n_harmonics = max(1, min(12, int(0.45 * sample_rate_hz / f0_hz.max())))
    return (0.1 * sum(np.sin(k * phase + k) / k for k in range(1, n_harmonics + 1))).astype(np.float32)


def steady_voice(f0_hz: float, seconds: float, sample_rate_hz: int = RATE_HZ) -> NDArray[np.float32]:
    return voice(np.full(round(seconds * sample_rate_hz), f0_hz), sample_rate_hz)


def noise(seconds: float, level: float, seed: int = 0) -> NDArray[np.float32]:
    return (level * np.random.default_rng(seed).standard_normal(round(seconds * RATE_HZ))).astype(np.float32)


@pytest.fixture(params=f0_method_names())
def method(request) -> str:
    if request.param == "praat":
        pytest.importorskip("parselmouth", reason="needs the extra 'praat'")
    return request.param


# Signals of known F0


@pytest.mark.parametrize("sample_rate_hz", [4_000, 8_000, 16_000, 44_100])
def test_steady_voices_are_found_within_a_hundredth(method, sample_rate_hz) -> None:
    for f0_hz in (70, 110, 165, 220, 310, 450):
        found = estimate(steady_voice(f0_hz, 0.5, sample_rate_hz), CLOCK_75_HZ, sample_rate_hz, method)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found[4:-4], f0_hz, rtol=0.01)


def test_missing_fundamental_is_found() -> None:
    """F0 is the period, not the lowest partial: telephone speech has no energy there."""
    time_s = np.arange(RATE_HZ // 2) / RATE_HZ
    partials = sum(np.sin(2 * np.pi * 120 * k * time_s) for k in (3, 4, 5, 6)).astype(np.float32)
    np.testing.assert_allclose(estimate(partials, CLOCK_50_HZ)[2:-2], 120, rtol=0.01)


def test_noise_is_unvoiced(method) -> None:
    """pYIN's model, once it follows a chance period, keeps to it for a while; the others do not."""
    share = np.mean([np.isnan(estimate(noise(2, 0.1, seed), CLOCK_50_HZ, method=method)).mean() for seed in range(4)])
    assert share > (0.7 if method == "pyin" else 0.99)


def test_voice_is_told_from_hiss_and_digital_silence(method) -> None:
    """In one recording: a voice, hiss 40 dB under it, zeros. Tokens at the joints may be either."""
    samples = np.concatenate([steady_voice(150, 1), noise(1, 0.001), np.zeros(RATE_HZ, np.float32)])
    found = estimate(samples, CLOCK_50_HZ, method=method)
    np.testing.assert_allclose(found[2:48], 150, rtol=0.01)
    assert np.isnan(found[52:]).all()


def test_faint_hum_beside_speech_is_unvoiced() -> None:
    """Mains hum is as periodic as a voice; only its level tells."""
    samples = np.concatenate([steady_voice(150, 1), 0.01 * steady_voice(100, 1)])
    found = estimate(samples, CLOCK_50_HZ)
    assert np.isfinite(found[2:48]).all()
    assert np.isnan(found[52:]).all()


def test_loudness_and_offset_change_nothing(method) -> None:
    samples = np.concatenate([steady_voice(150, 0.4), noise(0.2, 0.05), steady_voice(210, 0.4)])
    reference = estimate(samples, CLOCK_75_HZ, method=method)
    for factor in (2.0**-15, 1e-4, 3.0, 1e20):
        scaled = (samples * np.float32(factor)).astype(np.float32)
        np.testing.assert_allclose(estimate(scaled, CLOCK_75_HZ, method=method), reference, rtol=1e-5)
    offset = estimate(samples + np.float32(0.2), CLOCK_75_HZ, method=method)
    inner = slice(4, -4)  # at the ends the offset is a step
    assert np.mean(np.isnan(offset[inner]) == np.isnan(reference[inner])) > 0.95
    np.testing.assert_allclose(np.nanmedian(offset[inner] / reference[inner]), 1, rtol=1e-4)


# Delay and drift

VIBRATO_HZ, CENTRE_HZ, DEPTH = 1.37, 150.0, 0.25


def f0_at(time_s):
    return CENTRE_HZ * (1 + DEPTH * np.sin(2 * np.pi * VIBRATO_HZ * np.asarray(time_s)))


def slope_at(time_s):
    return CENTRE_HZ * DEPTH * 2 * np.pi * VIBRATO_HZ * np.cos(2 * np.pi * VIBRATO_HZ * np.asarray(time_s))


def vibrato(seconds: int, delay_s: float = 0.0) -> NDArray[np.float32]:
    return voice(f0_at(np.arange(seconds * RATE_HZ) / RATE_HZ - delay_s))


def delays_ms(found: NDArray[np.float32], clock: TokenClock, n_segments: int) -> list[float]:
    """Fit found(t) = bias + F0(t - delay) by least squares to each stretch of the recording.

    F0 swings both ways, so an estimator's constant bias is no delay and is fitted beside it.
    """
    time_s = (np.arange(len(found)) + 0.5) * clock.hop_samples / clock.codec_rate_hz
    inner = slice(4, -4)
    delays = []
    for t, f0 in zip(np.array_split(time_s[inner], n_segments), np.array_split(found[inner], n_segments), strict=True):
        assert np.isfinite(f0).all(), "a voice throughout"
        design = np.stack([-slope_at(t), np.ones_like(t)], axis=1)
        delays.append(1000 * np.linalg.lstsq(design, f0 - f0_at(t), rcond=None)[0][0])
    return delays


@CLOCKS
def test_yin_is_centred_within_a_millisecond_throughout_35_s(clock) -> None:
    found = estimate(vibrato(35), clock)
    assert len(found) == 35 * clock.codec_rate_hz // clock.hop_samples
    assert np.abs(delays_ms(found, clock, n_segments=12)).max() < 0.5


@CLOCKS
def test_every_method_is_centred_within_a_millisecond(clock, method) -> None:
    found = estimate(vibrato(8), clock, method=method)
    assert np.abs(delays_ms(found, clock, n_segments=3)).max() < 1.0


@pytest.mark.slow
@CLOCKS
def test_every_method_is_centred_within_a_millisecond_throughout_35_s(clock, method) -> None:
    found = estimate(vibrato(35), clock, method=method)
    assert np.abs(delays_ms(found, clock, n_segments=12)).max() < 1.0


def test_the_measure_sees_a_delay_and_a_drift() -> None:
    late = estimate(vibrato(12, delay_s=0.002), CLOCK_75_HZ)
    np.testing.assert_allclose(delays_ms(late, CLOCK_75_HZ, 4), 2, atol=0.5)
    # What a whole hop of 213 samples at 16 kHz, instead of 213.33, would do.
    drifting = token_f0_hz(vibrato(12), RATE_HZ, 890, 213, RATE_HZ)
    assert abs(delays_ms(drifting, CLOCK_75_HZ, 4)[-1]) > 10


@settings(deadline=None)
@given(st.integers(1, 2000), st.sampled_from([8_000, 11_025, 16_000, 24_000]), st.sampled_from([4_000, 16_000, 44_100]))
def test_centres_are_the_nearest_samples(hop_samples, codec_rate_hz, sample_rate_hz) -> None:
    clock = TokenClock(hop_samples, codec_rate_hz)
    first = 10**6
    for token, sample in zip(
        range(first, first + 5), clock.centre_samples(first, first + 5, sample_rate_hz), strict=True
    ):
        exact = Fraction((2 * token + 1) * hop_samples * sample_rate_hz, 2 * codec_rate_hz)
        assert abs(int(sample) - exact) <= Fraction(1, 2)
    np.testing.assert_allclose(clock.centres_s(3), (np.arange(3) + 0.5) * hop_samples / codec_rate_hz)


@given(st.integers(0, 30), st.lists(st.integers(-20, 60), max_size=6), st.integers(0, 8))
def test_windows_are_zero_outside_the_audio(n_samples, centres, half_samples) -> None:
    samples = np.arange(1, n_samples + 1, dtype=np.float32)
    centres = np.sort(np.array(centres, dtype=np.int64))
    windows = windows_at(samples, centres, half_samples)
    assert windows.shape == (len(centres), 2 * half_samples + 1)
    for window, centre in zip(windows, centres, strict=True):
        expected = [
            at + 1 if 0 <= at < n_samples else 0 for at in range(centre - half_samples, centre + half_samples + 1)
        ]
        assert window.tolist() == expected


@pytest.mark.parametrize("name", ["yin", "pyin"])
def test_blocks_leave_no_joints(monkeypatch, name) -> None:
    """Long audio is worked through in blocks; how long they are does not show."""
    samples = np.concatenate([vibrato(2), noise(0.3, 0.05), vibrato(2)])
    reference = estimate(samples, CLOCK_50_HZ, method=name)
    setting = {"yin": ("_BLOCK_SAMPLES", 61 * 640), "pyin": ("_BLOCK_FRAMES", 61)}[name]
    monkeypatch.setattr(sys.modules[f"featstore.labels.{name}"], *setting)
    np.testing.assert_allclose(estimate(samples, CLOCK_50_HZ, method=name), reference, rtol=1e-6)


# Little, odd and bad input


@pytest.mark.parametrize("n_samples", [1, 2, 160, 799])
def test_very_short_audio_gives_a_value_in_range_or_none(method, n_samples) -> None:
    for samples in (steady_voice(200, 1)[:n_samples], noise(1, 0.1)[:n_samples]):
        found = estimate(samples, CLOCK_75_HZ, method=method)
        assert found.shape == (-(-n_samples * 3 // 2 // 320),)
        assert (np.isnan(found) | ((found >= 60) & (found <= 500))).all()


def test_silence_and_nothing_are_unvoiced(method) -> None:
    for samples in (np.zeros(RATE_HZ, np.float32), np.full(RATE_HZ, 1e-7, np.float32), np.zeros(0, np.float32)):
        assert np.isnan(token_f0_hz(samples, RATE_HZ, 50, 320, 16_000, method)).all()
    assert token_f0_hz(steady_voice(200, 1), RATE_HZ, 0, 320, 16_000, method).shape == (0,)


def test_a_constant_is_unvoiced(method) -> None:
    """Perfectly periodic at any lag, and nobody's voice; at its two ends it is a step."""
    found = estimate(np.full(RATE_HZ, 0.5, np.float32), CLOCK_50_HZ, method=method)
    assert np.isnan(found[3:-3]).all()


def test_tokens_after_the_end_of_the_audio_are_unvoiced(method) -> None:
    found = token_f0_hz(steady_voice(200, 0.5), RATE_HZ, 40, 320, 16_000, method)
    assert np.isfinite(found[2:23]).all()
    assert np.isnan(found[28:]).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite_are_refused(bad) -> None:
    samples = steady_voice(200, 0.5)
    samples[1234] = bad
    with pytest.raises(UtteranceError, match=r"samples that are not finite \(NaN or infinite\)"):
        estimate(samples, CLOCK_50_HZ)


def test_sample_rate_under_4_khz_is_refused() -> None:
    with pytest.raises(UtteranceError, match=r"audio at 3999 Hz: F0 needs at least 4000 Hz"):
        token_f0_hz(steady_voice(200, 0.5), 3_999, 10, 320, 16_000)


def test_unknown_method_lists_the_known_ones() -> None:
    for call in (lambda: check_f0_method("crepe"), lambda: estimate(steady_voice(200, 0.1), CLOCK_50_HZ, method="")):
        with pytest.raises(UnknownNameError, match="expected one of yin, pyin, praat"):
            call()


def test_praat_without_its_package_tells_how_to_install_it(monkeypatch) -> None:
    monkeypatch.delitem(sys.modules, "featstore.labels.praat", raising=False)
    monkeypatch.setitem(sys.modules, "parselmouth", None)
    with pytest.raises(DependencyError, match=r"needs the package praat-parselmouth: pip install 'rvqprobe\[praat\]'"):
        check_f0_method("praat")


def test_default_loads_neither_librosa_nor_praat() -> None:
    program = (
        "import sys, numpy as np\n"
        "from featstore.labels.pitch import check_f0_method, token_f0_hz\n"
        "check_f0_method('yin')\n"
        "token_f0_hz(np.sin(np.arange(8000, dtype=np.float32) / 10), 16000, 25, 320, 16000)\n"
        "print(*{'librosa', 'numba', 'parselmouth', 'torch'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


# The synthetic corpus, against its truth


class Speech(NamedTuple):
    samples: NDArray[np.float32]
    truth_hz: NDArray[np.float32]  # per sample, NaN where unvoiced


@pytest.fixture(scope="module")
def synthetic_speech(tmp_path_factory) -> list[Speech]:
    out = tmp_path_factory.mktemp("pitch") / "corpus"
    make_corpus(out, n_speakers=6, n_utterances=2, seed=5, write_truth=True)
    speech = []
    for path in sorted(out.rglob("*.flac")):
        with np.load(out / "truth" / f"{path.stem}.npz") as truth:
            speech.append(Speech(soundfile.read(path, dtype="float32")[0], truth["f0_hz"]))
    return speech


def of_whole_tokens(samples_hz: NDArray[np.float32], clock: TokenClock) -> tuple[NDArray, NDArray, NDArray]:
    """Return the truth at the centre of each token, and whether the token is voiced, or unvoiced, from end to end."""
    hop = clock.hop_samples * RATE_HZ / clock.codec_rate_hz
    n_whole = int(len(samples_hz) / hop)
    tokens = [samples_hz[int(np.ceil(t * hop)) : int(np.ceil((t + 1) * hop))] for t in range(n_whole)]
    n_voiced = np.array([np.isfinite(token).mean() for token in tokens])
    centre_hz = np.array([token[len(token) // 2] for token in tokens])
    return centre_hz, n_voiced == 1, n_voiced == 0


@CLOCKS
def test_synthetic_speech_has_few_gross_errors(synthetic_speech, method, clock) -> None:
    n_both = n_gross = n_voiced = n_same = n_whole = 0
    for samples, truth_hz in synthetic_speech[:: 3 if method == "pyin" else 1]:  # it is slow
        centre_hz, is_voiced, is_unvoiced = of_whole_tokens(truth_hz, clock)
        found = estimate(samples, clock, method=method)[: len(centre_hz)]
        both = is_voiced & np.isfinite(found)
        n_both += both.sum()
        n_gross += np.count_nonzero(np.abs(found[both] / centre_hz[both] - 1) > 0.2)
        n_voiced += is_voiced.sum()
        n_same += both.sum() + np.count_nonzero(is_unvoiced & np.isnan(found))
        n_whole += np.count_nonzero(is_voiced | is_unvoiced)
    assert n_voiced > 300
    assert n_gross < 0.03 * n_both
    assert n_both > 0.9 * n_voiced
    assert n_same > 0.9 * n_whole


def test_yin_difference_is_the_mean_over_all_pairs_of_the_window() -> None:
    """Equations 6 and 8 of the paper, term by term, where the window stays put: fewer pairs at longer lags."""
    from featstore.labels import yin

    x = np.random.default_rng(0).standard_normal(101).astype(np.float32) + np.float32(3)
    difference, energy, power = yin._difference(x[None], 40)
    pairs = [(x[: len(x) - lag].astype(float), x[lag:].astype(float)) for lag in range(41)]
    np.testing.assert_allclose(difference[0], [np.sum((a - b) ** 2) for a, b in pairs], atol=1e-4)
    mean = x.mean(dtype=float)
    np.testing.assert_allclose(energy[0], [np.sum((a - mean) ** 2 + (b - mean) ** 2) for a, b in pairs], rtol=1e-5)
    np.testing.assert_allclose(power, np.var(x), rtol=1e-5)
    means = [np.mean((a - b) ** 2) for a, b in pairs]
    expected = [1.0] + [means[lag] / np.mean(means[1 : lag + 1]) for lag in range(1, 41)]
    np.testing.assert_allclose(yin._cumulative_mean_normalised(difference, len(x))[0], expected, rtol=1e-5)


def test_yin_agrees_with_librosa_at_the_same_centres(synthetic_speech) -> None:
    """librosa's frames laid at our centres. Its sums over a window are not centred, so single frames may differ."""
    from featstore.labels import pyin, yin

    deviations = []
    for samples, _ in synthetic_speech:
        found = estimate(samples, CLOCK_75_HZ)
        half_samples = round(yin.WINDOW_S * RATE_HZ / 2)
        windows = windows_at(samples, CLOCK_75_HZ.centre_samples(0, len(found), RATE_HZ), half_samples)
        theirs = pyin.librosa.yin(
            windows.ravel(),
            fmin=pitch.F0_MIN_HZ,
            fmax=pitch.F0_MAX_HZ,
            sr=RATE_HZ,
            frame_length=windows.shape[1],
            hop_length=windows.shape[1],
            trough_threshold=yin.TROUGH_THRESHOLD,
            center=False,
        )
        is_voiced = np.isfinite(found)
        deviations.append(np.abs(theirs[is_voiced] / found[is_voiced] - 1))
    deviation = np.concatenate(deviations)
    assert np.median(deviation) < 0.001
    assert np.mean(deviation < 0.02) > 0.95


# Real speech, against Praat


def agreement_with_praat(paths: list[Path]) -> tuple[float, float]:
    """Return the shares of tokens with F0 within 20 %, among those both call voiced, and with the same voicing."""
    pytest.importorskip("parselmouth", reason="needs the extra 'praat'")
    n_both = n_near = n_same = n_tokens = 0
    for path in paths:
        samples, sample_rate_hz = soundfile.read(path, dtype="float32")
        ours, praats = (estimate(samples, CLOCK_50_HZ, sample_rate_hz, name) for name in ("yin", "praat"))
        both = np.isfinite(ours) & np.isfinite(praats)
        n_both += both.sum()
        n_near += np.count_nonzero(np.abs(ours[both] / praats[both] - 1) <= 0.2)
        n_same += np.count_nonzero(np.isfinite(ours) == np.isfinite(praats))
        n_tokens += len(ours)
    assert n_both > 0.3 * n_tokens
    return n_near / n_both, n_same / n_tokens


@pytest.fixture(scope="module")
def real_audio(shared_data: Path) -> Callable[[int], list[Path]]:
    """Return every n-th utterance of each speaker, 60 of each of 4."""
    speakers = sorted(folder for folder in (shared_data / "LibriSpeech" / "train-clean-100").iterdir())
    assert len(speakers) == 4
    return lambda step: [path for speaker in speakers for path in sorted(speaker.rglob("*.flac"))[::step]]


@pytest.mark.parametrize("step", [6, pytest.param(1, marks=pytest.mark.slow)], ids=["40 utterances", "all 240"])
def test_real_speech_agrees_with_praat(real_audio, step) -> None:
    paths = real_audio(step)
    assert len(paths) == 240 // step
    near, same_voicing = agreement_with_praat(paths)
    assert near >= 0.95
    assert same_voicing >= 0.88


def test_windows_take_no_more_memory_than_they_hold():
    """A block at 192 kHz: each sample begins a window, and all of those together would take 37 GB."""
    samples = np.zeros(192_000 * 30, np.float32)
    centres = np.arange(512, dtype=np.int64) * 2560
    tracemalloc.start()
    try:
        windows = windows_at(samples, centres, 3840)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert windows.shape == (512, 7681)
    assert peak_bytes < 2 * windows.nbytes
