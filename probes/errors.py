"""What can go wrong between a store and a probe's record."""

from schemas.errors import RvqprobeError


class ProbeError(RvqprobeError):
    """Base of the probes' errors."""


class UnknownBackendError(ProbeError, KeyError):
    """A backend name that is not known; the message lists the known ones."""


class BackendError(ProbeError, RuntimeError):
    """A backend was asked for what it cannot do (no library, no GPU, no dense rows)."""


class DeviceError(BackendError):
    """A GPU, or the library on it, failed during a fit; the same fit can be made on the CPU."""


class DeviceMemoryError(DeviceError):
    """A GPU has too little free memory for a fit; a smaller one may still run there."""


class ProbeFileError(ProbeError, ValueError):
    """A saved probe is missing, damaged or of another format version."""


class WrongUsageError(ProbeError, ValueError):
    """Options that make no sense, or not together; the message names them as the command line does."""
