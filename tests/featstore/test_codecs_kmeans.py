"""Residual k-means: right, repeatable to the bit, and at ease with few or equal frames."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featstore.codecs.kmeans import _lloyd_step, nearest, quantise, residual_kmeans


def _frames(n_frames: int, dim: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n_frames, dim)).astype(np.float32)


def test_finds_separate_clusters():
    centres = np.array([[-10, 0], [10, 0], [0, 10], [0, -10]], dtype=np.float32)
    X = np.repeat(centres, 500, axis=0) + np.float32(0.1) * _frames(2000, 2)
    (codebook,) = residual_kmeans(X, 1, 4, seed=1, n_steps=20)
    distances = np.linalg.norm(centres[:, None] - codebook[None], axis=2)
    assert sorted(distances.argmin(axis=1)) == [0, 1, 2, 3]
    assert distances.min(axis=1).max() < 0.05


def test_every_layer_lowers_the_error_on_other_frames():
    codebooks = residual_kmeans(_frames(3000, 6), 4, 32, seed=0)
    X = _frames(1000, 6, seed=1)
    codes = quantise(X, codebooks)
    left = [np.square(X).sum()]
    for layer in range(4):
        X = X - codebooks[layer][codes[layer]]
        left.append(np.square(X).sum())
    assert all(after < 0.9 * before for before, after in itertools.pairwise(left)), left


def test_the_same_bits_every_time_and_no_global_generator_touched():
    X = _frames(5000, 24)
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    first = residual_kmeans(X, 3, 64, seed=7)
    assert residual_kmeans(X, 3, 64, seed=7).tobytes() == first.tobytes()
    assert residual_kmeans(X, 3, 64, seed=8).tobytes() != first.tobytes()
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


@pytest.mark.parametrize("n_frames", [900, 20])
def test_nothing_depends_on_the_scale_of_the_data(n_frames):
    # A power of two scales floats exactly, so any absolute threshold would show as a changed bit.
    X = _frames(n_frames, 5)
    scale = np.float32(2.0**-14)
    np.testing.assert_array_equal(residual_kmeans(X * scale, 3, 32, seed=0), residual_kmeans(X, 3, 32, seed=0) * scale)


def test_deep_layers_live_on_when_frames_are_few():
    X = _frames(1200, 32)
    codebooks = residual_kmeans(X, 8, 512, seed=0)
    spread = codebooks.std(axis=1).mean(axis=1)
    assert (spread[1:] < spread[:-1]).all()
    codes = quantise(X, codebooks)
    left = X - sum(codebooks[layer][codes[layer]] for layer in range(8))
    # With plain cluster means most frames are reproduced exactly by layer 5, and the deeper layers are noise.
    assert (np.abs(left).max(axis=1) < 1e-6).mean() < 0.05


def test_a_codeword_is_drawn_towards_the_mean_by_one_frame():
    X = np.array([[0, 0], [4, 0], [4, 0], [4, 0]], dtype=np.float32)
    moved = _lloyd_step(X, np.array([[0, 0], [4, 0]], dtype=np.float32))
    np.testing.assert_allclose(moved, [[(0 + 3) / 2, 0], [(3 * 4 + 3) / 4, 0]])


def test_fewer_frames_than_codewords():
    X = _frames(10, 4)
    codebooks = residual_kmeans(np.repeat(X, 3, axis=0), 3, 64, seed=0)
    assert codebooks.shape == (3, 64, 4)
    assert np.isfinite(codebooks).all()
    np.testing.assert_array_equal(codebooks[0][nearest(X, codebooks[0])], X)
    assert len(np.unique(codebooks[1], axis=0)) == 64


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_equal_frames(value):
    codebooks = residual_kmeans(np.full((100, 4), value, dtype=np.float32), 2, 16, seed=0)
    assert np.isfinite(codebooks).all()
    assert np.abs(codebooks[0] - value).max() < 1
    assert len(np.unique(codebooks[0], axis=0)) == 16


def test_a_codeword_without_frames_goes_where_the_error_is_largest():
    X = np.array([[0, 0], [0.1, 0], [5, 5], [0, 0.1]], dtype=np.float32)
    moved = _lloyd_step(X, np.array([[0, 0], [100, 100]], dtype=np.float32))
    np.testing.assert_array_equal(moved[1], [5, 5])
    np.testing.assert_allclose(moved[0], X.mean(axis=0), rtol=1e-6)


@settings(max_examples=25, deadline=None)
@given(n_frames=st.integers(1, 40), n_codewords=st.integers(1, 20), dim=st.integers(1, 6), seed=st.integers(0, 99))
def test_nearest_is_the_brute_force_one(n_frames, n_codewords, dim, seed):
    X, codebook = _frames(n_frames, dim, seed), _frames(n_codewords, dim, seed + 1)
    distances = np.linalg.norm(X[:, None].astype(np.float64) - codebook[None], axis=2)
    chosen = distances[np.arange(n_frames), nearest(X, codebook)]
    np.testing.assert_allclose(chosen, distances.min(axis=1), rtol=1e-5, atol=1e-6)


def test_nearest_over_several_blocks_and_ties():
    X = _frames(9000, 3)
    codebook = _frames(16, 3, seed=1)
    np.testing.assert_array_equal(nearest(X, codebook)[8000:], nearest(X[8000:], codebook))
    np.testing.assert_array_equal(nearest(X[:5], np.concatenate([codebook[:1], codebook[:1]])), 0)
