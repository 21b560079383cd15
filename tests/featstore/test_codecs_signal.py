"""Which audio codebooks are fitted on."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featstore.codecs.signal import crops_to_fit
from featstore.errors import FeatstoreError


def _numbered(lengths: list[int]) -> list[np.ndarray]:
    """Utterances whose samples say where they are: utterance number plus position / 1e6."""
    return [number + np.arange(length, dtype=np.float64) / 1e6 for number, length in enumerate(lengths)]


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 5000), min_size=1, max_size=12).filter(any),
    n_frames=st.integers(1, 900),
    seed=st.integers(0, 20),
)
def test_crops_lie_on_hops_and_are_as_many_as_asked_or_there(lengths, n_frames, seed):
    audio = _numbered(lengths)
    crops = list(crops_to_fit(audio, n_frames, 10, seed))
    numbers = [int(crop[0]) for crop in crops]
    assert len(set(numbers)) == len(numbers), "one crop an utterance"
    for crop, number in zip(crops, numbers, strict=True):
        first = round((crop[0] - number) * 1e6)
        assert first % 10 == 0
        np.testing.assert_array_equal(crop, audio[number][first : first + crop.size])
    n_given = sum(-(-crop.size // 10) for crop in crops)
    assert n_given <= n_frames
    if len(lengths) <= max(1, n_frames // 50):
        assert n_given == min(n_frames, sum(-(-length // 10) for length in lengths))


def test_utterances_share_evenly_and_long_ones_make_up_for_short_ones():
    crops = list(crops_to_fit(_numbered([3000, 100, 3000, 3000]), 310, 10, seed=0))
    assert sorted(crop.size for crop in crops) == [100, 1000, 1000, 1000]


def test_the_seed_chooses_the_places():
    audio = _numbered([5000] * 6)
    first, again, other = ([crop[0] for crop in crops_to_fit(audio, 100, 10, seed)] for seed in (1, 1, 2))
    assert first == again != other


def test_many_utterances_are_not_cut_into_slivers():
    crops = list(crops_to_fit(_numbered([5000] * 100), 500, 10, seed=0))
    assert [crop.size for crop in crops] == [500] * 10


def test_no_audio():
    with pytest.raises(FeatstoreError, match="found none"):
        list(crops_to_fit([np.zeros(0, dtype=np.float32)], 100, 10, seed=0))
