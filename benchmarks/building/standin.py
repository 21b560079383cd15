"""A codec that takes as long as one on a GPU would, without its work: it sleeps."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featstore.codecs.base import Checkpoint, CodecFamily, n_frames_of
from featstore.codecs.registry import register_codec

NAME = "standin"
SAMPLE_RATE_HZ, HOP_SAMPLES = 24_000, 320
N_LAYERS, N_CODEWORDS, DIM = 8, 1024, 128


class Standin:
    """Codes of the clock alone, after a pause (see `featstore.codecs.base.BatchCodec`).

    Attributes
    ----------
    first_call_s : float or None
        When any of them was first called, by `time.perf_counter`; set it to None to note it anew.
    """

    first_call_s: float | None = None
    mixes_lengths = True

    name, sample_rate_hz, hop_samples = NAME, SAMPLE_RATE_HZ, HOP_SAMPLES
    weights = "untrained"
    weights_sha256 = "00" * 32

    def __init__(self, times_real_time: float) -> None:
        self.codebooks: NDArray[np.float32] = np.ones((N_LAYERS, N_CODEWORDS, DIM), np.float32)
        self._times_real_time = times_real_time

    def encode(self, samples: NDArray[np.float32]) -> NDArray[np.uint16]:
        """Return codes that count frames."""
        return self.encode_batch([samples])[0]

    def encode_batch(self, samples: Sequence[NDArray[np.float32]]) -> list[NDArray[np.uint16]]:
        """Return codes that count frames; the pause is for all, padded to the longest."""
        Standin.first_call_s = Standin.first_call_s or time.perf_counter()
        time.sleep(len(samples) * max(map(len, samples)) / SAMPLE_RATE_HZ / self._times_real_time)
        return [_codes(n_frames_of(len(item), HOP_SAMPLES)) for item in samples]


def _codes(n_frames: int) -> NDArray[np.uint16]:
    frames = np.arange(n_frames, dtype=np.uint16) % N_CODEWORDS
    return np.tile(frames, (N_LAYERS, 1))


@contextmanager
def a_device_of_its_own() -> Iterator[None]:
    """Let builds think that the codec runs beside the CPU: what they then do is what they do with a GPU."""
    from featstore import build

    before = build.choose_device, build.describe_device
    build.choose_device = build.describe_device = lambda name: NAME
    try:
        yield
    finally:
        build.choose_device, build.describe_device = before


def register_standin(times_real_time: float) -> None:
    """Make the codec known as ``standin``."""
    load: Callable[[Checkpoint, str], Standin] = lambda checkpoint, device: Standin(times_real_time)  # noqa: E731
    register_codec(
        CodecFamily(
            NAME,
            "benchmarks only: sleeps as long as a codec on a GPU would take",
            SAMPLE_RATE_HZ,
            HOP_SAMPLES,
            N_LAYERS,
            N_CODEWORDS,
            DIM,
            load,
            _make,
            None,
        )
    )


def _make(audio: Sequence[NDArray[np.float32]], seed: int, folder: Path) -> Checkpoint:
    path = folder / f"{NAME}.txt"
    path.write_text("no weights\n")
    return Checkpoint(path, "untrained")
