"""The three questions asked of a frame, and what counts as a phoneme class."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Task = Literal["phoneme", "speaker", "pitch"]
Phones = Literal["raw", "arpabet39"]
TASKS: tuple[Task, ...] = ("phoneme", "speaker", "pitch")

SILENCE = "sil"
# What the Montreal Forced Aligner writes where nobody speaks: silence, short pause, and an unlabelled interval.
_SILENT_LABELS = frozenset({"sil", "sp", ""})


@dataclass(frozen=True)
class Classes:
    """Classes of a task as a grouping of the store's labels.

    Attributes
    ----------
    names : tuple of str
        Class names, sorted.
    of_label : int64 array of shape (n_labels,)
        Class of each label in the store's vocabulary; -1 where its frames take no part.
    """

    names: tuple[str, ...]
    of_label: NDArray[np.int64]

    def fold(self, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Add up label counts to class counts: int64 (..., n_labels) to int64 (..., n_classes)."""
        folded = np.zeros((*counts.shape[:-1], len(self.names)), dtype=np.int64)
        for label, class_ in enumerate(self.of_label):
            if class_ >= 0:
                folded[..., class_] += counts[..., label]
        return folded


def phoneme_classes(labels: Sequence[str], phones: Phones = "raw", keep_silence: bool = True) -> Classes:
    """Group raw phone labels into phoneme classes.

    Parameters
    ----------
    labels : sequence of str
        The store's raw labels.
    phones : {"raw", "arpabet39"}
        ``raw`` keeps stress (69 phones in LibriSpeech's alignments); ``arpabet39`` folds ``AH0``, ``AH1``, ``AH2`` to
        ``AH``. Either way ``sil``, ``sp`` and the empty label are one class, and spoken noise (``spn``) stays one.
    keep_silence : bool
        Whether silence is a class; if not, its frames take no part. Spoken noise is no silence and stays.
    """
    named = [_class_name(label, phones) for label in labels]
    names = tuple(sorted({name for name in named if keep_silence or name != SILENCE}))
    place = {name: index for index, name in enumerate(names)}
    return Classes(names, np.array([place.get(name, -1) for name in named], dtype=np.int64))


def speaker_classes(speakers: Sequence[str]) -> Classes:
    """Return one class a speaker."""
    return Classes(tuple(speakers), np.arange(len(speakers)))


def _class_name(label: str, phones: Phones) -> str:
    if label in _SILENT_LABELS:
        return SILENCE
    return label.rstrip("012") if phones == "arpabet39" else label
