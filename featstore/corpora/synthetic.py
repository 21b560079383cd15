"""Write a synthetic corpus in LibriSpeech's layout, with TextGrids and, on request, the truth per sample.

::

    OUT/LibriSpeech/SPEAKERS.TXT
    OUT/LibriSpeech/<split>/<speaker>/<chapter>/<speaker>-<chapter>-<utterance>.flac     16 kHz, 16 bit
    OUT/LibriSpeech/<split>/<speaker>/<chapter>/<speaker>-<chapter>.trans.txt
    OUT/alignments/<split>/<speaker>/<chapter>/<speaker>-<chapter>-<utterance>.TextGrid
    OUT/truth/<speaker>-<chapter>-<utterance>.npz                                        f0_hz, with write_truth
    OUT/corpus.json                                                                      the arguments; written last

Each speaker has two chapters, as most LibriSpeech speakers have few; a chapter is one recording session with its own
level and noise floor, and utterances alternate between the two. Speakers are numbered from 9001 and chapters from
900000, beyond LibriSpeech's own numbers, so that no synthetic utterance can be taken for a real one.
"""

import io
import json
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from featstore.atomic import write_once, write_text_once
from featstore.corpora.synthetic_speech import N_CHAPTERS, SYNTHESIS_VERSION, SyntheticUtterance, synthesise_utterance
from featstore.corpora.synthetic_textgrid import format_textgrid
from featstore.corpora.synthetic_voice import SAMPLE_RATE_HZ, draw_speaker
from featstore.errors import CorpusError
from featstore.json_file import NotJsonError, read_json_object

_NOTE_BYTES = 1 << 16
COMPLETE_NAME = "corpus.json"
UNFINISHED_NAME = "corpus.unfinished.json"
"""Holds the arguments until the corpus is complete; an interrupted run is recognised by it and taken up again."""

MAX_SPEAKERS = 50_000
MAX_UTTERANCES = 10_000 * N_CHAPTERS

_FIRST_SPEAKER = 9001
_FIRST_CHAPTER = 900_000

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class CorpusPaths:
    """Where a corpus lies.

    Attributes
    ----------
    librispeech_root : Path
        Holds the split folder and SPEAKERS.TXT.
    alignments_root : Path
        Holds the split folder with the TextGrids.
    """

    librispeech_root: Path
    alignments_root: Path


def make_corpus(
    out: Path,
    n_speakers: int = 8,
    n_utterances: int = 10,
    seed: int = 0,
    split: str = "train-clean-100",
    write_truth: bool = False,
    progress: Progress | None = None,
) -> CorpusPaths:
    """Write a synthetic corpus, or find it finished.

    Parameters
    ----------
    out : Path
        A folder that is absent or empty, or holds this corpus from an earlier run. A finished corpus is left as it
        is; an interrupted one is written again from its start, to the same bytes.
    n_speakers : int
        1 to 50,000; women and men alternate.
    n_utterances : int
        Per speaker, 1 to 20,000. From 13 on every speaker says all 39 phones.
    seed : int
        Not negative. Speakers and utterances that two corpora of one seed share are equal in both.
    split : str
        Name of the split folder.
    write_truth : bool
        Also write each utterance's F0 per sample (``f0_hz``, float32, NaN where unvoiced) under ``OUT/truth``.
    progress : callable, optional
        Called with (utterances done, utterances in all) after each utterance.

    Returns
    -------
    CorpusPaths

    Raises
    ------
    CorpusError
        For arguments out of range, an ``out`` that holds anything else or cannot be written.
    """
    arguments: dict[str, Any] = {
        "n_speakers": n_speakers,
        "n_utterances": n_utterances,
        "seed": seed,
        "split": split,
        "write_truth": write_truth,
        "synthesis_version": SYNTHESIS_VERSION,
    }
    _check_arguments(n_speakers, n_utterances, seed, split)
    paths = CorpusPaths(out / "LibriSpeech", out / "alignments")
    try:
        if _is_finished(out, arguments):
            return paths
        out.mkdir(parents=True, exist_ok=True)
        write_text_once(out / UNFINISHED_NAME, _to_json(arguments))
        _write_all(out, paths, arguments, progress)
        write_text_once(out / COMPLETE_NAME, _to_json(arguments))
        (out / UNFINISHED_NAME).unlink()
    except OSError as error:
        raise CorpusError(
            f"{out}: cannot write the corpus: {error.strerror or error}; free or choose a place"
        ) from error
    return paths


def utterance_id(speaker_index: int, utterance_index: int) -> str:
    """Return the LibriSpeech-style id of a speaker's utterance; does not depend on how many others there are."""
    chapter = _FIRST_CHAPTER + N_CHAPTERS * speaker_index + utterance_index % N_CHAPTERS
    return f"{_FIRST_SPEAKER + speaker_index}-{chapter}-{utterance_index // N_CHAPTERS:04d}"


