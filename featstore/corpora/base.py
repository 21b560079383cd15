"""What a corpus is to the rest of featstore: a sorted list of utterances."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, order=True)
class Utterance:
    """One utterance of a corpus and where its files lie.

    Attributes
    ----------
    id : str
        Unique in the corpus, e.g. ``4088-158077-0053``. Data, never used as a path.
    speaker : str
        Speaker name, e.g. ``4088``.
    audio_path : Path
        The audio file, any format that libsndfile reads.
    alignment_path : Path or None
        The TextGrid with the phone alignment; None where the corpus has none for it.
    """

    id: str
    speaker: str
    audio_path: Path
    alignment_path: Path | None
