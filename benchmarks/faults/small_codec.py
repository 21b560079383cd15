"""A small codec in NumPy, so that a build under attack lasts a second and loads no torch.

It runs at the corpus's own 16 kHz: nothing is resampled. A frame's features are log energies in a few bands, quantised
residually, so its codes depend on every sample that was read.
"""

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featstore.atomic import write_once
from featstore.codecs.base import Checkpoint, CodecFamily, WeightsKind, n_frames_of
from featstore.codecs.registry import register_codec
from featstore.errors import UtteranceError, WeightsError

NAME = "small"
SAMPLE_RATE_HZ = 16_000
HOP_SAMPLES = 320
N_LAYERS = 4
N_CODEWORDS = 32
_BAND_EDGES = (0, 4, 8, 12, 20, 32, 56, 96)  # FFT bins of a 320-sample frame, 50 Hz apart
DIM = len(_BAND_EDGES)


class SmallCodec:
    """Residual vector quantisation of log band energies (see `featstore.codecs.base.Codec`)."""

    name = NAME
    sample_rate_hz = SAMPLE_RATE_HZ
    hop_samples = HOP_SAMPLES

    def __init__(
        self, codebooks: NDArray[np.float32], weights: WeightsKind, weights_sha256: str, pause_s: float
    ) -> None:
        self.codebooks = codebooks
        self.weights = weights
        self.weights_sha256 = weights_sha256
        self._pause_s = pause_s

    def encode(self, samples: NDArray[np.float32]) -> NDArray[np.uint16]:
        """Return the codes, uint16 of shape (N_LAYERS, ceil(n_samples / HOP_SAMPLES)), after a pause."""
        time.sleep(self._pause_s)  # a build of a moment would leave a fault no time to strike
        residual = _features(samples)
        codes = np.empty((N_LAYERS, len(residual)), dtype=np.uint16)
        for layer, codebook in enumerate(self.codebooks):
            codes[layer] = _nearest(residual, codebook)
            residual = residual - codebook[codes[layer]]
        return codes


def register(pause_s: float = 0.0) -> None:
    """Make the codec known as ``small``; it waits `pause_s` before each utterance."""
    register_codec(
        CodecFamily(
            name=NAME,
            summary="for fault injection: residual quantisation of log band energies",
            sample_rate_hz=SAMPLE_RATE_HZ,
            hop_samples=HOP_SAMPLES,
            n_layers=N_LAYERS,
            n_codewords=N_CODEWORDS,
            dim=DIM,
            load=lambda checkpoint, _: _load(checkpoint, pause_s),
            make_untrained=_make_untrained,
            fetch_pretrained=None,
        )
    )


def _load(checkpoint: Checkpoint, pause_s: float) -> SmallCodec:
    try:
        codebooks = np.load(checkpoint.path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise WeightsError(f"{checkpoint.path}: not a checkpoint of the codec {NAME}: {error}") from error
    sha256 = hashlib.sha256(checkpoint.path.read_bytes()).hexdigest()
    return SmallCodec(codebooks, checkpoint.weights, sha256, pause_s)


def _make_untrained(audio: Sequence[NDArray[np.float32]], seed: int, folder: Path) -> Checkpoint:
    rng = np.random.default_rng(seed)
    residual = np.concatenate([_features(samples) for samples in audio])
    codebooks = np.empty((N_LAYERS, N_CODEWORDS, DIM), dtype=np.float32)
    for layer in range(N_LAYERS):
        codebooks[layer] = residual[rng.choice(len(residual), N_CODEWORDS, replace=False)]
        residual = residual - codebooks[layer][_nearest(residual, codebooks[layer])]
    path = folder / f"{NAME}.npy"
    with write_once(path) as temporary, temporary.open("wb") as file:
        np.save(file, codebooks)
    return Checkpoint(path, "untrained")


def _features(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    if samples.ndim != 1 or samples.size == 0:
        raise UtteranceError(f"{NAME} encodes a non-empty mono signal; got shape {samples.shape}")
    frames = np.zeros((n_frames_of(samples.size, HOP_SAMPLES), HOP_SAMPLES))
    frames.reshape(-1)[: samples.size] = samples
    power = np.abs(np.fft.rfft(frames, axis=1)) ** 2
    return np.log(np.add.reduceat(power, _BAND_EDGES, axis=1) + 1e-6).astype(np.float32)


def _nearest(rows: NDArray[np.float32], codebook: NDArray[np.float32]) -> NDArray[np.intp]:
    return np.argmin(np.sum(np.square(codebook), axis=1) - 2 * rows @ codebook.T, axis=1)
