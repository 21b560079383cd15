"""Probe backends by name. Modules are named, not imported: the exact path loads no scikit-learn and no GPU library."""

from importlib import import_module

from probes.backends.base import Backend
from probes.errors import UnknownBackendError

_BACKENDS = {
    "exact": ("probes.backends.exact", "ExactBackend"),
    "sklearn": ("probes.backends.sklearn", "SklearnBackend"),
    "cuml": ("probes.backends.cuml", "CumlBackend"),
}
_AUTO = "exact"
_FALLBACK = "sklearn"


def backend_names() -> list[str]:
    """Return the known backend names (``auto`` stands for the first)."""
    return list(_BACKENDS)


def backend(name: str) -> Backend:
    """Return the backend called `name`; ``auto`` means exact.

    Raises
    ------
    UnknownBackendError
        When there is none; the message lists the known names.
    """
    name = _AUTO if name == "auto" else name
    if name not in _BACKENDS:
        raise UnknownBackendError(f"unknown backend {name!r}: expected one of auto, {', '.join(backend_names())}")
    module, class_name = _BACKENDS[name]
    found: Backend = getattr(import_module(module), class_name)()
    return found


def resolve(name: str) -> tuple[Backend, str | None]:
    """Return the backend to use for the asked `name`, and why it is another one, or None where it is not.

    Raises
    ------
    UnknownBackendError
        When there is no backend called `name`.
    """
    asked = backend(name)
    availability = asked.availability()
    if availability.available or asked.name == _FALLBACK:
        return asked, None
    return backend(_FALLBACK), f"{asked.name} is not available: {availability.reason}"
