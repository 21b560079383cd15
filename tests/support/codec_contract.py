"""What every codec promises (`featstore.codecs.base.Codec`), as one suite that each codec's tests inherit."""

import hashlib

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from featstore.codecs.base import BatchCodec, Codec, CodecFamily, LatentCodec, n_frames_of
from featstore.codecs.registry import codec_family, codec_names
from featstore.errors import UtteranceError
from tests.support.near_ties import NEAR_TIE, tie_margins


def tones(n_samples: int, sample_rate_hz: int, seed: int) -> NDArray[np.float32]:
    """Return a seeded sound with some structure: a gliding, amplitude-modulated harmonic tone in noise."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(n_samples) / sample_rate_hz
    pitch_hz = 120 + 80 * np.sin(2 * np.pi * rng.uniform(0.5, 2) * time_s + rng.uniform(0, 6))
    phase = 2 * np.pi * np.cumsum(pitch_hz) / sample_rate_hz
    voice = sum(np.sin(k * phase) / k for k in range(1, 12))
    envelope = 0.5 + 0.5 * np.sin(2 * np.pi * rng.uniform(2, 5) * time_s)
    return (0.1 * envelope * voice + 0.02 * rng.standard_normal(n_samples)).astype(np.float32)


class Dtypes(TorchDispatchMode):
    """Notes the dtypes of all tensors that are computed within."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: set[torch.dtype] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        self.dtypes |= {item.dtype for item in tree_leaves(found) if isinstance(item, torch.Tensor)}
        return found


def require_latents(codec: Codec) -> LatentCodec:
    """Return the codec as one that gives latents; skip the test where it does not, which the contract leaves open."""
    if not isinstance(codec, LatentCodec):
        pytest.skip(f"{codec.name} gives no latents")
    return codec


