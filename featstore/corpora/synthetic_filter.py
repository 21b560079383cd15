"""The vocal tract: time-varying formant resonators applied frame by frame in the frequency domain.

A cascade of second-order resonators, as in Klatt (1980), doi:10.1121/1.383940. All filters are causal and are applied
by overlap-add of windowed source frames: the windows add up to one, so the source itself is not altered, and a frame's
response may ring on beyond the frame.
"""

import numpy as np
from numpy.typing import NDArray

from featstore.corpora.synthetic_tracks import CONTROL_SAMPLES, Tracks
from featstore.corpora.synthetic_voice import SAMPLE_RATE_HZ, Speaker

FRAME_HOP_SAMPLES = 2 * CONTROL_SAMPLES
_WINDOW_SAMPLES = 2 * FRAME_HOP_SAMPLES
_FFT_SAMPLES = 1024
_LEAD_SAMPLES = 64
"""Room before a frame for the noise band's response, which is symmetric in time and some 20 samples long."""

_HIGHER_FORMANTS_HZ = (3400.0, 4400.0)
_BANDWIDTHS_HZ = (70.0, 90.0, 130.0, 200.0, 300.0)
_NASAL_NOTCH_HZ = 600.0
_NASAL_DEPTH = 0.9
_GLOTTAL_BANDWIDTH_HZ = 100.0
_MAX_NOISE_CENTRE_HZ = 7_200.0
_TILT_REFERENCE_HZ = 3_000.0

FloatArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]


def resonator(frequency_hz: FloatArray, bandwidth_hz: FloatArray) -> FloatArray:
    """Return the denominators 1 + a1 z^-1 + a2 z^-2 of two-pole resonators.

    Parameters
    ----------
    frequency_hz, bandwidth_hz : float64 arrays of shape (n,)
        Centre and 3 dB bandwidth.

    Returns
    -------
    float64 array of shape (n, 3)
        1, a1, a2.
    """
    radius = np.exp(-np.pi * bandwidth_hz / SAMPLE_RATE_HZ)
    a1 = -2 * radius * np.cos(2 * np.pi * frequency_hz / SAMPLE_RATE_HZ)
    return np.stack([np.ones_like(a1), a1, radius**2], axis=1)


def tract_response(tracks: Tracks, speaker: Speaker) -> ComplexArray:
    """Return the vocal tract's response for each frame: five formants and, in nasals, a zero; gain 1 at 0 Hz.

    Returns
    -------
    complex128 array of shape (n_frames, n_bins)
    """
    formants = tracks.formants_hz[::2]
    n_frames = len(formants)
    formants = np.concatenate([formants, np.broadcast_to(_HIGHER_FORMANTS_HZ, (n_frames, 2))], axis=1)
    formants = formants * speaker.tract_scale * np.array(speaker.formant_factors)
    zero_hz = tracks.nasal_zero_hz[::2] * speaker.tract_scale
    wide = np.full(n_frames, _NASAL_NOTCH_HZ)
    # A narrow zero over a wide pole of the same frequency is a notch; where nasality is 0 the two cancel.
    numerator = resonator(zero_hz, wide * (1 - _NASAL_DEPTH * tracks.nasality[::2]))
    denominator = resonator(zero_hz, wide)
    for k, bandwidth_hz in enumerate(_BANDWIDTHS_HZ):
        section = resonator(formants[:, k], np.full(n_frames, bandwidth_hz * speaker.bandwidth_scale))
        denominator = _multiply(denominator, section)
    gain = denominator.sum(axis=1) / numerator.sum(axis=1)
    response: ComplexArray = np.fft.rfft(numerator, _FFT_SAMPLES) / np.fft.rfft(denominator, _FFT_SAMPLES)
    response *= gain[:, None]
    return response


def glottal_response(speaker: Speaker) -> ComplexArray:
    """Return the spectrum of a glottal pulse as radiated: -6 dB an octave, and the speaker's tilt; unit mean power.

    A resonator at 0 Hz shapes the pulse (-12 dB an octave), radiation from the lips differentiates it (+6 dB), and a
    first-order low-pass takes ``speaker.tilt_db`` off at 3 kHz.

    Returns
    -------
    complex128 array of shape (n_bins,)
    """
    pulse = resonator(np.zeros(1), np.array([_GLOTTAL_BANDWIDTH_HZ]))[0]
    pole = _tilt_pole(speaker.tilt_db)
    denominator = np.convolve(pulse, [1.0, -pole])
    response: ComplexArray = np.fft.rfft([1.0, -1.0], _FFT_SAMPLES) / np.fft.rfft(denominator, _FFT_SAMPLES)
    response /= np.sqrt(np.mean(np.abs(response) ** 2))
    return response


