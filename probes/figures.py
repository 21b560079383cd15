"""The three figures of the study: score against RVQ layer, one line per codec, with chance and majority lines.

A line joins only what may be compared: it breaks where settings differ, and a missing layer is a gap. Hollow markers
are a control, crossed ones a fit that did not converge.
"""

import math
import textwrap
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from featstore.atomic import write_once
from probes.figure_text import figure_text
from probes.files import output_errors
from probes.interval_bars import draw_intervals
from probes.legend import LINE_STYLES, ROW_HEIGHT_IN, UNCONVERGED, add_legend
from probes.level_lines import draw_level
from probes.reference_lines import Reference, draw_reference
from probes.selection import (
    CODEC_ORDER,
    TASKS,
    Series,
    mixed_settings,
    not_applicable_reasons,
    series_of,
    settings_of,
    untrained_note,
)
from schemas.record import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# One column of a two-column paper; text of 7 to 9 points is then read at its true size.
WIDTH_IN, HEIGHT_IN, EMPTY_HEIGHT_IN, DPI = 3.5, 4.6, 1.5, 300
N_LEGEND_ROWS = 6  # for which there is room; more make the figure taller
# Beyond this many layers a logarithmic axis keeps the first ones, where the curves fall, apart.
MAX_LINEAR_LAYERS = 16
# Okabe and Ito's colours, told apart by colour-blind readers; each codec has its own marker besides.
STYLES = (("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "D"), ("#E69F00", "v"), ("#56B4E9", "P"))
LAYER_AXIS = {
    frozenset({"codeword"}): "RVQ layer",
    frozenset({"cumulative"}): "RVQ layers 1 to m, summed",
    frozenset({"concat"}): "RVQ layers 1 to m, side by side",
}
WARNING_COLOUR = "#B00020"
RC: Any = {"font.family": "DejaVu Sans", "font.size": 8, "axes.linewidth": 0.6, "pdf.fonttype": 42}


class Panel(NamedTuple):
    """One panel of a figure: a metric, its axis label and its reference lines."""

    metric: str
    label: str
    references: tuple[Reference, ...]


def _class_panel(metric: str, label: str) -> Panel:
    references = (Reference("chance", f"chance_{metric}"), Reference("majority class", f"majority_{metric}"))
    return Panel(metric, label, references)


_CLASS_PANELS = (_class_panel("accuracy", "accuracy"), _class_panel("macro_f1", "macro-F1"))
_PITCH_PANELS = (
    Panel("mae_hz", "MAE (Hz), lower is better", (Reference("mean baseline", "mean_baseline_mae_hz"),)),
    # R2 measures against the mean, so the mean baseline is zero by definition.
    Panel("r2", "$R^2$", (Reference("mean baseline", 0.0),)),
)
PANELS = {"phoneme": _CLASS_PANELS, "speaker": _CLASS_PANELS, "pitch": _PITCH_PANELS}
TITLES = {"phoneme": "Phoneme probes", "speaker": "Speaker probes", "pitch": "Pitch (F0) probes, voiced frames"}


def write_figures(records: Sequence[Record], folder: Path) -> list[Path]:
    """Draw ``phoneme_probing``, ``speaker_probing`` and ``pitch_probing`` as PNG and PDF.

    Each file appears whole or not at all. Equal records and library versions give equal bytes. A task that was asked
    but has no score gives a figure that says why; one that has no record gives none.

    Parameters
    ----------
    records : sequence of Record
        In the order of writing; the last of each codec, layer, task and representation is drawn.
    folder : Path
        Created where absent.

    Returns
    -------
    list of Path
        The files, PNG before PDF for each task.
    """
    import matplotlib

    series = series_of(records)
    paths = []
    with matplotlib.rc_context(RC):
        for task in (task for task in TASKS if any(s.of_task(task) for s in series)):
            figure = draw_task(series, task)
            for suffix in ("png", "pdf"):
                paths.append(Path(folder) / f"{task}_probing.{suffix}")
                _save(figure, paths[-1])
    return paths


def _save(figure: "Figure", path: Path) -> None:
    # Without dates and version strings, equal figures are equal files.
    fields = ("CreationDate", "Creator", "Producer") if path.suffix == ".pdf" else ("Software",)
    with output_errors(path), write_once(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], dpi=DPI, metadata=dict.fromkeys(fields))


def draw_task(series: Sequence[Series], task: str) -> "Figure":
    """Return the figure of a task with at least one record: two panels, one above the other, over the same layers."""
    from matplotlib.figure import Figure

    shown = [s for s in series if any(_has_score(r, task) for r in s.of_task(task))]
    figure = Figure(figsize=(WIDTH_IN, HEIGHT_IN if shown else EMPTY_HEIGHT_IN), layout="constrained")
    figure.suptitle(TITLES[task], fontsize=9, fontweight="bold")
    if not shown:
        _say_why_empty(figure, [r for s in series for r in s.of_task(task)])
        return figure
    axes = figure.subplots(2, 1, sharex=True)
    for axis, panel in zip(axes, PANELS[task], strict=True):
        _draw_panel(axis, panel, shown, task)
    _set_layer_axis(axes[-1], shown, task)
    note = untrained_note(shown)
    if note is not None:
        axes[0].set_title(figure_text(textwrap.fill(note, 56)), fontsize=7.5, color=WARNING_COLOUR)
    figure.align_ylabels(axes)
    n_rows = add_legend(figure, axes, shown, _settings_note([r for s in shown for r in s.of_task(task)]))
    figure.set_figheight(HEIGHT_IN + ROW_HEIGHT_IN * max(0, n_rows - N_LEGEND_ROWS))
    return figure


def _settings_note(records: Sequence[Record]) -> str | None:
    """Return what to say of a figure whose points differ in settings; None where there is nothing to say."""
    mixed = mixed_settings(records)
    if not mixed:
        return None
    return textwrap.fill(f"Several settings ({', '.join(mixed)}): lines break where they change, see report.md", 54)


def _has_score(record: Record, task: str) -> bool:
    return any(record[panel.metric] is not None for panel in PANELS[task])


def _say_why_empty(figure: "Figure", records: Sequence[Record]) -> None:
    reasons = list(not_applicable_reasons(records)) or ["every probe ended without a finite score"]
    text = "\n".join(textwrap.fill(reason, 50) for reason in ["No scores to draw:", *reasons])
    figure.text(0.5, 0.5, figure_text(text), ha="center", va="center", wrap=True)


def _draw_panel(axis: "Axes", panel: Panel, series: Sequence[Series], task: str) -> None:
    colours = {s.codec: style_of(s.codec, series)[0] for s in series}
    curves = [s for s in series if s.representation != "latent"]
    side_by_side = max(_layers(curves, task), default=1) <= MAX_LINEAR_LAYERS
    draw_intervals(axis, panel.metric, curves, task, colours, side_by_side)
    for one in series:
        if one.representation == "latent":
            draw_level(axis, panel.metric, one, task, colours[one.codec], LINE_STYLES["latent"])
        else:
            _draw_curve(axis, panel.metric, one, task, style_of(one.codec, series))
    for reference in panel.references:
        draw_reference(axis, reference, series, task, colours)
    axis.set_ylabel(panel.label)
    axis.grid(axis="y", linewidth=0.4, color="#dddddd")
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    if panel.metric in ("accuracy", "macro_f1"):
        axis.set_ylim(bottom=-0.03 * axis.get_ylim()[1])  # keeps a chance line near zero off the frame


def style_of(codec: str, series: Sequence[Series]) -> tuple[str, str]:
    """Return (colour, marker): the same for a codec of the study in every figure, the next free one for others."""
    further = sorted({s.codec for s in series} - set(CODEC_ORDER))
    codecs = [*CODEC_ORDER, *further]
    return STYLES[codecs.index(codec) % len(STYLES)]


def _draw_curve(axis: "Axes", metric: str, series: Series, task: str, style: tuple[str, str]) -> None:
    """Draw one codec's scores; a missing layer is a gap, never bridged."""
    colour, marker = style
    size = 4 if len(series.of_task(task)) <= MAX_LINEAR_LAYERS else 2.5
    for piece in _pieces(series.of_task(task)):
        layers = list(range(min(piece), max(piece) + 1))
        axis.plot(
            layers,
            _column(piece, layers, metric),
            color=colour,
            marker=marker,
            markersize=size,
            # Hollow markers: a control.
            markerfacecolor="white" if series.is_untrained_control else colour,
            linestyle=LINE_STYLES[series.representation],
            linewidth=1.2,
            label=series.title,
        )
    bad = [r for r in series.of_task(task) if r["outcome"] != "converged" and r[metric] is not None]
    if bad:
        look: dict[str, Any] = {"marker": "x", "markersize": 1.6 * size, "linestyle": "none", "label": UNCONVERGED}
        axis.plot([r["layer"] for r in bad], [r[metric] for r in bad], color="black", markeredgewidth=0.9, **look)


def _pieces(records: Sequence[Record]) -> list[dict[int, Record]]:
    """Cut a curve, its records sorted by layer, where settings change: records by layer, one mapping per piece."""
    return [{r["layer"]: r for r in group} for _, group in groupby(records, key=settings_of)]


def _column(by_layer: dict[int, Record], layers: Iterable[int], field: str) -> list[float]:
    values = (by_layer.get(layer, {}).get(field) for layer in layers)
    return [math.nan if value is None else float(value) for value in values]


def _layers(series: Iterable[Series], task: str) -> list[int]:
    return [r["layer"] for s in series for r in s.of_task(task) if r["layer"] is not None]


def _set_layer_axis(axis: "Axes", series: Sequence[Series], task: str) -> None:
    """Label the layers with integers from 1, and say what they stand for; latents have none."""
    from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

    n_layers = max(_layers(series, task), default=0)
    if not n_layers:
        axis.set_xticks([])
        axis.set_xlabel("encoder output, before all RVQ layers")
        return
    ticks = list(range(1, n_layers + 1))
    kinds = frozenset(s.representation for s in series) - {"latent"}
    name = LAYER_AXIS.get(kinds, "RVQ layer m")
    axis.set_xlabel(name)
    if n_layers > MAX_LINEAR_LAYERS:
        ticks = [2**i for i in range(n_layers.bit_length())]
        ticks += [n_layers] if n_layers > 1.3 * ticks[-1] else []
        axis.set_xscale("log", base=2)
        axis.set_xlabel(f"{name} (logarithmic)")
    axis.xaxis.set_major_locator(FixedLocator(ticks))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(ScalarFormatter())
