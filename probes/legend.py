"""The legend of a figure: each line once, beneath the panels."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from probes.figure_text import figure_text
from probes.interval_bars import INTERVAL, interval_key
from probes.reference_lines import REFERENCE_COLOUR, REFERENCE_STYLES
from probes.representation import REPRESENTATIONS
from probes.selection import Series, codec_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINE_STYLES: dict[str, Any] = {
    "codeword": "-",
    "cumulative": "--",
    "concat": "-.",
    "latent": (0, (7, 1.5, 1, 1.5, 1, 1.5)),  # apart from the dots of a reference line
}
MEANINGS = {
    "codeword": "codeword: layer m alone",
    "cumulative": "cumulative: sum of layers 1 to m",
    "concat": "concat: layers 1 to m side by side",
    "latent": "latent: the encoder's output",
}
UNCONVERGED = "did not converge"
BAND = "95 % interval of latents"
ROW_HEIGHT_IN = 0.14


def add_legend(figure: "Figure", axes: Iterable["Axes"], series: Sequence[Series], note: str | None) -> int:
    """Name curves, then unconverged fits, references, intervals and a note; return the number of rows.

    Curves of one representation are named by their codec. Of several, colour and marker are named by codec and line
    styles by representation, which takes fewer rows than all pairs.

    Parameters
    ----------
    figure : Figure
    axes : iterable of Axes
        Its panels, drawn, every curve labelled by its series' title.
    series : sequence of Series
        The curves.
    note : str or None
        Stands last.
    """
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    drawn: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            drawn.setdefault(label, handle)
    keys = _curve_keys(series, drawn)
    if UNCONVERGED in drawn:
        keys[UNCONVERGED] = drawn[UNCONVERGED]
    for name in REFERENCE_STYLES:
        if name in drawn:  # in grey: a line of the panel may have a codec's colour
            keys[name] = Line2D([], [], color=REFERENCE_COLOUR, linewidth=0.8, linestyle=REFERENCE_STYLES[name])
    if INTERVAL in drawn:
        keys[INTERVAL] = interval_key()
    if BAND in drawn:
        keys[BAND] = Patch(color=REFERENCE_COLOUR, alpha=0.2, linewidth=0)
    if note is not None:
        keys[note] = Line2D([], [], linestyle="none")
    look: dict[str, Any] = {"frameon": False, "fontsize": 7, "handlelength": 2.6, "labelspacing": 0.3}
    figure.legend(list(keys.values()), [figure_text(name) for name in keys], loc="outside lower center", **look)
    return sum(1 + name.count("\n") for name in keys)


def _curve_keys(series: Sequence[Series], drawn: dict[str, Any]) -> dict[str, Any]:
    from matplotlib.lines import Line2D

    shown = [s for s in series if s.title in drawn]
    kinds = [name for name in REPRESENTATIONS if any(s.representation == name for s in shown)]
    if len(kinds) < 2:
        return {s.title: drawn[s.title] for s in shown}
    keys: dict[str, Any] = {}
    for one in sorted(shown, key=lambda s: s.representation == "latent"):  # level lines have no markers to show
        line = drawn[one.title]
        look = {name: getattr(line, f"get_{name}")() for name in ("color", "marker", "markersize", "markerfacecolor")}
        keys.setdefault(codec_title(one.codec, one.weights), Line2D([], [], linestyle="none", **look))
    keys |= {
        MEANINGS[name]: Line2D([], [], color="black", linewidth=1.2, linestyle=LINE_STYLES[name]) for name in kinds
    }
    return keys