def noise_response(tracks: Tracks, speaker: Speaker) -> FloatArray:
    """Return the frication filter for each frame: a Gaussian band of unit power.

    The noise arises in the small cavity before the constriction, which varies less with the speaker than the whole
    tract: its band moves with the square root of ``tract_scale``.

    Returns
    -------
    float64 array of shape (n_frames, n_bins)
    """
    centre_hz = np.minimum(tracks.noise_centre_hz[::2] * np.sqrt(speaker.tract_scale), _MAX_NOISE_CENTRE_HZ)
    deviation_hz = tracks.noise_bandwidth_hz[::2] / 2
    bins_hz = np.fft.rfftfreq(_FFT_SAMPLES, 1 / SAMPLE_RATE_HZ)
    band: FloatArray = np.exp(-0.5 * ((bins_hz - centre_hz[:, None]) / deviation_hz[:, None]) ** 2)
    band /= np.sqrt(np.mean(band**2, axis=1, keepdims=True))
    return band


def source_spectra(source: FloatArray) -> ComplexArray:
    """Cut a source into Hann-windowed frames that add up to it, and transform them.

    Parameters
    ----------
    source : float64 array of shape (n_samples,)
        n_samples a multiple of ``FRAME_HOP_SAMPLES``.

    Returns
    -------
    complex128 array of shape (n_frames, n_bins)
        n_frames = n_samples / hop + 1; frame j is centred on sample j * hop.
    """
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(_WINDOW_SAMPLES) / _WINDOW_SAMPLES)
    padded = np.pad(source, FRAME_HOP_SAMPLES)
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW_SAMPLES)[::FRAME_HOP_SAMPLES] * window
    return np.fft.rfft(np.pad(frames, ((0, 0), (_LEAD_SAMPLES, 0))), _FFT_SAMPLES)


def overlap_add(spectra: ComplexArray, n_samples: int) -> FloatArray:
    """Add filtered frames up to a signal; the inverse of ``source_spectra`` where nothing was filtered.

    Returns
    -------
    float64 array of shape (n_samples,)
    """
    frames = np.fft.irfft(spectra, _FFT_SAMPLES)
    n_frames = len(frames)
    n_blocks = -(-_FFT_SAMPLES // FRAME_HOP_SAMPLES)
    frames = np.pad(frames, ((0, 0), (0, n_blocks * FRAME_HOP_SAMPLES - _FFT_SAMPLES)))
    output = np.zeros((n_frames + n_blocks, FRAME_HOP_SAMPLES))
    for block in range(n_blocks):
        columns = slice(block * FRAME_HOP_SAMPLES, (block + 1) * FRAME_HOP_SAMPLES)
        output[block : block + n_frames] += frames[:, columns]
    start = _LEAD_SAMPLES + FRAME_HOP_SAMPLES
    return output.reshape(-1)[start : start + n_samples]


def _multiply(a: FloatArray, b: FloatArray) -> FloatArray:
    """Multiply polynomials row by row; b of degree 2."""
    product = np.zeros((len(a), a.shape[1] + 2))
    for k in range(3):
        product[:, k : k + a.shape[1]] += a * b[:, k : k + 1]
    return product


def _tilt_pole(tilt_db: float) -> float:
    """Find p in [0, 1) such that (1 - p) / |1 - p z^-1| at 3 kHz is -tilt_db.

    Squared, this is (1 - p)^2 A = 1 - 2 p c + p^2 with A = 10^(tilt_db / 10) and c the cosine at 3 kHz, a quadratic
    whose roots are each other's reciprocals.
    """
    power = 10 ** (tilt_db / 10)
    if power - 1 < 1e-9:
        return 0.0
    half = (power - np.cos(2 * np.pi * _TILT_REFERENCE_HZ / SAMPLE_RATE_HZ)) / (power - 1)
    return float(half - np.sqrt(half**2 - 1))
