"""Each method timed from data in memory to a given relative gap of its own objective.

All rivals run with their own stopping rules out of the way and are stopped from outside, at the first iterate whose
objective is within the gap of the optimum, which they are told and we are not: the exact solver stops by what it can
prove. Nothing is run twice and nothing is added to an iteration but one comparison.
"""

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from probes.backends.answers import library_c, symmetric_binary
from probes.backends.exact import ExactBackend
from probes.objective import logistic_value
from probes.problem import FitOptions, LogisticProblem

Array = NDArray[np.float64]
Ended = Literal["reached", "time_limit", "stalled"]
_UNLIMITED = 10**9


@dataclass(frozen=True)
class Finish:
    """How a method ended.

    Attributes
    ----------
    coef : float64 array of shape (n_classes, dim)
    intercept : float64 array of shape (n_classes,)
    seconds, cpu_seconds : float
        From data in memory to the end: wall time, and processor time of all threads, which other work on the machine
        disturbs less.
    n_iter : int
    ended : {"reached", "time_limit", "stalled"}
        ``stalled``: it stopped by itself before the gap was reached.
    gap_estimate, gap_bound : float or None
        Of the exact solver, absolute: estimated and proved.
    """

    coef: Array
    intercept: Array
    seconds: float
    cpu_seconds: float
    n_iter: int
    ended: Ended
    gap_estimate: float | None = None
    gap_bound: float | None = None


@dataclass
class Finishing:
    """Watch a rival, and say when it is within the gap or its time is over.

    Parameters
    ----------
    target : float
        Objective to reach.
    limit_s : float
    """

    target: float
    limit_s: float

    def __post_init__(self) -> None:
        self._begin, self._cpu_begin = time.perf_counter(), time.process_time()
        self.seconds = self.cpu_seconds = 0.0
        self.n_iter = 0
        self.ended: Ended = "stalled"

    def looks(self) -> None:
        """Read the clocks."""
        self.seconds, self.cpu_seconds = time.perf_counter() - self._begin, time.process_time() - self._cpu_begin

    def sees(self, value: float) -> bool:
        """Note an iterate's objective; return whether the run is over."""
        self.looks()
        self.n_iter += 1
        if value <= self.target:
            self.ended = "reached"
        elif self.seconds > self.limit_s:
            self.ended = "time_limit"
        return self.ended != "stalled"


