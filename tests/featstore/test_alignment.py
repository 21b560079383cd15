"""Phoneme labels: equal, token by token, to a slow reading of the TextGrid made here on its own."""

import itertools
import re
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featstore.errors import UtteranceError
from featstore.labels.alignment import Alignment, check_alignment_fits, read_alignment, token_phonemes

CLOCKS = {"75 Hz": (320, 24_000), "50 Hz": (320, 16_000)}
# Samples of a common multiple of both rates: token borders, token centres and the 10 ms grid are whole samples of it.
FINE_RATE_HZ = 48_000


def read_phones(path):
    """Read the tier ``phones`` of a long-form TextGrid with a regular expression."""
    tier = path.read_text(encoding="utf-8").split('name = "phones"')[1].split("item [")[0]
    found = re.findall(r"intervals \[\d+\]:\s*xmin = (\S+)\s*xmax = (\S+)\s*text = \"(.*?)\"", tier)
    return [(float(start), float(end), label) for start, end, label in found]


def brute_force(phones, n_frames, hop_samples, sample_rate_hz):
    """Write each phone's number into every fine sample it covers, then count them token by token."""
    hop = hop_samples * FINE_RATE_HZ // sample_rate_hz
    owner = np.full(n_frames * hop, -1)
    for number, (start, end, _) in enumerate(phones):
        owner[round(start * FINE_RATE_HZ) : round(end * FINE_RATE_HZ)] = number
    labels = []
    for token in owner.reshape(n_frames, hop):
        numbers, n_samples = np.unique(token[token >= 0], return_counts=True)
        if not len(numbers):
            labels.append("sil")
            continue
        largest = numbers[n_samples == n_samples.max()]
        centre = token[hop // 2]
        labels.append(phones[centre if centre in largest else largest[0]][2])
    return np.array(labels)


@pytest.fixture(scope="module")
def real_alignments(shared_data):
    paths = sorted((shared_data / "alignments" / "train-clean-100").rglob("*.TextGrid"))
    assert len(paths) == 240
    return [(read_alignment(path), read_phones(path)) for path in paths]


@pytest.mark.parametrize("clock", CLOCKS)
def test_real_labels_are_those_of_a_reading_sample_by_sample(real_alignments, clock):
    hop_samples, sample_rate_hz = CLOCKS[clock]
    n_tokens = n_equal = n_equal_shifted = 0
    for alignment, phones in real_alignments:
        # one token more than the grid fills, so that its end is tested too
        n_frames = int(alignment.grid_end_us * sample_rate_hz / (1e6 * hop_samples)) + 2
        expected = brute_force(phones, n_frames, hop_samples, sample_rate_hz)
        found = token_phonemes(alignment, n_frames, hop_samples, sample_rate_hz)
        n_tokens += n_frames
        n_equal += (found == expected).sum()
        n_equal_shifted += (np.roll(found, 1) == expected).sum()
    assert n_equal == n_tokens
    # The comparison can tell: labels that are one token late agree on far fewer.
    assert n_equal_shifted < 0.9 * n_tokens
    assert n_tokens > 145_000


def test_ties_of_real_alignments_are_as_common_as_the_grid_makes_them(real_alignments):
    """A rule for ties matters: they are 11 % of the tokens at 50 Hz and 4 % at 75 Hz."""
    for clock, expected in (("50 Hz", 0.113), ("75 Hz", 0.037)):
        hop_samples, sample_rate_hz = CLOCKS[clock]
        hop = hop_samples * FINE_RATE_HZ // sample_rate_hz
        n_tokens = n_ties = 0
        for alignment, phones in real_alignments:
            n_frames = int(alignment.grid_end_us * sample_rate_hz / (1e6 * hop_samples))
            borders = np.rint(np.array([start for start, _, _ in phones[1:]]) * FINE_RATE_HZ).astype(int)
            tied = borders[borders % hop == hop // 2] // hop
            n_tokens += n_frames
            n_ties += len(tied)
        assert n_ties / n_tokens == pytest.approx(expected, abs=0.01)


def make(*intervals):
    """Return the alignment of (start, end, label), times in microseconds."""
    start, end, labels = zip(*intervals, strict=True) if intervals else ((), (), ())
    return Alignment(np.array(start, np.int64), np.array(end, np.int64), tuple(labels), max(end, default=0))


def in_fractions(alignment, n_frames, hop_samples, sample_rate_hz):
    """The rule of the docstring, word by word, in exact fractions of a second."""
    labels = []
    hop = Fraction(hop_samples, sample_rate_hz)
    for token in range(n_frames):
        begin, centre, end = token * hop, (token + Fraction(1, 2)) * hop, (token + 1) * hop
        best_overlap, best = Fraction(0), "sil"
        best_holds = False
        for start_us, end_us, label in zip(alignment.start_us, alignment.end_us, alignment.labels, strict=True):
            start, stop = Fraction(int(start_us), 10**6), Fraction(int(end_us), 10**6)
            overlap = min(stop, end) - max(start, begin)
            holds = start <= centre < stop
            if overlap > best_overlap or (overlap == best_overlap > 0 and holds and not best_holds):
                best_overlap, best, best_holds = overlap, label, holds
        labels.append(best)
    return labels


@st.composite
def alignments(draw):
    """A few intervals on a coarse grid (ties), with gaps, or anywhere."""
    unit = draw(st.sampled_from([1, 2_500, 10_000]))
    borders = sorted(draw(st.lists(st.integers(0, 240_000 // unit), min_size=2, max_size=14, unique=True)))
    pieces = [(a * unit, b * unit) for a, b in itertools.pairwise(borders)]
    kept = draw(st.lists(st.booleans(), min_size=len(pieces), max_size=len(pieces)))
    names = draw(st.lists(st.sampled_from(["A", "B", ""]), min_size=len(pieces), max_size=len(pieces)))
    return make(*((a, b, name) for (a, b), keep, name in zip(pieces, kept, names, strict=True) if keep))


@settings(max_examples=150, deadline=None)
@given(alignments(), st.sampled_from([(320, 24_000), (320, 16_000), (441, 44_100), (7, 1_001)]))
def test_labels_follow_the_rule_in_fractions(alignment, clock):
    n_frames = 20
    assert token_phonemes(alignment, n_frames, *clock).tolist() == in_fractions(alignment, n_frames, *clock)


@pytest.mark.parametrize(
    ("intervals", "expected"),
    [
        ([(0, 10_000, "A"), (10_000, 20_000, "B")], "B"),  # a tie: B's half-open span holds the centre
        ([(0, 10_001, "A"), (10_001, 20_000, "B")], "A"),
        ([(0, 8_000, "A"), (12_000, 20_000, "B")], "A"),  # a tie that no interval decides: the earlier
        ([(0, 6_000, "A"), (6_000, 13_000, "B"), (13_000, 20_000, "A")], "B"),  # intervals compete one by one
        ([(19_999, 30_000, "A")], "A"),  # any overlap beats none
        ([(20_000, 30_000, "A")], "sil"),
        ([], "sil"),
        ([(0, 20_000, "")], ""),  # the empty label is a label
    ],
)
def test_one_token_of_20_ms(intervals, expected):
    assert token_phonemes(make(*intervals), 1, 320, 16_000).tolist() == [expected]


def test_no_token_gives_no_label():
    assert token_phonemes(make((0, 10, "A")), 0, 320, 16_000).shape == (0,)


@pytest.mark.parametrize("late_us", [0, 10_000])
def test_an_alignment_may_end_one_grid_step_late(late_us):
    check_alignment_fits(make((0, 1_000_000 + late_us, "A")), 16_000, 16_000)


def test_an_alignment_longer_than_its_audio_is_refused():
    with pytest.raises(UtteranceError, match=r"ends at 1\.010 s but the audio at 1\.000 s"):
        check_alignment_fits(make((0, 1_010_001, "A")), 16_000, 16_000)
    # a grid that promises more than its intervals is another recording's as well
    longer = Alignment(np.array([0]), np.array([500_000]), ("A",), grid_end_us=2_000_000)
    with pytest.raises(UtteranceError, match="is it the alignment of this file"):
        check_alignment_fits(longer, 16_000, 16_000)
