"""The tables that probes of one layer are fitted from, drawn directly: no frame is ever made, no store is read.

The codes of `ScaleCodec` given a frame's labels have known distributions, so a table's expected counts are those, mixed
over the labels that the table does not tell; each count is drawn around its expectation (Poisson). Shares of phonemes
and pitches are those of a short timeline. What a store of true shape has and these tables lack: speakers whose F0 and
phonemes differ.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from benchmarks.scale import speech
from benchmarks.scale.codecs import SHAPES, ScaleCodec, mixture_weights, pitch_bin, pitch_of_bin_hz
from benchmarks.scale.voices import SAMPLE_RATE_HZ, Voices
from featstore.reading import BLOCK_FRAMES
from probes.problem import ClassWeight, LeastSquaresProblem, LogisticProblem
from probes.standardiser import Standardiser

Array = NDArray[np.float64]

TASKS = ("phoneme", "speaker", "pitch")
_TRAIN_SHARE = 0.9
_TIMELINE_UTTERANCES = 400
_SPREAD_IN_BIN_HZ = 4.0


@dataclass(frozen=True)
class LabelShares:
    """How often labels occur together.

    Attributes
    ----------
    phoneme_and_pitch : float64 array of shape (n_labels, n_pitch_bins + 1), sums to 1; the last column is unvoiced
    speaker : float64 array of shape (n_speakers,), sums to 1
    class_of_label : int64 array of shape (n_labels,)
        The phoneme class of each label: all kinds of silence are one.
    """

    phoneme_and_pitch: Array
    speaker: Array
    class_of_label: NDArray[np.int64]


def label_shares(voices: Voices, labels: speech.LabelModel, seed: int) -> LabelShares:
    """Return the shares of a corpus."""
    speaker = np.bincount(voices.owner, voices.n_samples, len(voices.names))
    rng = np.random.default_rng([seed, 11])
    chosen = rng.choice(len(voices.owner), min(_TIMELINE_UTTERANCES, len(voices.owner)), replace=False)
    n_steps = voices.n_samples[chosen] * speech.STEPS_PER_S // SAMPLE_RATE_HZ
    timeline = speech.draw_timeline(rng, labels, n_steps, voices.log_f0_mean[voices.owner[chosen]])
    n_bins = len(pitch_of_bin_hz()) + 1
    joint = np.zeros((len(labels.names), n_bins))
    np.add.at(joint, (timeline.phoneme, pitch_bin(timeline.f0_hz)), 1.0)
    joint += 1e-3 * joint.sum() * labels.shares[:, None] / n_bins  # every label has been said, however rarely
    names = ["sil" if name in speech.SILENT_LABELS else name for name in labels.names]
    _, class_of_label = np.unique(names, return_inverse=True)
    return LabelShares(joint / joint.sum(), speaker / speaker.sum(), class_of_label)


def frames_of(X: Array, counts: Array, seed: int) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """Yield the frames that a table counts, in random order, in pieces: rows float32 (n, dim), classes int64 (n,)."""
    codes, classes = np.nonzero(counts)
    each = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(codes)), counts[codes, classes].astype(int)))
    table = X.astype(np.float32)
    for first in range(0, len(each), BLOCK_FRAMES):
        piece = each[first : first + BLOCK_FRAMES]
        yield table[codes[piece]], classes[piece]


class CodecTables:
    """Tables of one codec's layers.

    Parameters
    ----------
    name : str
        A key of `benchmarks.scale.codecs.SHAPES`.
    voices : Voices
    seed : int

    Attributes
    ----------
    n_frames : int
        Training frames of the whole corpus.
    codebooks : float32 array of shape (8, 1024, dim)
    """

    def __init__(self, name: str, voices: Voices, seed: int) -> None:
        labels, shape, place = speech.label_model(), SHAPES[name], list(SHAPES).index(name)
        self._shares = label_shares(voices, labels, seed)
        self._codec = ScaleCodec(shape, labels, voices.is_female, [seed, 1, place])
        self._weights = mixture_weights(shape)
        self._seed = [seed, 12, place]
        self.n_frames = int(
            _TRAIN_SHARE * voices.n_samples.sum() / SAMPLE_RATE_HZ * shape.sample_rate_hz / shape.hop_samples
        )
        self.codebooks = self._codec.codebooks

    def problem(
        self, task: str, layer: int, n_frames: int | None = None, class_weight: ClassWeight = "balanced"
    ) -> LogisticProblem | LeastSquaresProblem:
        """Return a task's problem on one layer, counted from 1, standardised; by default of all training frames."""
        n_frames = self.n_frames if n_frames is None else n_frames
        rng = np.random.default_rng([*self._seed, layer, TASKS.index(task)])
        if task == "pitch":
            n, sum_y, sum_y2 = self._moments(rng, layer, n_frames)
            return LeastSquaresProblem(self._rows(layer, n), n, sum_y, sum_y2)
        counts = rng.poisson(n_frames * getattr(self, f"_{task}s")(layer)).astype(np.float64)
        counts = counts[:, counts.sum(axis=0) > 0]
        X = self._rows(layer, counts.sum(axis=1))
        return LogisticProblem(X, counts, class_weight, dense_rows=partial(frames_of, X, counts, layer))

    def code_edges(self, layer: int) -> Array:
        """Return the distribution functions of codes given class k, float64 (n_classes, 1024), from k to k + 1.

        Flattened they rise throughout, so that searching them for k + u, u uniform, draws code and class at once.
        """
        table = self._phonemes(layer).T
        edges = np.cumsum(table / table.sum(axis=1, keepdims=True), axis=1)
        edges[:, -1] = 1.0
        return np.asarray(edges + np.arange(len(edges))[:, None])

    @property
    def phoneme_shares(self) -> Array:
        """Share of each phoneme class, float64 (n_classes,)."""
        return self._to_classes(self._shares.phoneme_and_pitch.sum(axis=1))

    def _rows(self, layer: int, n: Array) -> Array:
        codebook = self.codebooks[layer - 1].astype(np.float64)
        return np.asarray(Standardiser.fit(codebook, n)(codebook))

    def _mixture(self, layer: int) -> tuple[Array, Array, Array, Array]:
        """Return p(v | source) of phonemes, speakers, pitches and of none, each times the source's weight."""
        parts = self._codec.distributions(layer)
        weights = [*self._weights[layer - 1], 1.0 - self._weights[layer - 1].sum()]
        by_phoneme, by_speaker, by_pitch, by_none = (part * weight for part, weight in zip(parts, weights, strict=True))
        return by_phoneme, by_speaker, by_pitch, by_none

    def _phonemes(self, layer: int) -> Array:
        """Return the joint shares of codes and phoneme classes, float64 (1024, n_classes)."""
        by_phoneme, by_speaker, by_pitch, by_none = self._mixture(layer)
        joint, share = self._shares.phoneme_and_pitch, self._shares.phoneme_and_pitch.sum(axis=1)
        rest = self._shares.speaker @ by_speaker + by_none[0]
        by_label = share[:, None] * (by_phoneme + rest) + joint @ by_pitch
        return np.ascontiguousarray(self._to_classes(by_label).T)

    def _speakers(self, layer: int) -> Array:
        """Return the joint shares of codes and speakers, float64 (1024, n_speakers)."""
        by_phoneme, by_speaker, by_pitch, by_none = self._mixture(layer)
        joint = self._shares.phoneme_and_pitch
        rest = joint.sum(axis=1) @ by_phoneme + joint.sum(axis=0) @ by_pitch + by_none[0]
        return np.ascontiguousarray((self._shares.speaker[:, None] * (by_speaker + rest)).T)

    def _moments(self, rng: np.random.Generator, layer: int, n_frames: int) -> tuple[Array, Array, Array]:
        """Return frames, sum of F0 and of its square by code, over voiced frames."""
        by_phoneme, by_speaker, by_pitch, by_none = self._mixture(layer)
        joint = self._shares.phoneme_and_pitch[:, :-1]
        share = joint.sum(axis=0)
        rest = self._shares.speaker @ by_speaker + by_none[0]
        n = rng.poisson(n_frames * (share[:, None] * (by_pitch[:-1] + rest) + joint.T @ by_phoneme)).astype(float)
        centre = pitch_of_bin_hz()[:, None]
        return n.sum(axis=0), (n * centre).sum(axis=0), (n * (centre**2 + _SPREAD_IN_BIN_HZ**2)).sum(axis=0)

    def _to_classes(self, by_label: Array) -> Array:
        classes = self._shares.class_of_label
        summed = np.zeros((classes.max() + 1, *by_label.shape[1:]))
        np.add.at(summed, classes, by_label)
        return summed
