"""One cell of the comparison on several layers: a codec's representation and task, on a sample of training frames.

Both sides fit the same frames and the same objective, so that one optimum serves both.
"""

import time
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from benchmarks.rivals.race import Finish, fit_sklearn
from featstore.frames import Frames
from probes.problem import Fit, FitOptions
from probes.questions import Settings
from probes.stacked.fit import fit_stacked
from probes.stacked.passes import BlockPass
from probes.stacked.problem import StackedLogisticProblem
from probes.stacked.question import StackedClassQuestion, stacked_question
from probes.stacked.stack import Representation, Stack

Array = NDArray[np.float64]


@dataclass(frozen=True)
class StackedCell:
    """A classification probe on layers 1..m of one codec.

    Attributes
    ----------
    codec, task, representation : str
    question : StackedClassQuestion
    seconds_gather, cpu_seconds_gather : float
        Reading the store and drawing the frames, until the problem is there.
    """

    codec: str
    task: str
    representation: Representation
    question: StackedClassQuestion
    seconds_gather: float
    cpu_seconds_gather: float

    @property
    def problem(self) -> StackedLogisticProblem:
        """What both sides fit."""
        return self.question.problem

    def rows(self, dtype: str) -> NDArray[np.floating]:
        """Return the frames' standardised rows side by side or summed, (n_rows, dim)."""
        stack = self.problem.stack
        return Stack(stack.tables.astype(dtype), stack.representation).rows(self.problem.codes)

    def rows_gb(self, dtype: str) -> float:
        """Return the size of `rows`, 1e9 bytes."""
        return self.problem.n_frames * self.problem.stack.dim * np.dtype(dtype).itemsize / 1e9

    def value(self, coef: Array, intercept: Array) -> float:
        """Return the objective at coef (n_classes, dim) and intercept (n_classes,), in double precision."""
        unknown = np.vstack([coef.T, intercept])
        loss = BlockPass(self.problem).loss(unknown, precise=True)
        return loss.value + 0.5 * self.problem.l2_strength * float(np.vdot(coef, coef))


def load_cell(
    frames: Frames, task: str, representation: Representation, n_layers: int, n_rows: int, standardize: bool, seed: int
) -> StackedCell:
    """Gather a cell's frames."""
    begin, cpu_begin = time.perf_counter(), time.process_time()
    settings = Settings(standardize=standardize)
    question = stacked_question(frames, task, n_layers, representation, settings, max_train_frames=n_rows, seed=seed)
    assert isinstance(question, StackedClassQuestion)
    clocks = time.perf_counter() - begin, time.process_time() - cpu_begin
    return StackedCell(frames.name, task, representation, question, *clocks)


def run_stacked(cell: StackedCell, tol: float, n_threads: int, n_repeats: int = 1) -> Finish:
    """Fit with our solver to the relative gap `tol`, by its own estimate; the median time."""
    finishes = []
    for _ in range(n_repeats):
        # what a problem remembers of itself is forgotten, so that every run does the same work
        question = replace(cell.question, problem=replace(cell.problem))
        cpu_begin = time.process_time()
        fit = fit_stacked(question, FitOptions(tol=tol), n_threads)
        finishes.append(_finish(fit, time.process_time() - cpu_begin))
    return sorted(finishes, key=lambda finish: finish.seconds)[n_repeats // 2]


def run_sklearn_rows(cell: StackedCell, rows: NDArray[np.floating], target: float, limit_s: float) -> Finish:
    """Fit scikit-learn's ``lbfgs`` on the materialised rows until its objective is at most `target`."""
    problem = cell.problem
    class_weight = "balanced" if problem.class_weight == "balanced" else None
    # for two classes scikit-learn fits one row of coefficients, the difference of ours (see `library_c`)
    C = 2.0 * problem.C if problem.n_classes == 2 else problem.C
    return fit_sklearn(C, class_weight, rows, problem.y, None, target, limit_s)


def _finish(fit: Fit, cpu_seconds: float) -> Finish:
    ended = "reached" if fit.outcome == "converged" else "stalled"
    return Finish(fit.coef, fit.intercept, fit.seconds, cpu_seconds, fit.n_iter, ended, fit.gap_estimate, fit.gap_bound)
