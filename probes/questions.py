"""From a codec's tables to the problem of one probe: which frames, which classes, which features.

A question that cannot be asked of the data (one speaker, no voiced frame) is a `NotApplicable` with the reason.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from featstore.frames import Frames
from probes.errors import ProbeError
from probes.held_out import parts_of_frames
from probes.problem import ClassWeight, DenseRows, LeastSquaresProblem, LogisticProblem
from probes.standardiser import Standardiser
from probes.statistics import LayerTables
from probes.tasks import Classes, Phones, phoneme_classes, speaker_classes
from schemas.store import EVAL, TRAIN


class NotApplicable(Exception):  # noqa: N818  (no error: an answer)
    """The task cannot be asked of this store; the message is the record's reason."""


@dataclass(frozen=True)
class ClassQuestion:
    """A classification probe.

    Attributes
    ----------
    task : str
    problem : LogisticProblem
        Over the classes seen in training, in the order of `classes`.
    classes : tuple of str
        Names of the classes seen in training.
    eval_counts : int64 array of shape (n_codewords, n_classes)
        Evaluation frames by code and class seen in training.
    class_of_label : int64 array of shape (n_labels,)
        Training class of each of the store's labels, -1 where its frames take no part.
    n_unseen : int
        Evaluation frames whose class was never seen in training; they are left out.
    standardiser : Standardiser
    """

    task: str
    problem: LogisticProblem
    classes: tuple[str, ...]
    eval_counts: NDArray[np.int64]
    class_of_label: NDArray[np.int64]
    n_unseen: int
    standardiser: Standardiser


@dataclass(frozen=True)
class PitchQuestion:
    """A regression probe on voiced frames.

    Attributes
    ----------
    problem : LeastSquaresProblem
        Target F0 in Hz.
    eval_moments : float64 array of shape (3, n_codewords)
        Voiced evaluation frames by code: number, sum of F0, sum of its square.
    standardiser : Standardiser
    """

    problem: LeastSquaresProblem
    eval_moments: NDArray[np.float64]
    standardiser: Standardiser


@dataclass(frozen=True)
class Settings:
    """What can change a probe's numbers, apart from the backend."""

    phones: Phones = "raw"
    keep_silence: bool = True
    standardize: bool = True
    class_weight: ClassWeight = "balanced"
    C: float = 1.0


def class_question(
    frames: Frames,
    tables: LayerTables,
    layer: int,
    task: str,
    settings: Settings,
    split: NDArray[np.int8] | None = None,
) -> ClassQuestion:
    """Ask for phoneme or speaker of one layer (counted from 1); `split` is the one of the tables, None the store's own.

    Raises
    ------
    NotApplicable
        With fewer than two classes in training, or no evaluation frame of a known class.
    """
    classes = task_classes(frames, task, settings)
    table = tables.phoneme if task == "phoneme" else tables.speaker
    train, held_out = classes.fold(table[TRAIN]), classes.fold(table[EVAL])
    seen = np.flatnonzero(train.sum(axis=0))
    check_classes(task, classes, seen, held_out.sum(axis=0))
    eval_counts = held_out[:, seen]
    n_unseen = int(held_out.sum() - eval_counts.sum())
    counts = train[:, seen].astype(np.float64)
    standardiser = _standardiser(frames, layer, counts.sum(axis=1), settings)
    class_of_label = renumbered(classes, seen)
    problem = LogisticProblem(
        standardiser(frames.codebooks[layer - 1]),
        counts,
        settings.class_weight,
        settings.C,
        _dense_rows(
            frames, layer, standardiser, lambda start, stop: _labels(frames, task, class_of_label, start, stop), split
        ),
    )
    names = tuple(classes.names[index] for index in seen)
    return ClassQuestion(task, problem, names, eval_counts, class_of_label, n_unseen, standardiser)


def task_classes(frames: Frames, task: str, settings: Settings) -> Classes:
    """Return the classes of phoneme or speaker that the store's labels make, seen in training or not."""
    if task == "phoneme":
        return phoneme_classes(frames.store.strings("vocab/phonemes"), settings.phones, settings.keep_silence)
    return speaker_classes(frames.store.strings("vocab/speakers"))


