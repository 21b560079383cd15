"""Log-mel spectra in NumPy, with windows centred on a codec's frames rather than on its hops.

librosa would give the same filters, but importing it loads numba (about 3 s), and its windows are centred on hops,
half a frame early for a codec whose frame t covers the samples [t, t + 1) hops.
"""

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from featstore.codecs.base import n_frames_of


@dataclass(frozen=True)
class MelSettings:
    """How samples become log-mel frames.

    Attributes
    ----------
    sample_rate_hz, hop_samples : int
    window_samples, fft_samples : int
        Length of the Hann window, and of the FFT it is zero-padded to; both even, window <= FFT.
    n_bands : int
        Mel bands from `lowest_hz` to `highest_hz`.
    lowest_hz, highest_hz : float
    power_floor : float
        Smallest band power; full-scale sines have band powers near 1.
    """

    sample_rate_hz: int = 16_000
    hop_samples: int = 320
    window_samples: int = 400  # 25 ms; 32, 40 and 64 ms told phonemes apart slightly less well
    fft_samples: int = 1024
    n_bands: int = 80
    lowest_hz: float = 20.0
    highest_hz: float = 8_000.0
    power_floor: float = 1e-10


def log_mel(samples: NDArray[np.float32], settings: MelSettings) -> NDArray[np.float32]:
    """Return the natural logarithm of the mel band powers of each frame.

    Frame t's window is centred on sample ``(t + 1/2) * hop_samples``; beyond the ends of the signal there is silence.

    Parameters
    ----------
    samples : float32 array of shape (n_samples,)
    settings : MelSettings

    Returns
    -------
    float32 array of shape (ceil(n_samples / hop_samples), n_bands)
    """
    hop, window = settings.hop_samples, settings.window_samples
    n_frames = n_frames_of(samples.size, hop)
    before = max(0, (window - hop) // 2)
    first = max(0, (hop - window) // 2)  # where the window is shorter than the hop
    padded = np.zeros(n_frames * hop + 2 * before, dtype=np.float32)
    padded[before : before + samples.size] = samples
    frames = np.lib.stride_tricks.sliding_window_view(padded[first:], window)[::hop][:n_frames]
    taper, filters = _taper(window), mel_filters(settings)
    spectrum = np.fft.rfft(frames * taper, settings.fft_samples, axis=1)
    power = np.square(spectrum.real) + np.square(spectrum.imag)
    # Scaled so that a sine of amplitude 1 has power 1 at its peak, whatever the window.
    power *= 4 / np.square(taper.sum(dtype=np.float64)).astype(np.float32)
    bands: NDArray[np.float32] = np.maximum(power @ filters, np.float32(settings.power_floor))
    return np.log(bands)


@functools.lru_cache(maxsize=4)
def mel_filters(settings: MelSettings) -> NDArray[np.float32]:
    """Return triangular filters of height 1, equally spaced in mel = 2595 log10(1 + f / 700 Hz).

    The formula is O'Shaughnessy's (1987), as in HTK: one line where Slaney's needs two pieces. Scaling each band to
    equal area, as Slaney does, would only shift its logarithm by a constant, which no nearest codeword can see.

    Returns
    -------
    float32 array of shape (fft_samples // 2 + 1, n_bands)
    """
    edges_mel = np.linspace(_hz_to_mel(settings.lowest_hz), _hz_to_mel(settings.highest_hz), settings.n_bands + 2)
    lower, centre, upper = (700 * (10 ** (edges_mel[k : k + settings.n_bands] / 2595) - 1) for k in range(3))
    bins_hz = np.fft.rfftfreq(settings.fft_samples, 1 / settings.sample_rate_hz)[:, None]
    rising = (bins_hz - lower) / (centre - lower)
    falling = (upper - bins_hz) / (upper - centre)
    filters = np.maximum(0, np.minimum(rising, falling)).astype(np.float32)
    filters.flags.writeable = False  # shared by every caller
    return filters


@functools.lru_cache(maxsize=4)
def _taper(window_samples: int) -> NDArray[np.float32]:
    """Return a periodic Hann window, symmetric about the middle between its two centre samples' edges."""
    taper = (0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(window_samples) + 0.5) / window_samples)).astype(np.float32)
    taper.flags.writeable = False
    return taper


def _hz_to_mel(frequency_hz: float) -> float:
    return float(2595 * np.log10(1 + frequency_hz / 700))
