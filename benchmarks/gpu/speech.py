"""Synthetic speech, and codecs with untrained seeded weights, for the pieces that encode."""

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import resample_poly

from benchmarks.gpu.piece import Asked, SkippedPieceError
from featstore.codecs.base import Checkpoint, Codec
from featstore.codecs.registry import codec_family
from featstore.codecs.torch_support import build_quietly
from featstore.corpora.synthetic_speech import SAMPLE_RATE_HZ, synthesise_utterance

CODECS = ("encodec", "speechtokenizer")
# On so much speech are untrained codebooks fitted, by the processor; a build takes up to 84 s, a minute of work.
_FIT_S, _SMALL_FIT_S = 30.0, 6.0
# Another network of the same kind, which a processor runs in no time.
_SMALL_CONFIG = {"n_filters": 8, "dimension": 32, "semantic_dimension": 16}

Samples = NDArray[np.float32]


def utterances(n: int, duration_s: float, rate_hz: int) -> list[Samples]:
    """Return utterances of at least `duration_s` each, synthetic sentences one after the other, mono float32."""
    return [_utterance(speaker, duration_s, rate_hz) for speaker in range(n)]


def _utterance(speaker: int, duration_s: float, rate_hz: int) -> Samples:
    parts: list[Samples] = []
    while sum(map(len, parts)) < duration_s * SAMPLE_RATE_HZ:
        parts.append(synthesise_utterance(speaker, len(parts)).samples)
    divisor = np.gcd(rate_hz, SAMPLE_RATE_HZ)
    speech = resample_poly(np.concatenate(parts), rate_hz // divisor, SAMPLE_RATE_HZ // divisor)
    return np.ascontiguousarray(speech, dtype=np.float32)


def checkpoints(asked: Asked) -> Iterator[tuple[str, Checkpoint | str]]:
    """Yield each codec's name and its untrained checkpoint, made when its turn comes, or why there is none.

    Raises
    ------
    SkippedPieceError
        At the end, when there was none of any codec.
    """
    absent: dict[str, str] = {}
    for name in CODECS:
        found: Checkpoint | str
        try:
            found = checkpoint(asked, name)
        except (ImportError, OSError) as error:
            found = absent[name] = f"cannot be imported here ({error})"
        yield name, found
    if len(absent) == len(CODECS):
        raise SkippedPieceError("; ".join(f"{name} {reason}" for name, reason in absent.items()))


def checkpoint(asked: Asked, name: str) -> Checkpoint:
    """Return a codec's untrained checkpoint, made once for all pieces of a run.

    Raises
    ------
    ImportError, OSError
        When its library cannot be imported.
    """
    family = codec_family(name)
    made = [path for path in asked.work.glob(f"{name}-untrained.*t*") if path.suffix != ".json"]
    if made:
        return Checkpoint(made[0], "untrained", made[0].with_suffix(".json") if family.needs_config else None)
    build_quietly(lambda: import_module(name))  # before speech is made for it
    audio = utterances(8, (_SMALL_FIT_S if asked.small else _FIT_S) / 8, family.sample_rate_hz)
    extra: dict[str, Any] = {}
    if asked.small and family.needs_config:
        from featstore.codecs.speechtokenizer import RELEASED_CONFIG

        extra["config"] = RELEASED_CONFIG | _SMALL_CONFIG
    return family.make_untrained(audio, 0, asked.work, **extra)


def load(name: str, found: Checkpoint, device: str) -> Codec:
    """Load a codec onto a device of torch."""
    return codec_family(name).load(found, device)
