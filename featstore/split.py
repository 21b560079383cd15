"""Train and evaluation split by utterance, stratified by speaker, and the seeded subset of a corpus.

Both order utterances by a hash of seed and id, not by a random generator: the order then depends on nothing but the
ids, on every machine and for ever, and an utterance keeps its place when others are added.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from featstore.atomic import write_text_once
from featstore.corpora.base import Utterance
from featstore.errors import CorpusError
from featstore.json_file import NotJsonError, read_json_object
from featstore.safe_text import printable, shown
from featstore.wording import counted
from schemas.store import EVAL, SPLITS, TRAIN
from schemas.versions import check_version

SPLIT_FORMAT_VERSION = "1.0"
MAX_FILE_BYTES = 64 * 2**20  # all of LibriSpeech, 292,367 utterances, takes 7 MB
WAY_OUT = "use --force-resplit to make it anew, or another output folder to keep it"


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
    parts = {name: [id_ for id_, part in split.items() if part == value] for name, value in SPLITS.items()}
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
    where = printable(path)
    try:
        content = read_json_object(path, MAX_FILE_BYTES)
    except NotJsonError as error:
        raise CorpusError(f"{where}: expected a split of train and eval ids, found {error}; {way_out}") from error
    _check_version(content, where)
    problem = _find_problem(content)
    if problem is not None:
        raise CorpusError(f"{where}: expected a split of train and eval ids, found {problem}; {way_out}")
    found = {id_: value for name, value in SPLITS.items() for id_ in content[name]}
    for name, asked in {"seed": seed, "eval_frac": eval_frac}.items():
        if content[name] != asked:
            raise CorpusError(f"{where}: was made with {name} {shown(content[name])}, asked is {asked}; {way_out}")
    ids = {utterance.id for utterance in utterances}
    if found.keys() != ids:
        news, gone = len(ids - found.keys()), len(found.keys() - ids)
        raise CorpusError(
            f"{where}: the corpus has changed since ({counted(news, 'utterance')} new, {gone} gone of "
            f"{len(found)}); {way_out}"
        )
    return dict(sorted(found.items()))


def _check_version(content: dict[str, Any], where: str) -> None:
    """Refuse another major version before anything else: what it holds may mean something else."""
    if _has_version(content):
        check_version(content["format_version"], SPLIT_FORMAT_VERSION, f"{where}: format_version")


def _has_version(content: dict[str, Any]) -> bool:
    version = content.get("format_version")
    return isinstance(version, str) and len(version) <= 20  # it stands in the message


def _find_problem(content: dict[str, Any]) -> str | None:
    """Say what keeps the content of a split file from being one, in words that follow "found"."""
    if not _has_version(content):
        return "no format_version"
    missing = [name for name in ("seed", "eval_frac", *SPLITS) if name not in content]
    if missing:
        return f"one without {', '.join(missing)}"
    if type(content["seed"]) is not int or type(content["eval_frac"]) not in (int, float):
        return f"seed {shown(content['seed'])} and eval_frac {shown(content['eval_frac'])}, which are no numbers"
    ids: list[Any] = []
    for name in SPLITS:
        if not isinstance(content[name], list):
            return f"{name} that is no list"
        ids += content[name]
    strange = next((id_ for id_ in ids if not isinstance(id_, str)), None)
    if strange is not None or None in ids:
        return f"the id {shown(strange)}, which is no text"
    if len(set(ids)) < len(ids):
        return "an id that stands there twice"
    return None


def _by_speaker(utterances: Iterable[Utterance]) -> dict[str, list[str]]:
    ids = defaultdict(list)
    for utterance in utterances:
        ids[utterance.speaker].append(utterance.id)
    return dict(sorted(ids.items()))


def _rank(purpose: str, seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{purpose}\0{seed}\0{name}".encode()).digest()
