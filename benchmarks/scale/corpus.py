"""An utterance table of LibriSpeech's shape: how many, how long, by whom, and which of them evaluate."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.scale.voices import SAMPLE_RATE_HZ, draw_voices
from featstore.corpora.base import Utterance
from featstore.header import UtteranceRow
from featstore.split import make_split


@dataclass(frozen=True, eq=False)
class ScaleCorpus:
    """Utterances in id order and their speakers.

    Attributes
    ----------
    rows : list of UtteranceRow
        Sorted by id.
    speaker_of : int64 array of shape (n_utterances,)
        Index into the sorted speaker names, as the store numbers them.
    is_female : bool array of shape (n_speakers,)
    log_f0_mean : float64 array of shape (n_speakers,)
        Natural logarithm of Hz.
    """

    rows: list[UtteranceRow]
    speaker_of: NDArray[np.int64]
    is_female: NDArray[np.bool_]
    log_f0_mean: NDArray[np.float64]


def make_corpus(n_utterances: int, n_speakers: int, mean_duration_s: float, seed: int) -> ScaleCorpus:
    """Draw the utterance table.

    Parameters
    ----------
    n_utterances : int
        At least two for each speaker.
    n_speakers : int
    mean_duration_s : float
    seed : int

    Raises
    ------
    ValueError
        When there are fewer than two utterances a speaker, or the seed is negative.
    """
    voices = draw_voices(n_utterances, n_speakers, mean_duration_s, seed)
    names, owners = voices.names, voices.owner.tolist()
    places = (np.arange(n_utterances) - np.searchsorted(voices.owner, voices.owner)).tolist()
    # a chapter holds some 35 utterances; padded numbers keep the order of ids that of the places
    ids = [f"{names[o]}-{100 + p // 35:06d}-{p % 35:04d}" for o, p in zip(owners, places, strict=True)]
    speaker_of_id = dict(zip(ids, owners, strict=True))
    split = make_split(Utterance(id_, names[owner], Path(id_), None) for id_, owner in speaker_of_id.items())
    rows = [
        UtteranceRow(id_, names[speaker_of_id[id_]], split[id_], n_samples, SAMPLE_RATE_HZ, _sha256(seed, id_))
        for id_, n_samples in sorted(zip(ids, voices.n_samples.tolist(), strict=True))
    ]
    speaker_of = np.array([speaker_of_id[row.id] for row in rows])
    return ScaleCorpus(rows, speaker_of, voices.is_female, voices.log_f0_mean)


def _sha256(seed: int, id_: str) -> str:
    """Stand in for the hash of an audio file that does not exist."""
    return hashlib.sha256(f"synthetic\0{seed}\0{id_}".encode()).hexdigest()
