"""The evaluation frames of one codec: what tables cannot tell (absolute errors, utterances) is scored from these.

A counting pass keeps them (`probes.spool`); without one they are read from the store, one layer at a time, in streaming
reads that keep the evaluation utterances only.
"""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore.frames import Frames
from probes.pitch_by_code import pitch_order
from probes.spool import Spooled
from schemas.store import EVAL

_BLOCK_FRAMES = 1 << 20


class EvaluationFrames:
    """Evaluation frames, utterance after utterance in the store's order; read when first asked for.

    Parameters
    ----------
    frames : Frames
        A codec of an open store.
    split : int8 array of shape (n_utterances,) or None
        Part of each utterance: 0 train, 1 evaluation, -1 neither. None: the store's own.
    spooled : Spooled or None
        What a counting pass with the same split has kept.

    Attributes
    ----------
    utterances : int64 array of shape (n_eval_utterances,)
        Index in the store of each evaluation utterance.
    offsets : int64 array of shape (n_eval_utterances + 1,)
        Frames of evaluation utterance u are ``offsets[u]`` up to ``offsets[u + 1]``.
    """

    def __init__(self, frames: Frames, split: NDArray[np.int8] | None = None, spooled: Spooled | None = None) -> None:
        self._frames, self._spooled = frames, spooled
        part = frames.store.numbers("utterances/split") if split is None else split
        self.utterances = np.flatnonzero(part == EVAL)
        self._starts, self._stops = frames.offsets[self.utterances], frames.offsets[self.utterances + 1]
        self.offsets = np.concatenate([[0], np.cumsum(self._stops - self._starts)]).astype(np.int64)

    @property
    def n_frames(self) -> int:
        """Number of evaluation frames."""
        return int(self.offsets[-1])

    @cached_property
    def utterance_ids(self) -> list[str]:
        """Id of each evaluation utterance."""
        ids = self._frames.store.strings("utterances/id")
        return [ids[index] for index in self.utterances]

    @cached_property
    def speaker_of_utterance(self) -> NDArray[np.int64]:
        """Speaker index of each evaluation utterance, int64 (n_eval_utterances,)."""
        return self._frames.store.numbers("utterances/speaker")[self.utterances].astype(np.int64)

    @cached_property
    def phoneme(self) -> NDArray[np.integer]:
        """Index of each frame's raw phone label, (n_frames,)."""
        return self._labels("phoneme")

    @cached_property
    def speaker(self) -> NDArray[np.integer]:
        """Index of each frame's speaker, (n_frames,)."""
        return self._labels("speaker")

    @cached_property
    def f0_hz(self) -> NDArray[np.float32]:
        """F0 in Hz, NaN where unvoiced, float32 (n_frames,)."""
        return self._labels("f0")

    @cached_property
    def speaker_names(self) -> list[str]:
        """Speaker of each evaluation utterance."""
        names = self._frames.store.strings("vocab/speakers")
        return [names[index] for index in self.speaker_of_utterance]

    @cached_property
    def pitch_order(self) -> NDArray[np.int64]:
        """Indices of the voiced frames by ascending F0, int64 (n_voiced,); one sort serves all layers."""
        return pitch_order(self.f0_hz)

    def codes(self, layer: int) -> NDArray[np.uint16]:
        """Return one layer's codes, counted from 1: uint16 (n_frames,)."""
        if self._spooled is not None:
            return self._spooled.codes(layer)
        return self._read(self._frames.layer(layer).codes)

    def _labels(self, name: str) -> NDArray[Any]:
        if self._spooled is not None:
            return self._spooled.track(name)
        return self._read(lambda start, stop: self._frames.labels(name, start, stop))

    def _read(self, read: Callable[[int, int], NDArray[Any]]) -> NDArray[Any]:
        """Stream the whole track through `read(start, stop)` and keep the evaluation utterances."""
        pieces = [read(0, 0)]
        for start, stop in self._frames.blocks(_BLOCK_FRAMES):
            # Utterances are in the order of their frames, so those that touch the block are neighbours.
            first, last = np.searchsorted(self._stops, start, "right"), np.searchsorted(self._starts, stop, "left")
            if first == last:
                continue
            block = read(start, stop)
            spans = zip(self._starts[first:last], self._stops[first:last], strict=True)
            pieces += [block[max(a, start) - start : b - start].copy() for a, b in spans]
        return np.concatenate(pieces)
