"""The acoustic baseline: residual vector quantisation of log-mel frames, no neural network and no weights to fetch.

What would a vector quantiser of the spectrogram know? 80 log-mel bands at 16 kHz, 50 frames a second, 8 layers of
1024 codewords by seeded k-means. Everything is NumPy, hundreds of times faster than real time.
"""

import dataclasses
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featstore.atomic import write_once
from featstore.codecs import weights
from featstore.codecs.base import Checkpoint, CodecFamily, WeightsKind
from featstore.codecs.kmeans import quantise, residual_kmeans
from featstore.codecs.logmel import MelSettings, log_mel
from featstore.codecs.signal import crops_to_fit, require_mono
from featstore.errors import WeightsError

NAME = "melrvq"
N_LAYERS = 8
N_CODEWORDS = 1024
N_FIT_FRAMES = 32_768  # at most; 32 a codeword, 11 min of speech, a few seconds' work
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
        return quantise(log_mel(require_mono(samples, NAME), self.settings), self.codebooks)


def load(checkpoint: Checkpoint, device: str) -> MelRvq:
    """Load an ``.npz`` made by `make_untrained`. The device does not matter: NumPy runs on the CPU.

    Raises
    ------
    WeightsError
        When the file is missing, damaged or holds something else.
    """
    path = checkpoint.path
    sha256 = weights.sha256_of(path)
    fields = {field.name: type(getattr(_SETTINGS, field.name)) for field in dataclasses.fields(MelSettings)}
    if not zipfile.is_zipfile(path):
        raise WeightsError(f"{path}: expected a {NAME} checkpoint (.npz), found a file of another kind; make it again")
    try:
        with np.load(path, allow_pickle=False) as stored:
            codebooks = stored["codebooks"]
            settings = MelSettings(**{name: kind(stored[name].item()) for name, kind in fields.items()})
    except (OSError, ValueError, TypeError, KeyError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise WeightsError(
            f"{path}: expected a {NAME} checkpoint (.npz with codebooks and mel settings), found "
            f"{weights.first_line(error)}; make it again"
        ) from error
    if codebooks.ndim != 3 or codebooks.dtype != np.float32 or codebooks.shape[2] != settings.n_bands:
        raise WeightsError(
            f"{path}: expected float32 codebooks of shape (n_layers, n_codewords, {settings.n_bands}), found "
            f"{codebooks.dtype} {codebooks.shape}; make it again"
        )
    return MelRvq(codebooks, settings, checkpoint.weights, sha256)


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
)
