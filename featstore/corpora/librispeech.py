"""LibriSpeech on disk: ``<split>/<speaker>/<chapter>/<speaker>-<chapter>-<utterance>.flac`` and its TextGrids.

Panayotov et al. 2015, "LibriSpeech: an ASR corpus based on public domain audio books",
DOI 10.1109/ICASSP.2015.7178964.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from featstore.corpora.base import Utterance
from featstore.errors import CorpusError
from featstore.wording import counted


@dataclass(frozen=True)
class Scan:
    """What a scan found.

    Attributes
    ----------
    utterances : list of Utterance
        Sorted by id.
    irregular : list of (str, str)
        Id (file stem) and reason of FLAC files that do not lie where their name says.
    """

    utterances: list[Utterance]
    irregular: list[tuple[str, str]]


def scan_librispeech(librispeech_root: Path, alignments_root: Path, split: str) -> Scan:
    """List every utterance of one split, or of the part of it that is there.

    Parameters
    ----------
    librispeech_root : Path
        Holds ``<split>`` or ``LibriSpeech/<split>``; may be or contain symbolic links.
    alignments_root : Path
        Holds TextGrids as ``<speaker>/<chapter>/<id>.TextGrid``, with or without the split folder above.
    split : str
        E.g. ``train-clean-100``.

    Raises
    ------
    CorpusError
        When a root or the split is missing, no FLAC or no TextGrid is found, or two files share an id.
    """
    audio_root = _split_folder(librispeech_root, split)
    if not alignments_root.is_dir():
        raise CorpusError(f"{alignments_root}: expected the alignments' folder, found none; check --alignments-root")
    by_id: dict[str, Path] = {}
    for path in _flac_files(audio_root):
        if path.stem in by_id:
            raise CorpusError(f"utterance id {path.stem} stands twice: {by_id[path.stem]} and {path}; remove one")
        by_id[path.stem] = path
    if not by_id:
        raise CorpusError(f"{audio_root}: expected <speaker>/<chapter>/*.flac below it, found no FLAC file")
    alignment_folders = [alignments_root / split, alignments_root / "LibriSpeech" / split, alignments_root]
    utterances, irregular = [], []
    for name, path in sorted(by_id.items()):
        parts = name.split("-")
        if len(parts) != 3 or path.parent != audio_root / parts[0] / parts[1]:
            place = path.relative_to(audio_root)
            irregular.append((name, f"{place}: expected at <speaker>/<chapter>/<speaker>-<chapter>-<utterance>.flac"))
            continue
        textgrids = (folder / parts[0] / parts[1] / f"{name}.TextGrid" for folder in alignment_folders)
        utterances.append(Utterance(name, parts[0], path, next((file for file in textgrids if file.is_file()), None)))
    if not utterances:
        raise CorpusError(f"{audio_root}: no FLAC lies at <speaker>/<chapter>/<speaker>-<chapter>-<utterance>.flac")
    if all(utterance.alignment_path is None for utterance in utterances):
        expected = f"{utterances[0].speaker}/{utterances[0].id.split('-')[1]}/{utterances[0].id}.TextGrid"
        raise CorpusError(
            f"{alignments_root}: found no TextGrid for any of {counted(len(utterances), 'utterance')}; expected for "
            f"example {expected} below it or below {split}/"
        )
    return Scan(utterances, irregular)


def _split_folder(root: Path, split: str) -> Path:
    if not root.is_dir():
        raise CorpusError(f"{root}: expected LibriSpeech's folder, found none; check --librispeech-root")
    if Path(split).name != split or split in {"", ".", ".."}:
        raise CorpusError(f"split {split!r}: expected the name of a folder such as train-clean-100")
    for folder in (root / split, root / "LibriSpeech" / split):
        if folder.is_dir():
            return folder
    home = root / "LibriSpeech" if (root / "LibriSpeech").is_dir() else root
    found = ", ".join(sorted(entry.name for entry in home.iterdir() if entry.is_dir())[:8]) or "no folder"
    raise CorpusError(f"{root}: expected the split {split}, found {found}; check --split and --librispeech-root")


def _flac_files(folder: Path) -> Iterator[Path]:
    seen = set()  # a symbolic link to a folder above would never end
    for parent, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        yield from (Path(parent) / name for name in files if name.lower().endswith(".flac"))
