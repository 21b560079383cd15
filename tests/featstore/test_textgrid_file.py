"""TextGrid files: every form that aligners write is read, anything else is refused in a line that names the file."""

import codecs
import errno
import os
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import textgrid

from featstore.errors import UtteranceError
from featstore.labels import textgrid_file
from featstore.labels.textgrid_file import TimedLabel, read_interval_tier
from tests.support.corpus import textgrid_text

INTERVALS = [(0.0, 0.25, "sil"), (0.25, 0.4, "AA1"), (0.4, 0.55, ""), (0.55, 1.2, "spn"), (1.2, 1.305, "É")]
LONG = textgrid_text(INTERVALS)


def short_form(intervals, tier: str = "phones", is_old: bool = False) -> str:
    """Write the short form with its new header or its old one."""
    kind = ['File type = "ooTextFile short"', '"TextGrid"'] if is_old else LONG.splitlines()[:2]
    lines = [*kind, "", "0", str(intervals[-1][1]), "<exists>", "1"]
    lines += ['"IntervalTier"', f'"{tier}"', "0", str(intervals[-1][1]), str(len(intervals))]
    return "\n".join(lines + [f'{start}\n{end}\n"{label}"' for start, end, label in intervals]) + "\n"


@pytest.fixture
def read(tmp_path):
    """Read a text, or bytes, as a TextGrid file."""

    def read_content(content: str | bytes, tier: str = "phones") -> list[TimedLabel]:
        path = tmp_path / "a.TextGrid"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return read_interval_tier(path, tier)[0]

    return read_content


@pytest.fixture
def refusal(read, tmp_path):
    """Return the message with which a content is refused; it must be one line and name the file."""

    def message_of(content: str | bytes, tier: str = "phones") -> str:
        with pytest.raises(UtteranceError) as caught:
            read(content, tier)
        message = str(caught.value)
        assert message.startswith(f"{tmp_path / 'a.TextGrid'}: ")
        assert "\n" not in message
        assert len(message) < 500
        return message

    return message_of


# What is read


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(LONG, id="long"),
        pytest.param(LONG.replace("\t", "    "), id="long, spaces"),
        pytest.param(LONG.replace("\n", "\r\n"), id="long, Windows lines"),
        pytest.param(LONG.replace("]:", "]"), id="long, without colons"),
        pytest.param(short_form(INTERVALS), id="short"),
        pytest.param(short_form(INTERVALS, is_old=True), id="short, old header"),
        pytest.param(short_form(INTERVALS).replace("\n", "\r\n"), id="short, Windows lines"),
    ],
)
@pytest.mark.parametrize(
    "encode",
    [
        pytest.param(str.encode, id="UTF-8"),
        pytest.param(lambda text: codecs.BOM_UTF8 + text.encode(), id="UTF-8 with mark"),
        pytest.param(lambda text: codecs.BOM_UTF16_LE + text.encode("utf-16-le"), id="UTF-16 LE"),
        pytest.param(lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"), id="UTF-16 BE"),
    ],
)
def test_every_form_and_encoding_reads_the_same(read, text, encode) -> None:
    assert read(encode(text)) == INTERVALS


def test_end_of_the_grid_is_told(tmp_path) -> None:
    path = tmp_path / "a.TextGrid"
    path.write_text(LONG.replace("xmax = 1.305\ntiers", "xmax = 2.75\ntiers"))
    intervals, end_s = read_interval_tier(path, "phones")
    assert (end_s, intervals[-1].end_s) == (2.75, 1.305)


def test_reads_what_the_package_writes(tmp_path) -> None:
    """Praat's own conventions by way of the package: several tiers, points, doubled quotes, gaps filled up."""
    words, phones, points = (
        textgrid.IntervalTier("words"),
        textgrid.IntervalTier("phones"),
        textgrid.PointTier("clicks"),
    )
    words.add(0, 1.5, 'the "word" 12 34')
    phones.add(0.125, 0.5, 'say "ah"')
    phones.add(0.5, 1.5, '"')
    for time_s in (0.25, 0.75, 1.0):
        points.add(time_s, "x")
    grid = textgrid.TextGrid(maxTime=1.5)
    for tier in (points, words, phones):
        grid.append(tier)
    grid.write(str(tmp_path / "a.TextGrid"))
    intervals, _ = read_interval_tier(tmp_path / "a.TextGrid", "phones")
    assert intervals == [(0.0, 0.125, ""), (0.125, 0.5, 'say "ah"'), (0.5, 1.5, '"')]
    assert read_interval_tier(tmp_path / "a.TextGrid", "words")[0] == [(0.0, 1.5, 'the "word" 12 34')]


def test_zero_length_intervals_are_left_out(read) -> None:
    kept = [(0.0, 0.5, "a"), (0.5, 1.0, "b")]
    assert read(textgrid_text([kept[0], (0.5, 0.5, "gone"), kept[1]])) == kept


def test_gaps_stay_gaps(read) -> None:
    gappy = [(0.1, 0.5, "a"), (0.75, 1.0, "b")]
    assert read(textgrid_text(gappy)) == gappy


def test_times_keep_nine_digits(read) -> None:
    assert read(textgrid_text([(0.0, 0.123456789, "a"), (0.123456789, 1.0, "b")]))[0].end_s == 0.123456789


# Damage


@pytest.mark.parametrize("form", [LONG, short_form(INTERVALS)], ids=["long", "short"])
def test_truncation_anywhere_is_refused_or_harmless(read, refusal, form) -> None:
    """A file cut after any byte; only without its last line break does it still say everything."""
    content = form.encode()
    for n_bytes in range(len(content) - 1):
        refusal(content[:n_bytes])
    assert read(content[:-1]) == INTERVALS


def test_truncation_of_utf16_is_refused(refusal) -> None:
    content = codecs.BOM_UTF16_LE + LONG.encode("utf-16-le")
    for n_bytes in range(0, len(content) - 2, 7):
        refusal(content[:n_bytes])


def test_damaged_bytes_give_a_refusal_or_intervals_in_order(read) -> None:
    """One to three bytes replaced at random: whatever is read is finite, sorted and not overlapping."""
    rng = np.random.default_rng(0)
    n_refused = 0
    for _ in range(400):
        content = bytearray(LONG.encode())
        for at in rng.integers(len(content), size=rng.integers(1, 4)):
            content[at] = rng.integers(256) if rng.random() < 0.5 else rng.choice(list(b'"0123456789.-e \n'))
        try:
            intervals = read(bytes(content))
        except UtteranceError:
            n_refused += 1
            continue
        times = [time for interval in intervals for time in interval[:2]]
        assert times == sorted(times)
        assert 0 <= times[0] <= times[-1] < textgrid_file.MAX_DURATION_S
    assert 100 < n_refused < 400


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b" \n\t\n", "the file is empty"),
        (LONG.encode("latin-1"), r"the text is neither UTF-8 nor UTF-16 \(byte \d+ of \d+\); save it as UTF-8"),
        (LONG.encode("utf-16-le"), r"NUL|neither UTF-8 nor UTF-16"),
        (codecs.BOM_UTF16_LE + LONG.encode("utf-16-le")[:-1], r"broken UTF-16"),
        (np.random.default_rng(1).bytes(5000), "neither UTF-8 nor UTF-16"),
        (b"\0" * 5000, "NUL characters"),
        (b"fLaC" + b"\1" * 500, "not a whole TextGrid in text form"),
        (b"ooBinaryFile\x08TextGrid" + b"\1" * 500, "not a whole TextGrid in text form"),
        ("Dear reader,\nthis is no TextGrid.\n", "not a whole TextGrid in text form"),
        (LONG.replace('"TextGrid"', '"Pitch 1"'), "not a whole TextGrid in text form"),
        ("0.0 0.5 AA1\n" * 50_000, "more than 10000 characters"),
    ],
)
def test_what_is_no_textgrid_is_refused(refusal, content, message) -> None:
    assert re.search(message, refusal(content))


