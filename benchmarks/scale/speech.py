"""Phones and F0 along time, in steps of 10 ms, of which every codec reads its own clock's share.

Phones follow each other independently, with the shares and mean lengths that they have in LibriSpeech; F0 has a mean
that the speaker decides, falls over the utterance, moves with phrase and phone, and is absent where nothing voices.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

STEP_S = 0.01
STEPS_PER_S = 100
# How often each label occurs among 33,098 intervals of 240 alignments of LibriSpeech (Montreal Forced Aligner); OY0,
# the 69th stress-marked phone, does not occur there. Pauses here are those within utterances.
_COUNTS: dict[str, float] = {
    "AH0": 2810, "N": 2397, "T": 2165, "D": 1552, "S": 1524, "R": 1375, "IH0": 1159, "L": 1115, "DH": 1101,
    "M": 1045, "IH1": 913, "Z": 908, "EH1": 848, "K": 842, "AE1": 797, "W": 718, "AH1": 690, "IY0": 685, "P": 683,
    "V": 657, "ER0": 623, "B": 518, "F": 494, "EY1": 486, "AY1": 473, "HH": 443, "IY1": 440, "AO1": 412,
    "AA1": 388, "UW1": 357, "SH": 340, "OW1": 294, "NG": 281, "G": 226, "CH": 188, "TH": 180, "AW1": 177,
    "ER1": 163, "JH": 159, "Y": 124, "UH1": 100, "EH2": 81, "UW0": 55, "IH2": 53, "EY2": 33, "OY1": 30, "AY2": 29,
    "AE2": 28, "ZH": 28, "OW0": 27, "AA2": 25, "EH0": 23, "IY2": 23, "AE0": 22, "AH2": 19, "UW2": 18, "AO2": 16,
    "OW2": 15, "AA0": 11, "AY0": 10, "AO0": 8, "UH2": 5, "AW2": 4, "ER2": 4, "UH0": 3, "EY0": 3, "AW0": 1,
    "OY2": 1, "OY0": 0.5, "sp": 930, "sil": 20, "spn": 20, "": 20,
}  # fmt: skip
EMPTY = ""
SILENT_LABELS = frozenset({"sil", "sp", EMPTY})
_VOICED_CONSONANTS = frozenset(("B", "D", "DH", "G", "JH", "L", "M", "N", "NG", "R", "V", "W", "Y", "Z", "ZH"))
_F0_RANGE_HZ = (60.0, 500.0)
_F0_SPREAD = 0.2  # standard deviation, about, of log F0 within an utterance


@dataclass(frozen=True, eq=False)
class LabelModel:
    """What is known of each label, in the order of the sorted vocabulary.

    Attributes
    ----------
    names : list of str
        Sorted: 69 stress-marked phones, ``sil``, ``sp``, ``spn`` and the empty label.
    shares : float64 array of shape (n_labels,)
        Probability of an interval; sums to 1.
    mean_steps : float64 array of shape (n_labels,)
        Mean length of an interval.
    min_steps : int64 array of shape (n_labels,)
    voiced : float64 array of shape (n_labels,)
        Probability that an interval is voiced.
    lift : float64 array of shape (n_labels,)
        How far stress raises F0, in standard deviations.
    """

    names: list[str]
    shares: NDArray[np.float64]
    mean_steps: NDArray[np.float64]
    min_steps: NDArray[np.int64]
    voiced: NDArray[np.float64]
    lift: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Timeline:
    """Labels of some utterances in steps of 10 ms.

    Attributes
    ----------
    offsets : int64 array of shape (n_utterances + 1,)
        Steps of utterance u are offsets[u]:offsets[u + 1].
    phoneme : uint16 array of shape (n_steps,)
        Index into the labels' names.
    f0_hz : float32 array of shape (n_steps,)
        NaN where unvoiced.
    """

    offsets: NDArray[np.int64]
    phoneme: NDArray[np.uint16]
    f0_hz: NDArray[np.float32]


def label_model() -> LabelModel:
    """Return the labels of the synthetic speech."""
    names = sorted(_COUNTS)
    shares = np.array([float(_COUNTS[name]) for name in names])
    mean_steps = np.array([_mean_steps(name) for name in names])
    return LabelModel(
        names=names,
        shares=shares / shares.sum(),
        mean_steps=mean_steps,
        min_steps=np.where(mean_steps > 3, 3, 1),
        voiced=np.array([_voiced(name) for name in names]),
        lift=np.array([0.5 * name.endswith("1") + 0.2 * name.endswith("2") for name in names]),
    )


def draw_timeline(
    rng: np.random.Generator, labels: LabelModel, n_steps: NDArray[np.int64], log_f0_mean: NDArray[np.float64]
) -> Timeline:
    """Draw what is said in some utterances.

    Parameters
    ----------
    rng : numpy.random.Generator
    labels : LabelModel
    n_steps : int64 array of shape (n_utterances,)
        Length of each, in steps of 10 ms.
    log_f0_mean : float64 array of shape (n_utterances,)
        Its speaker's mean of log F0.
    """
    offsets = np.concatenate([[0], np.cumsum(n_steps)])
    owner = np.repeat(np.arange(len(n_steps)), n_steps)
    place = np.arange(offsets[-1]) - offsets[owner]
    label, steps = _draw_intervals(rng, labels, int(offsets[-1]))
    interval = np.repeat(np.arange(len(label)), steps)[: offsets[-1]]
    phoneme = label[interval].astype(np.uint16)
    head, tail = (np.minimum(rng.integers(10, 50, len(n_steps)), n_steps // 5) for _ in range(2))
    is_edge = (place < head[owner]) | (place >= (n_steps - tail)[owner])
    phoneme[is_edge] = labels.names.index("sil")
    is_voiced = (rng.random(len(label)) < labels.voiced[label])[interval] & ~is_edge
    moved = (labels.lift[label] + 0.4 * rng.standard_normal(len(label)))[interval]
    log_f0 = log_f0_mean[owner] + _F0_SPREAD * (_phrase(rng, n_steps, owner, place) + moved)
    f0_hz = np.clip(np.exp(log_f0), *_F0_RANGE_HZ)
    return Timeline(offsets, phoneme, np.where(is_voiced, f0_hz, np.nan).astype(np.float32))


def at_token_centres(
    timeline: Timeline, n_tokens: NDArray[np.int64], sample_rate_hz: int, hop_samples: int
) -> tuple[NDArray[np.uint16], NDArray[np.float32]]:
    """Return phoneme and F0 at the centre of each token: uint16 (n,) and float32 (n,), n = sum of `n_tokens`.

    A token t covers [t, t + 1) hops; its centre is exact in integers, and intervals are half-open.
    """
    starts = np.cumsum(n_tokens) - n_tokens
    token = np.arange(n_tokens.sum()) - np.repeat(starts, n_tokens)
    step = (2 * token + 1) * hop_samples * STEPS_PER_S // (2 * sample_rate_hz)
    last = np.repeat(np.diff(timeline.offsets) - 1, n_tokens)  # a padded last token's centre may lie past the end
    step = np.repeat(timeline.offsets[:-1], n_tokens) + np.minimum(step, last)
    return timeline.phoneme[step], timeline.f0_hz[step]


def _draw_intervals(
    rng: np.random.Generator, labels: LabelModel, n_steps: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw labels and lengths of intervals that together last at least `n_steps`."""
    drawn: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    missing = n_steps
    while missing > 0:
        n = 100 + int(1.05 * missing / (labels.shares @ labels.mean_steps))
        label = rng.choice(len(labels.names), n, p=labels.shares)
        steps = np.rint(rng.gamma(5, labels.mean_steps[label] / 5)).astype(np.int64)
        drawn.append((label, np.maximum(steps, labels.min_steps[label])))
        missing -= int(drawn[-1][1].sum())
    label, steps = (np.concatenate(parts) for parts in zip(*drawn, strict=True))
    return label, steps


def _phrase(
    rng: np.random.Generator, n_steps: NDArray[np.int64], owner: NDArray[np.int64], place: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the slow movement of F0: declination over the utterance and a wave of its phrases; float64 (n_steps,)."""
    waves_per_s, phase = rng.uniform(0.3, 1.0, len(n_steps)), rng.random(len(n_steps))
    turns = waves_per_s[owner] * place * STEP_S + phase[owner]
    return 0.8 * (0.5 - place / n_steps[owner]) + 0.6 * np.sin(2 * np.pi * turns)


def _mean_steps(name: str) -> float:
    if name in SILENT_LABELS or name == "spn":
        return {"sp": 22.0, "sil": 23.0, "spn": 77.0, EMPTY: 1.7}[name]
    if name[-1] in "12":
        return 10.5
    return 7.2 if name[-1] == "0" else 8.0


def _voiced(name: str) -> float:
    if name in SILENT_LABELS or name == "spn":
        return 0.0 if name in SILENT_LABELS else 0.3
    return 0.96 if name[-1] in "012" else 0.9 if name in _VOICED_CONSONANTS else 0.06
