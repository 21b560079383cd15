"""The pretrained Lyra V2 codec behind the codec contract: real weights of a codec that nothing was built for.

A SoundStream (Zeghidour et al. 2021, doi:10.1109/TASLP.2021.3129994) published by google/lyra under Apache-2.0 as two
TFLite models: an encoder that takes one hop at a time and keeps state, and a residual quantiser. How many layers,
codewords, dimensions and samples a hop it has is read from the models.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from featstore.codecs.base import Checkpoint, CodecFamily, WeightsKind, n_frames_of
from featstore.codecs.registry import register_codec
from featstore.codecs.signal import require_mono, require_n_frames
from featstore.codecs.weights import sha256_of
from featstore.errors import WeightsError

NAME = "lyra"
SAMPLE_RATE_HZ = 16_000  # the one number that the models do not hold
_NO_CODEWORD = -1  # as an index: this layer adds nothing


class LyraCodec:
    """Lyra's encoder and quantiser (see `featstore.codecs.base.Codec`).

    Attributes
    ----------
    quantiser : Quantiser
        The model's own, to compare with.
    """

    name = NAME
    sample_rate_hz = SAMPLE_RATE_HZ

    def __init__(self, encoder_path: Path, quantiser_path: Path, weights: WeightsKind) -> None:
        self._encoder_path = encoder_path
        self.quantiser = Quantiser(quantiser_path)
        self.hop_samples = int(_interpreter(encoder_path).get_input_details()[0]["shape"][1])
        self.codebooks = self.quantiser.codebooks()
        self.weights = weights
        self.weights_sha256 = sha256_of(encoder_path, quantiser_path)

    def features(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the encoder's output, float32 of shape (n_frames, dim), the last hop filled up with zeros.

        A new interpreter each time: the encoder carries its state from hop to hop, and `reset_all_variables` leaves
        that state as it is.
        """
        samples = require_mono(samples, NAME)
        encoder = _interpreter(self._encoder_path)
        encoder.allocate_tensors()
        where_in, where_out = encoder.get_input_details()[0]["index"], encoder.get_output_details()[0]["index"]
        hops = np.zeros((n_frames_of(samples.size, self.hop_samples), self.hop_samples), dtype=np.float32)
        hops.reshape(-1)[: samples.size] = samples
        frames = np.empty((len(hops), self.codebooks.shape[2]), dtype=np.float32)
        for frame, hop in enumerate(hops):
            encoder.set_tensor(where_in, hop[None])
            encoder.invoke()
            frames[frame] = encoder.get_tensor(where_out)[0, 0]
        return frames

    def encode(self, samples: NDArray[np.float32]) -> NDArray[np.uint16]:
        """Return the codes, uint16 of shape (n_layers, ceil(n_samples / hop_samples))."""
        codes = np.stack([self.quantiser.encode(frame) for frame in self.features(samples)], axis=1)
        return require_n_frames(codes.astype(np.uint16), samples.size, self.hop_samples, NAME)


class Quantiser:
    """The quantiser model: one frame at a time to indices and back."""

    def __init__(self, path: Path) -> None:
        interpreter = _interpreter(path)
        self._encode = interpreter.get_signature_runner("encode")
        self._decode = interpreter.get_signature_runner("decode")
        self.n_layers = int(self._decode.get_input_details()["encoding_indices"]["shape"][0])
        self.dim = int(self._decode.get_output_details()["output_0"]["shape"][2])

    def encode(self, frame: NDArray[np.float32]) -> NDArray[np.int32]:
        """Return the index of each layer, int32 of shape (n_layers,), for a frame of shape (dim,)."""
        indices: NDArray[np.int32] = self._run_encoder(frame)["output_0"][:, 0, 0]
        return indices

    def decode(self, indices: NDArray[np.int32]) -> NDArray[np.float32]:
        """Return the sum of the codewords at `indices`, float32 of shape (dim,); -1 leaves a layer out."""
        decoded: NDArray[np.float32] = self._decode(encoding_indices=indices[:, None, None])["output_0"][0, 0]
        return decoded

    def codebooks(self) -> NDArray[np.float32]:
        """Return the codewords, float32 of shape (n_layers, n_codewords, dim), each decoded by itself."""
        n_bits = int(self._run_encoder(np.zeros(self.dim, dtype=np.float32))["output_1"])
        codebooks = np.empty((self.n_layers, 2**n_bits, self.dim), dtype=np.float32)
        for layer, codeword in np.ndindex(codebooks.shape[:2]):
            indices = np.full(self.n_layers, _NO_CODEWORD, dtype=np.int32)
            indices[layer] = codeword
            codebooks[layer, codeword] = self.decode(indices)
        return codebooks

    def _run_encoder(self, frame: NDArray[np.float32]) -> dict[str, Any]:
        outputs: dict[str, Any] = self._encode(input_frames=frame[None, None], num_quantizers=np.int32(self.n_layers))
        return outputs


def register(data: Path) -> CodecFamily:
    """Make the codec known as ``lyra``, from the folder of real data, and return its family; skip where it is not."""
    checkpoint = Checkpoint(
        data / "lyra" / "soundstream_encoder.tflite", "pretrained", data / "lyra" / "quantizer.tflite"
    )
    if not checkpoint.path.is_file():
        pytest.skip(f"no Lyra models at {checkpoint.path.parent}")
    codec = load(checkpoint, "cpu")
    n_layers, n_codewords, dim = codec.codebooks.shape
    family = CodecFamily(
        name=NAME,
        summary="tests only: Lyra V2's SoundStream at 16 kHz, pretrained",
        sample_rate_hz=SAMPLE_RATE_HZ,
        hop_samples=codec.hop_samples,
        n_layers=n_layers,
        n_codewords=n_codewords,
        dim=dim,
        load=load,
        make_untrained=_make_untrained,
        fetch_pretrained=lambda: checkpoint,
    )
    register_codec(family)
    return family


def load(checkpoint: Checkpoint, device: str) -> LyraCodec:
    """Load the encoder (``path``) and the quantiser (``config_path``); they run on the CPU."""
    if checkpoint.config_path is None:
        raise WeightsError(f"{checkpoint.path}: {NAME} needs its quantizer.tflite as config_path")
    return LyraCodec(checkpoint.path, checkpoint.config_path, checkpoint.weights)


def _make_untrained(*_: object) -> Checkpoint:
    raise WeightsError(f"{NAME} exists pretrained only")


def _interpreter(path: Path) -> Any:
    litert = pytest.importorskip("ai_edge_litert.interpreter", reason="Lyra runs on the package ai-edge-litert")
    return litert.Interpreter(str(path), num_threads=1)
