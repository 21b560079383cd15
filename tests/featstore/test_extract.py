"""One utterance: the labels that are stored are those of each codec's own clock, from the audio as recorded."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from featstore.codecs.base import n_frames_of
from featstore.corpora.base import Utterance
from featstore.encode import Encoder
from featstore.errors import UtteranceError
from featstore.extract import clocks_of, prepare_utterance
from featstore.labels import pitch
from featstore.labels.alignment import read_alignment, token_phonemes
from featstore.labels.pitch import token_f0_hz
from tests.support.corpus import textgrid_text


class ClockOnly:
    """A codec of which only the clock matters: every code is zero."""

    weights = "untrained"
    weights_sha256 = "00" * 32

    def __init__(self, sample_rate_hz: int, hop_samples: int) -> None:
        self.name = f"{sample_rate_hz}/{hop_samples}"
        self.sample_rate_hz, self.hop_samples = sample_rate_hz, hop_samples
        self.codebooks = np.zeros((2, 4, 3), np.float32)

    def encode(self, samples):
        return np.zeros((2, n_frames_of(len(samples), self.hop_samples)), np.uint16)


class WithLatents(ClockOnly):
    """A codec whose encoder gives `value` for every number."""

    def __init__(self, value: float) -> None:
        super().__init__(8_000, 160)
        self.value = np.float32(value)

    def encode_with_latents(self, samples):
        codes = self.encode(samples)
        return codes, np.full((codes.shape[1], 3), self.value)


CODECS = {
    "tiny": ClockOnly(8_000, 160),
    "as_encodec": ClockOnly(24_000, 320),
    "as_speechtokenizer": ClockOnly(16_000, 320),
    "as_tiny": ClockOnly(8_000, 160),
}


def extract_utterance(utterance, codecs, f0_method, **more):
    (found,) = Encoder(codecs, **more).encode([prepare_utterance(utterance, clocks_of(codecs), f0_method)])
    if isinstance(found, UtteranceError):
        raise found
    return found


def utterance_of(audio_path: Path, alignment_path: Path | None) -> Utterance:
    return Utterance(audio_path.stem, audio_path.stem.split("-")[0], audio_path, alignment_path)


def check_labels(utterance: Utterance) -> None:
    samples, rate_hz = soundfile.read(utterance.audio_path, dtype="float32")
    frames = extract_utterance(utterance, CODECS, "yin")
    assert (frames.n_samples, frames.sample_rate_hz) == (len(samples), rate_hz)
    for name, codec in CODECS.items():
        n_frames = -(-len(samples) * codec.sample_rate_hz // (rate_hz * codec.hop_samples))
        clock = (n_frames, codec.hop_samples, codec.sample_rate_hz)
        found = frames.codecs[name]
        assert found.codes.shape == (2, n_frames)
        np.testing.assert_array_equal(found.phonemes, token_phonemes(read_alignment(utterance.alignment_path), *clock))
        np.testing.assert_array_equal(found.f0_hz, token_f0_hz(samples, rate_hz, *clock, method="yin"))
        assert 0.1 < np.isfinite(found.f0_hz).mean() < 1
        assert len(set(found.phonemes)) > 3


def test_labels_are_those_of_each_codecs_clock(tiny_corpus) -> None:
    for audio_path in sorted(tiny_corpus.librispeech_root.rglob("*.flac"))[::7]:
        check_labels(utterance_of(audio_path, next(tiny_corpus.alignments_root.rglob(f"{audio_path.stem}.TextGrid"))))


def test_labels_of_real_speech_are_those_of_each_codecs_clock(shared_data) -> None:
    alignment_path = min((shared_data / "alignments").rglob("*.TextGrid"))
    check_labels(utterance_of(next((shared_data / "LibriSpeech").rglob(f"{alignment_path.stem}.flac")), alignment_path))


def test_f0_method_is_the_one_asked_for_and_runs_once_per_clock(tiny_corpus, monkeypatch) -> None:
    asked = []

    def record(samples, sample_rate_hz, n_frames, hop_samples, codec_rate_hz, method):
        asked.append((hop_samples, codec_rate_hz, method))
        return np.full(n_frames, np.nan, np.float32)

    monkeypatch.setattr("featstore.extract.token_f0_hz", record)
    audio_path = min(tiny_corpus.librispeech_root.rglob("*.flac"))
    alignment_path = next(tiny_corpus.alignments_root.rglob(f"{audio_path.stem}.TextGrid"))
    extract_utterance(utterance_of(audio_path, alignment_path), CODECS, pitch.f0_method_names()[1])
    assert asked == [(160, 8_000, "pyin"), (320, 24_000, "pyin"), (320, 16_000, "pyin")]


def test_utterance_without_alignment_is_refused(tiny_corpus) -> None:
    audio_path = min(tiny_corpus.librispeech_root.rglob("*.flac"))
    with pytest.raises(UtteranceError, match=rf"expected {audio_path.stem}\.TextGrid among the alignments, found none"):
        extract_utterance(utterance_of(audio_path, None), CODECS, "yin")


def test_alignment_of_a_longer_recording_is_refused(tiny_corpus, tmp_path) -> None:
    audio_path = min(tiny_corpus.librispeech_root.rglob("*.flac"))
    alignment_path = tmp_path / "a.TextGrid"
    alignment_path.write_text(textgrid_text([(0.0, 60.0, "AA1")]))
    with pytest.raises(UtteranceError, match=r"the alignment ends at 60\.000 s but the audio at"):
        extract_utterance(utterance_of(audio_path, alignment_path), CODECS, "yin")


def an_utterance(corpus) -> Utterance:
    audio_path = min(corpus.librispeech_root.rglob("*.flac"))
    return utterance_of(audio_path, next(corpus.alignments_root.rglob(f"{audio_path.stem}.TextGrid")))


def test_latents_are_there_where_they_are_asked_for(tiny_corpus) -> None:
    codecs = {"loud": WithLatents(2.5)}
    assert extract_utterance(an_utterance(tiny_corpus), codecs, "yin").codecs["loud"].latents is None
    found = extract_utterance(an_utterance(tiny_corpus), codecs, "yin", with_latents=True).codecs["loud"]
    np.testing.assert_array_equal(found.latents, np.full((len(found.f0_hz), 3), 2.5, np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_latents_that_are_not_finite_cost_the_utterance_and_not_the_build(tiny_corpus, value) -> None:
    with pytest.raises(UtteranceError, match="loud: expected a finite encoder's output, found NaN or infinity"):
        extract_utterance(an_utterance(tiny_corpus), {"loud": WithLatents(value)}, "yin", with_latents=True)
