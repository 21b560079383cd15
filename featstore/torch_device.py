"""A device of torch by name, or one clear error; torch is imported when it is asked for."""

import os
import warnings
from typing import TYPE_CHECKING

from featstore.errors import FeatstoreError
from featstore.safe_text import printable

if TYPE_CHECKING:
    import torch


def torch_device(name: str) -> "torch.device":
    """Return the device called `name` ("cpu", "cuda", "cuda:1", "mps"; "cpu:0" is torch's processor as well).

    Raises
    ------
    FeatstoreError
        When torch or the device is not there; the message lists the devices there are.
    """
    try:
        import torch
    except (ImportError, OSError) as error:
        raise FeatstoreError(
            f"--device {name} needs torch, which cannot be imported ({error}); install it, or use --device cpu"
        ) from error
    n_gpus, problem = _cuda_gpus()
    available = ["cpu", *(f"cuda:{index}" for index in range(n_gpus))]
    if torch.backends.mps.is_available():
        available.append("mps")
    asked = {"cuda": "cuda:0", "cpu:0": "cpu"}.get(name, name)
    if asked not in available:
        raise FeatstoreError(
            f"--device {name}: torch {torch.__version__} sees only {', '.join(available)}{problem}; use one of these, "
            "or install a torch build that fits the driver"
        )
    return torch.device(asked)


def _cuda_gpus() -> tuple[int, str]:
    """Return how many GPUs CUDA can use, and why there is none, where that is known.

    A driver that is too old for torch is counted by its management library all the same, and torch only warns of it.
    """
    import torch

    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    hint = "" if hidden is None else f" (CUDA_VISIBLE_DEVICES is {printable(hidden, 100)!r})"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if n_gpus == 0 and caught:
        hint = f" ({printable(caught[0].message, 200)})"
    return n_gpus, hint


def try_device(device: "torch.device") -> None:
    """Compute something on a device: one that is there may be busy, full, broken or too old for this torch.

    Raises
    ------
    FeatstoreError
    """
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.ones(2, device=device).sum().item()
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        reason = printable(str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__, 200)
        raise FeatstoreError(
            f"--device {device}: it is there, but does not compute ({reason}); use another device or --device cpu"
        ) from error


def is_out_of_memory(error: RuntimeError) -> bool:
    """Say whether torch lacked memory for what it was given, of which only some of its backends have a class."""
    import torch

    words = ("out of memory", "STATUS_ALLOC_FAILED", "can't allocate memory")
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in words)


def is_of_device(error: RuntimeError) -> bool:
    """Say whether torch raised `error` for its device: libraries there have no class of their own for that."""
    text = str(error).lower()
    return any(name in text for name in ("cuda", "cublas", "cudnn", "cusolver", "hip error", "mps backend"))
