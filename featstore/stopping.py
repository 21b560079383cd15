"""Ctrl-C and SIGTERM that are never lost.

A signal handler's exception is dropped where Python happens to be inside a callback from C (soundfile's virtual files),
a weak reference's callback or a destructor: the work would go on, and an audio file whose reading was cut short in
this way would look truncated. So the handler also remembers the signal, and whoever may rely on work that was cut short
asks `check_stopped` first.
"""

import contextlib
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any, NoReturn


class Terminated(KeyboardInterrupt):
    """SIGTERM: ends like Ctrl-C, so that temporary files are removed on the way out."""


_received: list[type[KeyboardInterrupt]] = []


@contextlib.contextmanager
def signals_noticed() -> Iterator[None]:
    """Turn SIGINT and SIGTERM into `KeyboardInterrupt` and `Terminated`, and remember them for `check_stopped`.

    Where SIGINT is ignored (``nohup``, the background of a shell script) it stays so. Handlers are put back at the end.
    """
    _received.clear()
    signals = [signal.SIGTERM]
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signals.append(signal.SIGINT)
    before = {number: signal.signal(number, _stop) for number in signals}
    hook = sys.unraisablehook
    sys.unraisablehook = lambda dropped: None if _is_ours(dropped) else hook(dropped)
    try:
        yield
    finally:
        _received.clear()
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)


def check_stopped() -> None:
    """Raise `KeyboardInterrupt` or `Terminated` if such a signal came, whatever became of its first exception."""
    if _received:
        raise _received[-1]


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    _received.append(Terminated if number == signal.SIGTERM else KeyboardInterrupt)
    raise _received[-1]


def _is_ours(dropped: Any) -> bool:
    return issubclass(dropped.exc_type, KeyboardInterrupt)
