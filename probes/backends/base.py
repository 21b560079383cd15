"""The one contract of every probe backend.

A backend takes a problem as `probes.problem` states it, converts to its library's own convention, and answers in ours:
coefficients for the problem's codewords, the objective of the whole weighted problem in float64, and an outcome. It
never prints a library's convergence warning; it returns it as the outcome.
"""

from dataclasses import dataclass
from typing import Protocol

from probes.problem import Fit, FitOptions, LeastSquaresProblem, LogisticProblem

Problem = LogisticProblem | LeastSquaresProblem


@dataclass(frozen=True)
class Availability:
    """Whether a backend can run here.

    Attributes
    ----------
    available : bool
    version : str
        Version of the library behind it, "" where it is absent.
    device : str
        What it would run on, e.g. ``cpu`` or ``NVIDIA H200``; "" where unavailable.
    reason : str
        Why it is not available, "" where it is.
    install : str
        The command that would install what is missing, "" where nothing is.
    """

    available: bool
    version: str
    device: str
    reason: str = ""
    install: str = ""


class Backend(Protocol):
    """A way to fit probes.

    Attributes
    ----------
    name : str
        Registry name, as users write it.
    """

    name: str

    def availability(self) -> Availability:
        """Say whether this backend can run here; never raises."""
        ...

    def refuses(self, problem: Problem, options: FitOptions) -> str | None:
        """Return why this backend cannot fit `problem` rightly, or None where it can.

        The caller then takes another backend and records the reason.

        Raises
        ------
        DeviceError
            When a device does not answer.
        """
        ...

    def fit_logistic(self, problem: LogisticProblem, options: FitOptions) -> Fit:
        """Fit multinomial logistic regression.

        With one class only there is nothing to learn: zero coefficients, objective 0, converged. Input that is not
        finite gives outcome ``non_finite`` with coefficients and objective NaN.

        Raises
        ------
        BackendError
            When dense rows are asked of a problem without them, or the library cannot run.
        DeviceError
            When the device of cuML or the library on it fails during the fit, or its memory runs out: the caller
            then takes another backend. A device that was asked for by name (`FitOptions.device`) is a BackendError.
        """
        ...

    def fit_least_squares(self, problem: LeastSquaresProblem, options: FitOptions) -> Fit:
        """Fit ordinary least squares; raises as `fit_logistic` does."""
        ...

    def versions(self) -> dict[str, str]:
        """Return the versions of the libraries that compute the numbers, by package name."""
        ...


def fit_with(backend: Backend, problem: Problem, options: FitOptions) -> Fit:
    """Fit a problem of either kind."""
    if isinstance(problem, LogisticProblem):
        return backend.fit_logistic(problem, options)
    return backend.fit_least_squares(problem, options)
