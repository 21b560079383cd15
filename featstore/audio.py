"""Audio files to mono float32 at a codec's sample rate."""

import hashlib
import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore.errors import UtteranceError
from featstore.patient_read import UnreadableFileError, read_patiently
from featstore.safe_text import printable
from featstore.stopping import check_stopped

# Shorter audio holds no frame worth labelling and is under the encoders' receptive field; longer audio would be encoded
# in one piece, and the encoders' memory grows with it. LibriSpeech utterances last 1 to 35 s.
SHORTEST_S = 0.1
LONGEST_S = 600.0
# What a header says is allocated before a sample is decoded, and a compressed file may say anything. These hold 10
# minutes of stereo at 48 kHz in any format, and keep the memory of file, samples and their mean under 700 MB.
MAX_FILE_BYTES = 256 * 2**20
MAX_VALUES = 2**26
LOWEST_RATE_HZ, HIGHEST_RATE_HZ = 1_000, 192_000
# Numbers in a resampling filter: (to / g) * (from / g) and a little more, g the rates' greatest common divisor. Every
# pair of usual rates has under 10^6; 44,101 to 24,000 Hz would have 10^9, which is 8 GB.
MAX_FILTER_VALUES = 2**23


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
        When the file is missing, no regular file, no audio, truncated, silent, not finite, or its size, its rate or its
        length (`SHORTEST_S` to `LONGEST_S` seconds) is outside the limits; all but the last two before it is decoded.
    """
    import soundfile

    name = printable(path.name)
    try:
        data = read_patiently(path, MAX_FILE_BYTES)
    except UnreadableFileError as error:
        raise UtteranceError(f"{name}: cannot be read ({error}); check the file") from error
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            n_samples, sample_rate_hz = file.frames, file.samplerate
            _check_extent(name, n_samples, file.channels, sample_rate_hz)
            samples = file.read(dtype="float32", always_2d=True)
    except UtteranceError:
        raise
    except Exception as error:  # on damaged bytes soundfile raises its own, and what NumPy makes of impossible numbers
        check_stopped()
        message = f"{name}: expected an audio file, found {len(data)} bytes that do not decode; replace the file"
        raise UtteranceError(message) from error
    check_stopped()  # a signal that came while libsndfile was calling back has cut the reading short
    if len(samples) != n_samples:
        raise UtteranceError(f"{name}: expected {n_samples} samples, found {len(samples)}: truncated; replace it")
    mono: NDArray[np.float32] = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1)
    if not np.isfinite(mono).all():
        raise UtteranceError(f"{name}: expected finite samples, found NaN or infinity; replace the file")
    if not mono.any():
        raise UtteranceError(f"{name}: every sample is zero; there is no speech in it")
    return Audio(np.ascontiguousarray(mono), sample_rate_hz, hashlib.sha256(data).hexdigest())


def _check_extent(name: str, n_samples: int, n_channels: int, sample_rate_hz: int) -> None:
    if not LOWEST_RATE_HZ <= sample_rate_hz <= HIGHEST_RATE_HZ:
        raise UtteranceError(
            f"{name}: expected a sample rate from {LOWEST_RATE_HZ} to {HIGHEST_RATE_HZ} Hz, found {sample_rate_hz} Hz; "
            "export it at 16000 Hz"
        )
    duration_s = n_samples / sample_rate_hz
    if duration_s < SHORTEST_S:
        raise UtteranceError(f"{name}: expected at least {SHORTEST_S} s of audio, found {duration_s:.3f} s")
    if duration_s > LONGEST_S:
        raise UtteranceError(
            f"{name}: expected at most {LONGEST_S:.0f} s of audio, found {duration_s:.0f} s; cut it up"
        )
    if n_samples * n_channels > MAX_VALUES:
        raise UtteranceError(
            f"{name}: expected at most {MAX_VALUES} values (samples times channels), found {n_samples} x {n_channels}; "
            "export it as mono at 16000 Hz, or cut it up"
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

    Raises
    ------
    UtteranceError
        When the two rates have so small a common divisor that the filter would fill the memory.
    """
    if from_hz == to_hz:
        return samples
    divisor = math.gcd(from_hz, to_hz)
    if (from_hz // divisor) * (to_hz // divisor) > MAX_FILTER_VALUES:
        raise UtteranceError(
            f"audio at {from_hz} Hz cannot be brought to {to_hz} Hz in reasonable memory, for the two rates share no "
            f"divisor over {divisor}; export it at a usual rate such as 16000 Hz"
        )
    import torch

    with torch.inference_mode(), _one_thread():
        resampled = _resampler(from_hz, to_hz)(torch.from_numpy(samples)[None])[0]
    result: NDArray[np.float32] = resampled.numpy()
    return result


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch use one thread: its kernels may sum in another order on two, and samples are what codes are made of."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@lru_cache(maxsize=8)  # a corpus in which every file has another rate must not fill the memory with filters
def _resampler(from_hz: int, to_hz: int) -> Any:
    from torchaudio.transforms import Resample

    return Resample(from_hz, to_hz)
