"""EnCodec 24 kHz at 6 kbps (Défossez et al. 2022, arXiv:2210.13438): 8 layers of 1024 entries, 75 frames a second."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featstore.codecs import torch_support, weights
from featstore.codecs.base import Checkpoint, CodecFamily, Precision, WeightsKind, n_frames_of
from featstore.codecs.signal import crops_to_fit, require_mono, require_n_frames
from featstore.torch_device import torch_device

if TYPE_CHECKING:
    import torch

NAME = "encodec"
SAMPLE_RATE_HZ = 24_000
HOP_SAMPLES = 320
N_LAYERS = 8
BANDWIDTH_KBPS = 6.0
# The last convolution reaches six frames back, and before the first frame it sees the second to the seventh reflected.
_FEWEST_FRAMES_TO_PAD = 7
CHECKPOINT_NAME = "encodec_24khz-d7cc33bc.th"
CHECKPOINT_SHA256 = "d7cc33bcf1aad7f2dad9836f36431530744abeace3ca033005e3290ed4fa47bf"


class Encodec:
    """A loaded EnCodec 24 kHz model (see `featstore.codecs.base.Codec`).

    Attributes
    ----------
    model : encodec.EncodecModel
        In evaluation mode, at 6 kbps.
    """

    name = NAME
    sample_rate_hz = SAMPLE_RATE_HZ
    hop_samples = HOP_SAMPLES
    mixes_lengths = True
    precision: Precision = "float32"

    def __init__(self, model: Any, device: "torch.device", source: Checkpoint, weights_sha256: str) -> None:
        torch_support.freeze(model, device)
        model.set_target_bandwidth(BANDWIDTH_KBPS)
        self.model = model
        self.weights: WeightsKind = source.weights
        self.weights_sha256 = weights_sha256
        self.codebooks = torch_support.codebooks_of(_used_layers(model), source.path)
        self._device = device

    def encode(self, samples: NDArray[np.float32]) -> NDArray[np.uint16]:
        """Return the codes, uint16 of shape (8, ceil(n_samples / 320)), of the utterance zero-padded to whole hops.

        The library itself reflects the last samples of an utterance that ends within a hop. Padding with zeros
        changes that last frame only (the network is causal) and makes batches, devices and single runs agree.
        """
        return self._encode([samples])[0][0]

    def encode_with_latents(self, samples: NDArray[np.float32]) -> tuple[NDArray[np.uint16], NDArray[np.float32]]:
        """Return the codes, and what entered the quantiser: float32 of shape (ceil(n_samples / 320), 128)."""
        (codes,), latents = self._encode([samples])
        return codes, np.ascontiguousarray(latents[0].T.cpu().numpy())

    def encode_batch(self, samples: Sequence[NDArray[np.float32]]) -> list[NDArray[np.uint16]]:
        """Return the codes of each, all zero-padded to the longest: what follows an utterance's end comes too late.

        Not so for one so short that its beginning is padded with a reflection of what follows: it goes alone.
        """
        is_long = [n_frames_of(item.size, HOP_SAMPLES) >= _FEWEST_FRAMES_TO_PAD for item in samples]
        together = [item for item, long in zip(samples, is_long, strict=True) if long]
        codes = iter(self._encode(together)[0] if together else ())
        return [next(codes) if long else self.encode(item) for item, long in zip(samples, is_long, strict=True)]

    def _encode(self, samples: Sequence[NDArray[np.float32]]) -> "tuple[list[NDArray[np.uint16]], torch.Tensor]":
        """Return the codes of each, and the encoder's output: (n_utterances, 128, n_frames) on the model's device.

        The two steps of the library's own ``encode``, which keeps the second from its caller.
        """
        samples = [require_mono(item, NAME) for item in samples]
        n_frames = [n_frames_of(item.size, HOP_SAMPLES) for item in samples]
        n_padded = max(n_frames) * HOP_SAMPLES
        codes, latents = torch_support.codes_and_latents(
            self.model.encoder, self._quantise, samples, n_padded, self._device, self.precision
        )
        require_n_frames(codes[:, 0], n_padded, HOP_SAMPLES, NAME)
        return [np.ascontiguousarray(codes[:, row, :n]) for row, n in enumerate(n_frames)], latents

    def _quantise(self, latents: "torch.Tensor") -> "torch.Tensor":
        codes: torch.Tensor = self.model.quantizer.encode(latents, self.model.frame_rate, self.model.bandwidth)
        return codes


def fetch_pretrained() -> Checkpoint:
    """Return the authors' weights from torch hub's cache (``TORCH_HOME``), downloaded on first use.

    Raises
    ------
    WeightsError
        When there is no network, or the file is not the authors'.
    """
    import encodec.model
    import torch

    url = encodec.model.ROOT_URL + CHECKPOINT_NAME
    path = Path(torch.hub.get_dir()) / "checkpoints" / CHECKPOINT_NAME
    by_hand = "put the file there by hand, pass it with --encodec-ckpt FILE, or ask for --weights untrained"
    return Checkpoint(weights.fetch(url, path, CHECKPOINT_SHA256, by_hand), "pretrained")


def load(checkpoint: Checkpoint, device: str) -> Encodec:
    """Load a state dict of the 24 kHz model (the authors' file, or one of that format).

    Raises
    ------
    WeightsError
        When the file does not hold the weights of this model.
    FeatstoreError
        When the device does not exist.
    """
    target = torch_device(device)
    sha256 = weights.sha256_of(checkpoint.path)
    state = weights.read_state_dict(checkpoint.path)
    model = torch_support.build_seeded(_new_model, seed=0)
    weights.fill_model(model, state, checkpoint.path)
    return Encodec(model, target, checkpoint, sha256)


def make_untrained(audio: Sequence[NDArray[np.float32]], seed: int, folder: Path) -> Checkpoint:
    """Save a seeded network with k-means codebooks as ``<folder>/encodec-untrained.th``, in the hub file's format.

    Only the 8 layers of 6 kbps get codebooks; the 24 layers above them stay as a new network has them.
    """
    model = torch_support.build_seeded(_new_model, seed)
    crops = crops_to_fit(audio, torch_support.N_FIT_FRAMES, HOP_SAMPLES, seed)
    torch_support.fit_codebooks(model, _used_layers(model), crops, seed)
    path = folder / f"{NAME}-untrained.th"
    weights.save_state_dict(model.state_dict(), path)
    return Checkpoint(path, "untrained")


def _new_model() -> Any:
    from encodec.model import EncodecModel

    return EncodecModel.encodec_model_24khz(pretrained=False)


def _used_layers(model: Any) -> list[Any]:
    return list(model.quantizer.vq.layers[:N_LAYERS])


FAMILY = CodecFamily(
    name=NAME,
    summary="EnCodec 24 kHz at 6 kbps, the general audio codec; weights are downloaded on first use",
    sample_rate_hz=SAMPLE_RATE_HZ,
    hop_samples=HOP_SAMPLES,
    n_layers=N_LAYERS,
    n_codewords=1024,
    dim=128,
    load=load,
    make_untrained=make_untrained,
    fetch_pretrained=fetch_pretrained,
    has_latents=True,
)
