"""Which records a figure or table shows, in which order and under which name."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from featstore.safe_text import printable
from probes.representation import REPRESENTATIONS
from schemas.record import Record

TASKS = ("phoneme", "speaker", "pitch")
# The two codecs of the study first, then the acoustic baseline; any further codec follows by name.
CODEC_ORDER = ("encodec", "speechtokenizer", "melrvq")
CODEC_TITLES = {"encodec": "EnCodec", "speechtokenizer": "SpeechTokenizer"}
BASELINE_CODEC = "melrvq"
# What a user can set, or feed in, and what may move a number.
SETTINGS = (
    "content_digest",
    "backend_asked",
    "backend_used",
    "rows",
    "phones",
    "keep_silence",
    "standardize",
    "class_weight",
    "eval_by",
    "max_train_frames",
    "C",
    "tol",
    "max_iter",
)
_COMPARED_WITHIN = {"content_digest": "codec", "rows": "representation", "backend_used": "representation"}


@dataclass(frozen=True)
class Series:
    """The records of one curve: one codec, one origin of its weights, one representation, any tasks and layers."""

    codec: str
    weights: str
    representation: str
    records: tuple[Record, ...]

    @property
    def title(self) -> str:
        """Codec and origin of its weights, for people; a representation other than the layer's own row is named."""
        own = self.representation == "codeword"
        return codec_title(self.codec, self.weights) + ("" if own else f", {self.representation}")

    @property
    def is_untrained_control(self) -> bool:
        """Whether these scores are a control and not the codec's: the baseline has no training to miss."""
        return self.weights == "untrained" and self.codec != BASELINE_CODEC

    def of_task(self, task: str) -> list[Record]:
        """Return the records of one task, by layer."""
        return sorted((r for r in self.records if r["task"] == task), key=place_order)


def place_order(record: Record) -> int:
    """Return the record's layer as a sorting key; latents come before all layers."""
    return record["layer"] or 0


def codec_title(codec: str, weights: str) -> str:
    """Return a codec's name with what its weights are, e.g. ``EnCodec (untrained control)``."""
    if codec == BASELINE_CODEC:
        return f"{codec} (log-mel baseline)"
    kind = {"untrained": "untrained control", "checkpoint": "own checkpoint"}.get(weights, weights)
    return f"{_codec_name(codec)} ({kind})"


def _codec_name(codec: str) -> str:
    """Return a codec's name for people; names in a results folder from elsewhere may be any text."""
    name = printable(codec, 64)
    # Matplotlib leaves what begins with an underscore out of its legends.
    return CODEC_TITLES.get(codec, f"codec {name}" if name.startswith("_") else name)


def latest_records(records: Iterable[Record]) -> list[Record]:
    """Keep the last written record of each codec, layer, task and representation."""
    latest = {(r["codec"], r["layer"], r["task"], r["representation"]): r for r in records}
    return list(latest.values())


def series_of(records: Iterable[Record]) -> list[Series]:
    """Group the latest records into curves, in the order in which figures and tables show them."""
    groups: dict[tuple[str, str, str], list[Record]] = defaultdict(list)
    for record in latest_records(records):
        groups[record["codec"], record["weights"], record["representation"]].append(record)
    return [Series(*key, tuple(groups[key])) for key in sorted(groups, key=_series_order)]


def _series_order(key: tuple[str, str, str]) -> tuple[int, str, int, str]:
    codec, weights, representation = key
    rank = CODEC_ORDER.index(codec) if codec in CODEC_ORDER else len(CODEC_ORDER)
    return rank, codec, REPRESENTATIONS.index(representation), weights


def untrained_note(series: Sequence[Series]) -> str | None:
    """Return the warning that belongs on everything that shows untrained codecs; None where there is none."""
    names = list(dict.fromkeys(_codec_name(s.codec) for s in series if s.is_untrained_control))
    if not names:
        return None
    return f"untrained weights: control, not the codec's result ({', '.join(names)})"


def not_applicable_reasons(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Return the records whose task could not be asked, by reason."""
    reasons: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        if record["outcome"] == "not_applicable":
            reasons[record["reason"] or "no reason given"].append(record)
    return dict(reasons)


def settings_of(record: Record) -> tuple[object, ...]:
    """Return the values of `SETTINGS`: scores of one task are points of one curve only where these are equal."""
    return tuple(record[name] for name in SETTINGS)


def mixed_settings(records: Iterable[Record]) -> dict[str, list[str]]:
    """Return each setting that has several values within one task, with these values as text.

    Codecs may come from stores of their own, so that digests are compared within a codec; which rows and which backend
    can fit hangs on the representation, so that these are compared within one.
    """
    values: dict[tuple[str, str, str], dict[str, None]] = defaultdict(dict)
    for record in records:
        for name in SETTINGS:
            owner = record[_COMPARED_WITHIN[name]] if name in _COMPARED_WITHIN else ""
            values[name, record["task"], owner][_setting_text(name, record[name])] = None
    mixed: dict[str, dict[str, None]] = defaultdict(dict)
    for (name, _, _), found in values.items():
        if len(found) > 1:
            mixed[name] |= found
    return {name: list(found) for name, found in mixed.items()}


def _setting_text(name: str, value: object) -> str:
    text = ("all" if name == "max_train_frames" else "default") if value is None else printable(value)
    return text if len(text) <= 24 else f"{text[:12]}..."


def layer_ranges(layers: Iterable[int]) -> str:
    """Write layers compactly: ``1-4, 7``."""
    ranges: list[list[int]] = []
    for layer in sorted(set(layers)):
        if ranges and layer == ranges[-1][1] + 1:
            ranges[-1][1] = layer
        else:
            ranges.append([layer, layer])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)
