"""``verify --full`` reads latents, which neither codes nor the digest can vouch for."""

import hdf5plugin  # noqa: F401
import numpy as np
import pytest

from featstore.errors import StoreError
from featstore.verify import verify_store
from tests.support.stores import StoreRecipe, edited, write_store

RECIPE = StoreRecipe(n_utterances=6, codecs=("alpha",))


def store_with(path, latents):
    write_store(path, RECIPE)
    with edited(path) as file:
        n_frames = file["codecs/alpha/codes"].shape[1]
        file["codecs/alpha/latents"] = latents(n_frames)
    return path


def test_finite_latents_pass(tmp_path):
    verify_store(store_with(tmp_path / "a.h5", lambda n: np.ones((n, RECIPE.dim), "f4")), full=True)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_latent_that_is_not_finite_is_found_wherever_it_is(tmp_path, monkeypatch, value):
    monkeypatch.setattr("featstore.verify._LATENTS_FRAMES", 50)

    def spoilt(n):
        rows = np.ones((n, RECIPE.dim), "f4")
        rows[120, 3] = value
        return rows

    path = store_with(tmp_path / "a.h5", spoilt)
    verify_store(path)
    with pytest.raises(StoreError, match=r"/codecs/alpha/latents: expected finite numbers in frames 100 to 150"):
        verify_store(path, full=True)


@pytest.mark.parametrize(
    ("latents", "message"),
    [
        (lambda n: np.ones((n - 1, RECIPE.dim), "f4"), "latents: expected n_frames"),
        (lambda n: np.ones((n, RECIPE.dim), "f8"), "latents: expected dtype float32, found float64"),
    ],
)
def test_latents_of_another_shape_or_type_do_not_follow_the_format(tmp_path, latents, message):
    with pytest.raises(StoreError, match=message):
        verify_store(store_with(tmp_path / "a.h5", latents), full=True)
