"""What a piece of the GPU suite is told, and what it can use of the device: its facts, its clock, its memory."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featstore.atomic import write_text_once
from featstore.safe_text import first_line


class SkippedPieceError(Exception):
    """A piece makes no sense here; the message says why."""


@dataclass(frozen=True)
class Asked:
    """What a piece is told.

    Attributes
    ----------
    device : str
        Where to compute: ``cuda``, or ``cpu:0`` (torch on the processor) without a GPU.
    is_gpu : bool
    small : bool
        Whether to be done in seconds on a processor.
    n_frames : int
        Of the piece ``stacked``.
    work : Path
        A folder that the pieces of one run share.
    kept : Path
        Where a piece keeps what it knows so far.
    """

    device: str
    is_gpu: bool
    small: bool
    n_frames: int
    work: Path
    kept: Path

    def keep(self, told: dict[str, Any]) -> None:
        """Keep what is known so far: the record has it should the piece be stopped."""
        write_text_once(self.kept, json.dumps(told))

    @property
    def torch_device(self) -> str:
        """The device as torch alone understands it."""
        return "cuda" if self.is_gpu else "cpu"


class Clock:
    """Seconds of a block, the device's pending work included."""

    seconds = 0.0


@contextmanager
def timed(asked: Asked) -> Iterator[Clock]:
    """Measure a block: it yields a clock whose `seconds` are right once the block is over."""
    clock = Clock()
    wait(asked)
    begun = time.perf_counter()
    yield clock
    wait(asked)
    clock.seconds = time.perf_counter() - begun


def wait(asked: Asked) -> None:
    """Wait until the device has done what it was given."""
    if asked.is_gpu:
        import torch

        torch.cuda.synchronize()


def peak_gb(asked: Asked) -> float | None:
    """Return the most memory that torch has held on the GPU since this was last asked, in GB; None without one."""
    if not asked.is_gpu:
        return None
    import torch

    peak = torch.cuda.max_memory_allocated() / 1e9
    torch.cuda.reset_peak_memory_stats()
    return round(peak, 3)


def significant(value: float | None, n_digits: int = 4) -> float | None:
    """Return a number with so many digits, for a record."""
    return None if value is None else float(f"{value:.{n_digits}g}")


def device_facts() -> dict[str, Any]:
    """Return whether there is a GPU that torch can use, and which; never raises."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return {"gpu": False, "device": "", "why_no_gpu": f"torch cannot be imported: {error}"}
    try:
        if not torch.cuda.is_available():
            return {"gpu": False, "device": "cpu", "why_no_gpu": f"torch {torch.__version__} sees no CUDA device"}
        facts = torch.cuda.get_device_properties(0)
    except Exception as error:  # noqa: BLE001  (a driver too old, or in a bad state, is told in many ways)
        return {"gpu": False, "device": "cpu", "why_no_gpu": first_line(error)}
    return {
        "gpu": True,
        "device": facts.name,
        "n_devices": torch.cuda.device_count(),
        "memory_gb": round(facts.total_memory / 1e9, 1),
        "compute_capability": f"{facts.major}.{facts.minor}",
        "cuda": torch.version.cuda,
    }
