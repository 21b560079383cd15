"""Synthetic read speech whose phones, words, F0 and voicing are known to the sample.

A source-filter synthesiser (see ``synthetic_voice`` for the source, ``synthetic_filter`` for the tract). It does not
sound natural and need not: it gives probes something to find whose truth is exact, and it needs no download. What is
real about it is the structure: formants carry the phones, tract length and source carry the speaker, F0 moves freely.

Bit-identical across runs on one machine and NumPy build; another build may differ in the last bits of a sample.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from featstore.corpora import synthetic_filter as tract
from featstore.corpora.synthetic_lexicon import CONTENT_WORDS, LEXICON, choose_words, fold_stress, stress_of
from featstore.corpora.synthetic_phones import PHONES, STRESS_DURATION
from featstore.corpora.synthetic_tracks import Tracks, make_tracks
from featstore.corpora.synthetic_voice import (
    SAMPLE_RATE_HZ,
    Session,
    Speaker,
    draw_session,
    draw_speaker,
    f0_contour,
    pulse_train,
)

SYNTHESIS_VERSION = 1
"""Raised whenever a change moves a sample or a boundary."""

GRID_SAMPLES = 160
"""All boundaries are multiples of 10 ms, as those of the Montreal Forced Aligner are: exact in decimal, too."""

N_CHAPTERS = 2
"""Recording sessions per speaker; utterances alternate between them."""

INITIAL_SILENCE, SHORT_PAUSE = "sil", "sp"
SILENCES = frozenset({INITIAL_SILENCE, SHORT_PAUSE})
"""The aligner's labels: ``sil`` before the first word, ``sp`` between words and at the end."""

VOICED_AMPLITUDE = 10 ** (-26 / 20)
"""A sample is voiced where the voice source is above this amplitude; a stressed vowel has 1, a stop's closure 0.1."""

_UTTERANCE_STREAM = 3
_SHUFFLE_STREAM = 4
_P_PAUSE = 0.12
_MIN_PHONE_STEPS = 3
_FULL_VOICE = 0.65


class Interval(NamedTuple):
    """A labelled stretch of samples [start_sample, end_sample)."""

    label: str
    start_sample: int
    end_sample: int


class SyntheticUtterance(NamedTuple):
    """One utterance and its truth.

    Attributes
    ----------
    samples : float32 array of shape (n_samples,)
        Full scale is 1; n_samples is a multiple of 160.
    sample_rate_hz : int
        16000.
    f0_hz : float32 array of shape (n_samples,)
        F0 in Hz, NaN where the voice source is off or below ``VOICED_AMPLITUDE``.
    phones : list of Interval
        Stress-marked ARPABET and silences, contiguous from 0 to n_samples.
    words : list of Interval
        Lower-case words, "" for silence, contiguous from 0 to n_samples.
    transcript : str
        The words in capitals, as in LibriSpeech.
    """

    samples: NDArray[np.float32]
    sample_rate_hz: int
    f0_hz: NDArray[np.float32]
    phones: list[Interval]
    words: list[Interval]
    transcript: str


def synthesise_utterance(speaker_index: int, utterance_index: int, seed: int = 0) -> SyntheticUtterance:
    """Synthesise one utterance of about 3 to 5 seconds.

    Parameters
    ----------
    speaker_index, utterance_index : int
        From 0. Utterance u of a speaker belongs to the speaker's chapter u modulo 2.
    seed : int
        Not negative. Equal arguments give equal bits, whatever else has been synthesised.

    Returns
    -------
    SyntheticUtterance
    """

    def shuffle_rng(round_index: int) -> np.random.Generator:
        return np.random.default_rng([seed, _SHUFFLE_STREAM, speaker_index, round_index])

    rng = np.random.default_rng([seed, _UTTERANCE_STREAM, speaker_index, utterance_index])
    speaker = draw_speaker(seed, speaker_index)
    session = draw_session(seed, speaker_index, utterance_index % N_CHAPTERS)
    spoken = choose_words(rng, shuffle_rng, utterance_index)
    phones, words = _place(spoken, speaker, rng)
    tracks = make_tracks(phones, SILENCES)
    f0_hz = f0_contour(speaker, phones[-1].end_sample, _accents(phones, words), rng)
    return SyntheticUtterance(
        samples=_render(tracks, f0_hz, speaker, session, rng).astype(np.float32),
        sample_rate_hz=SAMPLE_RATE_HZ,
        f0_hz=np.where(tracks.voice > VOICED_AMPLITUDE, f0_hz, np.nan).astype(np.float32),
        phones=phones,
        words=words,
        transcript=" ".join(spoken).upper(),
    )