@pytest.mark.parametrize(
    ("intervals", "message"),
    [
        ([(0.0, 0.5, "a"), (0.5, "nan", "b"), (0.6, 1.0, "c")], "a time is not a finite number"),
        ([(0.0, 0.5, "a"), (0.5, "inf", "b"), (0.6, 1.0, "c")], "a time is not a finite number"),
        ([("nan", 0.5, "a"), (0.5, 1.0, "b")], "a time is not a finite number"),
        ([(0.0, 0.5, "a"), (0.5, "-inf", "b"), (0.6, 1.0, "c")], "a time is not a finite number"),
        ([(0.0, 0.5, "a"), (0.5, 1.0, "b"), (1e5, 1e5, "c")], "up to 86400"),
        ([(0.0, 0.5, "a"), (0.9, 0.5, "b"), (0.9, 1.0, "c")], "from 0.9 s to 0.5 s ends before it starts"),
        ([(0.0, 0.5, "a"), (0.4, 0.9, "b"), (0.9, 1.0, "c")], "starts before the one in front of it ends at 0.5 s"),
        ([(0.5, 0.7, "a"), (0.1, 0.3, "b"), (0.9, 1.0, "c")], "overlapping or unsorted"),
        ([(-0.5, 0.5, "a"), (0.5, 1.0, "b")], "from -0.5 s to 0.5 s has a negative time"),
        ([(0.0, 0.5, "a"), (0.5, 1.5, "b"), (1.5, 1.2, "")], "ends after its tier, at 1.2 s"),
        ([(0.0, 0.5, "x" * 65), (0.5, 1.0, "b")], "a label of tier 'phones' has 65 characters, at most 64"),
        ([(0.0, 0.5, "x" * 20_000), (0.5, 1.0, "b")], "more than 10000 characters in one label"),
    ],
)
@pytest.mark.parametrize("form", [textgrid_text, short_form], ids=["long", "short"])
def test_impossible_intervals_are_refused_by_name(refusal, form, intervals, message) -> None:
    assert message in refusal(form(intervals))


