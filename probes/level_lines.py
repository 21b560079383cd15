"""Scores of latents in a figure: they belong to no layer, so they are level lines, and their intervals level bands."""

from typing import TYPE_CHECKING, Any

from probes.interval_bars import INTERVAL
from probes.selection import Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_level(axis: "Axes", metric: str, series: Series, task: str, colour: str, line_style: Any) -> None:
    """Draw a series of latents, at most one record a task, over the whole width.

    Parameters
    ----------
    axis : Axes
    metric : str
        Record field; its interval is that of ``<metric>_low`` and ``<metric>_high``.
    series : Series
    task, colour : str
    line_style : one of matplotlib's
    """
    for record in series.of_task(task):
        if record[metric] is None:
            continue
        axis.axhline(record[metric], color=colour, linestyle=line_style, linewidth=1.4, label=series.title, zorder=1.8)
        low, high = record[f"{metric}_low"], record[f"{metric}_high"]
        if low is not None and high is not None:
            axis.axhspan(low, high, color=colour, alpha=0.12, linewidth=0, label=INTERVAL, zorder=1.2)
