"""An utterance table of LibriSpeech's shape: how many, how long, by whom, and which of them evaluate."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featstore.corpora.base import Utterance
from featstore.split import make_split
from featstore.writer import UtteranceRow

SAMPLE_RATE_HZ = 16_000
MAX_DURATION_S = 24.5
_MIN_DURATION_S = 1.4
_DURATION_STEP_S = 0.005  # LibriSpeech's lengths are multiples of 80 samples
_FEMALE_SHARE = 0.5
_F0_MEAN_HZ = {True: 205.0, False: 118.0}  # female, male
_F0_SPREAD = 0.12  # standard deviation of the speakers' log mean F0 within a sex


@dataclass(frozen=True)
class Shape:
    """What a subset of LibriSpeech measures.

    Hours and speakers as in table 1 of Panayotov et al. 2015 (doi:10.1109/ICASSP.2015.7178964), utterances as in the
    archive; the mean duration is hours over utterances.
    """

    n_utterances: int
    n_speakers: int
    mean_duration_s: float


SHAPES = {"clean100": Shape(28_539, 251, 12.69), "clean360": Shape(104_014, 921, 12.59)}


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
    if seed < 0:
        raise ValueError(f"seed {seed}: expected a whole number from 0 on")
    if n_speakers < 1 or n_utterances < 2 * n_speakers:
        raise ValueError(
            f"{n_utterances} utterances for {n_speakers} speakers: expected at least one speaker and two utterances "
            "each; ask for more --utterances or fewer --speakers"
        )
    rng = np.random.default_rng([seed, 0])
    names = sorted(str(number) for number in rng.choice(np.arange(14, 14 + 36 * n_speakers), n_speakers, replace=False))
    owners = np.sort(_draw_owners(rng, n_utterances, n_speakers))
    place = np.arange(n_utterances) - np.searchsorted(owners, owners)
    durations_s = draw_durations_s(rng, n_utterances, mean_duration_s)
    # a chapter holds some 35 utterances; padded numbers keep the order of ids that of the places
    ids = [f"{names[o]}-{100 + p // 35:06d}-{p % 35:04d}" for o, p in zip(owners.tolist(), place.tolist(), strict=True)]
    speaker_of_id = dict(zip(ids, owners.tolist(), strict=True))
    split = make_split(Utterance(id_, names[owner], Path(id_), None) for id_, owner in speaker_of_id.items())
    rows = [
        UtteranceRow(id_, names[speaker_of_id[id_]], split[id_], n_samples, SAMPLE_RATE_HZ, _sha256(seed, id_))
        for id_, n_samples in sorted(zip(ids, np.rint(durations_s * SAMPLE_RATE_HZ).astype(int).tolist(), strict=True))
    ]
    is_female = rng.permutation(n_speakers) < _FEMALE_SHARE * n_speakers
    centre = np.where(is_female, np.log(_F0_MEAN_HZ[True]), np.log(_F0_MEAN_HZ[False]))
    log_f0_mean = centre + _F0_SPREAD * rng.standard_normal(n_speakers)
    return ScaleCorpus(rows, np.array([speaker_of_id[row.id] for row in rows]), is_female, log_f0_mean)


def draw_durations_s(rng: np.random.Generator, n: int, mean_s: float) -> NDArray[np.float64]:
    """Draw durations: most between 11 and 17 s, a tail of short ones, none over 24.5 s; float64 (n,), seconds.

    They are scaled to the asked mean, so that the number of frames is that of the subset imitated.
    """
    is_usual = rng.random(n) < 0.72
    short = _MIN_DURATION_S + (15 - _MIN_DURATION_S) * rng.beta(1.3, 1.5, n)
    durations = np.where(is_usual, 14.9 + 1.1 * rng.standard_normal(n), short)
    is_long = rng.random(n) < 0.004
    durations[is_long] += 8 * rng.random(int(is_long.sum()))
    durations = np.clip(durations * mean_s / durations.mean(), _MIN_DURATION_S, MAX_DURATION_S)
    return np.asarray(np.rint(durations / _DURATION_STEP_S) * _DURATION_STEP_S)


def _draw_owners(rng: np.random.Generator, n_utterances: int, n_speakers: int) -> NDArray[np.int64]:
    """Give every speaker two utterances and the rest by unequal shares: most read 25 minutes, some far less."""
    shares = np.minimum(rng.gamma(12, 1 / 12, n_speakers), 1.15)
    rest = rng.choice(n_speakers, n_utterances - 2 * n_speakers, p=shares / shares.sum())
    return np.concatenate([np.repeat(np.arange(n_speakers), 2), rest])


def _sha256(seed: int, id_: str) -> str:
    """Stand in for the hash of an audio file that does not exist."""
    return hashlib.sha256(f"synthetic\0{seed}\0{id_}".encode()).hexdigest()
