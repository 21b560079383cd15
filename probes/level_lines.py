"""Scores of latents in a figure: they belong to no layer, so they are level lines, and their intervals level bands.

Where a fit did not converge its line is crossed at both ends, beside the curves' own crosses.
"""

from typing import TYPE_CHECKING, Any

from probes.legend import BAND, UNCONVERGED
from probes.selection import Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_CROSSES = (0.02, 0.98)  # of the axis' width


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
            axis.axhspan(low, high, color=colour, alpha=0.12, linewidth=0, label=BAND, zorder=1.2)
        if record["outcome"] != "converged":
            look: dict[str, Any] = {"marker": "x", "markersize": 6.4, "linestyle": "none", "label": UNCONVERGED}
            look |= {"color": "black", "markeredgewidth": 0.9, "transform": axis.get_yaxis_transform()}
            axis.plot(_CROSSES, [record[metric]] * len(_CROSSES), **look)