def _place(spoken: list[str], speaker: Speaker, rng: np.random.Generator) -> tuple[list[Interval], list[Interval]]:
    """Give every phone, word and pause its place on the 10 ms grid."""
    phones: list[Interval] = []
    words: list[Interval] = []

    def add_phone(label: str, duration_ms: float) -> None:
        start = phones[-1].end_sample if phones else 0
        n_steps = max(_MIN_PHONE_STEPS, round(duration_ms / 10))
        phones.append(Interval(label, start, start + n_steps * GRID_SAMPLES))

    def add_silence(label: str, duration_ms: float) -> None:
        add_phone(label, duration_ms)
        words.append(Interval("", *phones[-1][1:]))

    add_silence(INITIAL_SILENCE, rng.uniform(100, 300))
    for position, word in enumerate(spoken):
        start = phones[-1].end_sample
        for label in LEXICON[word]:
            add_phone(label, _duration_ms(label, speaker) * rng.uniform(0.75, 1.3))
        words.append(Interval(word, start, phones[-1].end_sample))
        if position < len(spoken) - 1 and rng.random() < _P_PAUSE:
            add_silence(SHORT_PAUSE, rng.uniform(60, 200))
    add_silence(SHORT_PAUSE, rng.uniform(100, 300))
    return phones, words


def _duration_ms(label: str, speaker: Speaker) -> float:
    stress = stress_of(label)
    return PHONES[fold_stress(label)].duration_ms * (1.0 if stress is None else STRESS_DURATION[stress]) / speaker.rate


def _accents(phones: list[Interval], words: list[Interval]) -> list[int]:
    """Return the middle sample of each primary-stressed vowel of a content word."""
    content = [word for word in words if word.label in CONTENT_WORDS]
    return [
        (phone.start_sample + phone.end_sample) // 2
        for phone in phones
        if stress_of(phone.label) == 1
        and any(word.start_sample <= phone.start_sample < word.end_sample for word in content)
    ]


def _render(
    tracks: Tracks, f0_hz: NDArray[np.float64], speaker: Speaker, session: Session, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Drive the tract with voice, aspiration and frication; levels are relative to the vowels' root mean square."""
    n_samples = f0_hz.size
    voice = pulse_train(f0_hz, rng.random()) * tracks.voice
    breath = np.maximum(tracks.aspiration, 10 ** (speaker.breathiness_db / 20) * tracks.voice)
    aspiration = rng.standard_normal(n_samples) * breath
    frication = rng.standard_normal(n_samples) * tracks.frication
    background = rng.standard_normal(n_samples) * 10 ** (session.noise_floor_db / 20)

    source = tract.source_spectra(voice) * tract.glottal_response(speaker) + tract.source_spectra(aspiration)
    spoken = tract.overlap_add(source * tract.tract_response(tracks, speaker), n_samples)
    noise = tract.overlap_add(tract.source_spectra(frication) * tract.noise_response(tracks, speaker), n_samples)
    vowel_level = np.sqrt(np.mean(spoken[tracks.voice > _FULL_VOICE] ** 2))
    signal = spoken / vowel_level + noise + background
    return np.asarray(signal * (session.peak / np.abs(signal).max()))
