"""Checks of the audio that goes into a codec and of the frames that come out, and a choice of audio to fit on."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from featstore.codecs.base import n_frames_of
from featstore.errors import FeatstoreError, UtteranceError

_MIN_CROP_FRAMES = 50  # a second or so: shorter pieces would be mostly the encoder's edges


def require_mono(samples: NDArray[np.float32], codec: str) -> NDArray[np.float32]:
    """Return `samples` as contiguous float32, or raise UtteranceError: wrong shape, empty, or not finite."""
    if samples.ndim != 1 or samples.size == 0:
        raise UtteranceError(f"{codec} encodes one non-empty mono signal, found an array of shape {samples.shape}")
    if not np.isfinite(samples).all():
        raise UtteranceError(f"{codec} encodes finite samples, found NaN or infinity; check the audio file")
    return np.ascontiguousarray(samples, dtype=np.float32)


def require_n_frames(codes: NDArray[np.uint16], n_samples: int, hop_samples: int, codec: str) -> NDArray[np.uint16]:
    """Return `codes` of shape (n_layers, n_frames), or raise UtteranceError if n_frames is not what it must be.

    Labels, splits and offsets are computed from ceil(n_samples / hop_samples); a codec that disagrees on one
    utterance would shift every label after it.
    """
    expected = n_frames_of(n_samples, hop_samples)
    if codes.shape[1] != expected:
        raise UtteranceError(
            f"{codec} gave {codes.shape[1]} frames for {n_samples} samples, expected {expected} "
            f"(hop {hop_samples}); this audio cannot be labelled frame by frame"
        )
    return codes


def crops_to_fit(
    audio: Sequence[NDArray[np.float32]], n_frames: int, hop_samples: int, seed: int
) -> Iterator[NDArray[np.float32]]:
    """Yield stretches of about `n_frames` frames in all, as evenly spread over the utterances as their lengths allow.

    Encoding is what costs when codebooks are fitted, so no more is encoded than the fit uses. Shortest utterances go
    first, and what they lack the longer ones make up for; each stretch starts on a hop, at a seeded place.

    Raises
    ------
    FeatstoreError
        When `audio` holds no sample.
    """
    rng = np.random.default_rng(seed)
    heard = [samples for samples in audio if samples.size]
    if not heard:
        raise FeatstoreError("codebooks are fitted on audio, found none; give at least one utterance")
    order = rng.permutation(len(heard))[: max(1, n_frames // _MIN_CROP_FRAMES)]
    chosen = sorted((heard[index] for index in order), key=len)
    n_left = n_frames
    for position, samples in enumerate(chosen):
        n_utterances_left = len(chosen) - position
        n_here = min(n_frames_of(samples.size, hop_samples), -(-n_left // n_utterances_left))
        first_frame = int(rng.integers(n_frames_of(samples.size, hop_samples) - n_here + 1))
        yield samples[first_frame * hop_samples : (first_frame + n_here) * hop_samples]
        n_left -= n_here
        if n_left <= 0:
            return
