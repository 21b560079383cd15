"""F0 per token, by method name; NaN where the token is unvoiced.

A method module has one function ``estimate_f0_hz(samples, sample_rate_hz, n_frames, clock)`` which looks at the
audio around the centre of each token. Its module is imported only when asked for, so the default loads neither
librosa nor Praat.
"""

from collections.abc import Callable
from importlib import import_module

import numpy as np
from numpy.typing import NDArray

from featstore.errors import UnknownNameError, UtteranceError
from featstore.labels.token_clock import TokenClock

F0_MIN_HZ = 60.0
F0_MAX_HZ = 500.0
MIN_SAMPLE_RATE_HZ = 4_000  # the shortest period is then 8 samples
# Below -120 dB re full scale there is no speech, only rounding.
SILENT_PEAK = 1e-6

Estimator = Callable[[NDArray[np.float32], int, int, TokenClock], NDArray[np.floating]]

_MODULES = {
    "yin": "featstore.labels.yin",
    "pyin": "featstore.labels.pyin",
    "praat": "featstore.labels.praat",
}


def f0_method_names() -> list[str]:
    """Return the known F0 methods, the default first."""
    return list(_MODULES)


def check_f0_method(name: str) -> None:
    """Make sure that a method can be used, before a long run finds out that it cannot.

    Raises
    ------
    UnknownNameError
        When there is none of that name; the message lists the known ones.
    DependencyError
        When it needs a package that is not installed; the message gives the install line.
    """
    _estimator(name)


def token_f0_hz(
    samples: NDArray[np.float32],
    sample_rate_hz: int,
    n_frames: int,
    hop_samples: int,
    codec_rate_hz: int,
    method: str = "yin",
) -> NDArray[np.float32]:
    """Estimate F0 at the centre of every token.

    The value of token t belongs to (t + 0.5) * hop_samples / codec_rate_hz seconds, without drift and without delay
    of the estimator (the tests bound both by 1 ms over 35 s, at 50 and 75 tokens/s).

    Parameters
    ----------
    samples : float32 array of shape (n_samples,)
        Mono audio, as recorded or resampled to any rate: F0 does not need the codec's.
    sample_rate_hz : int
        Its rate, at least 4 kHz.
    n_frames, hop_samples, codec_rate_hz : int
        Number of tokens, and the codec's hop and rate.
    method : {"yin", "pyin", "praat"}

    Returns
    -------
    float32 array of shape (n_frames,)
        F0 in Hz, from 60 to 500; NaN where unvoiced, and after the end of the audio.

    Raises
    ------
    UnknownNameError, DependencyError
        See `check_f0_method`.
    UtteranceError
        When a sample is not finite, or the sample rate is too low.
    """
    estimate = _estimator(method)
    assert samples.ndim == 1, "mono audio expected"
    if sample_rate_hz < MIN_SAMPLE_RATE_HZ:
        raise UtteranceError(f"audio at {sample_rate_hz} Hz: F0 needs at least {MIN_SAMPLE_RATE_HZ} Hz")
    if not np.isfinite(samples).all():
        raise UtteranceError("the audio holds samples that are not finite (NaN or infinite); export it again")
    peak = float(np.abs(samples).max(initial=0.0))
    if peak < SILENT_PEAK or n_frames == 0:
        return np.full(n_frames, np.nan, np.float32)
    # Loudness carries no voicing: at a common level no method can overflow or underflow.
    levelled = np.ascontiguousarray(samples / np.float32(peak), dtype=np.float32)
    f0_hz = estimate(levelled, sample_rate_hz, n_frames, TokenClock(hop_samples, codec_rate_hz))
    # Interpolation between two lags may step over a limit by a fraction of a lag.
    return np.clip(f0_hz, F0_MIN_HZ, F0_MAX_HZ).astype(np.float32)


def _estimator(name: str) -> Estimator:
    if name not in _MODULES:
        raise UnknownNameError(f"unknown F0 method {name!r}: expected one of {', '.join(_MODULES)}")
    estimate: Estimator = import_module(_MODULES[name]).estimate_f0_hz
    return estimate
