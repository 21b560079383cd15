"""When a codec's tokens happen, and the stretch of audio around each of their centres."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class TokenClock:
    """The clock of one codec: token t lasts from t to t + 1 hops at the codec's rate.

    Attributes
    ----------
    hop_samples, codec_rate_hz : int
        Samples per token, and samples per second, of the audio that the codec takes (not of the file).
    """

    hop_samples: int
    codec_rate_hz: int

    def centres_s(self, n_frames: int) -> NDArray[np.float64]:
        """Return the centres (t + 0.5) * hop_samples / codec_rate_hz of the first `n_frames` tokens in seconds."""
        return (2 * np.arange(n_frames) + 1) * self.hop_samples / (2 * self.codec_rate_hz)

    def centre_samples(self, first: int, last: int, sample_rate_hz: int) -> NDArray[np.int64]:
        """Return the samples of audio at `sample_rate_hz` nearest to the centres of tokens first to last - 1.

        Each is rounded on its own, from exact integers, so the error stays within half a sample however long the
        audio is. (A fixed whole hop would drift: at 75 tokens/s one hop is 213.33 samples of 16 kHz audio, and with
        213 the labels would be 55 ms early after 35 s.)
        """
        odd_half_hops = 2 * np.arange(first, last, dtype=np.int64) + 1
        return (odd_half_hops * (self.hop_samples * sample_rate_hz) + self.codec_rate_hz) // (2 * self.codec_rate_hz)


def windows_at(samples: NDArray[np.float32], centres: NDArray[np.int64], half_samples: int) -> NDArray[np.float32]:
    """Cut the audio from `half_samples` before to `half_samples` after each centre.

    Parameters
    ----------
    samples : float32 array of shape (n_samples,)
    centres : int64 array of shape (n_windows,)
        Not decreasing; they may lie outside the audio.
    half_samples : int

    Returns
    -------
    float32 array of shape (n_windows, 2 * half_samples + 1)
        A copy; zeros outside the audio. Only the stretch that the windows touch is held twice.
    """
    if not len(centres):
        return np.zeros((0, 2 * half_samples + 1), np.float32)
    start, stop = int(centres[0]) - half_samples, int(centres[-1]) + half_samples + 1
    stretch = np.zeros(stop - start, np.float32)
    inside = samples[max(start, 0) : max(stop, 0)]
    at = max(-start, 0)
    stretch[at : at + len(inside)] = inside
    windows = np.lib.stride_tricks.sliding_window_view(stretch, 2 * half_samples + 1)
    # Not `take`, which would first copy every window of the view: 0.4 GB at 16 kHz, 37 GB at 192 kHz.
    return windows[centres - centres[0]]
