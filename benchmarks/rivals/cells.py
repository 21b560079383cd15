"""One cell of the comparison: the probe of a codec and task, on all frames and on a sample of dense rows.

A sample of frames is a count problem too, so that its optimum is known from our solver with proof, and "the same
relative gap of each one's own objective" can be checked for every method, whatever rows it was given.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from featstore.frames import Frames
from featstore.store import Store
from probes.backends.exact import ExactBackend
from probes.counting import count_frames
from probes.metrics import confusion_matrix, macro_f1
from probes.objective import logistic_value
from probes.problem import Fit, FitOptions, LogisticProblem
from probes.questions import ClassQuestion, NotApplicable, Settings, class_question
from schemas.store import TRAIN

Array = NDArray[np.float64]
REFERENCE_TOL = 1e-10
TASKS = ("phoneme", "speaker")


@dataclass(frozen=True)
class Sample:
    """Training frames drawn uniformly, as dense rows and as the count problem that they are.

    Attributes
    ----------
    codes : uint16 array of shape (n_rows,)
    y : int64 array of shape (n_rows,)
        Place of each frame's class in `classes`.
    classes : int64 array of shape (n_sample_classes,)
        Which of the full problem's classes the sample holds, ascending.
    problem : LogisticProblem
    seconds_read : float
        What reading and drawing them took.
    """

    codes: NDArray[np.uint16]
    y: NDArray[np.int64]
    classes: NDArray[np.int64]
    problem: LogisticProblem
    seconds_read: float

    def rows(self, dtype: str) -> NDArray[np.floating]:
        """Return the frames' standardised embeddings, (n_rows, dim)."""
        return self.problem.codewords.astype(dtype)[self.codes]

    @cached_property
    def optimum(self) -> Fit:
        """The sample's own optimum, proved."""
        return reference(self.problem)


@dataclass(frozen=True)
class Cell:
    """A classification probe of one codec.

    Attributes
    ----------
    codec, task : str
    layer : int
        Counted from 1.
    question : ClassQuestion
        On all frames.
    sample : Sample
    seconds_count : float
        One pass over the codec's frames, for this layer's three tasks, and making the problem of this one.
    """

    codec: str
    task: str
    layer: int
    question: ClassQuestion
    sample: Sample
    seconds_count: float

    @property
    def problem(self) -> LogisticProblem:
        """The full weighted problem."""
        return self.question.problem

    @cached_property
    def optimum(self) -> Fit:
        """The full problem's optimum, proved."""
        return reference(self.problem)

    def judge(self, coef: Array, intercept: Array, classes: NDArray[np.int64] | None = None) -> dict[str, float | None]:
        """Return the full problem's objective and the held-out macro-F1 of a solution.

        Parameters
        ----------
        coef : float64 array of shape (n_fitted_classes, dim)
        intercept : float64 array of shape (n_fitted_classes,)
        classes : int64 array of shape (n_fitted_classes,) or None
            Which classes were fitted; None means all. A class that was not is never predicted, which makes the full
            objective infinite: it is None then.
        """
        fitted = np.arange(len(coef)) if classes is None else classes
        predicted = fitted[np.argmax(self.problem.codewords @ coef.T + intercept, axis=1)]
        held_out = self.question.eval_counts.astype(np.float64)
        f1 = macro_f1(confusion_matrix(held_out, predicted), held_out.sum(axis=0) > 0)
        is_whole = len(fitted) == self.problem.counts.shape[1]
        return {"objective_full": logistic_value(self.problem, coef, intercept) if is_whole else None, "macro_f1": f1}


def reference(problem: LogisticProblem) -> Fit:
    """Fit far beyond any gap compared here."""
    return ExactBackend().fit_logistic(problem, FitOptions(tol=REFERENCE_TOL))


def load_cells(
    store: Store, codecs: list[str], tasks: list[str], layer: int, n_rows: int, standardize: bool, seed: int
) -> Iterator[Cell]:
    """Yield the cells asked for, one codec in memory at a time."""
    for codec in codecs:
        frames = store[codec]
        begin = time.perf_counter()
        tables = count_frames(frames, (layer,)).layer(layer)
        seconds_count = time.perf_counter() - begin
        for task in tasks:
            begin = time.perf_counter()
            question = class_question(frames, tables, layer, task, Settings(standardize=standardize))
            seconds = seconds_count + time.perf_counter() - begin
            yield Cell(codec, task, layer, question, draw_sample(frames, question, layer, n_rows, seed), seconds)


def draw_sample(frames: Frames, question: ClassQuestion, layer: int, n_rows: int, seed: int) -> Sample:
    """Draw training frames uniformly, without replacement, in the order of the store.

    Raises
    ------
    NotApplicable
        When all frames drawn are of one class.
    """
    begin = time.perf_counter()
    labels = frames.labels(question.task, 0, frames.n_frames)
    taken = (question.class_of_label >= 0)[labels] & (frames.frame_splits(0, frames.n_frames) == TRAIN)
    places = np.flatnonzero(taken)
    rng = np.random.default_rng(seed)
    places = places[np.sort(rng.choice(len(places), min(n_rows, len(places)), replace=False, shuffle=False))]
    codes = frames.layer(layer).codes(0, frames.n_frames)[places]
    classes, y = np.unique(question.class_of_label[labels[places]], return_inverse=True)
    seconds_read = time.perf_counter() - begin
    if len(classes) < 2:
        raise NotApplicable(f"{question.task}: a sample of {len(places)} frames holds one class; ask for more --rows")
    counts = np.zeros((frames.n_codewords, len(classes)))
    np.add.at(counts, (codes, y), 1.0)
    # features are scaled as in the full problem, so that the methods differ in their frames alone
    problem = LogisticProblem(question.problem.codewords, counts, question.problem.class_weight, question.problem.C)
    return Sample(codes, y, classes, problem, seconds_read)
