"""Summaries of a results folder for people: a table for the terminal and ``report.md``."""

import textwrap
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from featstore.atomic import write_text_once
from featstore.safe_text import printable
from featstore.wording import counted
from probes.comparisons import COMPARISONS_NAME
from probes.files import output_errors
from probes.reference_table import reference_block
from probes.selection import SETTINGS, TASKS, latest_records, mixed_settings, series_of, untrained_note
from probes.tables import METRIC_HEADS, METRICS, Block, block_of
from schemas.record import Record

REPORT_NAME = "report.md"
# What a record's `bootstrap_unit` means, for people.
DRAWN = {
    "utterance": "whole utterances are drawn",
    "utterance within speaker": "whole utterances are drawn within each speaker",
    "speaker": "whole speakers are drawn, with all their utterances",
}
REPRESENTATION_NOTES = {
    "codeword": "A layer's embedding is its own codebook row (RVQ layers count from 1), not the sum up to it.",
    "cumulative": "In cumulative probes layer m stands for the sum of the codebook rows of RVQ layers 1 to m: what the "
    "decoder sees at that bitrate.",
    "concat": "In concat probes layer m stands for the codebook rows of RVQ layers 1 to m side by side, m times "
    "the numbers of a layer.",
    "latent": "Latent probes see the encoder's output before quantisation; it belongs to no layer, and is a level line "
    "in the figures.",
}
_WIDTH = 100
_HEAD_WIDTH, _CELL_WIDTH = 15, 9


def summary_table(records: Sequence[Record]) -> str:
    """Return the plain-text summary, at most 100 columns wide: a block per codec, layers against scores.

    Parameters
    ----------
    records : sequence of Record
        In the order of writing; the last of each codec, layer, task and representation is shown.
    """
    if not records:
        return "no records yet"
    series = series_of(records)
    parts = ["\n".join(_text_block(block_of(s))) for s in series]
    notes = [note for note in (untrained_note(series), _superseded_note(records)) if note]
    parts += [textwrap.fill(note, _WIDTH) for note in notes]
    return "\n\n".join(parts)


def _text_block(block: Block) -> list[str]:
    groups = "".join(f"{task:>{2 * _CELL_WIDTH}}" for task in TASKS)
    heads = [METRIC_HEADS[name] for task in TASKS for name, _ in METRICS[task]]
    rule = "-" * (_HEAD_WIDTH + len(heads) * _CELL_WIDTH)
    lines = textwrap.wrap(f"{block.title}: {block.caption}", _WIDTH)
    lines += [" " * _HEAD_WIDTH + groups, _text_row("layer", heads), rule]
    lines += [_text_row(head, cells) for head, cells in block.rows]
    lines += [rule, *(_text_reference(head, cells) for head, cells in block.references)]
    for note in block.notes:
        lines += textwrap.wrap(note, _WIDTH, subsequent_indent="  ")
    return lines


def _text_row(head: str, cells: Iterable[str]) -> str:
    """Return one line; the star of an unconverged fit stands in the gap, so that digits stay aligned."""
    aligned = (f"{cell:>{_CELL_WIDTH}}" if cell.endswith("*") else f"{cell:>{_CELL_WIDTH - 1}} " for cell in cells)
    return f"{head:>{_HEAD_WIDTH - 2}}  {''.join(aligned)}".rstrip()


def _text_reference(head: str, cells: tuple[str, ...]) -> str:
    if head.endswith("frames"):  # one number for both columns of a task
        wide = (f"{cell:>{2 * _CELL_WIDTH - 1}} " for cell in cells[::2])
        return f"{head:>{_HEAD_WIDTH - 2}}  {''.join(wide)}".rstrip()
    return _text_row(head, cells)


def summary_markdown(records: Sequence[Record]) -> str:
    """Return the same summary as Markdown tables, with 95 % intervals where the records have them."""
    if not records:
        return "No records yet."
    return "\n\n".join(_markdown_block(block_of(series, with_intervals=True)) for series in series_of(records))


def _markdown_block(block: Block) -> str:
    heads = [f"{task} {METRIC_HEADS[name]}" for task in TASKS for name, _ in METRICS[task]]
    lines = [f"### {_escape(block.title)}", "", _escape(block.caption), "", _markdown_row("layer", heads)]
    lines.append("| ---: " * (len(heads) + 1) + "|")
    lines += [_markdown_row(head, cells) for head, cells in (*block.rows, *block.references)]
    lines += ["", *(f"- {_escape(note)}" for note in block.notes)]
    return "\n".join(lines)


