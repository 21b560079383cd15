"""The lines a curve is compared with: chance, the majority class, the mean; one per value, named where they differ."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from probes.selection import CODEC_TITLES, Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes

REFERENCE_COLOUR = "#555555"
REFERENCE_STYLES: dict[str, Any] = {
    "chance": (0, (4, 2)),
    "majority class": (0, (1, 1.5)),
    "mean baseline": (0, (4, 2)),
}
# Reference lines closer than this share of the axis look like one, so naming their codecs would only clutter it.
MIN_REFERENCE_DISTANCE = 0.02
# Names nearer than this share of the axis would be written over each other.
NAME_HEIGHT = 0.07


class Reference(NamedTuple):
    """A line to compare with: its name (see `REFERENCE_STYLES`) and the record field it reads, or a constant."""

    name: str
    value: str | float


def draw_reference(
    axis: "Axes", reference: Reference, series: Sequence[Series], task: str, colours: Mapping[str, str]
) -> None:
    """Draw one line per distinct value: codecs of different frame rates differ a little in what they are compared with.

    Lines that the eye can tell apart take the colour of their codec; names are written where there is room for them,
    one for neighbours.

    Parameters
    ----------
    axis : Axes
        With its curves drawn: how far apart two values look depends on the scale.
    reference : Reference
    series : sequence of Series
        The curves of the panel.
    task : str
    colours : mapping of str to str
        By codec.
    """
    owners = _reference_values(reference, series, task)
    values = sorted(owners)
    lines = [
        axis.axhline(
            value,
            color=REFERENCE_COLOUR,
            linewidth=0.8,
            linestyle=REFERENCE_STYLES[reference.name],
            label=reference.name,
            zorder=1.5,  # beneath the curves
        )
        for value in values
    ]
    bottom, top = axis.get_ylim()
    if len(values) < 2 or values[-1] - values[0] < MIN_REFERENCE_DISTANCE * (top - bottom):
        return
    for line, value in zip(lines, values, strict=True):
        line.set_color(_colour(owners[value], colours))
    groups = _neighbours(values, NAME_HEIGHT * (top - bottom))
    if len(groups) == 1:
        return
    for group in groups:
        own = list(dict.fromkeys(codec for value in group for codec in owners[value]))
        name, highest = ", ".join(CODEC_TITLES.get(codec, codec) for codec in own), group is groups[-1]
        _name_line(axis, group[-1] if highest else group[0], name, _colour(own, colours), highest)


def _colour(own: Sequence[str], colours: Mapping[str, str]) -> str:
    return colours[own[0]] if len(own) == 1 else REFERENCE_COLOUR


def _neighbours(values: Sequence[float], distance: float) -> list[list[float]]:
    """Group ascending values: each nearer than `distance` to the one before is in its group."""
    groups = [[values[0]]]
    for before, value in pairwise(values):
        if value - before < distance:
            groups[-1].append(value)
        else:
            groups.append([value])
    return groups


def _reference_values(reference: Reference, series: Sequence[Series], task: str) -> dict[float, list[str]]:
    """Return the codecs that share each value, rounded to what a figure can show."""
    if isinstance(reference.value, float):
        return {reference.value: []}
    owners: dict[float, list[str]] = {}
    for one in series:
        for record in one.of_task(task):
            value = record[reference.value]
            if value is not None and one.codec not in owners.setdefault(round(value, 3), []):
                owners[round(value, 3)].append(one.codec)
    return owners


def _name_line(axis: "Axes", value: float, name: str, colour: str, above: bool) -> None:
    """Write a codec's name at the left end of its reference line, where curves are farthest from chance."""
    axis.annotate(
        name,
        (0.01, value),
        xycoords=("axes fraction", "data"),
        xytext=(0, 1 if above else -1.5),
        textcoords="offset points",
        va="bottom" if above else "top",
        fontsize=6,
        color=colour,
    )
