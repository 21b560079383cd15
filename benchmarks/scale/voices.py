"""Who speaks, how high and for how long: what of a corpus of LibriSpeech's shape is drawn."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
class Voices:
    """Speakers, and whose each utterance is.

    Attributes
    ----------
    names : list of str
        Of the speakers, sorted.
    owner : int64 array of shape (n_utterances,)
        Each utterance's speaker; rising.
    n_samples : int64 array of shape (n_utterances,)
        At `SAMPLE_RATE_HZ`.
    is_female : bool array of shape (n_speakers,)
    log_f0_mean : float64 array of shape (n_speakers,)
        Natural logarithm of Hz.
    """

    names: list[str]
    owner: NDArray[np.int64]
    n_samples: NDArray[np.int64]
    is_female: NDArray[np.bool_]
    log_f0_mean: NDArray[np.float64]


def draw_voices(n_utterances: int, n_speakers: int, mean_duration_s: float, seed: int) -> Voices:
    """Draw speakers and utterances; parameters and errors as of `benchmarks.scale.corpus.make_corpus`."""
    if seed < 0:
        raise ValueError(f"seed {seed}: expected a whole number from 0 on")
    if n_speakers < 1 or n_utterances < 2 * n_speakers:
        raise ValueError(
            f"{n_utterances} utterances for {n_speakers} speakers: expected at least one speaker and two utterances "
            "each; ask for more --utterances or fewer --speakers"
        )
    rng = np.random.default_rng([seed, 0])
    names = sorted(str(number) for number in rng.choice(np.arange(14, 14 + 36 * n_speakers), n_speakers, replace=False))
    owner = np.sort(_draw_owners(rng, n_utterances, n_speakers))
    durations_s = draw_durations_s(rng, n_utterances, mean_duration_s)
    is_female = rng.permutation(n_speakers) < _FEMALE_SHARE * n_speakers
    centre = np.where(is_female, np.log(_F0_MEAN_HZ[True]), np.log(_F0_MEAN_HZ[False]))
    log_f0_mean = centre + _F0_SPREAD * rng.standard_normal(n_speakers)
    return Voices(names, owner, np.rint(durations_s * SAMPLE_RATE_HZ).astype(np.int64), is_female, log_f0_mean)


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
