"""Audio files to mono float32 at a codec's sample rate."""

import hashlib
import io
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore.errors import UtteranceError
from featstore.stopping import check_stopped

# Shorter audio holds no frame worth labelling and is under the encoders' receptive field; longer audio would be encoded
# in one piece, and the encoders' memory grows with it. LibriSpeech utterances last 1 to 35 s.
SHORTEST_S = 0.1
LONGEST_S = 600.0


@dataclass(frozen=True)
class Audio:
    """One decoded audio file.

    Attributes
    ----------
    samples : float32 array of shape (n_samples,)
        Mono (mean over channels), in [-1, 1].
    sample_rate_hz : int
    sha256 : str
        Hex SHA-256 of the file's bytes.
    """

    samples: NDArray[np.float32]
    sample_rate_hz: int
    sha256: str


def read_audio(path: Path) -> Audio:
    """Read and check one audio file of any format, rate and channel count that libsndfile reads.

    Raises
    ------
    UtteranceError
        When the file is missing, no audio, truncated, silent, not finite, or its length is outside
        `SHORTEST_S` to `LONGEST_S` seconds.
    """
    import soundfile

    try:
        data = path.read_bytes()
    except OSError as error:
        raise UtteranceError(f"{path.name}: cannot be read ({error.strerror}); check the file") from error
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            n_samples, sample_rate_hz = file.frames, file.samplerate
            _check_length(path, n_samples, sample_rate_hz)
            samples = file.read(dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, RuntimeError) as error:
        check_stopped()
        message = f"{path.name}: expected an audio file, found {len(data)} bytes that do not decode; replace the file"
        raise UtteranceError(message) from error
    check_stopped()  # a signal that came while libsndfile was calling back has cut the reading short
    if len(samples) != n_samples:
        raise UtteranceError(f"{path.name}: expected {n_samples} samples, found {len(samples)}: truncated; replace it")
    mono: NDArray[np.float32] = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1)
    if not np.isfinite(mono).all():
        raise UtteranceError(f"{path.name}: expected finite samples, found NaN or infinity; replace the file")
    if not mono.any():
        raise UtteranceError(f"{path.name}: every sample is zero; there is no speech in it")
    return Audio(np.ascontiguousarray(mono), sample_rate_hz, hashlib.sha256(data).hexdigest())


def _check_length(path: Path, n_samples: int, sample_rate_hz: int) -> None:
    duration_s = n_samples / sample_rate_hz
    if duration_s < SHORTEST_S:
        raise UtteranceError(f"{path.name}: expected at least {SHORTEST_S} s of audio, found {duration_s:.3f} s")
    if duration_s > LONGEST_S:
        raise UtteranceError(
            f"{path.name}: expected at most {LONGEST_S:.0f} s of audio, found {duration_s:.0f} s; cut it up"
        )


def resample(samples: NDArray[np.float32], from_hz: int, to_hz: int) -> NDArray[np.float32]:
    """Resample mono audio with torchaudio's windowed sinc, exactly as EnCodec's ``convert_audio`` does.

    Parameters
    ----------
    samples : float32 array of shape (n_samples,)
    from_hz, to_hz : int

    Returns
    -------
    float32 array of shape (ceil(n_samples * to_hz / from_hz),); `samples` itself where the rates are equal
    """
    if from_hz == to_hz:
        return samples
    import torch

    with torch.inference_mode():
        resampled = _resampler(from_hz, to_hz)(torch.from_numpy(samples)[None])[0]
    result: NDArray[np.float32] = resampled.numpy()
    return result


@cache
def _resampler(from_hz: int, to_hz: int) -> Any:
    from torchaudio.transforms import Resample

    return Resample(from_hz, to_hz)
