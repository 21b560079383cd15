"""Information against loops over frames, scikit-learn, closed forms, and data whose information is known."""

import itertools
import tracemalloc

import numpy as np
import pytest
import scipy.stats
import sklearn.linear_model
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from probes.errors import ProbeError
from probes.frame_cells import frames_per_utterance, utterance_blocks
from probes.information import delete_group_jackknife, entropy_bits, mutual_information, plug_in_bits
from probes.permutation_null import permutation_null
from probes.usable_information import information_table, utterance_bits, v_information_bits

seeds = st.integers(0, 2**32 - 1)
many = settings(deadline=None, max_examples=60)


def draw(seed, n_utterances=7, n_codes=6, n_classes=4):
    """Frames of utterances, of which some are empty and some frames take no part."""
    rng = np.random.default_rng(seed)
    n_frames = rng.integers(0, 25, n_utterances) * (rng.random(n_utterances) < 0.9)
    offsets = np.concatenate([[0], np.cumsum(n_frames)]).astype(np.int64)
    labels = rng.integers(-1, n_classes, offsets[-1])
    codes = np.where(rng.random(offsets[-1]) < 0.5, labels % n_codes, rng.integers(0, n_codes, offsets[-1]))
    return codes.astype(np.uint16), labels, offsets, rng


def table_of(codes, labels, n_codes, n_classes):
    table = np.zeros((n_codes, n_classes), dtype=np.int64)
    for code, label in zip(codes.tolist(), labels.tolist(), strict=True):
        if label >= 0:
            table[code, label] += 1
    return table


def sklearn_bits(codes, labels):
    kept = labels >= 0
    return sklearn.metrics.mutual_info_score(codes[kept], labels[kept]) / np.log(2)


def frames_of(offsets, utterances):
    return np.concatenate([np.arange(offsets[u], offsets[u + 1]) for u in utterances] + [np.zeros(0, dtype=int)])


# --- the plug-in estimate -----------------------------------------------------------------------------------------


@many
@given(seeds)
def test_the_plug_in_estimate_is_scikit_learns(seed):
    codes, labels, _, _ = draw(seed)
    table = table_of(codes, labels, 6, 4)
    if not table.sum():
        assert plug_in_bits(table) == entropy_bits(table.sum(axis=0)) == 0.0
        return
    assert plug_in_bits(table) == pytest.approx(sklearn_bits(codes, labels), abs=1e-12)
    assert entropy_bits(table.sum(axis=0)) == pytest.approx(scipy.stats.entropy(table.sum(axis=0), base=2), abs=1e-12)


def test_information_of_known_tables():
    assert plug_in_bits(np.outer([3, 5, 8], [7, 2])) == pytest.approx(0.0, abs=1e-12)
    assert plug_in_bits(np.diag([4, 4, 4, 4])) == pytest.approx(2.0)
    # A binary symmetric channel with error rate 1/4 passes 1 - H(1/4) bits.
    assert plug_in_bits(np.array([[3, 1], [1, 3]])) == pytest.approx(1 - scipy.stats.entropy([0.25, 0.75], base=2))


def test_counts_beyond_the_table_of_logarithms():
    small = np.array([[30, 10, 3], [1, 30, 0]])
    for factor in (2_184, 2_185, 3_000, 10**6, 10**9):  # the first to stay below 2^16, the second to pass it
        assert plug_in_bits(small * factor) == pytest.approx(plug_in_bits(small), abs=1e-12)
        assert entropy_bits(small[0] * factor) == pytest.approx(entropy_bits(small[0]), abs=1e-12)


def test_a_count_at_the_end_of_the_table_of_logarithms():
    for count in (2**16 - 1, 2**16, 2**16 + 1):
        assert entropy_bits(np.array([count, 7])) == pytest.approx(scipy.stats.entropy([count, 7], base=2), abs=1e-14)


# --- blocks and jackknife -----------------------------------------------------------------------------------------


def left_out(codes, labels, offsets, blocks, groups):
    """Estimates without each group of blocks, and the groups' shares of the frames, from the frames themselves."""
    without, share = [], []
    for group in groups:
        rest = frames_of(offsets, np.flatnonzero(~np.isin(blocks, group)))
        without.append(sklearn_bits(codes[rest], labels[rest]))
        share.append(1 - (labels[rest] >= 0).sum() / (labels >= 0).sum())
    return np.array(without), np.array(share)


