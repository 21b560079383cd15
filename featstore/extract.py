"""One utterance: audio to labelled samples at every codec's rate, and those to codes.

`prepare_utterance` is what can be done ahead, in any process and without a codec; `encode_prepared` is the codecs'
part.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from featstore.audio import read_audio, resample
from featstore.codecs.base import Codec, LatentCodec, n_frames_of
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


@dataclass(frozen=True)
class CodecFrames:
    """Frames of one utterance: codes uint16 (n_layers, n), raw phone labels str (n,), F0 in Hz float32 (n,).

    `latents`: the encoder's output before quantisation, float32 (n, dim), where it was asked for.
    """

    codes: NDArray[np.uint16]
    phonemes: NDArray[np.str_]
    f0_hz: NDArray[np.float32]
    latents: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class UtteranceFrames:
    """Everything that is stored of one utterance."""

    utterance: Utterance
    n_samples: int
    sample_rate_hz: int
    inputs: InputHashes
    codecs: Mapping[str, CodecFrames]


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


def encode_prepared(
    prepared: PreparedUtterance, codecs: Mapping[str, Codec], with_latents: bool = False
) -> UtteranceFrames:
    """Encode a prepared utterance with every codec.

    Parameters
    ----------
    prepared : PreparedUtterance
    codecs : mapping of str to Codec
    with_latents : bool
        Keep the encoders' output as well; every codec is then a `LatentCodec`.

    Raises
    ------
    UtteranceError
        When it cannot be encoded.
    """
    if prepared.problem:
        raise UtteranceError(prepared.problem)
    frames = {}
    for name, codec in codecs.items():
        labels = prepared.labels[name]
        codes, latents = _encode(name, codec, prepared.samples[codec.sample_rate_hz], with_latents)
        expected = (len(codec.codebooks), len(labels.f0_hz))
        assert codes.shape == expected, f"{name} gave codes of shape {codes.shape}, its contract says {expected}"
        frames[name] = CodecFrames(codes, labels.phonemes, labels.f0_hz, latents)
    return UtteranceFrames(prepared.utterance, prepared.n_samples, prepared.sample_rate_hz, prepared.inputs, frames)


def _encode(
    name: str, codec: Codec, samples: NDArray[np.float32], with_latents: bool
) -> tuple[NDArray[np.uint16], NDArray[np.float32] | None]:
    if not with_latents:
        return codec.encode(samples), None
    assert isinstance(codec, LatentCodec), f"{name} gives no latents, its family says it does"
    codes, latents = codec.encode_with_latents(samples)
    expected = (codes.shape[1], codec.codebooks.shape[2])
    assert latents.shape == expected, f"{name} gave latents of shape {latents.shape}, its contract says {expected}"
    if not np.isfinite(latents).all():  # no store may hold them, and a whole build would end with that
        raise UtteranceError(f"{name}: expected a finite encoder's output, found NaN or infinity")
    return codes, latents
