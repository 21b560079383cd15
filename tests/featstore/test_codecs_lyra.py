"""A real pretrained codec with 46 layers of 16 entries keeps the contract, so nothing in it assumes 8 of 1024."""

import numpy as np
import pytest
import soundfile

from featstore.codecs.kmeans import quantise
from tests.support import lyra_codec
from tests.support.codec_contract import CodecContract


@pytest.fixture(scope="module")
def family(shared_data):
    return lyra_codec.register(shared_data)


@pytest.fixture(scope="module")
def codec(family):
    return family.load(family.fetch_pretrained(), "cpu")


@pytest.fixture(scope="module")
def speech(shared_data):
    path = sorted(shared_data.glob("LibriSpeech/train-clean-100/*/*/*.flac"))[0]
    samples, rate = soundfile.read(path, dtype="float32")
    assert rate == lyra_codec.SAMPLE_RATE_HZ
    return samples[: 4 * rate + 77]


class TestContract(CodecContract):
    pass


def test_it_is_the_lyra_that_was_published(codec, family):
    assert codec.codebooks.shape == (46, 16, 64)
    assert (codec.sample_rate_hz, codec.hop_samples, codec.weights) == (16_000, 320, "pretrained")
    assert (family.n_layers, family.n_codewords, family.dim) == (46, 16, 64)


def test_codebook_rows_add_up_to_the_quantisers_decode(codec, speech):
    codes = codec.encode(speech)
    summed = sum(codec.codebooks[layer][codes[layer]] for layer in range(len(codes)))
    decoded = np.stack([codec.quantiser.decode(frame) for frame in codes.T.astype(np.int32)])
    np.testing.assert_allclose(summed, decoded, rtol=1e-6, atol=1e-5)


def test_codes_are_the_nearest_codewords_to_what_is_left(codec, speech):
    """The model's quantiser and ours agree, so both search in the space of these codebooks."""
    agreement = quantise(codec.features(speech), codec.codebooks) == codec.encode(speech)
    assert agreement.mean() > 0.999


def test_every_layer_brings_the_sum_nearer_to_real_speech(codec, speech):
    codes, left = codec.encode(speech), codec.features(speech)
    variance = [np.square(left).mean()]
    for layer, codebook in enumerate(codec.codebooks):
        left = left - codebook[codes[layer]]
        variance.append(np.square(left).mean())
    assert (np.diff(variance) < 0).all()
    assert variance[-1] < 0.1 * variance[0]
    # A codec that did not understand speech would use its codewords evenly, or one alone.
    assert len(np.unique(codes[0])) > 8
