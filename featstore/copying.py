"""Frames from an open store into a writer: what merging and exporting share."""

import numpy as np
from numpy.typing import NDArray

from featstore.frames import Frames
from featstore.ranges import check_codes, check_phonemes
from featstore.reading import BLOCK_FRAMES
from featstore.writer import StoreWriter, rows_of_chunk


def copy_frames(writer: StoreWriter, frames: Frames, start: int, stop: int, renumber: NDArray[np.uint16]) -> None:
    """Append codes and labels of frames start..stop, in bounded memory.

    Parameters
    ----------
    writer : StoreWriter
    frames : Frames
    start, stop : int
    renumber : uint16 array of shape (n_phonemes,)
        What each phoneme of the source is called in the result.

    Raises
    ------
    StoreError
        When a code is none of the codebook's, or a phoneme none of the vocabulary's.
    """
    for first in range(start, stop, BLOCK_FRAMES):
        last = min(first + BLOCK_FRAMES, stop)
        codes, phoneme = frames.codes(first, last), frames.labels("phoneme", first, last)
        check_codes(frames, codes)
        check_phonemes(frames, phoneme, len(renumber))
        writer.append(frames.name, codes, renumber[phoneme], frames.labels("f0", first, last))


def copy_latents(writer: StoreWriter, frames: Frames, start: int, stop: int) -> None:
    """Append the encoder's output of frames start..stop, a chunk at a time."""
    rows = rows_of_chunk(frames.dim)
    for first in range(start, stop, rows):
        writer.append_latents(frames.name, frames.latents(first, min(first + rows, stop)))
