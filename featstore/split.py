"""Train and evaluation split by utterance, stratified by speaker, and the seeded subset of a corpus.

Both order utterances by a hash of seed and id, not by a random generator: the order then depends on nothing but the
ids, on every machine and for ever, and an utterance keeps its place when others are added.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from featstore.atomic import write_text_once
from featstore.corpora.base import Utterance
from featstore.errors import CorpusError
from featstore.wording import counted
from schemas.errors import SchemaError
from schemas.store import EVAL, TRAIN
from schemas.versions import check_version

SPLIT_FORMAT_VERSION = "1.0"
WAY_OUT = "use --force-resplit to make it anew, or another output folder to keep it"
_NAMES = {TRAIN: "train", EVAL: "eval"}


def make_split(utterances: Iterable[Utterance], eval_frac: float = 0.1, seed: int = 42) -> dict[str, int]:
    """Assign each utterance to training (0) or evaluation (1).

    Parameters
    ----------
    utterances : iterable of Utterance
        The full scan, before any sharding, capping or skipping.
    eval_frac : float
        Share of every speaker's utterances to evaluate on, rounded to the nearest whole number; each speaker keeps at
        least one training utterance.
    seed : int

    Returns
    -------
    dict of str to int
        By id, in id order.
    """
    split: dict[str, int] = {}
    for speaker, ids in _by_speaker(utterances).items():
        ordered = sorted(ids, key=lambda name: _rank("split", seed, name))
        n_eval = min(int(eval_frac * len(ids) + 0.5), len(ids) - 1)
        split |= {name: EVAL if place < n_eval else TRAIN for place, name in enumerate(ordered)}
        assert TRAIN in (split[name] for name in ids), speaker
    return dict(sorted(split.items()))


def take_subset(utterances: Sequence[Utterance], max_utterances: int | None, seed: int = 42) -> list[Utterance]:
    """Return at most `max_utterances` utterances, sorted by id: round after round, the next of every speaker.

    Absent or 0 is all.
    """
    if not max_utterances or max_utterances >= len(utterances):
        return sorted(utterances)
    rounds = []
    for speaker, ids in _by_speaker(utterances).items():
        for place, name in enumerate(sorted(ids, key=lambda name: _rank("subset", seed, name))):
            rounds.append((place, _rank("subset", seed, speaker), name))
    chosen = {name for _, _, name in sorted(rounds)[:max_utterances]}
    return sorted(utterance for utterance in utterances if utterance.id in chosen)


def write_split(path: Path, split: Mapping[str, int], eval_frac: float, seed: int) -> None:
    """Write ``split.json``: seed, eval_frac and the ids of both parts."""
    parts = {name: [id_ for id_, part in split.items() if part == value] for value, name in _NAMES.items()}
    head = {"format": "rvqprobe-split", "format_version": SPLIT_FORMAT_VERSION, "seed": seed, "eval_frac": eval_frac}
    write_text_once(path, json.dumps(head | parts, indent=1) + "\n")


def read_split(
    path: Path, utterances: Sequence[Utterance], eval_frac: float, seed: int, way_out: str = WAY_OUT
) -> dict[str, int]:
    """Read the split of an earlier run and check that it is one of this corpus with these settings.

    Parameters
    ----------
    path : Path
    utterances : sequence of Utterance
        The full scan.
    eval_frac : float
    seed : int
    way_out : str
        What to do when the split is another one; ends the error's message.

    Raises
    ------
    CorpusError
        When the file is no split, or seed, eval_frac or the set of ids differ; the message says how to go on.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        check_version(content["format_version"], SPLIT_FORMAT_VERSION, f"{path}: format_version")
        found = {str(id_): value for value, name in _NAMES.items() for id_ in content[name]}
        settings = {"seed": content["seed"], "eval_frac": content["eval_frac"]}
    except SchemaError:
        raise
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError) as error:
        raise CorpusError(f"{path}: expected a split of train and eval ids, found something else; {way_out}") from error
    for name, asked in {"seed": seed, "eval_frac": eval_frac}.items():
        if settings[name] != asked:
            raise CorpusError(f"{path}: was made with {name} {settings[name]}, asked is {asked}; {way_out}")
    ids = {utterance.id for utterance in utterances}
    if found.keys() != ids:
        news, gone = len(ids - found.keys()), len(found.keys() - ids)
        raise CorpusError(
            f"{path}: the corpus has changed since ({counted(news, 'utterance')} new, {gone} gone of "
            f"{len(found)}); {way_out}"
        )
    return dict(sorted(found.items()))


def _by_speaker(utterances: Iterable[Utterance]) -> dict[str, list[str]]:
    ids = defaultdict(list)
    for utterance in utterances:
        ids[utterance.speaker].append(utterance.id)
    return dict(sorted(ids.items()))


def _rank(purpose: str, seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{purpose}\0{seed}\0{name}".encode()).digest()
