"""Read one interval tier of a Praat TextGrid file, or say in one line why it cannot be read.

The package ``textgrid`` does the parsing. It leaves three things to its caller, which this module takes over:

- it raises whatever went wrong inside it (AttributeError on a truncated file, IndexError, UnicodeDecodeError, ...);
- it drops, without a word, every interval whose start is not below its end, and every one beyond the number that its
  tier says it has, so a NaN, a reversed interval or a wrong number would become silence: the numbers are looked at
  before;
- its reading time grows with the square of the length of an unclosed text: lengths are bounded before.

File format: https://www.fon.hum.uva.nl/praat/manual/TextGrid_file_formats.html
"""

import codecs
import math
import unicodedata
from pathlib import Path
from typing import NamedTuple

from featstore.errors import UtteranceError
from featstore.patient_read import UnreadableFileError, read_patiently, with_patience
from featstore.safe_text import printable

MAX_FILE_BYTES = 16 * 2**20
MAX_INTERVALS = 1_000_000
MAX_DURATION_S = 86_400.0
# Longest stretch of text between two double quotes, and longest label; the longest real ones have 150 and 20.
MAX_PIECE_CHARS = 10_000
MAX_LABEL_CHARS = 64

# More digits than any aligner writes; the package's default of 5 would round to 10 microseconds.
_ROUND_DIGITS = 9


class TimedLabel(NamedTuple):
    """One interval of a tier: start and end in seconds from the start of the recording, and its text."""

    start_s: float
    end_s: float
    label: str


def read_interval_tier(path: Path, tier: str) -> tuple[list[TimedLabel], float]:
    """Read the intervals of one tier.

    Long and short text form, UTF-8 with or without byte order mark, and UTF-16 with one are read. Zero-length
    intervals are left out: they label no time.

    Parameters
    ----------
    path : Path
        The TextGrid.
    tier : str
        Name of the tier, e.g. ``phones``; its case counts.

    Returns
    -------
    intervals : list of TimedLabel
        In time order, not overlapping, empty labels kept.
    end_s : float
        The end of the grid in seconds.

    Raises
    ------
    UtteranceError
        When the file is missing, too large, not text, not a TextGrid, damaged, or has no such interval tier; the
        message names the file.
    """
    text, encoding = _decode(path, _read_bytes(path))
    problem = _find_problem(text)
    if problem is not None:
        raise _refusal(path, problem)
    grid = _parse(path, encoding)
    named = [t for t in grid.tiers if t.name == tier]
    if len(named) != 1 or not hasattr(named[0], "intervals"):
        kinds = [f"{t.name!r}" + ("" if hasattr(t, "intervals") else " (points)") for t in grid.tiers]
        raise _refusal(path, f"expected one interval tier {tier!r}, found the tiers {', '.join(kinds) or 'none'}")
    intervals = [TimedLabel(i.minTime, i.maxTime, i.mark) for i in named[0].intervals]
    if not intervals:
        raise _refusal(path, f"the tier {tier!r} holds no interval")
    longest = max(len(i.label) for i in intervals)
    if longest > MAX_LABEL_CHARS:
        raise _refusal(path, f"a label of tier {tier!r} has {longest} characters, at most {MAX_LABEL_CHARS} are read")
    garbled = next((i.label for i in intervals if any(unicodedata.category(char) == "Cc" for char in i.label)), None)
    if garbled is not None:
        raise _refusal(path, f"a label of tier {tier!r} holds control characters: {garbled!r}")
    return intervals, float(grid.maxTime)


def _refusal(path: Path, problem: str) -> UtteranceError:
    where, what = printable(path), printable(problem, 300)
    return UtteranceError(f"{where}: {what}; repair or replace this TextGrid (Praat opens and checks it)")


def _read_bytes(path: Path) -> bytes:
    try:
        content = read_patiently(path, MAX_FILE_BYTES)
    except UnreadableFileError as error:
        raise UtteranceError(f"{printable(path)}: cannot read the TextGrid: {error}; check the file") from error
    if not content.strip():
        raise _refusal(path, "the file is empty")
    return content


