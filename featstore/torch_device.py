"""A device of torch by name, or one clear error; torch is imported when it is asked for."""

from typing import TYPE_CHECKING

from featstore.errors import FeatstoreError

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
    available = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        available.append("mps")
    asked = {"cuda": "cuda:0", "cpu:0": "cpu"}.get(name, name)
    if asked not in available:
        raise FeatstoreError(
            f"--device {name}: torch {torch.__version__} sees only {', '.join(available)}; use one of these, or "
            "install a torch build that fits the driver"
        )
    return torch.device(asked)
