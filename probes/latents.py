"""Probes of the encoder's output before quantisation: real vectors, a row a frame, for the dense backends.

Rows of the training frames, or of a sample of them, are held in memory, standardised, in float64; those of the
evaluation frames are answered block by block as they are read.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore.frames import Frames
from probes.backends.base import Backend, Problem, fit_with
from probes.errors import ProbeError
from probes.evaluation import EvaluationFrames
from probes.frame_labels import check_voiced, held_out_per_class, of_class, voiced
from probes.frame_rows import check_memory, least_squares_problem, logistic_problem
from probes.frame_scores import ClassTask, class_frame_scores, pitch_frame_scores
from probes.held_out import parts_of_frames
from probes.problem import Fit, FitOptions, LeastSquaresProblem
from probes.questions import Settings, check_classes, renumbered, task_classes
from probes.scores import Scores, Scoring
from probes.stacked.training import FrameSample
from probes.standardiser import Standardiser
from schemas.store import EVAL

Array = NDArray[np.float64]
REFUSAL = "latents are real vectors: no codes that could be counted"
_BLOCK_FRAMES = 1 << 15


class AskedOfLatents:
    """A question of latents (see `probes.asked.Asked`).

    Parameters
    ----------
    frames : Frames
    split : int8 array of shape (n_utterances,) or None
        Part of each utterance: 0 train, 1 evaluation, -1 neither. None: the store's own.
    problem : LogisticProblem or LeastSquaresProblem
        On standardised rows of the training frames.
    standardiser : Standardiser
        Of raw latents.
    classes : tuple of str or None
        Those seen in training; None for pitch.
    task : ClassTask or None
        None for pitch.
    """

    def __init__(
        self,
        frames: Frames,
        split: NDArray[np.int8] | None,
        problem: Problem,
        standardiser: Standardiser,
        classes: tuple[str, ...] | None = None,
        task: ClassTask | None = None,
    ) -> None:
        self._frames, self._split, self._problem, self._task = frames, split, problem, task
        self.standardiser, self.classes = standardiser, classes

    def refusal(self, backend: Backend, options: FitOptions) -> str | None:
        """Refuse our own solver, which is for counts; else ask the backend."""
        return REFUSAL if backend.name == "exact" else backend.refuses(self._problem, options)

    def n_threads(self, backend: Backend, options: FitOptions) -> int | None:
        """Return None: libraries decide."""
        return None

    def fit(self, backend: Backend, options: FitOptions) -> Fit:
        """Fit on the rows."""
        return fit_with(backend, self._problem, options)

    def scores(self, fit: Fit, evaluation: EvaluationFrames, scoring: Scoring) -> Scores:
        """Answer every evaluation frame."""
        answers = self._answers(fit)
        if self._task is not None:
            return class_frame_scores(self._task, answers, evaluation, scoring)
        predicted = np.concatenate([np.zeros(0), *(values[:, 0] for _, values in answers)])
        assert isinstance(self._problem, LeastSquaresProblem)
        return pitch_frame_scores(self._problem.sum_y, predicted, evaluation, scoring)

    def _answers(self, fit: Fit) -> Iterator[tuple[slice, Array]]:
        """Yield (place among the evaluation frames, X W' + b) of the evaluation frames in the store's order."""
        filled = 0
        for start, stop in self._frames.blocks(_BLOCK_FRAMES):
            taken = parts_of_frames(self._frames, self._split, start, stop) == EVAL
            if taken.any():
                rows = self.standardiser(_finite_latents(self._frames, start, stop)[taken])
                yield slice(filled, filled + len(rows)), rows @ fit.coef.T + fit.intercept
                filled += len(rows)


def ask_latents(
    frames: Frames,
    task: str,
    settings: Settings,
    split: NDArray[np.int8] | None = None,
    max_train_frames: int | None = None,
    seed: int = 0,
) -> AskedOfLatents:
    """Ask for phoneme, speaker or pitch of a codec's latents; parameters as in `probes.stacked.question`.

    Raises
    ------
    NotApplicable
        As `probes.questions.class_question` and `pitch_question`.
    BackendError
        When the rows would not fit into memory.
    ProbeError
        When a latent is not finite.
    """
    what = f"latent {task} probe of {frames.name}"
    if task == "pitch":
        sample = FrameSample(frames, "f0", voiced, split, max_train_frames, seed)
        check_voiced(frames, sample.n_available, split)
        check_memory(sample.n_frames, frames.dim, None, what)
        X, y, standardiser = _rows(frames, sample, settings)
        return AskedOfLatents(frames, split, least_squares_problem(X, y), standardiser)
    classes = task_classes(frames, task, settings)
    sample = FrameSample(frames, task, partial(of_class, classes), split, max_train_frames, seed)
    n_per_class = np.zeros(len(classes.names), dtype=np.int64)
    for _, _, _, values in sample.blocks():
        n_per_class += np.bincount(values, minlength=len(n_per_class))
    seen = np.flatnonzero(n_per_class)
    check_classes(task, classes, seen, held_out_per_class(frames, task, classes, split))
    check_memory(sample.n_frames, frames.dim, len(seen), what)
    X, y, standardiser = _rows(frames, sample, settings)
    problem = logistic_problem(X, np.searchsorted(seen, y), len(seen), settings.class_weight, settings.C)
    counts = n_per_class[seen].astype(np.float64)
    names = tuple(classes.names[index] for index in seen)
    scored = ClassTask(task, counts, settings.class_weight, renumbered(classes, seen), classes.of_label >= 0)
    return AskedOfLatents(frames, split, problem, standardiser, names, scored)


def _rows(frames: Frames, sample: FrameSample, settings: Settings) -> tuple[Array, NDArray[Any], Standardiser]:
    """Return standardised rows, float64 (n_frames, dim), their values and the standardiser."""
    X, y, filled = np.empty((sample.n_frames, frames.dim)), [], 0
    for start, stop, chosen, values in sample.blocks():
        for first in range(start, stop, _BLOCK_FRAMES):  # a whole block of the sample may be a gigabyte of latents
            last = min(first + _BLOCK_FRAMES, stop)
            low, high = np.searchsorted(chosen, (first - start, last - start))
            if low < high:
                rows = _finite_latents(frames, first, last)
                X[filled : filled + high - low] = rows[chosen[low:high] - (first - start)]
                filled += int(high - low)
        y.append(values)
    if not settings.standardize:
        return X, np.concatenate(y), Standardiser.identity(frames.dim)
    mean = X.mean(axis=0)
    X -= mean
    standardiser = Standardiser.of_moments(mean, np.einsum("nd,nd->d", X, X) / len(X), len(X))
    X /= standardiser.scale
    return X, np.concatenate(y), standardiser


def _finite_latents(frames: Frames, start: int, stop: int) -> NDArray[np.float32]:
    rows = frames.latents(start, stop)
    if not np.isfinite(rows).all():
        raise ProbeError(
            f"{frames.store.path}:/codecs/{frames.name}/latents: expected finite numbers, found others in frames "
            f"{start} to {stop}; the store is damaged, rebuild it"
        )
    return rows