@pytest.mark.parametrize("form", [LONG, short_form(INTERVALS)], ids=["long", "short"])
@pytest.mark.parametrize("count", ["4", "6", "0", "-1", "5.5", "99999999999999", "inf", "nan"])
def test_count_other_than_the_intervals_is_refused(refusal, form, count) -> None:
    """A smaller count too: what lies beyond it would be dropped without a word."""
    damaged, n_replaced = re.subn(r"(intervals: size = |1\.305\n)5\n", rf"\g<1>{count}\n", form)
    assert n_replaced == 1
    assert f"a tier says {count} intervals but has 5" in refusal(damaged)


def test_number_of_intervals_is_bounded(refusal, monkeypatch) -> None:
    monkeypatch.setattr(textgrid_file, "MAX_INTERVALS", 4)
    assert "more than 4 intervals" in refusal(LONG)


def test_many_intervals_are_no_time(read) -> None:
    """A long recording has more phones than a day has seconds: the count is not mistaken for a time."""
    many = [(at / 1000, (at + 1) / 1000, "a") for at in range(90_000)]
    assert len(read(short_form(many))) == 90_000


def test_file_size_is_bounded(refusal, monkeypatch) -> None:
    monkeypatch.setattr(textgrid_file, "MAX_FILE_BYTES", 2**20)
    assert "larger than 1 MiB" in refusal(b"x" * (2**20 + 1))


# Tiers


def two_tiers(first: str, second: str, kind: str = "TextTier") -> str:
    points = f'\titem [2]:\n\t\tclass = "{kind}"\n\t\tname = "{second}"\n\t\txmin = 0.0\n\t\txmax = 1.305\n'
    points += '\t\tpoints: size = 1\n\t\t\tpoints [1]:\n\t\t\t\tnumber = 0.5\n\t\t\t\tmark = "x"\n'
    return textgrid_text(INTERVALS, tier=first).replace("size = 1\nitem", "size = 2\nitem") + points


def test_missing_tier_names_those_that_are_there(refusal) -> None:
    message = refusal(two_tiers("words", "clicks"))
    assert "expected one interval tier 'phones', found the tiers 'words', 'clicks' (points)" in message


def test_point_tier_of_that_name_is_refused(refusal) -> None:
    assert "found the tiers 'words', 'phones' (points)" in refusal(two_tiers("words", "phones"))


def test_two_tiers_of_that_name_are_refused(refusal) -> None:
    """Which one is meant cannot be known."""
    assert "found the tiers 'phones', 'phones' (points)" in refusal(two_tiers("phones", "phones"))


def test_case_of_the_name_counts(refusal) -> None:
    assert "found the tiers 'phones'" in refusal(LONG, tier="Phones")


def test_textgrid_without_tiers_is_refused(refusal) -> None:
    assert "found the tiers none" in refusal(LONG.split("size")[0] + "size = 0\nitem []:\n")


def test_tier_without_intervals_is_refused(refusal) -> None:
    empty = LONG.split("intervals: size")[0] + "intervals: size = 0\n"
    assert "the tier 'phones' holds no interval" in refusal(empty)


# Files


@pytest.mark.parametrize("make", [lambda path: None, Path.mkdir, partial(Path.symlink_to, target="nowhere")])
def test_what_cannot_be_opened_is_refused(tmp_path, make) -> None:
    path = tmp_path / "a.TextGrid"
    make(path)
    with pytest.raises(UtteranceError, match=rf"^{path}: cannot read the TextGrid: (No such file|Is a directory)"):
        read_interval_tier(path, "phones")


# Hostile files


def test_control_characters_in_a_label_are_refused(refusal) -> None:
    for label in ("AA\x1b[31m1", "A\tA", "\x7f", "\x85"):
        assert "a label of tier 'phones' holds control characters" in refusal(LONG.replace("AA1", label))


def test_tier_names_in_a_message_are_printable_and_short(refusal) -> None:
    assert r"\x1b[31m" in refusal(LONG.replace('"phones"', '"\x1b[31m"'))
    refusal(LONG.replace('"phones"', f'"{"x" * 9000}"'))


def test_a_named_pipe_is_refused_and_never_hangs(tmp_path) -> None:
    os.mkfifo(tmp_path / "a.TextGrid")
    with pytest.raises(UtteranceError, match="a named pipe, not a regular file"):
        read_interval_tier(tmp_path / "a.TextGrid", "phones")


def test_a_passing_error_while_the_package_reads_costs_nothing(tmp_path, monkeypatch) -> None:
    path = tmp_path / "a.TextGrid"
    path.write_text(LONG, encoding="utf-8")
    whole, failures = textgrid.TextGrid.read, [OSError(errno.EIO, "Input/output error")] * 2

    def read(grid, *arguments, **options):
        if failures:
            raise failures.pop()
        return whole(grid, *arguments, **options)

    monkeypatch.setattr(textgrid.TextGrid, "read", read)
    monkeypatch.setattr("featstore.patient_read.time.sleep", lambda _: None)
    assert read_interval_tier(path, "phones")[0] == INTERVALS