def covered(codes, labels, offsets, blocks):
    """Share of frames whose code and label another block has together."""
    met = {}
    for block, (start, stop) in zip(blocks, itertools.pairwise(offsets), strict=True):
        for pair in zip(codes[start:stop], labels[start:stop], strict=True):
            met.setdefault(pair, []).append(block)
    kept = [found for (_, label), found in met.items() if label >= 0]
    return sum(len(found) for found in kept if len(set(found)) > 1) / sum(map(len, kept))


@pytest.mark.parametrize("design", ["speakers together", "speakers spread"])
@pytest.mark.parametrize("seed", range(30))
def test_the_corrected_estimate_is_that_of_frames_left_out_one_block_at_a_time(seed, design):
    rng = np.random.default_rng(seed)
    codes, labels, offsets, _ = draw(seed, n_utterances=int(rng.integers(1, 25)))
    n_frames = frames_per_utterance(labels, offsets)
    blocks = utterance_blocks(n_frames, rng.integers(0, 3, len(n_frames)), design, int(rng.integers(1, 12)))
    found = mutual_information(codes, labels, offsets, blocks, 6, 4)
    if not n_frames.any():
        assert found is None
        return
    assert found.plug_in_bits == pytest.approx(sklearn_bits(codes, labels), abs=1e-12)
    present = sorted(set(blocks) - {-1})
    assert found.n_blocks == len(present)
    assert found.coverage == pytest.approx(covered(codes, labels, offsets, blocks))
    if found.n_blocks < 4 or found.coverage < 0.8:
        assert found.bits is found.low is found.high is None
        return
    without, share = left_out(codes, labels, offsets, blocks, [[block] for block in present])
    h = 1 / share
    pseudo = h * found.plug_in_bits - (h - 1) * without
    bits = len(h) * found.plug_in_bits - np.sum((1 - share) * without)
    reach = scipy.stats.t.ppf(0.975, len(h) - 1) * np.sqrt(np.mean((pseudo - bits) ** 2 / (h - 1)))
    without, share = left_out(codes, labels, offsets, blocks, [present[::2], present[1::2]])
    by_halves = 2 * found.plug_in_bits - np.sum((1 - share) * without)
    left = max(0, (by_halves - bits) * len(h) / (len(h) - 2))
    assert found.bits == pytest.approx(bits, abs=1e-9)
    assert found.high == pytest.approx(bits + reach, abs=1e-8)
    assert found.low == pytest.approx(bits - reach - 3 * left, abs=1e-8)


def test_estimates_with_and_without_enough_frames_were_both_compared():
    """The sweep above meets what it means to meet."""
    kinds = set()
    for seed in range(30):
        rng = np.random.default_rng(seed)
        codes, labels, offsets, _ = draw(seed, n_utterances=int(rng.integers(1, 25)))
        n_frames = frames_per_utterance(labels, offsets)
        blocks = utterance_blocks(
            n_frames, rng.integers(0, 3, len(n_frames)), "speakers spread", int(rng.integers(1, 12))
        )
        found = mutual_information(codes, labels, offsets, blocks, 6, 4)
        kinds.add(None if found is None else found.bits is None)
    assert kinds >= {True, False}


@many
@given(seeds, st.integers(1, 25))
def test_blocks_of_speakers_together_are_runs_of_about_equal_size(seed, n_blocks):
    rng = np.random.default_rng(seed)
    n_frames, speaker = rng.integers(0, 50, 40), rng.integers(0, 9, 40)
    n_frames[3] = 20
    blocks = utterance_blocks(n_frames, speaker, "speakers together", n_blocks)
    np.testing.assert_array_equal(blocks == -1, n_frames == 0)
    assert set(blocks) - {-1} == set(range(blocks.max() + 1))
    order = np.argsort(speaker, kind="stable")
    assert np.all(np.diff(blocks[order][n_frames[order] > 0]) >= 0)
    sizes = np.bincount(blocks[blocks >= 0], n_frames[blocks >= 0])
    assert sizes.max() <= n_frames.sum() / n_blocks + n_frames.max()


