"""LibriSpeech on disk: ``<split>/<speaker>/<chapter>/<speaker>-<chapter>-<utterance>.flac`` and its TextGrids.

Panayotov et al. 2015, "LibriSpeech: an ASR corpus based on public domain audio books",
DOI 10.1109/ICASSP.2015.7178964.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from featstore.corpora.base import Utterance
from featstore.errors import CorpusError
from featstore.patient_read import kind_of_special
from featstore.safe_text import printable
from featstore.wording import counted

# In UTF-8. A file name has at most 255 bytes, and the TextGrid's needs nine more than the id.
MAX_ID_BYTES = 200
_PLACE = "<speaker>/<chapter>/<speaker>-<chapter>-<utterance>.flac"


@dataclass(frozen=True)
class Scan:
    """What a scan found.

    Attributes
    ----------
    utterances : list of Utterance
        Sorted by id.
    irregular : list of (str, str)
        Id (file stem, made printable) and reason of FLAC files that do not lie where their name says, whose name is no
        text for a line, or which are no files but named pipes or devices.
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
        When a root or the split is missing, a folder cannot be listed, no FLAC or no TextGrid is found, or two files
        share an id.
    """
    audio_root = _split_folder(librispeech_root, split)
    if not alignments_root.is_dir():
        raise CorpusError(
            f"{printable(alignments_root)}: expected the alignments' folder, found none; check --alignments-root"
        )
    by_id: dict[str, Path] = {}
    for path in _flac_files(audio_root):
        if path.stem in by_id:
            both = f"{printable(by_id[path.stem])} and {printable(path)}"
            raise CorpusError(f"utterance id {printable(path.stem)} stands twice: {both}; remove one")
        by_id[path.stem] = path
    if not by_id:
        raise CorpusError(f"{printable(audio_root)}: expected <speaker>/<chapter>/*.flac below it, found no FLAC file")
    alignment_folders = [alignments_root / split, alignments_root / "LibriSpeech" / split, alignments_root]
    utterances, irregular = [], []
    for name, path in sorted(by_id.items()):
        parts = name.split("-")
        problem = _find_problem(path, parts, audio_root)
        if problem is not None:
            place = printable(path.relative_to(audio_root))
            irregular.append((printable(name, MAX_ID_BYTES), f"{place}: {problem}"))
            continue
        textgrids = (folder / parts[0] / parts[1] / f"{name}.TextGrid" for folder in alignment_folders)
        utterances.append(Utterance(name, parts[0], path, next((file for file in textgrids if file.is_file()), None)))
    if not utterances:
        raise CorpusError(f"{printable(audio_root)}: no FLAC lies at {_PLACE}")
    if all(utterance.alignment_path is None for utterance in utterances):
        expected = f"{utterances[0].speaker}/{utterances[0].id.split('-')[1]}/{utterances[0].id}.TextGrid"
        raise CorpusError(
            f"{printable(alignments_root)}: found no TextGrid for any of {counted(len(utterances), 'utterance')}; "
            f"expected for example {expected} below it or below {split}/"
        )
    return Scan(utterances, irregular)


def _find_problem(path: Path, parts: Sequence[str], audio_root: Path) -> str | None:
    """Say why a FLAC file is no utterance. Ids go into stores, logs and reports, so they must be text for one line."""
    name = path.stem
    if not name.isprintable():
        return "expected a name in UTF-8 without control characters; rename it"
    if len(name.encode()) > MAX_ID_BYTES:
        return f"expected a name of at most {MAX_ID_BYTES} bytes, found {len(name.encode())}; rename it"
    if len(parts) != 3 or "" in parts or path.parent != audio_root / parts[0] / parts[1]:
        return f"expected at {_PLACE}"
    special = kind_of_special(path)
    return None if special is None else f"expected a regular file, found {special}; replace it"


def _split_folder(root: Path, split: str) -> Path:
    if not root.is_dir():
        raise CorpusError(f"{printable(root)}: expected LibriSpeech's folder, found none; check --librispeech-root")
    is_name = Path(split).name == split and split not in {"", ".", ".."} and "\0" not in split
    if not is_name or len(split.encode("utf-8", "surrogatepass")) > 255:
        raise CorpusError(f"split {printable(repr(split), 100)}: expected the name of a folder such as train-clean-100")
    for folder in (root / split, root / "LibriSpeech" / split):
        if folder.is_dir():
            return folder
    home = root / "LibriSpeech" if (root / "LibriSpeech").is_dir() else root
    folders = sorted(printable(entry.name, 60) for entry in home.iterdir() if entry.is_dir())
    found = ", ".join(folders[:8]) or "no folder"
    raise CorpusError(
        f"{printable(root)}: expected the split {printable(split)}, found {found}; check --split and --librispeech-root"
    )


def _flac_files(folder: Path) -> Iterator[Path]:
    seen = set()  # a symbolic link to a folder above would never end
    for parent, folders, files in os.walk(folder, followlinks=True, onerror=_refuse_folder):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        yield from (Path(parent) / name for name in files if name.lower().endswith(".flac"))


def _refuse_folder(error: OSError) -> NoReturn:
    """Refuse the corpus: a folder left out in silence would make the split, and every number, another one."""
    raise CorpusError(
        f"{printable(error.filename)}: the folder cannot be listed ({error.strerror}); check its rights, or try again"
    ) from error
