"""Phone labels per token: equal to counting instants on real speech and to exact fractions on random alignments."""

import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from featstore.errors import UtteranceError
from featstore.labels.alignment import (
    Alignment,
    check_alignment_fits,
    read_alignment,
    token_phonemes,
)
from tests.support.corpus import textgrid_text

# (tokens/s, hop in samples, sample rate in Hz): EnCodec's and SpeechTokenizer's clocks.
CLOCKS = [(75, 320, 24_000), (50, 320, 16_000)]
# In units of 1 / 48000 s a token (640 or 960), its centre, the aligner's 10 ms (480) and a sample at 16 kHz (3) are
# all whole, so counting units is exact.
UNITS_PER_S = 48_000


# The real alignments, by counting


@pytest.fixture(scope="module")
def real_alignments(shared_data: Path) -> list[Path]:
    paths = sorted((shared_data / "alignments" / "train-clean-100").rglob("*.TextGrid"))
    assert len(paths) == 240
    return paths


def read_by_pattern(path: Path) -> list[tuple[int, int, str]]:
    """Read the phones in units, with nothing in common with the reader under test."""
    phones = path.read_text(encoding="utf-8").split('name = "phones"')[1]
    found = re.findall(r'xmin = (\S+)\s+xmax = (\S+)\s+text = "([^"]*)"', phones)
    assert len(found) == int(re.search(r"intervals: size = (\d+)", phones)[1])
    return [(round(float(start) * UNITS_PER_S), round(float(end) * UNITS_PER_S), label) for start, end, label in found]


