"""One probe's question with its way to fit and to score: from tables for a codeword, from frames for all else."""

from collections.abc import Callable
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from probes.backends.base import Backend, Problem, fit_with
from probes.evaluation import EvaluationFrames
from probes.frame_rows import check_memory, least_squares_problem, logistic_problem
from probes.problem import Fit, FitOptions
from probes.questions import ClassQuestion, PitchQuestion
from probes.scores import Scores, Scoring, class_scores, pitch_scores
from probes.stacked.fit import fit_stacked, score_stacked
from probes.stacked.question import StackedClassQuestion, StackedQuestion
from probes.stacked.torch_pass import device_text
from probes.standardiser import Standardiser


class Asked(Protocol):
    """What the prober does with a question, whatever its representation."""

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the classes; None for pitch."""
        ...

    @property
    def standardiser(self) -> Standardiser:
        """Standardiser of raw rows, of the representation."""
        ...

    def refusal(self, backend: Backend, options: FitOptions) -> str | None:
        """Return why `backend` cannot fit this, or None where it can."""
        ...

    def n_threads(self, backend: Backend, options: FitOptions) -> int | None:
        """Return the threads of a fit; None where the library decides."""
        ...

    def fit(self, backend: Backend, options: FitOptions) -> Fit:
        """Fit."""
        ...

    def scores(self, fit: Fit, evaluation: EvaluationFrames, scoring: Scoring) -> Scores:
        """Score a fit on the evaluation frames."""
        ...


def device_of_fit(asked: Asked, backend: Backend, options: FitOptions) -> str:
    """Return where a fit runs, as a record says it; regressions are solved by the processor."""
    if asked.classes is None or options.device == "cpu":
        return backend.availability().device
    return device_text(options.device)


class AskedOfCodeword:
    """A question of one layer's codewords (see `Asked`).

    Parameters
    ----------
    question : ClassQuestion or PitchQuestion
    read_codes : callable
        Returns the layer's codes of the evaluation frames, uint16 (n_frames,).
    """

    def __init__(
        self, question: ClassQuestion | PitchQuestion, read_codes: Callable[[EvaluationFrames], NDArray[np.uint16]]
    ) -> None:
        self._question, self._read_codes = question, read_codes
        self.standardiser = question.standardiser
        self.classes = question.classes if isinstance(question, ClassQuestion) else None

    def refusal(self, backend: Backend, options: FitOptions) -> str | None:
        """Ask the backend."""
        return backend.refuses(self._question.problem, options)

    def n_threads(self, backend: Backend, options: FitOptions) -> int | None:
        """Return 1 for our own solver."""
        return 1 if backend.name == "exact" else None

    def fit(self, backend: Backend, options: FitOptions) -> Fit:
        """Fit from the tables."""
        return fit_with(backend, self._question.problem, options)

    def scores(self, fit: Fit, evaluation: EvaluationFrames, scoring: Scoring) -> Scores:
        """Score from the tables, and from the frames what tables do not tell."""
        codes = self._read_codes(evaluation)
        if isinstance(self._question, ClassQuestion):
            return class_scores(self._question, fit, codes, evaluation, scoring)
        return pitch_scores(self._question, fit, codes, evaluation, scoring)


class AskedOfLayers:
    """A question of several layers together (see `Asked`): `exact` fits from codes, other backends from rows in memory.

    Parameters
    ----------
    question : StackedQuestion
    what : str
        Names the probe in messages.
    n_threads : int
        Threads of an exact fit.
    """

    def __init__(self, question: StackedQuestion, what: str, n_threads: int) -> None:
        self._question, self._what, self._n_threads = question, what, n_threads
        self.standardiser = question.standardiser
        self.classes = question.classes if isinstance(question, StackedClassQuestion) else None

    def refusal(self, backend: Backend, options: FitOptions) -> str | None:
        """Ask the backend, which has to see the rows."""
        return None if backend.name == "exact" else backend.refuses(self._rows, options)

    def n_threads(self, backend: Backend, options: FitOptions) -> int | None:
        """Return the threads that share the passes over frames; a regression or a GPU has none to share."""
        if backend.name != "exact":
            return None
        return 1 if self.classes is None or options.device != "cpu" else self._n_threads

    def fit(self, backend: Backend, options: FitOptions) -> Fit:
        """Fit from codes and tables, or from rows."""
        if backend.name == "exact":
            return fit_stacked(self._question, options, self._n_threads, options.device)
        return fit_with(backend, self._rows, options)

    def scores(self, fit: Fit, evaluation: EvaluationFrames, scoring: Scoring) -> Scores:
        """Answer every evaluation frame."""
        return score_stacked(self._question, fit, evaluation, scoring)

    @cached_property
    def _rows(self) -> Problem:
        problem, n_classes = self._question.problem, None if self.classes is None else len(self.classes)
        check_memory(len(problem.y), problem.stack.dim, n_classes, self._what)
        X = problem.stack.rows(problem.codes).astype(np.float64, copy=False)
        if isinstance(self._question, StackedClassQuestion):
            asked = self._question.problem
            return logistic_problem(X, asked.y, asked.n_classes, asked.class_weight, asked.C)
        return least_squares_problem(X, self._question.problem.y)