def test_blocks_of_speakers_spread_leave_every_speaker_in():
    speaker = np.repeat(np.arange(5), 4)
    speaker = np.random.default_rng(0).permutation(speaker)
    blocks = utterance_blocks(np.full(20, 9), speaker, "speakers spread", 4)
    for block in range(4):
        assert set(speaker[blocks != block]) == set(range(5))
        assert sorted(speaker[blocks == block]) == list(range(5))


def test_speakers_together_are_left_out_whole():
    speaker = np.repeat(np.arange(10), 6)
    blocks = utterance_blocks(np.full(60, 100), speaker, "speakers together", 5)
    assert blocks.tolist() == np.repeat(np.arange(5), 12).tolist()


def test_the_jackknife_of_a_mean_is_the_mean_and_its_standard_error():
    rng = np.random.default_rng(1)
    values = rng.normal(3.0, 2.0, 30)
    without = (values.sum() - values) / 29
    estimate, error = delete_group_jackknife(values.mean(), without, np.full(30, 1 / 30))
    assert estimate == pytest.approx(values.mean())
    assert error == pytest.approx(values.std(ddof=1) / np.sqrt(30))


def test_the_jackknife_makes_the_biased_variance_unbiased():
    values = np.random.default_rng(2).normal(size=12)
    without = [np.delete(values, i).var() for i in range(12)]
    estimate, _ = delete_group_jackknife(values.var(), np.array(without), np.full(12, 1 / 12))
    assert estimate == pytest.approx(values.var(ddof=1))


@pytest.mark.parametrize("share", [[0.25] * 4, [0.4, 0.3, 0.2, 0.1], [0.7, 0.15, 0.1, 0.05]])
def test_the_jackknife_takes_off_a_bias_of_order_one_over_n_whatever_the_groups(share):
    n, truth, slope = 1000.0, 1.7, 40.0
    without = truth + slope / (n * (1 - np.array(share)))
    estimate, error = delete_group_jackknife(truth + slope / n, without, np.array(share))
    assert estimate == pytest.approx(truth)
    assert error == pytest.approx(0.0, abs=0.05)


def independent(rng, n_utterances, n_frames, hold):
    """Codes and labels that have nothing to do with each other; each code and label lasts `hold` frames."""
    n = n_utterances * n_frames // hold
    codes = np.repeat(rng.choice(32, n, p=rng.dirichlet(np.full(32, 2.0))), hold).astype(np.uint16)
    labels = np.repeat(rng.choice(10, n, p=rng.dirichlet(np.full(10, 2.0))), hold)
    return codes, labels, np.arange(n_utterances + 1) * n_frames


@pytest.mark.parametrize("hold", [1, 5])
def test_the_jackknife_takes_the_bias_off_independent_codes_and_labels(hold):
    """Also where frames repeat: the bias is then that of a fifth of the frames, which no formula of N would know."""
    rng = np.random.default_rng(hold)
    found = []
    for _ in range(12):
        codes, labels, offsets = independent(rng, 100, 200, hold)
        blocks = utterance_blocks(np.full(100, 200), np.arange(100), "speakers together")
        found.append(mutual_information(codes, labels, offsets, blocks, 32, 10))
    plug_in = np.mean([f.plug_in_bits for f in found])
    assert plug_in == pytest.approx(31 * 9 * hold / (2 * 20_000 * np.log(2)), rel=0.15)
    assert abs(np.mean([f.bits for f in found])) < 0.12 * plug_in
    assert sum(f.low <= 0.0 <= f.high for f in found) >= 10
    assert all(f.low < f.bits < f.high < f.plug_in_bits for f in found)


def test_too_few_frames_for_the_table_give_no_corrected_value():
    """The jackknife alone would find 0.4 bits here, and be sure of it, where there are none."""
    rng = np.random.default_rng(0)
    codes, labels, offsets = independent(rng, 100, 100, 10)
    wide = (codes * 8 + np.repeat(rng.integers(0, 8, 1000), 10)).astype(np.uint16)
    blocks = utterance_blocks(np.full(100, 100), np.arange(100), "speakers together")
    found = mutual_information(wide, labels, offsets, blocks, 256, 10)
    without, share = left_out(wide, labels, offsets, blocks, [[block] for block in range(20)])
    bare, error = delete_group_jackknife(found.plug_in_bits, without, share)
    assert bare - 3 * error > 0.3
    assert found.bits is found.low is found.high is None
    assert found.coverage < 0.8


