"""From a store's frames to the problem of one probe on several layers."""

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from featstore.frames import Frames
from probes.frame_labels import check_voiced, held_out_per_class, of_class, voiced
from probes.questions import Settings, check_classes, renumbered, task_classes
from probes.stacked.problem import StackedLeastSquaresProblem, StackedLogisticProblem
from probes.stacked.stack import Representation
from probes.stacked.standardise import standardised_stack
from probes.stacked.training import TrainingFrames, gather_training_frames
from probes.standardiser import Standardiser
from probes.tasks import Classes

Array = NDArray[np.float64]


@dataclass(frozen=True)
class StackedClassQuestion:
    """A classification probe on several layers.

    Attributes
    ----------
    task : {"phoneme", "speaker"}
    problem : StackedLogisticProblem
        Over the classes that the training frames have, in the order of `classes`.
    classes : tuple of str
    class_of_label : int64 array of shape (n_labels,)
        Class of each of the store's labels; -1 where its frames take no part or training has none.
    takes_part : bool array of shape (n_labels,)
        Labels of the task's classes, in training or not.
    standardiser : Standardiser
        Of raw stacked rows.
    n_available : int
        Training frames of the store; `problem` holds a sample where it holds fewer.
    """

    task: str
    problem: StackedLogisticProblem
    classes: tuple[str, ...]
    class_of_label: NDArray[np.int64]
    takes_part: NDArray[np.bool_]
    standardiser: Standardiser
    n_available: int


@dataclass(frozen=True)
class StackedPitchQuestion:
    """A regression probe on several layers, over voiced frames; attributes as in `StackedClassQuestion`."""

    problem: StackedLeastSquaresProblem
    standardiser: Standardiser
    n_available: int


StackedQuestion = StackedClassQuestion | StackedPitchQuestion


def stacked_question(
    frames: Frames,
    task: str,
    layer: int,
    representation: Representation,
    settings: Settings,
    split: NDArray[np.int8] | None = None,
    max_train_frames: int | None = None,
    seed: int = 0,
) -> StackedQuestion:
    """Ask for phoneme, speaker or pitch of layers 1..layer together.

    Parameters
    ----------
    frames : Frames
        A codec of an open store.
    task : {"phoneme", "speaker", "pitch"}
    layer : int
        The last layer, counted from 1.
    representation : {"cumulative", "concat"}
    settings : Settings
    split : int8 array of shape (n_utterances,) or None
        Part of each utterance: 0 train, 1 evaluation, -1 neither. None: the store's own.
    max_train_frames : int or None
        Fit on a uniform sample of at most so many frames, drawn by `seed`.
    seed : int

    Raises
    ------
    NotApplicable
        As `probes.questions.class_question` and `pitch_question`.
    """
    gather = partial(gather_training_frames, frames, layer, split=split, max_frames=max_train_frames, seed=seed)
    if task == "pitch":
        return _pitch_question(frames, gather(track="f0", read_labels=voiced), representation, settings, split)
    classes = task_classes(frames, task, settings)
    training = gather(track=task, read_labels=partial(of_class, classes))
    return _class_question(frames, task, classes, training, representation, settings, split)


def _class_question(
    frames: Frames,
    task: str,
    classes: Classes,
    training: TrainingFrames,
    representation: Representation,
    settings: Settings,
    split: NDArray[np.int8] | None,
) -> StackedClassQuestion:
    seen = np.flatnonzero(np.bincount(training.y, minlength=len(classes.names)))
    check_classes(task, classes, seen, held_out_per_class(frames, task, classes, split))
    stack, standardiser = standardised_stack(frames.codebooks, training.codes, representation, settings.standardize)
    place = np.searchsorted(seen, training.y)
    y = place.astype(np.int16) if len(seen) < 1 << 15 else place.astype(np.int32)
    problem = StackedLogisticProblem(stack, training.codes, y, len(seen), settings.class_weight, settings.C)
    names = tuple(classes.names[index] for index in seen)
    class_of_label, takes_part = renumbered(classes, seen), classes.of_label >= 0
    return StackedClassQuestion(task, problem, names, class_of_label, takes_part, standardiser, training.n_available)


def _pitch_question(
    frames: Frames,
    training: TrainingFrames,
    representation: Representation,
    settings: Settings,
    split: NDArray[np.int8] | None,
) -> StackedPitchQuestion:
    check_voiced(frames, training.n_available, split)
    stack, standardiser = standardised_stack(frames.codebooks, training.codes, representation, settings.standardize)
    return StackedPitchQuestion(
        StackedLeastSquaresProblem(stack, training.codes, training.y), standardiser, training.n_available
    )
