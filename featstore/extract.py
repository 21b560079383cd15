"""One utterance: audio to labelled samples at every codec's rate.

It is what can be done ahead, in any process and without a codec; `featstore.encode` is the codecs' part.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from featstore.audio import read_audio, resample
from featstore.codecs.base import Codec, n_frames_of
from featstore.corpora.base import Utterance
from featstore.errors import UtteranceError
from featstore.header import InputHashes
from featstore.inputs import hash_file
from featstore.labels.alignment import check_alignment_fits, read_alignment, token_phonemes
from featstore.labels.pitch import token_f0_hz
from featstore.patient_read import UnreadableFileError
from featstore.stopwatch import Stopwatch


@dataclass(frozen=True)
class CodecClock:
    """What preparing needs to know of a codec."""

    name: str
    sample_rate_hz: int
    hop_samples: int


@dataclass(frozen=True)
class FrameLabels:
    """Labels of one utterance's frames: raw phone labels str (n,), F0 in Hz float32 (n,), NaN where unvoiced."""

    phonemes: NDArray[np.str_]
    f0_hz: NDArray[np.float32]


@dataclass(frozen=True)
class PreparedUtterance:
    """An utterance ready to be encoded, or the reason why it cannot be.

    Attributes
    ----------
    utterance : Utterance
    inputs : InputHashes
        Of its files, as they were read.
    problem : str
        Empty where it can be encoded; else the rest is empty.
    n_samples, sample_rate_hz : int
        Of the audio file.
    samples : dict of int to float32 array of shape (n,)
        Mono audio at each rate that a codec asks for.
    labels : dict of str to FrameLabels
        By codec; codecs that tick alike share theirs.
    seconds : dict of str to float
        Time taken by stage (``read``, ``resample``, ``labels``).
    """

    utterance: Utterance
    inputs: InputHashes
    problem: str = ""
    n_samples: int = 0
    sample_rate_hz: int = 0
    samples: Mapping[int, NDArray[np.float32]] = field(default_factory=dict)
    labels: Mapping[str, FrameLabels] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def duration_s(self) -> float:
        """Seconds of audio; 0 where it cannot be encoded."""
        return self.n_samples / self.sample_rate_hz if self.n_samples else 0.0


def clocks_of(codecs: Mapping[str, Codec]) -> list[CodecClock]:
    """Return what preparing needs to know of loaded codecs."""
    return [CodecClock(name, codec.sample_rate_hz, codec.hop_samples) for name, codec in codecs.items()]


def prepare_utterance(utterance: Utterance, clocks: Sequence[CodecClock], f0_method: str) -> PreparedUtterance:
    """Read, resample and label one utterance; what is wrong with it is in ``problem``."""
    stopwatch = Stopwatch()
    try:
        return _prepare(utterance, clocks, f0_method, stopwatch)
    except UtteranceError as error:
        inputs = InputHashes(hash_file(utterance.audio_path), hash_file(utterance.alignment_path))
        if isinstance(error.__cause__, UnreadableFileError):
            inputs = InputHashes()  # nothing was read, so whatever can be read later counts as repaired
        return PreparedUtterance(utterance, inputs, str(error), seconds=stopwatch.seconds)


def _prepare(
    utterance: Utterance, clocks: Sequence[CodecClock], f0_method: str, stopwatch: Stopwatch
) -> PreparedUtterance:
    if utterance.alignment_path is None:
        raise UtteranceError(f"{utterance.id}: expected {utterance.id}.TextGrid among the alignments, found none")
    with stopwatch("read"):
        alignment_sha256 = hash_file(utterance.alignment_path)
        alignment = read_alignment(utterance.alignment_path)
        audio = read_audio(utterance.audio_path)
        check_alignment_fits(alignment, len(audio.samples), audio.sample_rate_hz)
    with stopwatch("resample"):
        rates = {clock.sample_rate_hz for clock in clocks}
        samples = {rate: resample(audio.samples, audio.sample_rate_hz, rate) for rate in sorted(rates)}
    labels: dict[str, FrameLabels] = {}
    known: dict[tuple[int, int, int], FrameLabels] = {}
    with stopwatch("labels"):
        for clock in clocks:
            n_samples = len(samples[clock.sample_rate_hz])
            tick = (n_frames_of(n_samples, clock.hop_samples), clock.hop_samples, clock.sample_rate_hz)
            if tick not in known:
                f0_hz = token_f0_hz(audio.samples, audio.sample_rate_hz, *tick, method=f0_method)
                known[tick] = FrameLabels(token_phonemes(alignment, *tick), f0_hz)
            labels[clock.name] = known[tick]
    inputs = InputHashes(audio.sha256, alignment_sha256)
    n_samples, rate = len(audio.samples), audio.sample_rate_hz
    return PreparedUtterance(utterance, inputs, "", n_samples, rate, samples, labels, stopwatch.seconds)