@pytest.mark.parametrize("hold", [1, 4])
@pytest.mark.parametrize("strength", [0.0, 0.3, 0.7])
def test_the_interval_reaches_the_truth_wherever_a_value_is_given(strength, hold):
    """From few frames for the table to many: intervals of the jackknife alone miss it nearly always at the few."""
    rng = np.random.default_rng(17)
    n_codes, n_classes, n_hit, n_bare, n_given = 64, 12, 0, 0, 0
    own = rng.dirichlet(np.full(n_classes, 0.2), n_codes)
    joint = rng.dirichlet(np.full(n_codes, 1.0))[:, None] * (
        strength * own + (1 - strength) * rng.dirichlet(np.full(n_classes, 0.8))
    )
    truth = entropy(joint.sum(axis=1)) + entropy(joint.sum(axis=0)) - entropy(joint)
    for n_frames in np.geomspace(400, 40_000, 30).astype(int) // 20 * 20:
        cells = np.repeat(rng.choice(joint.size, n_frames // hold, p=joint.ravel()), hold)
        codes, labels = (cells // n_classes).astype(np.uint16), cells % n_classes
        offsets = np.linspace(0, len(cells), 41).astype(np.int64)
        found = mutual_information(codes, labels, offsets, np.arange(40) // 2, n_codes, n_classes)
        if found.bits is not None:
            n_given += 1
            n_hit += found.low <= truth <= found.high
            n_bare += abs(found.bits - truth) <= found.high - found.bits
    assert n_given >= 8
    assert n_hit >= 0.85 * n_given
    assert n_bare < n_hit


def entropy(p):
    return scipy.stats.entropy(np.ravel(p), base=2)


def test_the_interval_covers_the_true_information():
    rng = np.random.default_rng(11)
    joint = rng.dirichlet(np.full(60, 0.3)).reshape(12, 5)
    marginal = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    truth = float((joint * np.log2(joint / marginal)).sum())
    offsets, blocks = np.arange(61) * 50, np.arange(60) % 20
    n_covered = 0
    for _ in range(60):
        cells = rng.choice(60, 3000, p=joint.ravel())
        found = mutual_information((cells // 5).astype(np.uint16), cells % 5, offsets, blocks, 12, 5)
        n_covered += found.low <= truth <= found.high
    assert 51 <= n_covered <= 60  # 57 expected; fewer than 51 has probability 2e-3


def test_memory_is_that_of_the_frames_not_of_a_table_for_each_block():
    rng = np.random.default_rng(0)
    n_codes, n_classes = 1024, 400
    offsets = np.arange(101) * 100
    codes, labels = rng.integers(0, n_codes, 10_000).astype(np.uint16), rng.integers(0, n_classes, 10_000)
    tracemalloc.start()
    mutual_information(codes, labels, offsets, np.arange(100) % 20, n_codes, n_classes)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * 8 * n_codes * n_classes  # twenty tables would be more


# --- the null -----------------------------------------------------------------------------------------------------


def test_shifts_are_drawn_among_all_turns_of_each_utterance():
    # Two utterances of 3 and 2 frames have 6 pairs of turns; the null can only take their values, and takes them all.
    codes = np.array([0, 1, 2, 0, 1], dtype=np.uint16)
    labels = np.array([0, 1, 1, 0, 1])
    turns = [
        plug_in_bits(table_of(codes, np.concatenate([np.roll(labels[:3], a), np.roll(labels[3:], b)]), 3, 2))
        for a, b in itertools.product(range(3), range(2))
    ]
    found = permutation_null(codes, labels, np.array([0, 3, 5]), 3, 2, "shift", 3000, seed=1)
    assert found.mean_bits == pytest.approx(np.mean(turns), abs=0.02)
    assert found.high_bits == pytest.approx(max(turns))
    observed = turns[0]
    assert found.p_value == pytest.approx(np.mean(np.array(turns) >= observed - 1e-12), abs=0.03)


def test_speakers_are_permuted_over_utterances():
    # Three utterances, one of them of the second speaker: whichever it is, with a third of the chance.
    offsets = np.array([0, 4, 4, 7, 9])
    codes = np.array([0, 0, 1, 2, 1, 1, 0, 2, 2], dtype=np.uint16)
    labels = np.repeat([0, 0, 1], [4, 3, 2])
    turns = [
        plug_in_bits(table_of(codes, np.repeat(assigned, [4, 3, 2]), 3, 2))
        for assigned in ([0, 0, 1], [0, 1, 0], [1, 0, 0])
    ]
    found = permutation_null(codes, labels, offsets, 3, 2, "reassign", 3000, seed=2)
    assert found.mean_bits == pytest.approx(np.mean(turns), abs=0.02)
    assert found.p_value == pytest.approx(np.mean(np.array(turns) >= turns[0] - 1e-12), abs=0.03)


@many
@given(seeds)
def test_frames_that_take_no_part_are_as_if_absent(seed):
    codes, labels, offsets, _ = draw(seed)
    kept = labels >= 0
    cut = np.concatenate([[0], np.cumsum(frames_per_utterance(labels, offsets))])
    assert permutation_null(codes, labels, offsets, 6, 4, "shift", 5, seed=3) == permutation_null(
        codes[kept], labels[kept], cut, 6, 4, "shift", 5, seed=3
    )


def test_the_null_knows_labels_that_tell_from_labels_that_do_not():
    rng = np.random.default_rng(4)
    codes, labels, offsets = independent(rng, 50, 100, 5)
    told = np.where(rng.random(5000) < 0.3, codes % 10, labels)
    telling = permutation_null(codes, told, offsets, 32, 10, "shift", 99, seed=5)
    assert telling.p_value == pytest.approx(0.01)
    assert telling.high_bits < plug_in_bits(table_of(codes, told, 32, 10))
    p_values = []
    for _ in range(30):
        codes, labels, offsets = independent(rng, 30, 40, 5)
        # Changes of code and label must not fall together either: that is a dependence, which the null would find.
        labels = np.concatenate([np.roll(track, rng.integers(40)) for track in np.split(labels, 30)])
        p_values.append(permutation_null(codes, labels, offsets, 32, 10, "shift", 19, seed=6).p_value)
    assert scipy.stats.kstest(p_values, "uniform").pvalue > 1e-3


def test_the_null_is_the_same_again_and_refuses_nonsense():
    codes, labels, offsets, _ = draw(12)
    first, second, other = (
        permutation_null(codes, labels, offsets, 6, 4, "shift", 20, seed=seed) for seed in (1, 1, 2)
    )
    assert first == second != other
    for n_permutations, seed in ((0, 1), (3, -1)):
        with pytest.raises(ProbeError, match=f"found {n_permutations} and {seed}; see --n-permutations"):
            permutation_null(codes, labels, offsets, 6, 4, "shift", n_permutations, seed=seed)
    nothing = np.full(len(codes), -1)
    assert permutation_null(codes, nothing, offsets, 6, 4, "shift", 5) is None


# --- V-information ------------------------------------------------------------------------------------------------


@many
@given(seeds)
def test_usable_information_is_a_difference_of_cross_entropies_of_frames(seed):
    codes, labels, _, rng = draw(seed)
    n_train = rng.integers(1, 60, 4).astype(float)
    logits = 3 * rng.standard_normal((6, 4))
    kept = labels >= 0
    if not kept.any():
        return
    prior = n_train / n_train.sum()
    for class_weight, weight in (("none", 1.0), ("balanced", n_train)):
        posterior = np.exp(logits) * weight
        posterior /= posterior.sum(axis=1, keepdims=True)
        of_prior = sklearn.metrics.log_loss(labels[kept], np.tile(prior, (kept.sum(), 1)), labels=np.arange(4))
        of_probe = sklearn.metrics.log_loss(labels[kept], posterior[codes[kept]], labels=np.arange(4))
        bits = information_table(logits, n_train, class_weight)
        found = v_information_bits(table_of(codes, labels, 6, 4), bits)
        assert found == pytest.approx((of_prior - of_probe) / np.log(2), abs=1e-9)


@many
@given(seeds)
def test_bits_of_utterances_are_sums_over_their_frames(seed):
    codes, labels, offsets, rng = draw(seed)
    bits = rng.standard_normal((6, 4))
    sums, n_frames = utterance_bits(codes, labels, offsets, bits)
    for u, (start, stop) in enumerate(itertools.pairwise(offsets)):
        pairs = [(c, k) for c, k in zip(codes[start:stop], labels[start:stop], strict=True) if k >= 0]
        assert n_frames[u] == len(pairs)
        assert sums[u] == pytest.approx(sum(bits[c, k] for c, k in pairs), abs=1e-12)
    if n_frames.any():
        whole = v_information_bits(table_of(codes, labels, 6, 4), bits)
        assert sums.sum() / n_frames.sum() == pytest.approx(whole, abs=1e-12)


def test_bits_of_utterances_longer_and_shorter_than_a_block_of_frames():
    rng = np.random.default_rng(8)
    offsets = np.concatenate([[0, 0], np.cumsum([300_000, 0, 5, 200_000, 100_000, 7])]).astype(np.int64)
    codes, labels = rng.integers(0, 6, offsets[-1]).astype(np.uint16), rng.integers(-1, 4, offsets[-1])
    bits = rng.standard_normal((6, 4))
    sums, n_frames = utterance_bits(codes, labels, offsets, bits)
    frame_bits = np.where(labels >= 0, bits[codes, labels], 0.0)
    expected = [frame_bits[a:b].sum() for a, b in itertools.pairwise(offsets)]
    np.testing.assert_allclose(sums, expected, atol=1e-8)
    np.testing.assert_array_equal(n_frames, frames_per_utterance(labels, offsets))


def test_a_probe_that_says_the_prior_has_no_usable_information():
    n_train = np.array([5.0, 90.0, 40.0])
    counts = np.random.default_rng(0).integers(0, 9, (7, 3))
    flat = np.zeros((7, 3))
    assert v_information_bits(counts, information_table(flat, n_train, "balanced")) == pytest.approx(0.0, abs=1e-12)
    prior = flat + np.log(n_train)
    assert v_information_bits(counts, information_table(prior, n_train, "none")) == pytest.approx(0.0, abs=1e-12)
    assert v_information_bits(np.zeros((7, 3)), prior) is None


def test_a_probe_that_misleads_has_negative_usable_information():
    bits = information_table(np.array([[0.0, 50.0], [50.0, 0.0]]), np.ones(2), "balanced")
    assert v_information_bits(np.eye(2), bits) == pytest.approx(1 - 50 / np.log(2))


def test_a_free_table_uses_all_the_information_and_no_probe_more():
    """With equal training and evaluation frames, log counts as logits reach I(code; label); others stay under it."""
    rng = np.random.default_rng(9)
    counts = rng.integers(1, 30, (6, 4))
    n_train = counts.sum(axis=0).astype(float)
    best = information_table(np.log(counts), n_train, "none")
    assert v_information_bits(counts, best) == pytest.approx(plug_in_bits(counts), abs=1e-12)
    balanced = information_table(np.log(counts / n_train), n_train, "balanced")
    assert v_information_bits(counts, balanced) == pytest.approx(plug_in_bits(counts), abs=1e-12)
    for _ in range(20):
        other = information_table(np.log(counts) + 0.3 * rng.standard_normal((6, 4)), n_train, "none")
        assert v_information_bits(counts, other) <= plug_in_bits(counts)


def test_the_correction_brings_a_balanced_probe_to_what_an_unbalanced_one_knows():
    """Codes that are free rows and a weak penalty: both probes hold the same likelihoods, one with another prior."""
    rng = np.random.default_rng(10)
    counts = rng.integers(2, 40, (5, 3)) * np.array([1, 5, 20])
    codes, classes = np.repeat(np.indices((5, 3)).reshape(2, -1), counts.ravel(), axis=1)
    values = []
    for class_weight in ("balanced", None):
        model = sklearn.linear_model.LogisticRegression(C=1e4, class_weight=class_weight, max_iter=2000, tol=1e-10)
        model.fit(np.eye(5)[codes], classes)
        logits = model.decision_function(np.eye(5))
        bits = information_table(logits, counts.sum(axis=0).astype(float), class_weight or "none")
        values.append(v_information_bits(counts, bits))
    assert values[0] == pytest.approx(values[1], abs=1e-5)
    assert values[0] == pytest.approx(plug_in_bits(counts), abs=1e-5)
