"""Votes of utterances against loops over their frames."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import probes.utterance_vote
from probes.objective import softmax
from probes.utterance_vote import utterance_accuracy, utterance_hits, utterance_votes

seeds = st.integers(0, 2**32 - 1)


def loop(codes, offsets, logits):
    """Sum log posteriors frame by frame."""
    posterior, _ = softmax(logits)
    votes = []
    for start, stop in itertools.pairwise(offsets):
        total = sum((np.log(posterior[code]) for code in codes[start:stop]), np.zeros(logits.shape[1]))
        votes.append(int(np.argmax(total)) if stop > start else -1)
    return votes


@settings(deadline=None, max_examples=60)
@given(seeds, st.sampled_from([1, 30, 1 << 19]), st.sampled_from([0.0, 1.0]))
def test_votes_are_sums_of_log_posteriors(seed, block_cells, sparse):
    """In blocks of one utterance or of many, by a sparse or a dense product."""
    rng = np.random.default_rng(seed)
    n_utterances, n_codes, n_classes = rng.integers(1, 30), 11, 5
    n_frames = rng.integers(0, 20, n_utterances) * (rng.random(n_utterances) < 0.8)
    offsets = np.concatenate([[0], np.cumsum(n_frames)]).astype(np.int64)
    codes = rng.integers(0, n_codes, offsets[-1]).astype(np.uint16)
    logits = 4 * rng.standard_normal((n_codes, n_classes)) + 100 * rng.standard_normal((n_codes, 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probes.utterance_vote, "_BLOCK_CELLS", block_cells)
        patch.setattr(probes.utterance_vote, "_SPARSE", sparse)
        assert utterance_votes(codes, offsets, logits).tolist() == loop(codes, offsets, logits)


def test_many_weak_frames_outvote_one_sure_frame():
    logits = np.array([[5.0, 0.0], [0.0, 1.0]])
    codes = np.array([0, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1], dtype=np.uint16)
    assert utterance_votes(codes, np.array([0, 4, 11]), logits).tolist() == [0, 1]


def test_utterances_are_right_more_often_than_frames():
    rng = np.random.default_rng(0)
    speaker = np.repeat(np.arange(10), 30)
    tables = rng.dirichlet(np.full(64, 3.0), 10)
    codes = np.concatenate([rng.choice(64, 80, p=tables[s]) for s in speaker]).astype(np.uint16)
    logits = np.log(tables.T)
    hit, scored = utterance_hits(utterance_votes(codes, np.arange(301) * 80, logits), speaker)
    of_frames = np.mean(logits.argmax(axis=1)[codes] == np.repeat(speaker, 80))
    assert utterance_accuracy(hit, scored) > 0.95 > 0.4 > of_frames


def test_what_is_not_scored():
    votes, speaker = np.array([2, 1, -1, 0, 1, -1]), np.array([2, 0, 1, -1, 1, -1])
    hit, scored = utterance_hits(votes, speaker)
    assert hit.tolist() == [1, 0, 0, 0, 1, 0]
    assert scored.tolist() == [1, 1, 0, 0, 1, 0]
    assert utterance_accuracy(hit, scored) == pytest.approx(2 / 3)
    assert utterance_accuracy(np.zeros(2), np.zeros(2)) is None
    assert utterance_votes(np.zeros(0, dtype=np.uint16), np.zeros(3, dtype=np.int64), np.eye(2)).tolist() == [-1, -1]
