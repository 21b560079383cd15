"""What can go wrong on the way from a corpus to a store."""

from schemas.errors import RvqprobeError


class FeatstoreError(RvqprobeError):
    """Base of featstore's errors."""


class CorpusError(FeatstoreError, ValueError):
    """The corpus as a whole cannot be used: a missing root, no utterance, duplicate ids."""


class UtteranceError(FeatstoreError, ValueError):
    """One utterance cannot be used. A build skips it, counts it and lists it under /skipped with this message."""


class WeightsError(FeatstoreError, ValueError):
    """A codec's weights are missing, damaged or of another model."""


class DeviceMemoryError(FeatstoreError, MemoryError):
    """The device that encodes has too little memory for what it was given."""


class UnknownNameError(FeatstoreError, KeyError):
    """A name (codec, F0 method, layer, utterance) that is not known; the message lists the known ones."""


class StoreError(FeatstoreError, ValueError):
    """A store cannot be written, read or merged."""


class DependencyError(FeatstoreError, ImportError):
    """An optional package is missing; the message gives the install line."""
