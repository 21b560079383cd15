"""Labels of frames as values and a mask of the frames that take part, for probes that read frames."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore.frames import Frames
from probes.held_out import parts_of_frames
from probes.questions import NotApplicable
from probes.tasks import Classes
from schemas.store import EVAL

# Turns a span's stored labels into values and a mask of the frames that take part.
ReadLabels = Callable[[NDArray[Any]], tuple[NDArray[Any], NDArray[np.bool_]]]
_BLOCK_FRAMES = 1 << 20


def of_class(classes: Classes, labels: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return each label's class, int32 (n,), and which have one."""
    y = classes.of_label.astype(np.int32)[labels]
    return y, y >= 0


def voiced(f0_hz: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return F0 as float64 (n,), Hz, and which frames are voiced."""
    return f0_hz.astype(np.float64), ~np.isnan(f0_hz)


def held_out_blocks(
    frames: Frames, track: str, read: ReadLabels, split: NDArray[np.int8] | None
) -> Iterator[tuple[NDArray[Any], NDArray[np.bool_]]]:
    """Yield (values, taken) of all frames, block by block, `taken` being evaluation frames that take part."""
    for start, stop in frames.blocks(_BLOCK_FRAMES):
        values, taken = read(frames.labels(track, start, stop))
        yield values, taken & (parts_of_frames(frames, split, start, stop) == EVAL)


def held_out_per_class(
    frames: Frames, task: str, classes: Classes, split: NDArray[np.int8] | None
) -> NDArray[np.int64]:
    """Return the evaluation frames of each class, int64 (n_classes,)."""
    total = np.zeros(len(classes.names), dtype=np.int64)
    for y, taken in held_out_blocks(frames, task, lambda labels: of_class(classes, labels), split):
        total += np.bincount(y[taken], minlength=len(total))
    return total


def check_voiced(frames: Frames, n_train: int, split: NDArray[np.int8] | None) -> None:
    """Refuse pitch without voiced frames in training (`n_train`) or in evaluation.

    Raises
    ------
    NotApplicable
    """
    held_out = any(taken.any() for _, taken in held_out_blocks(frames, "f0", voiced, split))
    for found, part in ((n_train > 0, "training"), (held_out, "evaluation")):
        if not found:
            raise NotApplicable(f"pitch needs voiced frames, found none in {part}")
