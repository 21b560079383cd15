"""Who speaks, and the voice source: seeded speakers and sessions, F0 contours, a band-limited pulse train.

F0 is known for every sample because the pulse train is written down in closed form from the integrated F0 contour:
there is no pitch mark to be rounded to a sample.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE_HZ = 16_000

_SPEAKER_STREAM = 1
_SESSION_STREAM = 2

_WOMEN_TRACT_SCALE = 1.17
"""About the mean ratio of women's to men's formants in Peterson & Barney (1952), doi:10.1121/1.1906875."""

_PULSE_BANDWIDTH_HZ = 7_400.0
"""Harmonics end below Nyquist with room for the highest F0."""

_DECLINATION_SEMITONES = 3.0
_ACCENT_WIDTH_S = 0.12


@dataclass(frozen=True)
class Speaker:
    """What makes one synthetic voice.

    Attributes
    ----------
    index : int
        From 0. Even indices are women, odd ones men.
    sex : "F" or "M"
        As in LibriSpeech's SPEAKERS.TXT.
    tract_scale : float
        Factor on all formants; above 1 is a vocal tract shorter than the average man's.
    formant_factors : tuple of 5 floats
        The speaker's own deviation of each formant.
    bandwidth_scale : float
        Factor on all formant bandwidths.
    f0_mean_hz : float
        Middle of the F0 range.
    accent_semitones : float
        Largest rise of F0 on a stressed syllable.
    tilt_db : float
        Extra attenuation of the voice source at 3 kHz, positive.
    breathiness_db : float
        Level of the aspiration that goes along with the voice source.
    rate : float
        Speaking rate, 1 is average.
    """

    index: int
    sex: Literal["F", "M"]
    tract_scale: float
    formant_factors: tuple[float, float, float, float, float]
    bandwidth_scale: float
    f0_mean_hz: float
    accent_semitones: float
    tilt_db: float
    breathiness_db: float
    rate: float


@dataclass(frozen=True)
class Session:
    """What makes one recording session (one chapter): its level and its noise floor.

    Attributes
    ----------
    peak : float
        Largest absolute sample, full scale is 1.
    noise_floor_db : float
        Level of white background noise relative to the vowels' mean level.
    """

    peak: float
    noise_floor_db: float


def draw_speaker(seed: int, speaker_index: int) -> Speaker:
    """Draw a speaker; depends on the seed and the speaker's index alone."""
    rng = np.random.default_rng([seed, _SPEAKER_STREAM, speaker_index])
    is_man = speaker_index % 2 == 1
    factors = rng.uniform(0.95, 1.05, 5)
    return Speaker(
        index=speaker_index,
        sex="M" if is_man else "F",
        tract_scale=(1.0 if is_man else _WOMEN_TRACT_SCALE) * float(rng.uniform(0.92, 1.08)),
        formant_factors=(float(factors[0]), float(factors[1]), float(factors[2]), float(factors[3]), float(factors[4])),
        bandwidth_scale=float(rng.uniform(0.85, 1.3)),
        f0_mean_hz=float(rng.uniform(90, 140) if is_man else rng.uniform(165, 240)),
        accent_semitones=float(rng.uniform(2, 6)),
        tilt_db=float(rng.uniform(0, 16)),
        breathiness_db=float(rng.uniform(-46, -28)),
        rate=float(rng.uniform(0.85, 1.1)),
    )


def draw_session(seed: int, speaker_index: int, chapter_index: int) -> Session:
    """Draw the recording session of one speaker's chapter."""
    rng = np.random.default_rng([seed, _SESSION_STREAM, speaker_index, chapter_index])
    return Session(peak=float(rng.uniform(0.3, 0.7)), noise_floor_db=float(rng.uniform(-66, -54)))


def f0_contour(
    speaker: Speaker, n_samples: int, accent_samples: list[int], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Draw an F0 contour: declination, a slow wave and a bump on each accented syllable, in semitones.

    Parameters
    ----------
    speaker : Speaker
        Gives mean and span.
    n_samples : int
        Length at 16 kHz.
    accent_samples : list of int
        Sample position of each accented syllable.
    rng : numpy.random.Generator
        The utterance's stream.

    Returns
    -------
    float64 array of shape (n_samples,)
        F0 in Hz at every sample, whether voiced or not.
    """
    time_s = np.arange(n_samples) / SAMPLE_RATE_HZ
    semitones = _DECLINATION_SEMITONES * (0.5 - np.arange(n_samples) / n_samples)
    period_s, phase = rng.uniform(1.2, 2.2), rng.random()
    semitones += 0.25 * speaker.accent_semitones * np.sin(2 * np.pi * (time_s / period_s + phase))
    for position in accent_samples:
        height = speaker.accent_semitones * rng.uniform(-0.3, 1.0)
        semitones += height * np.exp(-0.5 * ((time_s - position / SAMPLE_RATE_HZ) / _ACCENT_WIDTH_S) ** 2)
    return speaker.f0_mean_hz * np.exp2(semitones / 12)


def pulse_train(f0_hz: NDArray[np.float64], start_phase: float) -> NDArray[np.float64]:
    r"""Generate a band-limited pulse train of unit power whose F0 is exact at every sample.

    The sum of the harmonics below a fixed bandwidth, K = bandwidth / F0 of them, in closed form (Dirichlet kernel):

    .. math:: \sum_{j=1}^{k} \cos(j \varphi) = \frac{\sin((k + 1/2) \varphi)}{2 \sin(\varphi / 2)} - \frac12

    with phase phi the integral of 2 pi F0. The topmost harmonic enters with the fractional part of K as its
    amplitude, so that no harmonic appears or vanishes with a click as F0 moves.

    Parameters
    ----------
    f0_hz : float64 array of shape (n_samples,)
        F0 in Hz.
    start_phase : float
        Phase of the first sample, in periods.

    Returns
    -------
    float64 array of shape (n_samples,)
        The pulse train.
    """
    periods = np.cumsum(f0_hz) / SAMPLE_RATE_HZ + start_phase
    phase = 2 * np.pi * np.mod(periods, 1.0)
    n_harmonics = _PULSE_BANDWIDTH_HZ / f0_hz
    n_whole = np.floor(n_harmonics)
    half_sine = np.sin(phase / 2)
    # At phase 0 the closed form is 0 / 0; its limit is the number of harmonics.
    at_pulse = np.abs(half_sine) < 1e-9
    kernel = np.where(at_pulse, n_whole, 0.5 * np.sin((n_whole + 0.5) * phase) / np.where(at_pulse, 1, half_sine) - 0.5)
    kernel += (n_harmonics - n_whole) * np.cos((n_whole + 1) * phase)
    return kernel / np.sqrt(n_harmonics / 2)
