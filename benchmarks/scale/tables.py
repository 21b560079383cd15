"""The tables that probes of one layer are fitted from, drawn directly: no frame is ever made.

The codes of `ScaleCodec` given a frame's labels have known distributions, so a table's expected counts are those, mixed
over the labels that the table does not tell; each count is drawn around its expectation (Poisson). Shares of phonemes
and pitches are those of a short timeline. What a store of true shape has and these tables lack: speakers whose F0 and
phonemes differ.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.scale import speech
from benchmarks.scale.codecs import N_LAYERS, SHAPES, ScaleCodec, mixture_weights, pitch_bin, pitch_of_bin_hz
from benchmarks.scale.corpus import SAMPLE_RATE_HZ, ScaleCorpus
from probes.problem import LeastSquaresProblem, LogisticProblem
from probes.questions import Standardiser
from schemas.store import TRAIN

Array = NDArray[np.float64]

_TIMELINE_UTTERANCES = 400
_SPREAD_IN_BIN_HZ = 4.0


@dataclass(frozen=True)
class LabelShares:
    """How often labels occur together in training frames.

    Attributes
    ----------
    phoneme_and_pitch : float64 array of shape (n_labels, n_pitch_bins + 1), sums to 1; the last column is unvoiced
    speaker : float64 array of shape (n_speakers,), sums to 1
    class_of_label : int64 array of shape (n_labels,)
        The phoneme class of each label: all kinds of silence are one.
    n_train_s : float
        Seconds of training speech.
    """

    phoneme_and_pitch: Array
    speaker: Array
    class_of_label: NDArray[np.int64]
    n_train_s: float


def label_shares(corpus: ScaleCorpus, labels: speech.LabelModel, seed: int) -> LabelShares:
    """Return the shares of a corpus."""
    n_samples = np.array([row.n_samples for row in corpus.rows], dtype=np.float64)
    is_train = np.array([row.split == TRAIN for row in corpus.rows])
    speaker = np.bincount(corpus.speaker_of, n_samples * is_train, len(corpus.is_female))
    rng = np.random.default_rng([seed, 11])
    chosen = rng.choice(len(corpus.rows), min(_TIMELINE_UTTERANCES, len(corpus.rows)), replace=False)
    n_steps = (n_samples[chosen] * speech.STEPS_PER_S / SAMPLE_RATE_HZ).astype(np.int64)
    timeline = speech.draw_timeline(rng, labels, n_steps, corpus.log_f0_mean[corpus.speaker_of[chosen]])
    n_bins = int(pitch_bin(np.array([np.nan], dtype=np.float32))[0]) + 1
    joint = np.zeros((len(labels.names), n_bins))
    np.add.at(joint, (timeline.phoneme, pitch_bin(timeline.f0_hz)), 1.0)
    joint += 1e-3 * joint.sum() * labels.shares[:, None] / n_bins  # every label has been said, however rarely
    names = ["sil" if name in speech.SILENT_LABELS else name for name in labels.names]
    _, class_of_label = np.unique(names, return_inverse=True)
    seconds = float((n_samples * is_train).sum()) / SAMPLE_RATE_HZ
    return LabelShares(joint / joint.sum(), speaker / speaker.sum(), class_of_label, seconds)


class CodecTables:
    """Tables of one codec's layers.

    Parameters
    ----------
    name : str
        A key of `benchmarks.scale.codecs.SHAPES`.
    corpus : ScaleCorpus
    seed : int
    """

    def __init__(self, name: str, corpus: ScaleCorpus, seed: int) -> None:
        labels = speech.label_model()
        shape = SHAPES[name]
        self._shares = label_shares(corpus, labels, seed)
        self._codec = ScaleCodec(shape, labels, corpus, [seed, 1, list(SHAPES).index(name)])
        self._weights = mixture_weights(shape)
        self._seed = [seed, 12, list(SHAPES).index(name)]
        self.n_frames = int(self._shares.n_train_s * shape.sample_rate_hz / shape.hop_samples)
        self.codebooks = self._codec.codebooks

    def problem(self, task: str, layer: int) -> LogisticProblem | LeastSquaresProblem:
        """Return a task's problem on one layer, counted from 1, standardised."""
        rng = np.random.default_rng([*self._seed, layer, ("phoneme", "speaker", "pitch").index(task)])
        if task == "pitch":
            n, sum_y, sum_y2 = self._moments(rng, layer)
            return LeastSquaresProblem(self._rows(layer, n), n, sum_y, sum_y2)
        counts = rng.poisson(self.n_frames * getattr(self, f"_{task}s")(layer)).astype(np.float64)
        counts = counts[:, counts.sum(axis=0) > 0]
        return LogisticProblem(self._rows(layer, counts.sum(axis=1)), counts)

    def draw_codes(self, rng: np.random.Generator, phoneme: NDArray[np.intp]) -> NDArray[np.uint16]:
        """Draw codes of all layers, uint16 (n_layers, n_frames), for frames whose phoneme class is known."""
        codes = np.empty((N_LAYERS, len(phoneme)), dtype=np.uint16)
        for layer in range(1, N_LAYERS + 1):
            table = self._phonemes(layer).T
            edges = np.cumsum(table / table.sum(axis=1, keepdims=True), axis=1)
            edges[:, -1] = 1.0
            # rows one after another on one axis: row k's edges lie between k and k + 1
            edges_of_all = (edges + np.arange(len(edges))[:, None]).ravel()
            places = np.searchsorted(edges_of_all, phoneme + rng.random(len(phoneme)))
            codes[layer - 1] = np.minimum(places - phoneme * edges.shape[1], edges.shape[1] - 1)
        return codes

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

    def _moments(self, rng: np.random.Generator, layer: int) -> tuple[Array, Array, Array]:
        """Return frames, sum of F0 and of its square by code, over voiced frames."""
        by_phoneme, by_speaker, by_pitch, by_none = self._mixture(layer)
        joint = self._shares.phoneme_and_pitch[:, :-1]
        share = joint.sum(axis=0)
        rest = self._shares.speaker @ by_speaker + by_none[0]
        n = rng.poisson(self.n_frames * (share[:, None] * (by_pitch[:-1] + rest) + joint.T @ by_phoneme)).astype(float)
        centre = pitch_of_bin_hz()[:, None]
        return n.sum(axis=0), (n * centre).sum(axis=0), (n * (centre**2 + _SPREAD_IN_BIN_HZ**2)).sum(axis=0)

    def _to_classes(self, by_label: Array) -> Array:
        classes = self._shares.class_of_label
        summed = np.zeros((classes.max() + 1, *by_label.shape[1:]))
        np.add.at(summed, classes, by_label)
        return summed
