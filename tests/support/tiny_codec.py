"""A tiny, instant codec in NumPy for tests of the store, of faults and of anything that needs a codec but no torch.

It has numbers of its own (8 kHz, hop 160, 3 layers of 32 codewords, 6 dimensions), so nothing that passes with it
can assume the real codecs' 8 layers, 1024 entries or clocks. The codes carry real information: a frame's features
are log energies in six bands, quantised residually.
"""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featstore.codecs.base import Checkpoint, CodecFamily, WeightsKind, n_frames_of
from featstore.codecs.registry import register_codec
from featstore.errors import UtteranceError, WeightsError

NAME = "tiny"
SAMPLE_RATE_HZ = 8000
HOP_SAMPLES = 160
N_LAYERS = 3
N_CODEWORDS = 32
DIM = 6
_BAND_EDGES = (0, 4, 8, 14, 24, 44, 81)  # FFT bins of a 160-sample frame, 50 Hz apart


class TinyCodec:
    """Residual vector quantisation of six log band energies (see `featstore.codecs.base.Codec`)."""

    name = NAME
    sample_rate_hz = SAMPLE_RATE_HZ
    hop_samples = HOP_SAMPLES

    def __init__(self, codebooks: NDArray[np.float32], weights: WeightsKind, weights_sha256: str) -> None:
        self.codebooks = codebooks
        self.weights = weights
        self.weights_sha256 = weights_sha256

    def encode(self, samples: NDArray[np.float32]) -> NDArray[np.uint16]:
        """Return the codes, uint16 of shape (3, ceil(n_samples / 160))."""
        return self.encode_with_latents(samples)[0]

    def encode_with_latents(self, samples: NDArray[np.float32]) -> tuple[NDArray[np.uint16], NDArray[np.float32]]:
        """Return the codes, and the log band energies that they stand for: float32 of shape (n_frames, 6)."""
        latents = _band_energies(samples)
        residual = latents
        codes = np.empty((N_LAYERS, len(residual)), dtype=np.uint16)
        for layer, codebook in enumerate(self.codebooks):
            codes[layer] = _nearest(residual, codebook)
            residual = residual - codebook[codes[layer]]
        return codes, latents


def load(checkpoint: Checkpoint, device: str) -> TinyCodec:
    """Load ``tiny.npz``; the device does not matter to NumPy."""
    try:
        with np.load(checkpoint.path, allow_pickle=False) as stored:
            codebooks = stored["codebooks"]
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise WeightsError(f"{checkpoint.path}: not a checkpoint of the codec {NAME}: {error}") from error
    expected = (N_LAYERS, N_CODEWORDS, DIM)
    if codebooks.shape != expected:
        raise WeightsError(f"{checkpoint.path}: codebooks of shape {codebooks.shape}, expected {expected}")
    sha256 = hashlib.sha256(checkpoint.path.read_bytes()).hexdigest()
    return TinyCodec(codebooks.astype(np.float32), checkpoint.weights, sha256)


def make_untrained(audio: Sequence[NDArray[np.float32]], seed: int, folder: Path) -> Checkpoint:
    """Choose each layer's codewords among the residuals of `audio`, seeded, and save ``<folder>/tiny.npz``."""
    rng = np.random.default_rng(seed)
    residual = np.concatenate([_band_energies(samples) for samples in audio])
    codebooks = np.empty((N_LAYERS, N_CODEWORDS, DIM), dtype=np.float32)
    for layer in range(N_LAYERS):
        rows = rng.choice(len(residual), N_CODEWORDS, replace=len(residual) < N_CODEWORDS)
        codebooks[layer] = residual[rows]
        residual = residual - codebooks[layer][_nearest(residual, codebooks[layer])]
    path = folder / f"{NAME}.npz"
    temporary = folder / f"{NAME}.partial.npz"
    np.savez(temporary, codebooks=codebooks)
    os.replace(temporary, path)
    return Checkpoint(path, "untrained")


def _band_energies(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    if samples.ndim != 1 or samples.size == 0 or not np.isfinite(samples).all():
        raise UtteranceError(f"{NAME} encodes a non-empty, finite mono signal; got shape {samples.shape}")
    n_frames = n_frames_of(samples.size, HOP_SAMPLES)
    frames = np.zeros((n_frames, HOP_SAMPLES), dtype=np.float64)
    frames.reshape(-1)[: samples.size] = samples
    power = np.abs(np.fft.rfft(frames, axis=1)) ** 2
    return np.log(np.add.reduceat(power, _BAND_EDGES[:-1], axis=1) + 1e-6).astype(np.float32)


def _nearest(rows: NDArray[np.float32], codebook: NDArray[np.float32]) -> NDArray[np.intp]:
    return np.argmin(np.sum(np.square(codebook), axis=1) - 2 * rows @ codebook.T, axis=1)


FAMILY = CodecFamily(
    name=NAME,
    summary="tests only: residual quantisation of six log band energies at 8 kHz",
    sample_rate_hz=SAMPLE_RATE_HZ,
    hop_samples=HOP_SAMPLES,
    n_layers=N_LAYERS,
    n_codewords=N_CODEWORDS,
    dim=DIM,
    load=load,
    make_untrained=make_untrained,
    fetch_pretrained=None,
    has_latents=True,
)


def register() -> CodecFamily:
    """Make the codec known as ``tiny`` and return its family."""
    register_codec(FAMILY)
    return FAMILY
