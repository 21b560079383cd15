"""F0 by librosa's probabilistic YIN (Mauch and Dixon 2014, doi:10.1109/ICASSP.2014.6853678).

Slower than YIN, with a hidden Markov model over the whole utterance that decides octaves and voicing together.
"""

import warnings

import numpy as np
from numpy.typing import NDArray

from featstore.labels.pitch import F0_MAX_HZ, F0_MIN_HZ
from featstore.labels.token_clock import TokenClock, windows_at

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # deprecations inside librosa and numba are not the user's business
    import librosa

WINDOW_S = 0.064
MAX_OCTAVES_PER_S = 35.92  # librosa's default, from the authors' plug-in

# The model holds about 20 kB per token; long audio goes in blocks (a minute each) that overlap, so that no joint
# decides a token near it. LibriSpeech's longest utterance (35 s) is one block.
_BLOCK_FRAMES = 4096
_CONTEXT_FRAMES = 64


def estimate_f0_hz(
    samples: NDArray[np.float32], sample_rate_hz: int, n_frames: int, clock: TokenClock
) -> NDArray[np.float64]:
    """Estimate F0 in Hz at the centres of `n_frames` tokens, NaN where unvoiced; `samples` has peak 1."""
    f0_hz = np.full(n_frames, np.nan)
    for first in range(0, n_frames, _BLOCK_FRAMES):
        last = min(first + _BLOCK_FRAMES, n_frames)
        low, high = max(first - _CONTEXT_FRAMES, 0), min(last + _CONTEXT_FRAMES, n_frames)
        f0_hz[first:last] = _estimate_block(samples, sample_rate_hz, low, high, clock)[first - low : last - low]
    return f0_hz


def _estimate_block(
    samples: NDArray[np.float32], sample_rate_hz: int, low: int, high: int, clock: TokenClock
) -> NDArray[np.float64]:
    """Run librosa on the windows of tokens low to high - 1, laid end to end.

    librosa places frames on multiples of a whole hop. With the windows laid end to end and a hop of one window, its
    frames are exactly those around the tokens' centres; only the model's speed limit has to be told the true hop.
    """
    windows = windows_at(samples, clock.centre_samples(low, high, sample_rate_hz), round(WINDOW_S * sample_rate_hz / 2))
    # An offset, alone or beside silence, is constant and so perfectly periodic: librosa would call it a voice.
    windows -= windows.mean(axis=1, keepdims=True)
    window_samples = windows.shape[1]
    token_samples = clock.hop_samples * sample_rate_hz / clock.codec_rate_hz
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        f0_hz, _, _ = librosa.pyin(
            windows.ravel(),
            fmin=F0_MIN_HZ,
            fmax=F0_MAX_HZ,
            sr=sample_rate_hz,
            frame_length=window_samples,
            hop_length=window_samples,
            max_transition_rate=MAX_OCTAVES_PER_S * token_samples / window_samples,
            center=False,
        )
    is_silent = ~windows.any(axis=1)
    return np.where(is_silent, np.nan, f0_hz)
