"""Codecs by name. A third codec registers its family here and goes through the same build, store and probes."""

from importlib import import_module

from featstore.codecs.base import CodecFamily
from featstore.errors import UnknownNameError

# Modules are named, not imported: torch loads only when a codec is used.
_BUILT_IN = {
    "encodec": "featstore.codecs.encodec",
    "speechtokenizer": "featstore.codecs.speechtokenizer",
    "melrvq": "featstore.codecs.melrvq",
}
_registered: dict[str, CodecFamily] = {}


def register_codec(family: CodecFamily) -> None:
    """Add (or replace) a codec family under its own name."""
    _registered[family.name] = family


def codec_names() -> list[str]:
    """Return the known codec names, built-in ones first."""
    return [*_BUILT_IN, *(name for name in _registered if name not in _BUILT_IN)]


def codec_family(name: str) -> CodecFamily:
    """Return the family called `name`.

    Raises
    ------
    UnknownNameError
        When there is none; the message lists the known names.
    """
    if name in _registered:
        return _registered[name]
    if name in _BUILT_IN:
        family: CodecFamily = import_module(_BUILT_IN[name]).FAMILY
        return family
    raise UnknownNameError(f"unknown codec {name!r}: expected one of {', '.join(codec_names())}")