def count_units(intervals: list[tuple[int, int, str]], n_tokens: int, units_per_token: int) -> NDArray[np.str_]:
    """Write down who speaks at every unit of time, and count in each token."""
    nobody = len(intervals)
    speaking = np.full(n_tokens * units_per_token, nobody)
    for index, (start, end, _) in enumerate(intervals):
        speaking[start:end] = index
    token = np.arange(n_tokens).repeat(units_per_token)
    counts = np.bincount(token * (nobody + 1) + speaking, minlength=n_tokens * (nobody + 1))
    counts = counts.reshape(n_tokens, nobody + 1)[:, :nobody]
    at_centre = speaking[units_per_token // 2 :: units_per_token]
    names = []
    for of_token, centre in zip(counts, at_centre, strict=True):
        most = of_token.max(initial=0)
        if most == 0:
            names.append("sil")
        elif centre != nobody and of_token[centre] == most:
            names.append(intervals[centre][2])
        else:
            names.append(intervals[of_token.argmax()][2])
    return np.array(names)


def n_tokens_of(intervals: list[tuple[int, int, str]], rate_hz: int) -> int:
    return -(-intervals[-1][1] * rate_hz // UNITS_PER_S)


@pytest.fixture(scope="module", params=CLOCKS, ids=["75 Hz", "50 Hz"])
def counted(request, real_alignments) -> list[tuple[NDArray[np.str_], NDArray[np.str_]]]:
    """Labels by counting and labels under test of each of the 240 utterances."""
    rate_hz, hop, sample_rate_hz = request.param
    pairs = []
    for path in real_alignments:
        intervals = read_by_pattern(path)
        n_tokens = n_tokens_of(intervals, rate_hz)
        expected = count_units(intervals, n_tokens, UNITS_PER_S // rate_hz)
        pairs.append((expected, token_phonemes(read_alignment(path), n_tokens, hop, sample_rate_hz)))
    return pairs


def agreement(pairs: list[tuple[NDArray[np.str_], NDArray[np.str_]]]) -> float:
    return sum(np.count_nonzero(a == b) for a, b in pairs) / sum(len(a) for a, _ in pairs)


def test_every_token_of_the_real_speech_is_labelled_as_by_counting(counted) -> None:
    assert sum(len(expected) for expected, _ in counted) > 140_000
    assert agreement(counted) == 1.0


def test_the_comparison_notices_a_shift_by_one_token(counted) -> None:
    for shift in (-1, 1):
        assert agreement([(expected, np.roll(found, shift)) for expected, found in counted]) < 0.9


def test_real_tokens_have_phones_stress_and_silence(counted) -> None:
    labels = set(np.concatenate([found for _, found in counted]).tolist())
    assert {"AA1", "AH0", "IY2", "S", "sil"} <= labels


def test_comparison_reaches_exact_ties(real_alignments) -> None:
    """At 50 Hz about one token in nine is shared equally by two phones: the tie rule is not an academic case."""
    intervals = read_by_pattern(real_alignments[0])
    centres = {960 * token + 480 for token in range(n_tokens_of(intervals, 50))}
    n_ties = sum(1 for start, _, _ in intervals if start in centres)
    assert n_ties > 20


# Random alignments, by fractions


def label_by_fractions(intervals, token: int, hop: int, sample_rate_hz: int) -> str:
    """Apply the rule as the design words it; `intervals` are (start, end, label) in microseconds."""
    begin, end = Fraction(token * hop, sample_rate_hz), Fraction((token + 1) * hop, sample_rate_hz)
    centre = (begin + end) / 2
    best, chosen = Fraction(0), "sil"
    for start_us, end_us, label in intervals:
        start, stop = Fraction(start_us, 10**6), Fraction(end_us, 10**6)
        overlap = min(stop, end) - max(start, begin)
        if overlap > best or (overlap == best > 0 and start <= centre < stop):
            best, chosen = overlap, label
    return chosen


@st.composite
def clocked_intervals(draw):
    """Short intervals with gaps, on a grid that makes ties common or on none, and one of four clocks."""
    hop, sample_rate_hz = draw(st.sampled_from([(320, 24_000), (320, 16_000), (160, 8_000), (441, 44_100), (7, 11)]))
    grid_us = draw(st.sampled_from([5_000, 10_000, 3_333, 1, 10**6 * hop // (2 * sample_rate_hz)]))
    steps = draw(st.lists(st.tuples(st.sampled_from([0, 0, 0, 1, 2, 5]), st.integers(1, 6)), max_size=12))
    at, intervals = draw(st.integers(0, 3)), []
    for index, (gap, length) in enumerate(steps):
        at += gap
        intervals.append((at * grid_us, (at + length) * grid_us, f"p{index}"))
        at += length
    return intervals, hop, sample_rate_hz


def as_alignment(intervals) -> Alignment:
    starts, ends, labels = zip(*intervals, strict=True) if intervals else ((), (), ())
    end_us = ends[-1] if ends else 0
    return Alignment(np.array(starts, np.int64), np.array(ends, np.int64), tuple(labels), end_us)


@settings(deadline=None, max_examples=200)
@given(clocked_intervals(), st.integers(0, 20))
# Two in a token, equally, the second from the centre on; two about an empty centre; three equal ones.
@example(([(0, 10_000, "a"), (10_000, 20_000, "b")], 320, 16_000), 2)
@example(([(0, 5_000, "a"), (15_000, 20_000, "b")], 320, 16_000), 1)
@example(([(0, 4_000, "a"), (8_000, 12_000, "b"), (16_000, 20_000, "c")], 320, 16_000), 1)
# A hop of no whole number of microseconds: 320 / 24000 s = 13333.3 us, whose half the first interval misses by 1/3.
@example(([(0, 6_667, "a"), (6_667, 13_333, "b")], 320, 24_000), 2)
def test_any_alignment_is_labelled_as_by_fractions(clocked, n_tokens) -> None:
    intervals, hop, sample_rate_hz = clocked
    found = token_phonemes(as_alignment(intervals), n_tokens, hop, sample_rate_hz)
    assert found.tolist() == [label_by_fractions(intervals, token, hop, sample_rate_hz) for token in range(n_tokens)]


@pytest.mark.parametrize(
    ("intervals", "expected"),
    [
        ([(0, 10_000, "a"), (10_000, 40_000, "b")], ["b", "b"]),  # tie: b holds the centre, from it on
        ([(0, 6_000, "a"), (14_000, 20_000, "b")], ["a", "sil"]),  # tie, nobody at the centre: the earliest
        ([(0, 6_000, "a"), (6_000, 13_000, "b"), (13_000, 19_500, "a")], ["b", "sil"]),  # one by one, not added up
        ([(0, 1, "a")], ["a", "sil"]),  # a microsecond is enough where nothing else is
        ([(20_000, 40_000, "a")], ["sil", "a"]),  # half-open: touching is no overlap
        ([(0, 20_000, ""), (20_000, 40_000, "spn")], ["", "spn"]),  # raw: no label is interpreted
        ([], ["sil", "sil"]),
    ],
)
def test_rules_of_the_label(intervals, expected) -> None:
    assert token_phonemes(as_alignment(intervals), 2, 320, 16_000).tolist() == expected


def test_times_stay_exact_at_the_end_of_a_day() -> None:
    """The longest recording that is read, at a high rate: no overflow, no rounding."""
    end_us = 86_400 * 10**6
    alignment = as_alignment([(0, end_us - 10_000, "a"), (end_us - 10_000, end_us, "b")])
    n_tokens = 86_400 * 50
    labels = token_phonemes(alignment, n_tokens, 960, 48_000)
    assert labels[-3:].tolist() == ["a", "a", "b"]


# Reading, and fitting to the audio


def test_alignment_is_read_in_whole_microseconds(tmp_path) -> None:
    path = tmp_path / "a.TextGrid"
    # 0.1 + 0.2 in binary is not 0.3; 1e-8 s becomes nothing, and is left out.
    path.write_text(textgrid_text([(0, 0.29, "AA1"), (0.29, 0.3, ""), (0.3, 0.30000001, "T"), (0.31, 1.5, "sil")]))
    alignment = read_alignment(path)
    assert alignment.start_us.tolist() == [0, 290_000, 310_000]
    assert alignment.end_us.tolist() == [290_000, 300_000, 1_500_000]
    assert alignment.labels == ("AA1", "", "sil")
    assert alignment.grid_end_us == 1_500_000


def test_other_tiers_can_be_read(tmp_path) -> None:
    path = tmp_path / "a.TextGrid"
    path.write_text(textgrid_text([(0, 1, "x")], tier="MAU"))
    assert read_alignment(path, tier="MAU").labels == ("x",)
    with pytest.raises(UtteranceError, match=r"expected one interval tier 'phones', found the tiers 'MAU'"):
        read_alignment(path)


@pytest.mark.parametrize("n_samples", [32_000, 40_000, 31_840])
def test_alignment_may_end_before_its_audio_or_one_aligner_frame_after(n_samples) -> None:
    check_alignment_fits(as_alignment([(0, 2_000_000, "a")]), n_samples, 16_000)


def test_alignment_longer_than_its_audio_is_refused() -> None:
    with pytest.raises(UtteranceError, match=r"^the alignment ends at 2\.000 s but the audio at 1\.990 s \(at most 10"):
        check_alignment_fits(as_alignment([(0, 2_000_000, "a")]), 31_839, 16_000)


def test_grid_longer_than_the_audio_is_refused_even_without_intervals_there() -> None:
    alignment = Alignment(np.array([0]), np.array([500_000]), ("a",), grid_end_us=9_000_000)
    with pytest.raises(UtteranceError, match=r"ends at 9\.000 s but the audio at 2\.000 s"):
        check_alignment_fits(alignment, 32_000, 16_000)
    check_alignment_fits(alignment, 32_000, 16_000, tolerance_us=7_000_000)


def test_real_alignments_fit_their_audio(real_alignments, shared_data) -> None:
    import soundfile

    for path in real_alignments[::8]:
        relative = path.relative_to(shared_data / "alignments").with_suffix(".flac")
        info = soundfile.info(shared_data / "LibriSpeech" / relative)
        check_alignment_fits(read_alignment(path), info.frames, info.samplerate, tolerance_us=1)
