"""One layer's embeddings, read in the ways that analyses and training loops ask for them."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featstore.errors import StoreError
from featstore.reading import BLOCK_FRAMES, check_rows, check_span, frame_numbers, gather_rows

if TYPE_CHECKING:
    from featstore.frames import Frames


class Layer:
    """One layer's embeddings, (n_frames, dim) float32, read by slices of frames.

    Rows are rebuilt from codes in either layout, which is many times faster than reading those of a dense store; that
    the two are equal is a rule of the format, which ``verify --full`` checks.
    """

    def __init__(self, frames: "Frames", row: int) -> None:
        self._frames = frames
        self._row = row
        self._held: NDArray[np.uint16] | None = None
        self.number = row + 1
        self.shape = (frames.n_frames, frames.dim)
        self.dtype = np.dtype(np.float32)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def codebook(self) -> NDArray[np.float32]:
        """Codebook of this layer, float32 (n_codewords, dim)."""
        result: NDArray[np.float32] = self._frames.codebooks[self._row]
        return result

    def codes(self, start: int, stop: int) -> NDArray[np.uint16]:
        """Return this layer's codes of frames start..stop, uint16."""
        if self._held is not None:
            return self._held[start:stop]
        self._frames.check_present("codes", start, stop)
        return self._frames.read("codes", (self._row, slice(start, stop)))

    def hold_codes(self, codes: NDArray[np.uint16] | None = None) -> NDArray[np.uint16]:
        """Keep this layer's codes in memory, 2 bytes a frame, for many reads of scattered frames; return them.

        Parameters
        ----------
        codes : uint16 array of shape (n_frames,) or None
            What this returned of the same store before; None: read them.
        """
        if self._held is None:
            held = self.codes(0, len(self)) if codes is None else codes
            held.flags.writeable = False
            self._held = held
        return self._held

    def read_into(self, out: NDArray[np.float32], start: int, stop: int) -> None:
        """Write the embeddings of frames start..stop into an array of the caller's, whatever the layout.

        Parameters
        ----------
        out : float32 array of shape (stop - start, dim)
            C-contiguous; ``tensor.numpy()`` of a torch tensor will do.
        start, stop : int
            0 <= start <= stop <= n_frames.

        Raises
        ------
        ValueError
            When `out` is of another shape, dtype or order.
        IndexError
            When the span is not within the codec's frames.
        StoreError
            When the part of a virtual store that holds them is absent, or a code is none of the codebook's.
        """
        check_span(start, stop, len(self))
        check_rows(out, stop - start, self.shape[1])
        first = start
        while first < stop:  # to the end of a chunk, so that none is decompressed twice
            last = min(stop, (first // BLOCK_FRAMES + 1) * BLOCK_FRAMES)
            self._gather(self.codes(first, last), out[first - start : last - start])
            first = last

    def take(self, frames: NDArray[Any], out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Return the embeddings of frames in any order, repeated or not.

        Parameters
        ----------
        frames : array of int of shape (n,)
        out : float32 array of shape (n, dim) or None
            C-contiguous; written to and returned when given.

        Returns
        -------
        float32 array of shape (n, dim)

        Raises
        ------
        TypeError, IndexError
            When frames are no integers, or not within the codec's.
        ValueError, StoreError
            As `read_into`.
        """
        numbers = frame_numbers(frames, len(self))
        rows = np.empty((len(numbers), self.shape[1]), dtype=np.float32) if out is None else out
        check_rows(rows, len(numbers), self.shape[1])
        self._gather(self._codes_at(numbers), rows)
        return rows

    def _codes_at(self, frames: NDArray[np.int64]) -> NDArray[np.uint16]:
        if self._held is not None:
            return self._held[frames]
        self._frames.check_frames_present("codes", frames)
        return self._frames.take_frames("codes", (self._row,), frames)

    def _gather(self, codes: NDArray[np.uint16], out: NDArray[np.float32]) -> None:
        try:
            gather_rows(self.codebook, codes, out)
        except IndexError as error:
            raise StoreError(
                f"{self._frames.store.path}:/codecs/{self._frames.name}/codes: {error}; the file is damaged, build it "
                "again"
            ) from error

    def __getitem__(self, frames: slice) -> NDArray[np.float32]:
        """Return the embeddings of a slice of frames; the same values from either layout."""
        if not isinstance(frames, slice):
            raise TypeError(f"a layer is read by slices of frames, such as [0:1000], not by {frames!r}")
        start, stop, step = frames.indices(len(self))
        stop = max(start, stop) if step > 0 else stop
        if step < 1:
            raise ValueError(f"a layer is read forwards: step {step} is not positive")
        rows = np.empty((len(range(start, stop, step)), self.shape[1]), dtype=np.float32)
        if step == 1:
            self.read_into(rows, start, stop)
        else:
            self._gather(self.codes(start, stop)[::step], rows)
        return rows

    def stored_rows(self, start: int, stop: int) -> NDArray[np.float32] | None:
        """Return the rows that a dense store holds of frames start..stop, float32 (stop - start, dim); else None.

        They equal ``layer[start:stop]``, which is faster: only a check of that has to read them.
        """
        if self._frames.stored_embeddings() is None:
            return None
        self._frames.check_present("embeddings", start, stop)
        return self._frames.read("embeddings", (self._row, slice(start, stop)))