def run_exact(problem: LogisticProblem, tol: float | None, n_repeats: int) -> Finish:
    """Fit with our solver to the proved relative gap `tol` (None: its default), several times; the median time."""
    finishes = []
    for _ in range(n_repeats):
        cpu_begin = time.process_time()
        fit = ExactBackend().fit_logistic(problem, FitOptions(tol=tol))
        clocks = fit.seconds, time.process_time() - cpu_begin
        ended: Ended = "reached" if fit.outcome == "converged" else "stalled"
        finishes.append(Finish(fit.coef, fit.intercept, *clocks, fit.n_iter, ended, fit.gap_estimate, fit.gap_bound))
    return sorted(finishes, key=lambda finish: finish.seconds)[n_repeats // 2]


def run_sklearn(
    problem: LogisticProblem,
    X: NDArray[np.floating],
    y: NDArray[np.int64],
    sample_weight: Array | None,
    target: float,
    limit_s: float,
) -> Finish:
    """Fit ``LogisticRegression(solver="lbfgs")`` on rows.

    Parameters
    ----------
    problem : LogisticProblem
        What the rows stand for; C and class weights are its own.
    X : float array of shape (n_rows, dim)
    y : int64 array of shape (n_rows,)
        Class indices.
    sample_weight : float64 array of shape (n_rows,) or None
        None: one row a frame, weighted by class as the problem says.
    target : float
        Objective of `problem` to reach.
    limit_s : float
    """
    class_weight = "balanced" if sample_weight is None and problem.class_weight == "balanced" else None
    total = float((problem.counts * problem.class_weights).sum())
    return fit_sklearn(library_c(problem, total), class_weight, X, y, sample_weight, target, limit_s)


def fit_sklearn(
    C: float,
    class_weight: str | None,
    X: NDArray[np.floating],
    y: NDArray[np.integer],
    sample_weight: Array | None,
    target: float,
    limit_s: float,
) -> Finish:
    """Fit ``LogisticRegression(C=C, class_weight=class_weight, solver="lbfgs")`` (see `run_sklearn`)."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=C, class_weight=class_weight, solver="lbfgs", tol=1e-30, max_iter=_UNLIMITED)
    watch = Finishing(target, limit_s)
    with warnings.catch_warnings(), _watched_minimize(watch):
        warnings.simplefilter("ignore")  # that it was stopped is no news
        model.fit(X, y, sample_weight=sample_weight)
    if watch.ended == "stalled":
        watch.looks()
    coef, intercept = symmetric_binary(model.coef_.astype(np.float64), model.intercept_.astype(np.float64))
    return Finish(coef, intercept, watch.seconds, watch.cpu_seconds, watch.n_iter, watch.ended)


@contextmanager
def _watched_minimize(watch: Finishing) -> Iterator[None]:
    """Let ``scipy.optimize.minimize``, which scikit-learn's lbfgs is, end when `watch` says so.

    The objective it minimises is the problem's own: mean weighted loss plus penalty (scikit-learn from 1.2 on).
    """
    from scipy import optimize

    original = optimize.minimize

    def after_iteration(intermediate_result: Any) -> None:
        if watch.sees(float(intermediate_result.fun)):
            raise StopIteration

    def minimize(*arguments: Any, **named: Any) -> Any:
        return original(*arguments, **(named | {"callback": after_iteration}))

    optimize.minimize = minimize
    try:
        yield
    finally:
        optimize.minimize = original


def run_torch(
    problem: LogisticProblem,
    X: NDArray[np.float32],
    y: NDArray[np.int64],
    target: float,
    limit_s: float,
    n_threads: int,
) -> Finish:
    """Fit with ``torch.optim.LBFGS`` (strong Wolfe line search) on dense float32 rows, on the CPU.

    An evaluation within the gap by its float32 loss counts once float64 confirms it from the counts.
    """
    import torch

    torch.set_num_threads(n_threads)
    rows, classes = torch.from_numpy(X), torch.from_numpy(y)
    class_weight = torch.from_numpy(problem.class_weights.astype(np.float32))
    coef = torch.zeros((problem.counts.shape[1], X.shape[1]), requires_grad=True)
    intercept = torch.zeros(problem.counts.shape[1], requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [coef, intercept],
        max_iter=_UNLIMITED,
        max_eval=_UNLIMITED,
        tolerance_grad=0,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def solution() -> tuple[Array, Array]:
        return tuple(part.detach().numpy().astype(np.float64) for part in (coef, intercept))  # type: ignore[return-value]

    watch = Finishing(target, limit_s)

    def closure() -> Any:
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(rows @ coef.T + intercept, classes, weight=class_weight)
        loss = loss + 0.5 * problem.l2_strength * coef.square().sum()
        value = float(loss.detach())
        if watch.sees(_confirmed(value, watch.target, lambda: logistic_value(problem, *solution()))):
            raise _Over
        loss.backward()
        return loss

    try:
        optimiser.step(closure)
        watch.looks()
    except _Over:
        pass
    return Finish(*solution(), watch.seconds, watch.cpu_seconds, watch.n_iter, watch.ended)


class _Over(Exception):  # noqa: N818  (no error: the way out of a library's loop)
    """The run is over."""


def _confirmed(value: float, target: float, exact: Callable[[], float]) -> float:
    """Return `value`, or the exact one where `value` says that the target is reached or is no number."""
    return value if value > target else exact()