def _decode(path: Path, content: bytes) -> tuple[str, str]:
    """Return the whole text and its encoding; the package itself only tries the first line."""
    is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    encoding = "utf-16" if is_utf16 else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        where = f"byte {error.start} of {len(content)}"
        found = "broken UTF-16" if is_utf16 else "neither UTF-8 nor UTF-16"
        raise _refusal(path, f"the text is {found} ({where}); save it as UTF-8") from error
    if "\0" in text:
        raise _refusal(path, "NUL characters in the text (a binary file, or UTF-16 without byte order mark)")
    return text, encoding


def _find_problem(text: str) -> str | None:
    """Look for what the package would hang on, or drop in silence."""
    pieces = text.split('"')
    if len(pieces) % 2 == 0:
        return "a text in double quotes does not end: the file is truncated or damaged"
    if max(map(len, pieces)) > MAX_PIECE_CHARS:
        return f"more than {MAX_PIECE_CHARS} characters in one label or between two: not a TextGrid in text form"
    between = [[number for word in piece.split() if (number := _number(word)) is not None] for piece in pieces[::2]]
    for numbers in between:
        times = numbers[:2] + numbers[3:] if len(numbers) in _WITH_COUNT else numbers
        if any(not math.isfinite(time) or time > MAX_DURATION_S for time in times):
            return f"a time is not a finite number of seconds up to {MAX_DURATION_S:.0f}"
    tiers = _interval_tiers(between)
    if sum(len(tier.bounds_s) for tier in tiers) > MAX_INTERVALS:
        return f"more than {MAX_INTERVALS} intervals"
    return next((problem for tier in tiers if (problem := tier.find_problem()) is not None), None)


class _IntervalTier(NamedTuple):
    """The numbers of one interval tier: its span, how many intervals it says it has, and those it has."""

    start_s: float
    end_s: float
    n_said: float
    bounds_s: list[tuple[float, float]]

    def find_problem(self) -> str | None:
        last_end_s = self.start_s
        for start_s, end_s in self.bounds_s:
            if start_s < max(0.0, last_end_s) or end_s < start_s or end_s > self.end_s:
                return _misplaced(start_s, end_s, last_end_s, self.end_s)
            last_end_s = end_s
        if self.n_said != len(self.bounds_s):
            return f"a tier says {self.n_said:.15g} intervals but has {len(self.bounds_s)} (truncated or damaged)"
        return None


# How many numbers stand between two texts in double quotes, where one of them is a count (the third; the first two are
# the start and the end of what is counted): in a header, before a tier's first point, before a tier's first interval.
_WITH_COUNT = (3, 4, 5)


def _interval_tiers(between: list[list[float]]) -> list[_IntervalTier]:
    """Sort the numbers between the texts into interval tiers.

    Long form or short, there are two times before the text of an interval, after the three numbers of the tier if it
    is the first; before the mark of a point there is one. So how many there are tells what they are.
    """
    tiers: list[_IntervalTier] = []
    for numbers in between:
        if len(numbers) == 5:
            tiers.append(_IntervalTier(numbers[0], numbers[1], numbers[2], []))
        if len(numbers) in (2, 5) and tiers:
            tiers[-1].bounds_s.append((numbers[-2], numbers[-1]))
    return tiers


def _misplaced(start_s: float, end_s: float, last_end_s: float, tier_end_s: float) -> str:
    found = f"an interval from {start_s:g} s to {end_s:g} s"
    if start_s < 0:
        return f"{found} has a negative time"
    if end_s < start_s:
        return f"{found} ends before it starts"
    if start_s < last_end_s:
        return f"{found} starts before the one in front of it ends at {last_end_s:g} s (overlapping or unsorted)"
    return f"{found} ends after its tier, at {tier_end_s:g} s"


def _number(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None


def _parse(path: Path, encoding: str):  # type: ignore[no-untyped-def]  # the package has no types
    import textgrid

    def read():  # type: ignore[no-untyped-def]
        grid = textgrid.TextGrid()
        grid.read(str(path), round_digits=_ROUND_DIGITS, encoding=encoding)
        return grid

    try:
        grid = with_patience(read)
    except Exception as error:
        what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise _refusal(path, f"not a whole TextGrid in text form ({what.splitlines()[0]})") from error
    if not isinstance(grid.maxTime, float) or not math.isfinite(grid.maxTime):
        raise _refusal(path, "the grid has no end time")
    return grid
