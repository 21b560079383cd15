"""Paired comparisons of scores, between layers of one codec and between codecs at one layer.

Two probes scored on the same resamples are compared by the difference within each resample: what makes an evaluation
set easy for both cancels, so a difference can be certain where two intervals overlap. The p-value is the bootstrap's
two-sided one: twice the share of resamples in which the difference has the other sign or is zero, one added to number
and total so that it is never zero (Davison and Hinkley 1997, equation 4.11, doi:10.1017/CBO9780511802843).
"""

import csv
import io
import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featstore.atomic import write_text_once
from probes.bootstrap import Resampled, interval, read_resampled, resampled_path
from probes.errors import ProbeFileError
from probes.files import output_errors
from probes.representation import REPRESENTATIONS
from probes.selection import CODEC_ORDER, TASKS, latest_records, place_order, settings_of
from schemas.record import Record

log = logging.getLogger(__name__)

COMPARISONS_NAME = "comparisons.csv"
METRICS = ("accuracy", "macro_f1", "mae_hz", "r2", "utterance_accuracy", "v_information_bits")
ADJACENT, WITH_FIRST, CODECS = "adjacent layers", "with layer 1", "codecs"
# Probes that differ in one of these answer different questions.
_SAME = ("eval_by", "phones", "keep_silence", "standardize", "class_weight", "C", "max_train_frames")


@dataclass(frozen=True)
class Comparison:
    """One line of ``comparisons.csv``: b minus a.

    Attributes
    ----------
    task, representation, metric : str
    what : {"adjacent layers", "with layer 1", "codecs"}
    codec_a, weights_a, layer_a, codec_b, weights_b, layer_b : str or int
        The two probes, each with the origin of its codec's weights; latents have no layer (None).
    difference : float
        Score of b minus score of a on the whole evaluation part, in the metric's unit.
    low, high : float
        95 % interval of the difference.
    p_value : float
        Two-sided, of no difference; not corrected for the number of comparisons.
    n_resamples : int
        Resamples in which both scores are defined.
    resampled_unit : str
    """

    task: str
    representation: str
    metric: str
    what: str
    codec_a: str
    weights_a: str
    layer_a: int | None
    codec_b: str
    weights_b: str
    layer_b: int | None
    difference: float
    low: float
    high: float
    p_value: float
    n_resamples: int
    resampled_unit: str


@dataclass(frozen=True)
class _Probe:
    record: Record
    resampled: Resampled


def write_comparisons(records: Sequence[Record], folder: Path) -> Path | None:
    """Write ``comparisons.csv`` into a results folder, whole or not at all.

    Parameters
    ----------
    records : sequence of Record
        All of the folder, in the order of writing. The last of each codec, layer, task and representation is compared;
        where it has no resampled scores, those of the same probe from an earlier run are taken.
    folder : Path
        Results folder, whose ``bootstrap/`` holds the resampled scores.

    Returns
    -------
    Path or None
        None where nothing can be compared; an older file is removed then.
    """
    path = Path(folder) / COMPARISONS_NAME
    lines = compare(records, folder)
    with output_errors(path):
        if not lines:
            path.unlink(missing_ok=True)
            return None
        write_text_once(path, _csv_text(lines))
    return path


def compare(records: Sequence[Record], folder: Path) -> list[Comparison]:
    """Return every comparison that the resampled scores in `folder` allow, task by task.

    A pair is left out where a probe has no interval, where the two were not scored on the same resamples of the same
    utterances, or where their settings, or for layers of one codec their stores, ask different questions. A damaged
    file of resampled scores is named in a warning and left out.
    """
    probes = _probes(records, Path(folder))
    return [line for what, a, b in _pairs(probes) for line in _compare_pair(what, a, b)]