def check_classes(task: str, classes: Classes, seen: NDArray[np.intp], n_held_out: NDArray[np.integer]) -> None:
    """Refuse a question without two classes in training (`seen`) or without an evaluation frame of one of them.

    Raises
    ------
    NotApplicable
    """
    if len(seen) < 2:
        found = ", ".join(classes.names[index] for index in seen) or "none"
        raise NotApplicable(f"{task} needs at least two classes in training, found {len(seen)} ({found})")
    if not n_held_out.sum():
        raise NotApplicable(f"{task}: the store has no evaluation frame; build it with more utterances or --eval-frac")
    if not n_held_out[seen].sum():
        raise NotApplicable(f"{task}: no evaluation frame has a class that was seen in training")


def renumbered(classes: Classes, seen: NDArray[np.intp]) -> NDArray[np.int64]:
    """Return the place in `seen` of each label's class, int64 (n_labels,); -1 where its frames take no part."""
    place = np.full(len(classes.names), -1, dtype=np.int64)
    place[seen] = np.arange(len(seen))
    return np.where(classes.of_label >= 0, place[classes.of_label], -1)


def pitch_question(
    frames: Frames, tables: LayerTables, layer: int, settings: Settings, split: NDArray[np.int8] | None = None
) -> PitchQuestion:
    """Ask for F0 in Hz of the voiced frames of one layer (counted from 1); `split` as in `class_question`.

    Raises
    ------
    NotApplicable
        Without a voiced frame in training or in evaluation.
    """
    n, sum_y, sum_y2 = tables.pitch[TRAIN]
    eval_moments = tables.pitch[EVAL]
    for moments, part in ((n, "training"), (eval_moments[0], "evaluation")):
        if not moments.sum():
            raise NotApplicable(f"pitch needs voiced frames, found none in {part}")
    standardiser = _standardiser(frames, layer, n, settings)
    rows = standardiser(frames.codebooks[layer - 1])
    dense = _dense_rows(frames, layer, standardiser, lambda start, stop: _pitch(frames, start, stop), split)
    problem = LeastSquaresProblem(rows, n, sum_y, sum_y2, dense)
    return PitchQuestion(problem, eval_moments, standardiser)


def _standardiser(frames: Frames, layer: int, n_frames: NDArray[np.float64], settings: Settings) -> Standardiser:
    if not settings.standardize:
        return Standardiser.identity(frames.dim)
    return Standardiser.fit(frames.codebooks[layer - 1], n_frames)


# Reads the labels of a span of frames: y and a mask of the frames that take part.
_ReadLabels = Callable[[int, int], tuple[NDArray[np.generic], NDArray[np.bool_]]]


def _labels(
    frames: Frames, task: str, class_of_label: NDArray[np.int64], start: int, stop: int
) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
    y = class_of_label[frames.labels(task, start, stop)]
    return y, y >= 0


def _pitch(frames: Frames, start: int, stop: int) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
    y = frames.labels("f0", start, stop).astype(np.float64)
    return y, ~np.isnan(y)


def _dense_rows(
    frames: Frames,
    layer: int,
    standardiser: Standardiser,
    read_labels: _ReadLabels,
    split: NDArray[np.int8] | None,
) -> DenseRows:
    """Return a function that reads the training frames' embeddings from the store, standardised, block by block."""

    def read() -> Iterator[tuple[NDArray[np.float64], NDArray[np.generic]]]:
        for start, stop in frames.blocks():
            y, taken = read_labels(start, stop)
            taken = taken & (parts_of_frames(frames, split, start, stop) == TRAIN)
            yield standardiser(_checked_rows(frames, layer, start, stop)[taken]), y[taken]

    return read


def _checked_rows(frames: Frames, layer: int, start: int, stop: int) -> NDArray[np.float32]:
    """Return a block's embeddings, which have to be codewords: probes are scored from codes and codebooks.

    Raises
    ------
    ProbeError
        When a dense store's differ from them.
    """
    rows, stored = frames.layer(layer)[start:stop], frames.layer(layer).stored_rows(start, stop)
    if stored is None:
        return rows
    differing = (rows != stored).any(axis=1)
    if differing.any():
        raise ProbeError(
            f"{frames.store.path}:/codecs/{frames.name}/embeddings: expected codebook[code] of layer {layer}, found "
            f"another row in frame {start + int(differing.argmax())}; use --rows collapsed, which reads codes, or "
            "rebuild the store"
        )
    return rows
