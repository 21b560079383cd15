"""TextGrids as the Montreal Forced Aligner writes them: Praat's long text form, tiers ``words`` and ``phones``.

Format: https://www.fon.hum.uva.nl/praat/manual/TextGrid_file_formats.html
"""

from featstore.corpora.synthetic_speech import GRID_SAMPLES, Interval, SyntheticUtterance


def format_textgrid(utterance: SyntheticUtterance) -> str:
    """Format an utterance's words and phones as a TextGrid.

    Times are in seconds with two decimals and exact, since all boundaries lie on the 10 ms grid.
    """
    end = _seconds(utterance.samples.size)
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0.00", f"xmax = {end}"]
    lines += ["tiers? <exists>", "size = 2", "item []:"]
    for number, (name, intervals) in enumerate((("words", utterance.words), ("phones", utterance.phones)), start=1):
        lines += [f"    item [{number}]:", '        class = "IntervalTier"', f'        name = "{name}"']
        lines += ["        xmin = 0.00", f"        xmax = {end}", f"        intervals: size = {len(intervals)}"]
        for place, interval in enumerate(intervals, start=1):
            lines += _interval_lines(place, interval)
    return "\n".join(lines) + "\n"


def _interval_lines(place: int, interval: Interval) -> list[str]:
    return [
        f"        intervals [{place}]:",
        f"            xmin = {_seconds(interval.start_sample)}",
        f"            xmax = {_seconds(interval.end_sample)}",
        f'            text = "{interval.label}"',
    ]


def _seconds(sample: int) -> str:
    """Write a sample position in decimal seconds, through integers: no rounding can enter."""
    hundredths, rest = divmod(sample, GRID_SAMPLES)
    assert rest == 0, f"sample {sample} lies off the 10 ms grid"
    return f"{hundredths // 100}.{hundredths % 100:02d}"
