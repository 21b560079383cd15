"""F0 by Praat's autocorrelation method (Boersma 1993, Proc. Institute of Phonetic Sciences 17, 97-110).

Through the package ``praat-parselmouth``, which is GPLv3 and therefore an extra.
"""

import numpy as np
from numpy.typing import NDArray

from featstore.errors import DependencyError
from featstore.labels.pitch import F0_MAX_HZ, F0_MIN_HZ
from featstore.labels.token_clock import TokenClock

try:
    import parselmouth
except ImportError as error:
    raise DependencyError(
        "the F0 method 'praat' needs the package praat-parselmouth: pip install 'rvqprobe[praat]'"
    ) from error

TIME_STEP_S = 0.005
# Praat's window is three periods of the lowest F0; it refuses shorter audio.
_MIN_DURATION_S = 3.0 / F0_MIN_HZ + 0.002


def estimate_f0_hz(
    samples: NDArray[np.float32], sample_rate_hz: int, n_frames: int, clock: TokenClock
) -> NDArray[np.float64]:
    """Estimate F0 in Hz at the centres of `n_frames` tokens, NaN where unvoiced; `samples` has peak 1.

    Praat's own frames lie on its own grid; F0 at a token's centre is interpolated linearly between them, as Praat
    does. The first and last 25 ms of the audio, where its window does not fit, are unvoiced.
    """
    padding = max(0, int(np.ceil(_MIN_DURATION_S * sample_rate_hz)) - len(samples))
    sound = parselmouth.Sound(np.pad(samples.astype(np.float64), (0, padding)), sample_rate_hz)
    pitch = sound.to_pitch_ac(time_step=TIME_STEP_S, pitch_floor=F0_MIN_HZ, pitch_ceiling=F0_MAX_HZ)
    return np.array([pitch.get_value_at_time(time_s) for time_s in clock.centres_s(n_frames)], dtype=np.float64)
