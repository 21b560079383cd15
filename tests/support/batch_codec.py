"""The tiny codec with what a codec on a GPU has: batches, another precision, and a memory that can be too small."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from featstore.codecs.base import CodecFamily, Precision
from featstore.codecs.registry import register_codec
from featstore.errors import DeviceMemoryError
from tests.support import tiny_codec


class BatchTiny(tiny_codec.TinyCodec):
    """Encodes batches; lower precisions change codes, and `rounds` makes them depend on who is in the batch.

    Attributes
    ----------
    most_s : float
        Seconds of audio, padded, that fit into memory together; of the class, so that a test can change it.
    rounds : bool
        Take the next codeword in the last layer for a batch of an even number of utterances: as a GPU's rounding
        may, only always.
    """

    most_s = float("inf")
    rounds = False
    mixes_lengths = True
    precision: Precision = "float32"

    def __init__(self, *arguments) -> None:
        super().__init__(*arguments)
        self.batches: list[list[int]] = []

    def encode(self, samples: NDArray[np.float32]) -> NDArray[np.uint16]:
        """Return the codes, or run out of memory."""
        self._require_room(samples.size)
        codes = super().encode(samples)
        if self.precision != "float32":
            codes[1, ::4] = (codes[1, ::4] + 1) % tiny_codec.N_CODEWORDS
        return codes

    def encode_batch(self, samples: Sequence[NDArray[np.float32]]) -> list[NDArray[np.uint16]]:
        """Return the codes of each, or run out of memory."""
        self._require_room(len(samples) * max(item.size for item in samples))
        self.batches.append([item.size for item in samples])
        codes = [self.encode(item) for item in samples]
        if self.rounds and len(samples) % 2 == 0:
            for item in codes:
                item[2] = (item[2] + 1) % tiny_codec.N_CODEWORDS
        return codes

    def _require_room(self, n_samples: int) -> None:
        if n_samples > self.most_s * self.sample_rate_hz:
            raise DeviceMemoryError("gpu:0: too little memory (allocation failed)")


def register() -> CodecFamily:
    """Make it known as ``tiny`` and return its family."""

    def load(checkpoint, device):
        codec = tiny_codec.load(checkpoint, device)
        return BatchTiny(codec.codebooks, codec.weights, codec.weights_sha256)

    family = dataclasses.replace(tiny_codec.FAMILY, load=load)
    register_codec(family)
    return family
