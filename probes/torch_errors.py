"""What a device of torch can do wrong in the middle of a fit, as one clear error."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from featstore.torch_device import is_of_device, is_out_of_memory
from probes.errors import BackendError


@contextmanager
def device_errors(device: Any, what: str, advice: str) -> Iterator[None]:
    """Turn a device's failures into a BackendError.

    Parameters
    ----------
    device : str or torch.device
    what : str
        What its memory was for, e.g. ``the Hessian of this probe``.
    advice : str
        How to go on with less.

    Raises
    ------
    BackendError
        When memory runs out, or the device or a library on it fails.
    """
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise BackendError(f"--device {device}: too little memory for {what}; {advice}") from error
        if not is_of_device(error):
            raise
        first_line = str(error).strip().splitlines()[0]
        raise BackendError(f"--device {device}: failed ({first_line}); {advice}") from error
