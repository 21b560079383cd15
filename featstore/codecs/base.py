"""The contract between featstore and a neural audio codec.

A codec turns audio into RVQ codes; everything else (embeddings, layouts, probes) follows from codes and codebooks.
One file per codec implements `Codec` and registers a `CodecFamily` (see `registry`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

WeightsKind = Literal["pretrained", "checkpoint", "untrained"]
Precision = Literal["float32", "tf32", "bf16"]


@dataclass(frozen=True)
class Checkpoint:
    """Files that hold a codec's weights.

    Attributes
    ----------
    path : Path
        The weights file.
    weights : {"pretrained", "checkpoint", "untrained"}
        Where they come from: the authors, a file the user named, or a seeded network with k-means codebooks.
    config_path : Path or None
        The model configuration, for codecs that keep it in a second file.
    """

    path: Path
    weights: WeightsKind
    config_path: Path | None = None


class Codec(Protocol):
    """A loaded codec.

    Attributes
    ----------
    name : str
        Registry name, e.g. ``encodec``; the store's group name.
    sample_rate_hz, hop_samples : int
        Rate of the audio that `encode` takes, and samples per frame at that rate.
    codebooks : float32 array of shape (n_layers, n_codewords, dim)
        Row ``codes[l]`` of layer l's codebook is that layer's embedding: that layer alone, not the sum up to it.
    weights : {"pretrained", "checkpoint", "untrained"}
    weights_sha256 : str
        Hex SHA-256 over the bytes of the checkpoint's file (and of its configuration file, where there is one).
    """

    name: str
    sample_rate_hz: int
    hop_samples: int
    codebooks: NDArray[np.float32]
    weights: WeightsKind
    weights_sha256: str

    def encode(self, samples: NDArray[np.float32]) -> NDArray[np.uint16]:
        """Encode one utterance.

        Parameters
        ----------
        samples : float32 array of shape (n_samples,)
            Mono audio at `sample_rate_hz`, in [-1, 1].

        Returns
        -------
        uint16 array of shape (n_layers, n_frames), n_frames = ceil(n_samples / hop_samples)

        Raises
        ------
        UtteranceError
            Where this audio cannot be encoded (too short for the network, not finite).
        DeviceMemoryError
            Where the device has too little memory for it.
        """
        ...


@runtime_checkable
class BatchCodec(Codec, Protocol):
    """A codec that can encode several utterances at once, which is what keeps a GPU busy.

    Attributes
    ----------
    mixes_lengths : bool
        Whether a batch may hold utterances of different lengths; else all of one have equally many samples.
    """

    mixes_lengths: bool

    def encode_batch(self, samples: Sequence[NDArray[np.float32]]) -> list[NDArray[np.uint16]]:
        """Encode utterances together.

        Parameters
        ----------
        samples : sequence of float32 arrays of shape (n_samples,)
            Each as for `encode`.

        Returns
        -------
        list of uint16 arrays of shape (n_layers, n_frames)
            Those of `encode`, by definition. Libraries sum in another order in another shape, so a frame's codes may
            differ where two codewords are equally near but for rounding, and in the layers after that one.

        Raises
        ------
        UtteranceError
            Where `encode` raises it for any of them.
        DeviceMemoryError
            Where they do not fit together; fewer may.
        """
        ...


@runtime_checkable
class PrecisionCodec(Codec, Protocol):
    """A codec whose network can compute in another precision than float32, which is how it is loaded.

    Attributes
    ----------
    precision : {"float32", "tf32", "bf16"}
        Of the network's products; may be set. The search for the nearest codeword stays in float32.
    """

    precision: Precision


@runtime_checkable
class LatentCodec(Codec, Protocol):
    """A codec that also gives what its encoder puts out before quantisation, its latents; its family says so."""

    def encode_with_latents(self, samples: NDArray[np.float32]) -> tuple[NDArray[np.uint16], NDArray[np.float32]]:
        """Encode one utterance, and keep what entered the residual quantiser.

        Parameters
        ----------
        samples : float32 array of shape (n_samples,)
            As for `encode`.

        Returns
        -------
        codes : uint16 array of shape (n_layers, n_frames)
            Exactly those of `encode`.
        latents : float32 array of shape (n_frames, dim)
            In the space of the codebooks: layer 1's code is the codeword of layer 1 nearest to a row.

        Raises
        ------
        UtteranceError
            Where `encode` does.
        """
        ...


@dataclass(frozen=True)
class CodecFamily:
    """How to get codecs of one kind; the registry holds one per name.

    Attributes
    ----------
    name, summary : str
        Registry name, and one line for ``list-codecs``.
    sample_rate_hz, hop_samples, n_layers, n_codewords, dim : int
        Nominal values, to estimate sizes before any weights are loaded.
    load : callable (Checkpoint, device: str) -> Codec
        Load weights (``weights_only=True``); raises WeightsError when they do not match.
    make_untrained : callable (audio, seed, folder) -> Checkpoint
        Make a seeded network, fit its codebooks by k-means on `audio` (a list of mono float32 arrays at the codec's
        rate) and save it in `folder` in the codec's true checkpoint format. Deterministic in its arguments.
    fetch_pretrained : callable () -> Checkpoint, or None
        Download (or find in the cache) and check the authors' weights; None where there is no such thing (the
        acoustic baseline), and then weights are always made from the corpus.
    has_download : bool
        False where `fetch_pretrained` can only say where the authors' files are.
    needs_config : bool
        Whether a checkpoint is two files, weights and configuration.
    has_latents : bool
        Whether what `load` returns is a `LatentCodec`.
    """

    name: str
    summary: str
    sample_rate_hz: int
    hop_samples: int
    n_layers: int
    n_codewords: int
    dim: int
    load: Callable[[Checkpoint, str], Codec]
    make_untrained: Callable[[Sequence[NDArray[np.float32]], int, Path], Checkpoint]
    fetch_pretrained: Callable[[], Checkpoint] | None
    has_download: bool = True
    needs_config: bool = False
    has_latents: bool = False


def n_frames_of(n_samples: int, hop_samples: int) -> int:
    """Return the number of frames of `n_samples` samples at the codec's rate: ceil(n_samples / hop_samples)."""
    return -(-n_samples // hop_samples)
