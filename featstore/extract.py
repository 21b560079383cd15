"""One utterance: audio to codes and frame labels for every codec."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from featstore.audio import read_audio, resample
from featstore.codecs.base import Codec, n_frames_of
from featstore.corpora.base import Utterance
from featstore.errors import UtteranceError
from featstore.labels.alignment import check_alignment_fits, read_alignment, token_phonemes
from featstore.labels.pitch import token_f0_hz


@dataclass(frozen=True)
class CodecFrames:
    """Frames of one utterance: codes uint16 (n_layers, n), raw phone labels str (n,), F0 in Hz float32 (n,)."""

    codes: NDArray[np.uint16]
    phonemes: NDArray[np.str_]
    f0_hz: NDArray[np.float32]


@dataclass(frozen=True)
class UtteranceFrames:
    """Everything that is stored of one utterance."""

    utterance: Utterance
    n_samples: int
    sample_rate_hz: int
    sha256: str
    codecs: Mapping[str, CodecFrames]


def extract_utterance(utterance: Utterance, codecs: Mapping[str, Codec], f0_method: str) -> UtteranceFrames:
    """Encode one utterance and label its frames.

    Raises
    ------
    UtteranceError
        When its audio or its alignment cannot be used.
    """
    if utterance.alignment_path is None:
        raise UtteranceError(f"{utterance.id}: expected {utterance.id}.TextGrid among the alignments, found none")
    alignment = read_alignment(utterance.alignment_path)
    audio = read_audio(utterance.audio_path)
    check_alignment_fits(alignment, len(audio.samples), audio.sample_rate_hz)
    frames = {}
    labels: dict[tuple[int, int, int], tuple[NDArray[np.str_], NDArray[np.float32]]] = {}
    for name, codec in codecs.items():
        samples = resample(audio.samples, audio.sample_rate_hz, codec.sample_rate_hz)
        codes = codec.encode(samples)
        clock = (n_frames_of(len(samples), codec.hop_samples), codec.hop_samples, codec.sample_rate_hz)
        expected = (len(codec.codebooks), clock[0])
        assert codes.shape == expected, f"{name} gave codes of shape {codes.shape}, its contract says {expected}"
        if clock not in labels:  # codecs that tick alike share their labels
            f0_hz = token_f0_hz(audio.samples, audio.sample_rate_hz, *clock, method=f0_method)
            labels[clock] = token_phonemes(alignment, *clock), f0_hz
        frames[name] = CodecFrames(codes, *labels[clock])
    return UtteranceFrames(utterance, len(audio.samples), audio.sample_rate_hz, audio.sha256, frames)