class CodecContract:
    """Inherit, and give the fixtures `codec` (loaded) and `family`."""

    # Lengths around the hop, and too short for any receptive field.
    lengths_in_hops = (0.003, 0.5, 1, 1.003, 2.5, 7, 40.25)

    def test_family_and_codec_agree(self, codec: Codec, family: CodecFamily):
        assert family.name in codec_names()
        assert codec_family(family.name) is family
        assert codec.name == family.name
        assert codec.sample_rate_hz == family.sample_rate_hz
        assert codec.hop_samples == family.hop_samples
        assert codec.codebooks.shape == (family.n_layers, family.n_codewords, family.dim)
        assert len(bytes.fromhex(codec.weights_sha256)) == 32
        assert isinstance(codec, LatentCodec) == family.has_latents

    def test_codebooks_are_finite_float32_and_used(self, codec: Codec):
        assert isinstance(codec.codebooks, np.ndarray)
        assert codec.codebooks.dtype == np.float32
        assert np.isfinite(codec.codebooks).all()
        assert (codec.codebooks.std(axis=1).max(axis=1) > 0).all()

    def test_shape_and_type_of_codes_at_any_length(self, codec: Codec):
        n_layers, n_codewords, _ = codec.codebooks.shape
        for hops in self.lengths_in_hops:
            samples = tones(max(1, int(hops * codec.hop_samples)), codec.sample_rate_hz, seed=1)
            codes = codec.encode(samples)
            assert isinstance(codes, np.ndarray)
            assert codes.dtype == np.uint16
            assert codes.shape == (n_layers, n_frames_of(samples.size, codec.hop_samples)), hops
            assert codes.max() < n_codewords

    def test_encoding_keeps_no_state_and_leaves_codebooks_alone(self, codec: Codec):
        before = hashlib.sha256(codec.codebooks.tobytes()).hexdigest()
        first = tones(20 * codec.hop_samples, codec.sample_rate_hz, seed=2)
        other = tones(33 * codec.hop_samples, codec.sample_rate_hz, seed=3)
        kept = first.copy()
        codes = codec.encode(first)
        codes_of_other = codec.encode(other)
        np.testing.assert_array_equal(codec.encode(first), codes)
        np.testing.assert_array_equal(first, kept)
        assert not np.array_equal(codes_of_other[:, :20], codes)
        assert hashlib.sha256(codec.codebooks.tobytes()).hexdigest() == before

    def test_latents_come_with_the_same_codes_at_any_length(self, codec: Codec):
        latent_codec = require_latents(codec)
        for hops in self.lengths_in_hops:
            samples = tones(max(1, int(hops * codec.hop_samples)), codec.sample_rate_hz, seed=1)
            codes, latents = latent_codec.encode_with_latents(samples)
            np.testing.assert_array_equal(codes, codec.encode(samples))
            assert codes.dtype == np.uint16
            assert isinstance(latents, np.ndarray)
            assert latents.dtype == np.float32
            assert latents.flags.c_contiguous
            assert latents.shape == (codes.shape[1], codec.codebooks.shape[2])
            assert np.isfinite(latents).all()

    def test_codes_are_the_nearest_codewords_to_what_is_left_of_latents(self, codec: Codec):
        samples = tones(60 * codec.hop_samples, codec.sample_rate_hz, seed=7)
        codes, latents = require_latents(codec).encode_with_latents(samples)
        left = latents.astype(np.float64)
        # The quantisers subtract squared norms in float32. Codewords of an untrained network lie so close together that
        # the last bit (1.2e-7 of the norms) decides between some; the next nearest is at 3e-6 of them in the median.
        for layer, codebook in enumerate(codec.codebooks.astype(np.float64)):
            distances = np.square(left[:, None] - codebook[None]).sum(axis=2)
            near_tie = 1e-6 * (np.square(left).sum(axis=1) + np.square(codebook).sum(axis=1).max())
            chosen = distances[np.arange(len(left)), codes[layer]]
            assert (chosen <= distances.min(axis=1) + near_tie).all(), f"layer {layer + 1}"
            assert (distances.argmin(axis=1) == codes[layer]).mean() > 0.9, f"layer {layer + 1}"
            left = left - codebook[codes[layer]]

    def test_a_batch_has_the_codes_of_one_at_a_time_but_for_near_ties(self, codec: Codec):
        if not isinstance(codec, BatchCodec):
            pytest.skip(f"{codec.name} encodes no batches")
        # The shortest are those whose beginning is padded with what follows.
        lengths_in_hops = (*range(1, 12), 40.25, 0.5, 130) if codec.mixes_lengths else (40.25,) * 3
        samples = [
            tones(int(hops * codec.hop_samples), codec.sample_rate_hz, seed)
            for seed, hops in enumerate(lengths_in_hops)
        ]
        found = codec.encode_batch(samples)
        assert len(found) == len(samples)
        for item, codes in zip(samples, found, strict=True):
            expected, latents = require_latents(codec).encode_with_latents(item)
            assert codes.dtype == np.uint16
            assert codes.flags.c_contiguous
            assert codes.shape == expected.shape
            assert tie_margins(latents, expected, codes, codec.codebooks).max(initial=0) < NEAR_TIE
        with pytest.raises(UtteranceError, match="NaN"):
            codec.encode_batch([samples[-1], np.full_like(samples[-1], np.nan)])

    def test_nothing_on_the_device_is_float64(self, codec: Codec):
        """Which MPS has not."""
        if not hasattr(codec, "model"):
            pytest.skip(f"{codec.name} is NumPy")
        tensors = [*codec.model.parameters(), *codec.model.buffers()]
        with Dtypes() as seen:
            codec.encode(tones(30 * codec.hop_samples, codec.sample_rate_hz, seed=5))
        assert torch.float32 in seen.dtypes
        assert torch.float64 not in seen.dtypes | {tensor.dtype for tensor in tensors}

    def test_silence_is_encoded(self, codec: Codec):
        codes = codec.encode(np.zeros(10 * codec.hop_samples, dtype=np.float32))
        assert codes.shape[1] == 10

    @pytest.mark.parametrize(
        ("samples", "message"),
        [
            (np.zeros(0, dtype=np.float32), "non-empty"),
            (np.zeros((2, 4000), dtype=np.float32), "mono"),
            (np.array([0.1, np.nan] * 2000, dtype=np.float32), "NaN"),
            (np.array([0.1, np.inf] * 2000, dtype=np.float32), "NaN or infinity"),
        ],
    )
    def test_what_cannot_be_encoded_is_an_utterance_error(self, codec: Codec, samples, message):
        with pytest.raises(UtteranceError, match=message):
            codec.encode(samples)
        if isinstance(codec, LatentCodec):
            with pytest.raises(UtteranceError, match=message):
                codec.encode_with_latents(samples)