def _probes(records: Sequence[Record], folder: Path) -> list[_Probe]:
    probes = []
    for record in sorted(_resampled_records(records), key=_order):
        try:
            probes.append(_Probe(record, read_resampled(resampled_path(folder, record["probe_file"]))))
        except ProbeFileError as error:
            log.warning("%s; it is not compared with others", error)
    return probes


def _resampled_records(records: Sequence[Record]) -> list[Record]:
    """Return the last record with resampled scores of each probe that `latest_records` shows.

    A later run of the same probe without ``--n-bootstrap`` takes nothing away; one with other settings does.
    """
    shown = {_same_probe(record) for record in latest_records(records)}
    have = [r for r in records if r["n_bootstrap"] is not None and r["probe_file"] is not None]
    return latest_records(record for record in have if _same_probe(record) in shown)


def _same_probe(record: Record) -> tuple[object, ...]:
    place = tuple(record[name] for name in ("codec", "layer", "task", "representation", "seed"))
    return place + settings_of(record)


def _order(record: Record) -> tuple[int, int, int, str, int]:
    codec = record["codec"]
    rank = CODEC_ORDER.index(codec) if codec in CODEC_ORDER else len(CODEC_ORDER)
    task, representation = TASKS.index(record["task"]), REPRESENTATIONS.index(record["representation"])
    return task, representation, rank, codec, place_order(record)


def _pairs(probes: Iterable[_Probe]) -> Iterator[tuple[str, _Probe, _Probe]]:
    """Yield (what, a, b), of which b minus a is told."""
    groups: dict[tuple[str, str], dict[str, dict[int, _Probe]]] = defaultdict(lambda: defaultdict(dict))
    for probe in probes:
        record = probe.record
        groups[record["task"], record["representation"]][record["codec"]][place_order(record)] = probe
    for codecs in groups.values():
        for layers in codecs.values():
            yield from ((ADJACENT, one, layers[layer + 1]) for layer, one in layers.items() if layer + 1 in layers)
            if 1 in layers:
                yield from ((WITH_FIRST, layers[1], other) for layer, other in layers.items() if layer > 1)
        for one, other in combinations(codecs.values(), 2):
            yield from ((CODECS, one[layer], other[layer]) for layer in one if layer in other)


def _compare_pair(what: str, a: _Probe, b: _Probe) -> Iterator[Comparison]:
    # Codecs may come from stores of their own; layers of one codec that do were made by different builds.
    same = _SAME if what == CODECS else (*_SAME, "content_digest")
    if any(a.record[name] != b.record[name] for name in same):
        return
    for metric in METRICS:
        if None in (a.record[metric], b.record[metric]) or not a.resampled.pairs_with(b.resampled, metric):
            continue
        differences = b.resampled.values[metric] - a.resampled.values[metric]
        differences = differences[~np.isnan(differences)]
        ends = interval(differences)
        if ends is None:
            continue
        yield Comparison(
            task=a.record["task"],
            representation=a.record["representation"],
            metric=metric,
            what=what,
            codec_a=a.record["codec"],
            weights_a=a.record["weights"],
            layer_a=a.record["layer"],
            codec_b=b.record["codec"],
            weights_b=b.record["weights"],
            layer_b=b.record["layer"],
            difference=b.record[metric] - a.record[metric],
            low=ends[0],
            high=ends[1],
            p_value=p_value(differences),
            n_resamples=len(differences),
            resampled_unit=a.resampled.unit,
        )


def p_value(differences: NDArray[np.float64]) -> float:
    """Return the two-sided bootstrap p-value of no difference, from resampled differences without NaN."""
    other_sign = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    return min(1.0, 2 * (1 + other_sign) / (1 + len(differences)))


def _csv_text(lines: Iterable[Comparison]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(field.name for field in fields(Comparison))
    # Six digits are more than the resamples carry; p-values of few resamples stay exact enough to count by.
    for line in lines:
        writer.writerow(f"{value:.6g}" if isinstance(value, float) else value for value in astuple(line))
    return text.getvalue()
