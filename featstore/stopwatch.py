"""Where the time goes: seconds by stage."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


class Stopwatch:
    """Seconds by stage; calling it with a stage's name times what is done inside the ``with`` block."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Add the time taken inside to a stage."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - begun


def shares_text(seconds: Mapping[str, float]) -> str:
    """Return what the time of the process that encodes went into, e.g. ``encode 91 %, wait for input 8 %``."""
    stages = [stage for stage in ("encode", "wait for input", "wait for disk") if stage in seconds]
    total = sum(seconds[stage] for stage in stages)
    return ", ".join(f"{stage} {100 * seconds[stage] / total:.0f} %" for stage in stages) if total else ""
