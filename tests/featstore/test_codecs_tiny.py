"""The tiny test codec keeps the codec contract, or tests built on it would prove nothing."""

import numpy as np
import pytest
from numpy.typing import NDArray

from featstore.codecs.base import n_frames_of
from featstore.codecs.registry import codec_family, codec_names
from featstore.errors import UtteranceError, WeightsError
from tests.support import tiny_codec


def _noise(n_samples: int, seed: int = 0) -> NDArray[np.float32]:
    return (0.1 * np.random.default_rng(seed).standard_normal(n_samples)).astype(np.float32)


def test_is_deterministic_and_loads(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    audio = [_noise(16000), _noise(4000, seed=1)]
    first = tiny_codec.make_untrained(audio, 3, tmp_path / "a")
    again = tiny_codec.make_untrained(audio, 3, tmp_path / "b")
    other = tiny_codec.make_untrained(audio, 4, tmp_path / "b")
    assert first.path.name == "tiny.npz"
    assert tiny_codec.load(first, "cpu").weights_sha256 != tiny_codec.load(other, "cpu").weights_sha256
    tiny_codec.make_untrained(audio, 3, tmp_path / "b")
    assert first.path.read_bytes() == again.path.read_bytes()


@pytest.mark.parametrize("n_samples", [1, 159, 160, 161, 8000])
def test_frames_and_codes(tmp_path, n_samples):
    family = tiny_codec.register()
    assert "tiny" in codec_names()
    assert codec_family("tiny") is family
    codec = family.load(family.make_untrained([_noise(8000)], 0, tmp_path), "cpu")
    codes = codec.encode(_noise(n_samples, seed=5))
    assert codes.dtype == np.uint16
    assert codes.shape == (family.n_layers, n_frames_of(n_samples, family.hop_samples))
    assert codes.max() < family.n_codewords
    assert codec.codebooks.shape == (family.n_layers, family.n_codewords, family.dim)
    again, latents = codec.encode_with_latents(_noise(n_samples, seed=5))
    np.testing.assert_array_equal(again, codes)
    assert latents.dtype == np.float32
    assert latents.shape == (codes.shape[1], family.dim)
    distances = np.square(latents[:, None] - codec.codebooks[0]).sum(axis=2)
    np.testing.assert_array_equal(distances.argmin(axis=1), codes[0])


def test_refuses_what_it_cannot_use(tmp_path):
    checkpoint = tiny_codec.make_untrained([_noise(8000)], 0, tmp_path)
    codec = tiny_codec.load(checkpoint, "cpu")
    with pytest.raises(UtteranceError, match="finite"):
        codec.encode(np.full(100, np.nan, dtype=np.float32))
    checkpoint.path.write_bytes(b"not a zip")
    with pytest.raises(WeightsError, match=r"tiny\.npz"):
        tiny_codec.load(checkpoint, "cpu")
