"""95 % intervals in a figure: bars beside the markers, for bands of three codecs would mix where their curves meet."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from probes.reference_lines import REFERENCE_COLOUR
from probes.selection import Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INTERVAL = "95 % interval"
SPACING_LAYERS = 0.09  # between the bars of two codecs
WIDTH_LAYERS = 0.5  # of all bars of one layer, where many stand side by side


def draw_intervals(
    axis: "Axes", metric: str, series: Sequence[Series], task: str, colours: Mapping[str, str], side_by_side: bool
) -> None:
    """Draw the interval of every record that has one.

    Parameters
    ----------
    axis : Axes
    metric : str
        Its ends are the record's fields ``<metric>_low`` and ``<metric>_high``.
    series : sequence of Series
        All curves of the panel over layers.
    task : str
    colours : mapping from codec to colour
    side_by_side : bool
        Whether the bars of one layer stand side by side; on a logarithmic axis there is no room for that.
    """
    for place, one in enumerate(series):
        records = [r for r in one.of_task(task) if None not in (r[f"{metric}_low"], r[f"{metric}_high"])]
        if records:
            spacing = min(SPACING_LAYERS, WIDTH_LAYERS / len(series))
            aside = spacing * (place - (len(series) - 1) / 2) if side_by_side else 0.0
            layers = [r["layer"] + aside for r in records]
            low, high = ([r[f"{metric}_{end}"] for r in records] for end in ("low", "high"))
            look: dict[str, Any] = {"linewidth": 1.0, "alpha": 0.6, "zorder": 1.9}  # under the curves
            axis.vlines(layers, low, high, colors=colours[one.codec], label=INTERVAL, **look)


def interval_key() -> Any:
    """Return the legend's sign for all bars, whatever their colour."""
    from matplotlib.lines import Line2D

    return Line2D([], [], linestyle="none", marker="|", markersize=8, color=REFERENCE_COLOUR)
