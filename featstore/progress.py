"""A progress bar on stderr: shown to a person at a terminal, silent in a log file or a pipe."""

import sys
from types import TracebackType
from typing import Any, Protocol

from featstore.stopping import check_stopped

_UNITS = {"hash": "B", "check": "frame"}


class Progress(Protocol):
    """Called with how many of how many are done, of what, and what there is to say of it."""

    def __call__(self, done: int, total: int, what: str, note: str = "", /) -> None:
        """Take note of it."""


class ProgressBar:
    """Context manager and callback (done, total, what); a new bar starts whenever `what` changes.

    Parameters
    ----------
    unit : str
        What is counted, e.g. ``utt``; reading whole files ("hash", "check") counts bytes and frames.
    quiet : bool
        Show nothing, even at a terminal.
    """

    def __init__(self, unit: str, quiet: bool = False) -> None:
        self._unit, self._shown = unit, not quiet and sys.stderr.isatty()
        self._bar: Any = None
        self._what = ""

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def __call__(self, done: int, total: int, what: str, note: str = "") -> None:
        """Show that `done` of `total` of `what` are done; a signal to stop that was lost on the way ends it here."""
        check_stopped()
        if not self._shown:
            return
        if what != self._what:
            from tqdm import tqdm

            self._close()
            self._what = what
            unit = _UNITS.get(what, self._unit)
            self._bar = tqdm(
                total=total,
                desc=what,
                unit=unit,
                unit_scale=what in _UNITS,
                dynamic_ncols=True,
                file=sys.stderr,
                delay=0.5,
            )
        self._bar.total = total
        if note:
            self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(done - self._bar.n)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
            self._what = ""