def _markdown_row(head: str, cells: Iterable[str]) -> str:
    return "| " + " | ".join(_escape(cell) for cell in (head, *cells)) + " |"


def _escape(text: str) -> str:
    """Keep text from other hands (codec names, reasons) out of the Markdown syntax."""
    text = printable(" ".join(text.split()))
    for sign in ("\\", "|", "*", "<", "`", "$", "]("):
        text = text.replace(sign, f"\\{sign}")
    return text


def write_report(records: Sequence[Record], folder: Path) -> Path:
    """Write ``report.md`` into a results folder, whole or not at all, and return its path.

    Figures are embedded where ``figures/`` holds them. Equal records give equal bytes.
    """
    path = Path(folder) / REPORT_NAME
    parts = ["# What each RVQ layer encodes: linear probes", *_notes(records), *_figures(records, Path(folder))]
    parts += [
        "## Scores",
        summary_markdown(records),
        *_beside(records),
        *_uncertainty(latest_records(records), Path(folder)),
    ]
    parts += _settings(records)
    with output_errors(path):
        write_text_once(path, "\n\n".join(parts) + "\n")
    return path


def _notes(records: Sequence[Record]) -> list[str]:
    """Return what a reader has to know before reading a number (Markdown, one list)."""
    series = series_of(records)
    notes = [untrained_note(series), _superseded_note(records), *_honesty_notes(latest_records(records))]
    return ["## Read this first", "\n".join(f"- {_escape(note)}" for note in notes if note)]


def _honesty_notes(records: list[Record]) -> list[str]:
    tasks = {r["task"] for r in records}
    notes = [text for name, text in REPRESENTATION_NOTES.items() if any(r["representation"] == name for r in records)]
    sizes = sorted({r["max_train_frames"] for r in records if r["max_train_frames"] is not None})
    if sizes:
        notes.append(
            f"Where fewer train frames are shown than there are, a seeded sample of at most {_numbers(sizes)} was "
            "asked for (--max-train-frames); scores are over every evaluation frame."
        )
    if any(r["class_weight"] == "balanced" for r in records):
        notes.append(
            "Class weights are balanced: a probe that knows nothing spreads its guesses over rare classes too, so its "
            "accuracy may lie below the majority class's. Compare macro-F1, or probe with --class-weight none."
        )
    if "speaker" in tasks:
        notes.append(
            "LibriSpeech speakers have few chapters, so speaker scores measure the recording session too: room, "
            "microphone and channel are known with the voice."
        )
    if tasks & {"phoneme", "pitch"}:
        notes.append(_speakers_note({r["eval_by"] for r in records if r["task"] != "speaker"}))
    if "pitch" in tasks:
        notes.append("Pitch is probed on voiced frames only.")
    if len({r["dim"] for r in records if r["dim"] is not None}) > 1:
        notes.append(
            "The codecs differ in embedding dimension. A linear probe on more dimensions is closer to a free lookup "
            "table over the codes, so raw scores of different codecs are not like for like; compare layers within a "
            "codec."
        )
    return notes


def _numbers(values: Iterable[int]) -> str:
    return " or ".join(f"{value:,}" for value in values)


def _speakers_note(eval_by: set[str]) -> str:
    if eval_by == {"speaker"}:
        return "Phoneme and pitch are evaluated on speakers that training never heard."
    return (
        "Training and evaluation utterances share their speakers: phoneme and pitch scores on unseen speakers "
        "(--eval-by speaker) would be lower."
    )


def _superseded_note(records: Sequence[Record]) -> str | None:
    """Say which records are shown, where the folder holds several per probe or several settings."""
    latest = latest_records(records)
    parts = []
    if len(latest) < len(records):
        n_older = len(records) - len(latest)
        parts.append(
            f"{len(records)} records, of which {counted(n_older, 'older one')} {'is' if n_older == 1 else 'are'} not "
            "shown: the latest of each codec, layer, "
            "task and representation counts"
        )
    mixed = mixed_settings(latest)
    if mixed:
        values = "; ".join(f"{name}: {', '.join(found)}" for name, found in mixed.items())
        parts.append(f"several settings stand side by side in what is shown ({values})")
    return ". ".join(part[0].upper() + part[1:] for part in parts) + "." if parts else None


