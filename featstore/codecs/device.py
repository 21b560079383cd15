"""The device that encodes: chosen once for a build and recorded in the store."""

import logging
import warnings

from featstore.errors import FeatstoreError
from featstore.safe_text import printable
from featstore.torch_device import torch_device, try_device

LOG = logging.getLogger(__name__)


def choose_device(name: str) -> str:
    """Return the torch device for ``--device``: ``auto`` is CUDA where there is a GPU that works, else the CPU.

    MPS is used only when asked for by name: its kernels round differently, and codes are the data.

    Raises
    ------
    FeatstoreError
        When a device was asked for that is not here or does not compute, whether or not the codecs of the build would
        use it.
    """
    if name != "auto":
        try_device(torch_device(name))
        return name
    import torch

    with warnings.catch_warnings(record=True) as caught:  # of a driver that torch cannot use
        warnings.simplefilter("always")
        n_gpus = torch.cuda.device_count()
    problem: object = caught[0].message if caught else None
    if n_gpus:
        try:
            try_device(torch_device("cuda"))
            return "cuda"
        except FeatstoreError as error:
            problem = error
    if problem is not None:
        LOG.warning("note: encoding on the CPU, as no GPU can be used: %s", printable(problem, 500))
    return "cpu"


def describe_device(device: str) -> str:
    """Return what the store records of a device: the GPU's name, or the CPU's thread count, which can flip codes."""
    import torch

    if device.startswith("cuda"):
        return f"{device}, {torch.cuda.get_device_name(torch.device(device))}"
    return f"{device}, {torch.get_num_threads()} threads"
