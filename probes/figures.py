"""The three figures of the study: score against RVQ layer, one line per codec, with chance and majority lines."""

import math
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from featstore.atomic import write_once
from probes.files import output_errors
from probes.selection import CODEC_ORDER, TASKS, Series, not_applicable_reasons, series_of, untrained_note
from schemas.record import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# One column of a two-column paper; text of 7 to 9 points is then read at its true size.
WIDTH_IN, HEIGHT_IN, EMPTY_HEIGHT_IN, DPI = 3.5, 4.6, 1.5, 300
# Beyond this many layers a logarithmic axis keeps the first ones, where the curves fall, apart.
MAX_LINEAR_LAYERS = 16
# Okabe and Ito's colours, told apart by colour-blind readers; each codec has its own marker besides.
STYLES = (("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "D"), ("#E69F00", "v"), ("#56B4E9", "P"))
LINE_STYLES = {"codeword": "-", "cumulative": "--", "concat": "-.", "latent": ":"}
REFERENCE_COLOUR, WARNING_COLOUR = "#555555", "#B00020"
RC: Any = {"font.family": "DejaVu Sans", "font.size": 8, "axes.linewidth": 0.6, "pdf.fonttype": 42}


class Reference(NamedTuple):
    """A line to compare with: its name, the record field it reads (or a constant) and how it is drawn."""

    name: str
    value: str | float
    line_style: Any


class Panel(NamedTuple):
    """One panel of a figure: a metric, its axis label and its reference lines."""

    metric: str
    label: str
    references: tuple[Reference, ...]


def _class_panel(metric: str, label: str) -> Panel:
    chance = Reference("chance", f"chance_{metric}", (0, (4, 2)))
    return Panel(metric, label, (chance, Reference("majority class", f"majority_{metric}", (0, (1, 1.5)))))


_CLASS_PANELS = (_class_panel("accuracy", "accuracy"), _class_panel("macro_f1", "macro-F1"))
_MEAN = "mean baseline"
_PITCH_PANELS = (
    Panel("mae_hz", "MAE (Hz), lower is better", (Reference(_MEAN, "mean_baseline_mae_hz", (0, (4, 2))),)),
    # R2 measures against the mean, so the mean baseline is zero by definition.
    Panel("r2", "$R^2$", (Reference(_MEAN, 0.0, (0, (4, 2))),)),
)
PANELS = {"phoneme": _CLASS_PANELS, "speaker": _CLASS_PANELS, "pitch": _PITCH_PANELS}
TITLES = {"phoneme": "Phoneme probes", "speaker": "Speaker probes", "pitch": "Pitch (F0) probes, voiced frames"}


def write_figures(records: Sequence[Record], folder: Path) -> list[Path]:
    """Draw ``phoneme_probing``, ``speaker_probing`` and ``pitch_probing`` as PNG and PDF.

    Each file appears whole or not at all. Equal records and library versions give equal bytes. A task without a
    score gives a figure that says why.

    Parameters
    ----------
    records : sequence of Record
        In the order of writing; the last of each codec, layer, task and representation is drawn.
    folder : Path
        Created where absent.

    Returns
    -------
    list of Path
        The six files, PNG before PDF for each task.
    """
    import matplotlib

    series = series_of(records)
    paths = []
    with matplotlib.rc_context(RC):
        for task in TASKS:
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
    """Return the figure of one task: two panels, one above the other, over the same layers."""
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
    _set_layer_axis(axes[-1], [r["layer"] for s in shown for r in s.of_task(task)])
    note = untrained_note(shown)
    if note is not None:
        axes[0].set_title(textwrap.fill(note, 56), fontsize=7.5, color=WARNING_COLOUR)
    figure.align_ylabels(axes)
    _add_legend(figure, axes)
    return figure


def _has_score(record: Record, task: str) -> bool:
    return any(record[panel.metric] is not None for panel in PANELS[task])


def _say_why_empty(figure: "Figure", records: Sequence[Record]) -> None:
    reasons = list(not_applicable_reasons(records)) or (
        ["every probe ended without a finite score"] if records else ["there is no record of this task"]
    )
    text = "\n".join(textwrap.fill(reason, 50) for reason in ["No scores to draw:", *reasons])
    figure.text(0.5, 0.5, text, ha="center", va="center", wrap=True)


def _draw_panel(axis: "Axes", panel: Panel, series: Sequence[Series], task: str) -> None:
    for reference in panel.references:
        _draw_reference(axis, reference, [r for s in series for r in s.of_task(task)])
    for one in series:
        _draw_curve(axis, panel.metric, one, task, style_of(one, series))
    axis.set_ylabel(panel.label)
    axis.grid(axis="y", linewidth=0.4, color="#dddddd")
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    if panel.metric in ("accuracy", "macro_f1"):
        axis.set_ylim(bottom=-0.03 * axis.get_ylim()[1])  # keeps a chance line near zero off the frame


def style_of(one: Series, series: Sequence[Series]) -> tuple[str, str]:
    """Return (colour, marker): the same for a codec of the study in every figure, the next free one for others."""
    further = sorted({s.codec for s in series} - set(CODEC_ORDER))
    codecs = [*CODEC_ORDER, *further]
    return STYLES[codecs.index(one.codec) % len(STYLES)]


def _draw_reference(axis: "Axes", reference: Reference, records: Sequence[Record]) -> None:
    """Draw one line per distinct value: codecs of different frame rates differ a little in their majority class."""
    values = [reference.value] if isinstance(reference.value, float) else [r[reference.value] for r in records]
    for value in sorted({round(value, 3) for value in values if value is not None}):
        axis.axhline(value, color=REFERENCE_COLOUR, linewidth=0.8, linestyle=reference.line_style, label=reference.name)


def _draw_curve(axis: "Axes", metric: str, series: Series, task: str, style: tuple[str, str]) -> None:
    """Draw one codec's scores with their 95 % interval; a missing layer is a gap, never bridged."""
    colour, marker = style
    by_layer = {r["layer"]: r for r in series.of_task(task)}
    layers = list(range(min(by_layer), max(by_layer) + 1))
    values, low, high = (_column(by_layer, layers, f"{metric}{end}") for end in ("", "_low", "_high"))
    if not all(math.isnan(value) for value in low):
        axis.fill_between(layers, low, high, color=colour, alpha=0.2, linewidth=0)
    axis.plot(
        layers,
        values,
        color=colour,
        marker=marker,
        markersize=4 if len(layers) <= MAX_LINEAR_LAYERS else 2.5,
        # Hollow markers: a control.
        markerfacecolor="white" if series.is_untrained_control else colour,
        linestyle=LINE_STYLES[series.representation],
        linewidth=1.2,
        label=series.title,
    )


def _column(by_layer: dict[int, Record], layers: Iterable[int], field: str) -> list[float]:
    values = (by_layer.get(layer, {}).get(field) for layer in layers)
    return [math.nan if value is None else float(value) for value in values]


def _set_layer_axis(axis: "Axes", layers: Sequence[int]) -> None:
    """Label the layers with integers from 1."""
    from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

    n_layers = max(layers)
    ticks = list(range(1, n_layers + 1))
    axis.set_xlabel("RVQ layer")
    if n_layers > MAX_LINEAR_LAYERS:
        ticks = [2**i for i in range(n_layers.bit_length())]
        ticks += [n_layers] if n_layers > 1.3 * ticks[-1] else []
        axis.set_xscale("log", base=2)
        axis.set_xlabel("RVQ layer (logarithmic)")
    axis.xaxis.set_major_locator(FixedLocator(ticks))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(ScalarFormatter())


def _add_legend(figure: "Figure", axes: Iterable["Axes"]) -> None:
    """Name each line once beneath the panels: codecs first, then the references."""
    handles: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    references = [name for name in handles if name in ("chance", "majority class", _MEAN)]
    names = [name for name in handles if name not in references] + references
    look: dict[str, Any] = {"frameon": False, "fontsize": 7, "handlelength": 2.6, "labelspacing": 0.3}
    figure.legend([handles[name] for name in names], names, loc="outside lower center", **look)