def _check_arguments(n_speakers: int, n_utterances: int, seed: int, split: str) -> None:
    if not 1 <= n_speakers <= MAX_SPEAKERS:
        raise CorpusError(f"number of speakers: expected 1 to {MAX_SPEAKERS}, found {n_speakers}; change --speakers")
    if not 1 <= n_utterances <= MAX_UTTERANCES:
        raise CorpusError(
            f"utterances per speaker: expected 1 to {MAX_UTTERANCES}, found {n_utterances}; change --utterances"
        )
    if seed < 0:
        raise CorpusError(f"seed: expected 0 or more, found {seed}; change --seed")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", split):
        raise CorpusError(f"split: expected a folder name such as train-clean-100, found {split!r}; change --split")


def _is_finished(out: Path, arguments: dict[str, Any]) -> bool:
    """Tell a finished corpus of these arguments from a place to write one; refuse everything else."""
    if not out.exists():
        return False
    if not out.is_dir():
        raise CorpusError(f"{out}: expected a folder, found a file; choose another place")
    for name in (COMPLETE_NAME, UNFINISHED_NAME):
        if (out / name).is_file():
            _check_same(out / name, arguments)
            return name == COMPLETE_NAME
    # Hidden files are the temporary ones of a run that was killed before it wrote its first file.
    others = sorted(entry.name for entry in out.iterdir() if not entry.name.startswith(f".{UNFINISHED_NAME}."))
    if others:
        raise CorpusError(
            f"{out}: expected an empty folder or a synthetic corpus, found {', '.join(others[:3])}"
            f"{' and more' if len(others) > 3 else ''}; choose another place"
        )
    return False


def _check_same(path: Path, arguments: dict[str, Any]) -> None:
    try:
        found = read_json_object(path, _NOTE_BYTES)["arguments"]
        differing = [
            f"{name} {found.get(name)!r} (now {value!r})"
            for name, value in arguments.items()
            if found.get(name) != value
        ]
    except (NotJsonError, KeyError, TypeError, AttributeError) as error:
        raise CorpusError(
            f"{path}: expected a synthetic corpus's arguments, found something else; choose another place"
        ) from error
    if differing:
        raise CorpusError(
            f"{path.parent}: holds a synthetic corpus made with {', '.join(differing)}; choose another place, "
            "the same arguments, or remove it"
        )


def _to_json(arguments: dict[str, Any]) -> str:
    return json.dumps({"format": "rvqprobe-synthetic-corpus", "arguments": arguments}, indent=2) + "\n"


def _write_all(out: Path, paths: CorpusPaths, arguments: dict[str, Any], progress: Progress | None) -> None:
    n_speakers, n_utterances, split = arguments["n_speakers"], arguments["n_utterances"], arguments["split"]
    truth_folder = out / "truth" if arguments["write_truth"] else None
    seconds: list[float] = []
    for speaker_index in range(n_speakers):
        transcripts: dict[str, list[str]] = defaultdict(list)
        n_samples = 0
        for utterance_index in range(n_utterances):
            name = utterance_id(speaker_index, utterance_index)
            utterance = synthesise_utterance(speaker_index, utterance_index, arguments["seed"])
            _write_utterance(name, utterance, paths, split, truth_folder)
            transcripts[name.rsplit("-", 1)[0]].append(f"{name} {utterance.transcript}\n")
            n_samples += utterance.samples.size
            if progress is not None:
                progress(speaker_index * n_utterances + utterance_index + 1, n_speakers * n_utterances)
        for chapter, lines in transcripts.items():
            folder = paths.librispeech_root / split / Path(*chapter.split("-"))
            write_text_once(folder / f"{chapter}.trans.txt", "".join(lines))
        seconds.append(n_samples / SAMPLE_RATE_HZ)
    write_text_once(paths.librispeech_root / "SPEAKERS.TXT", _speakers_text(seconds, split, arguments["seed"]))


def _write_utterance(
    name: str, utterance: SyntheticUtterance, paths: CorpusPaths, split: str, truth_folder: Path | None
) -> None:
    folder = Path(split, *name.split("-")[:2])
    write_text_once(paths.alignments_root / folder / f"{name}.TextGrid", format_textgrid(utterance))
    if truth_folder is not None:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, f0_hz=utterance.f0_hz)
        _write_bytes(truth_folder / f"{name}.npz", buffer.getvalue())
    _write_bytes(paths.librispeech_root / folder / f"{name}.flac", _encode_flac(utterance))


def _encode_flac(utterance: SyntheticUtterance) -> bytes:
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, utterance.samples, utterance.sample_rate_hz, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def _write_bytes(path: Path, data: bytes) -> None:
    with write_once(path) as temporary:
        temporary.write_bytes(data)


def _speakers_text(seconds: list[float], split: str, seed: int) -> str:
    """Format SPEAKERS.TXT as LibriSpeech does, every speaker marked as synthetic."""
    lines = ["; Synthetic speakers: source-filter synthesis, no human voice.", ";"]
    lines.append(";ID  |SEX| SUBSET           |MINUTES| NAME")
    for index, duration_s in enumerate(seconds):
        sex = draw_speaker(seed, index).sex
        name = f"synthetic speaker {index} (seed {seed})"
        lines.append(f"{_FIRST_SPEAKER + index:<4} | {sex} | {split:<16} | {duration_s / 60:5.2f} | {name}")
    return "\n".join(lines) + "\n"