def _figures(records: Sequence[Record], folder: Path) -> list[str]:
    """Embed the figures of the tasks that the report is about; an earlier run may have left others."""
    asked = {record["task"] for record in records}
    names = [f"figures/{task}_probing" for task in TASKS if task in asked]
    names = [name for name in names if (folder / f"{name}.png").is_file()]
    if not names:
        return []
    links = [f"![{name.split('/')[1].replace('_', ' ')}]({name}.png) ([PDF]({name}.pdf))" for name in names]
    return ["## Figures", *links]


def _uncertainty(records: Iterable[Record], folder: Path) -> list[str]:
    """Say what the intervals are, over what was resampled, and where the comparisons stand; nothing without them."""
    drawn: dict[tuple[str, int], dict[str, None]] = defaultdict(dict)
    for record in sorted(records, key=lambda r: TASKS.index(r["task"])):
        if record["n_bootstrap"] is not None:
            drawn[record["bootstrap_unit"], record["n_bootstrap"]][record["task"]] = None
    if not drawn:
        return []
    units = "; ".join(f"{' and '.join(tasks)}: {DRAWN[unit]}, {n:,} resamples" for (unit, n), tasks in drawn.items())
    parts = [
        f"Brackets in the tables and bars in the figures are 95 % percentile bootstrap intervals over the evaluation "
        f"part ({units}). They are conditional on the fitted probe: how much a score hangs on what it was evaluated "
        "on, not on the training data. Frames are never drawn alone, for neighbours are alike."
    ]
    if (folder / COMPARISONS_NAME).is_file():
        parts.append(
            f"[{COMPARISONS_NAME}]({COMPARISONS_NAME}) holds the paired differences, b minus a, between adjacent "
            "layers, with layer 1, and between codecs at the same layer, of all probes of this folder. Both sides are "
            "scored on the same resamples of the same utterances, so a difference can be certain where two intervals "
            "overlap. Its p-values are two-sided and not corrected for the number of comparisons."
        )
    return ["## Uncertainty", *parts]


def _beside(records: Sequence[Record]) -> list[str]:
    """Return the section of what scores are read against: lookup, oracle and information, a table per codec."""
    blocks = [block for series in series_of(records) if (block := reference_block(series)).rows]
    if not blocks:
        return []
    words = (
        "*lookup*: a table with one free answer a code, from training counts; *oracle*: what no function of the code "
        "exceeds on these frames (MAE: goes under); *I*: bits that the code tells of the label, corrected for bias, "
        "empty where the frames are too few to say; *V*: bits that this linear probe makes usable; *utt*: speakers "
        "told right from whole utterances. Only beside lookup and oracle are codecs of different dimensions comparable."
    )
    tables = []
    for block in blocks:
        lines = [f"### {_escape(block.title)}", "", _markdown_row("layer", block.heads)]
        lines.append("| ---: " * (len(block.heads) + 1) + "|")
        tables.append("\n".join([*lines, *(_markdown_row(head, cells) for head, cells in block.rows)]))
    return ["## What the scores are read against", words, *tables]


def _settings(records: Sequence[Record]) -> list[str]:
    latest = latest_records(records)
    if not latest:
        return []
    lines = [f"| {name} | {_distinct(r[name] for r in latest)} |" for name in SETTINGS]
    versions = sorted({(name, text) for r in latest for name, text in r["versions"].items()})
    lines += [f"| {_escape(name)} version | {_escape(text)} |" for name, text in versions]
    seconds = sum(r["seconds"] for r in latest)
    lines.append(f"| fitting time | {seconds:,.1f} s over {counted(len(latest), 'probe')} |")
    return ["## Settings and versions", "\n".join(["| what | value |", "| --- | --- |", *lines])]


def _distinct(values: Iterable[object]) -> str:
    """Return the distinct values as text; null, which is ``does not apply`` or ``default``, only when alone."""
    texts = list(dict.fromkeys(str(value) for value in values if value is not None))
    return ", ".join(_escape(text) for text in texts) or "default"
