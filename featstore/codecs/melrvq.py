"""The acoustic baseline: residual vector quantisation of log-mel frames, no neural network and no weights to fetch.

What would a vector quantiser of the spectrogram know? 80 log-mel bands at 16 kHz, 50 frames a second, 8 layers of
1024 codewords by seeded k-means. Everything is NumPy, hundreds of times faster than real time.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore.atomic import write_once
from featstore.codecs import weights
from featstore.codecs.base import Checkpoint, CodecFamily, WeightsKind
from featstore.codecs.kmeans import quantise, residual_kmeans
from featstore.codecs.logmel import MelSettings, log_mel
from featstore.codecs.signal import crops_to_fit, require_mono
from featstore.errors import WeightsError
from featstore.npz_file import read_npz
from featstore.patient_read import UnreadableFileError, read_patiently
from featstore.safe_text import printable

NAME = "melrvq"
N_LAYERS = 8
N_CODEWORDS = 1024
N_FIT_FRAMES = 32_768  # at most; 32 a codeword, 11 min of speech, a few seconds' work
MAX_BYTES = 2**26  # of the checkpoint, unpacked; the usual one has 2.6 MB
_SETTINGS = MelSettings()


class MelRvq:
    """A loaded log-mel quantiser (see `featstore.codecs.base.Codec`).

    Attributes
    ----------
    settings : MelSettings
        As the checkpoint has them.
    """

    name = NAME

    def __init__(
        self, codebooks: NDArray[np.float32], settings: MelSettings, kind: WeightsKind, weights_sha256: str
    ) -> None:
        self.codebooks = codebooks
        self.settings = settings
        self.sample_rate_hz = settings.sample_rate_hz
        self.hop_samples = settings.hop_samples
        self.weights = kind
        self.weights_sha256 = weights_sha256

    def encode(self, samples: NDArray[np.float32]) -> NDArray[np.uint16]:
        """Return the codes, uint16 of shape (n_layers, ceil(n_samples / hop_samples))."""
        return self.encode_with_latents(samples)[0]

    def encode_with_latents(self, samples: NDArray[np.float32]) -> tuple[NDArray[np.uint16], NDArray[np.float32]]:
        """Return the codes, and the log-mel rows that they stand for: float32 of shape (n_frames, n_bands)."""
        latents = log_mel(require_mono(samples, NAME), self.settings)
        return quantise(latents, self.codebooks), latents


def load(checkpoint: Checkpoint, device: str) -> MelRvq:
    """Load an ``.npz`` made by `make_untrained`. The device does not matter: NumPy runs on the CPU.

    Raises
    ------
    WeightsError
        When the file is missing, damaged or holds something else.
    """
    path, where = checkpoint.path, printable(checkpoint.path)
    sha256 = weights.sha256_of(path)
    try:
        stored = read_npz(read_patiently(path, MAX_BYTES), MAX_BYTES)
        settings = _settings(stored)
        codebooks = stored["codebooks"]
    except (ValueError, TypeError, KeyError, UnreadableFileError) as error:
        found = f"no {error.args[0]}" if isinstance(error, KeyError) else printable(error, 300)
        raise WeightsError(
            f"{where}: expected a {NAME} checkpoint (.npz with codebooks and mel settings), found {found}; "
            "make it again"
        ) from error
    if codebooks.ndim != 3 or codebooks.dtype != np.float32 or codebooks.shape[2] != settings.n_bands:
        raise WeightsError(
            f"{where}: expected float32 codebooks of shape (n_layers, n_codewords, {settings.n_bands}), found "
            f"{codebooks.dtype} {codebooks.shape}; make it again"
        )
    if not 1 <= len(codebooks) <= 64 or not 1 <= codebooks.shape[1] <= 65_536:  # codes are uint16
        raise WeightsError(
            f"{where}: expected 1 to 64 layers of 1 to 65536 codewords, found {codebooks.shape}; make it again"
        )
    if not np.isfinite(codebooks).all():
        raise WeightsError(f"{where}: codebooks hold NaN or infinity; the file is damaged, make it again")
    return MelRvq(codebooks, settings, checkpoint.weights, sha256)


def _settings(stored: Mapping[str, NDArray[Any]]) -> MelSettings:
    """Return the settings of a checkpoint; raises KeyError, TypeError or ValueError, of what is absent or wrong."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(MelSettings):
        kind, value = type(getattr(_SETTINGS, field.name)), stored[field.name]
        if value.shape != () or value.dtype.kind not in ("iu" if kind is int else "iuf"):
            raise TypeError(f"{field.name} of type {value.dtype} and shape {value.shape}")
        values[field.name] = kind(value.item())
    settings = MelSettings(**values)
    wrong = next((text for text, holds in _bounds(settings).items() if not holds), None)
    if wrong is not None:
        raise ValueError(f"{settings}, where not {wrong}")
    return settings


def _bounds(s: MelSettings) -> dict[str, bool]:
    """Return what holds for settings that mean something and that ten minutes of audio can be encoded with."""
    return {
        "1000 <= sample_rate_hz <= 48000": 1_000 <= s.sample_rate_hz <= 48_000,
        "1 <= hop_samples <= sample_rate_hz": 1 <= s.hop_samples <= s.sample_rate_hz,
        "1 <= window_samples <= fft_samples": 1 <= s.window_samples <= s.fft_samples,
        "fft_samples <= 16 * hop_samples, 16384": s.fft_samples <= min(16 * s.hop_samples, 16_384),
        "1 <= n_bands <= 1024": 1 <= s.n_bands <= 1024,
        "0 <= lowest_hz < highest_hz <= sample_rate_hz / 2": 0 <= s.lowest_hz < s.highest_hz <= s.sample_rate_hz / 2,
        "0 < power_floor": math.isfinite(s.power_floor) and bool(np.float32(s.power_floor) > 0),
    }


def make_untrained(audio: Sequence[NDArray[np.float32]], seed: int, folder: Path) -> Checkpoint:
    """Fit the codebooks on `audio` (mono, 16 kHz) and save them with the settings as ``<folder>/melrvq.npz``."""
    crops = crops_to_fit(audio, N_FIT_FRAMES, _SETTINGS.hop_samples, seed)
    features = np.concatenate([log_mel(require_mono(crop, NAME), _SETTINGS) for crop in crops])
    codebooks = residual_kmeans(features, N_LAYERS, N_CODEWORDS, seed)
    path = folder / f"{NAME}.npz"
    with write_once(path) as temporary, temporary.open("wb") as file:
        np.savez(file, codebooks=codebooks, **dataclasses.asdict(_SETTINGS))
    return Checkpoint(path, "untrained")


FAMILY = CodecFamily(
    name=NAME,
    summary="acoustic baseline: residual k-means of 80 log-mel bands; needs no weights",
    sample_rate_hz=_SETTINGS.sample_rate_hz,
    hop_samples=_SETTINGS.hop_samples,
    n_layers=N_LAYERS,
    n_codewords=N_CODEWORDS,
    dim=_SETTINGS.n_bands,
    load=load,
    make_untrained=make_untrained,
    fetch_pretrained=None,
    has_latents=True,
)
