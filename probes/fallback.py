"""Fit with the backend that was asked for, and with scikit-learn what it cannot fit; each reason is said once."""

import logging
from dataclasses import replace

from probes.asked import Asked
from probes.backends.base import Backend
from probes.backends.registry import backend as backend_called
from probes.errors import BackendError, DeviceError, DeviceMemoryError
from probes.problem import Fit, FitOptions

LOG = logging.getLogger(__name__)
_FALLBACK = "sklearn"


class Fitter:
    """Fits one question after the other.

    Parameters
    ----------
    backend : Backend
        To use first.
    reason : str or None
        Why it is not the one that was asked for.
    require_gpu : bool
        Refuse what `backend` cannot fit.

    Attributes
    ----------
    backend, reason
        As given; scikit-learn and what happened, once a device has failed.
    """

    def __init__(self, backend: Backend, reason: str | None, require_gpu: bool) -> None:
        self.backend, self.reason, self._require_gpu = backend, reason, require_gpu
        self._said: set[str] = set()

    def fit(self, asked: Asked, options: FitOptions, what: str) -> tuple[Fit, Backend, str | None]:
        """Fit a question; `what` names its probe in messages.

        What the backend refuses, or a device fails at, scikit-learn fits. After a failure that is not one of memory the
        device is asked no more.

        Returns
        -------
        fit : Fit
        used : Backend
        reason : str or None
            Why `used` is not the one that was asked for.

        Raises
        ------
        BackendError
            Where a GPU is required and cannot fit this.
        """
        first = self.backend
        try:
            refusal = asked.refusal(first, options)
            if refusal is None:
                fit = asked.fit(first, options)
                self._tell_of_rows(fit, what)
                return fit, first, self.reason
        except DeviceError as error:
            refusal = str(error)
            if not isinstance(error, DeviceMemoryError):
                self.backend, self.reason = backend_called(_FALLBACK), refusal
        if self._require_gpu:
            raise BackendError(f"--require-gpu: {first.name} cannot fit the {what}: {refusal}")
        self._say(refusal, f"{what}: {first.name} cannot fit it ({refusal}); falling back to {_FALLBACK} on the CPU")
        used = backend_called(_FALLBACK)
        return asked.fit(used, replace(options, device="cpu")), used, refusal

    def _tell_of_rows(self, fit: Fit, what: str) -> None:
        design = fit.design
        if design is not None and design.note:
            rows = f"{design.n_rows:,} {design.kind} rows in place of {design.n_rows_asked:,}"
            self._say(design.note, f"{what}: {design.note}; fitted on {rows}")

    def _say(self, reason: str, line: str) -> None:
        """Warn of what holds for many probes alike at the first of them; each record has it."""
        if reason not in self._said:
            self._said.add(reason)
            LOG.warning("%s", line)
