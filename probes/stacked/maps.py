"""Two ways from coefficients to the logits of a block of frames, and back from residuals to the gradient.

- `LookupMap`: Z = B (A W'), with B the block's sparse matrix of ones at (frame, code of a layer); the gradient is
  A' (B' R). With m layers and K classes m K additions a frame each way, whatever the dimension.
- `RowMap`: Z = X W' with the block's rows X looked up first: m D (concat: dim) additions and dim K multiplications
  each way, which run ten times faster each in a matrix product.

`choose_map` takes the one that seems cheaper. Of 8 layers of 1024 codewords and 71 classes that is lookups, but for
sums of codewords shorter than some 40 numbers; with 251 classes, whose tables leave the cache, rows win for sums of up
to some 140 numbers (measured at 80: a pass of 1.9 instead of 2.8 us a frame) and for concatenations of up to 220. With
more layers they win for longer ones (32 layers of 128 numbers, summed: 4.8 instead of 20 us).
"""

from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray
from scipy.sparse import csr_array

from probes.stacked.stack import Stack

Array = NDArray[np.float64]
Block = NDArray[np.floating]

# Seconds of one addition of a sparse product with tables of a megabyte (it goes with the root of their size: 0.7 to 260
# MB took 1.3e-10 to 2.9e-9), one multiplication of a matrix product and one element looked up, in float32 on one core
# (measured; only their ratios matter).
_SECONDS_SPARSE = 1.7e-10
_SECONDS_PRODUCT = 1.6e-11
_SECONDS_ELEMENT = 7.0e-10


class BlockMap(Protocol):
    """A linear map from coefficients to a block's logits, in pieces that a pass over blocks needs."""

    name: str

    @property
    def n_sums(self) -> int:
        """Rows of what `pull` returns."""
        ...

    def prepare(self, coef: Array, dtype: DTypeLike) -> Block:
        """Return what `logits` needs of the coefficients W', float64 (dim, n_classes); once a pass."""
        ...

    def encode(self, codes: NDArray[np.uint16], dtype: DTypeLike) -> Any:
        """Return a block's codes (n_layers, n_frames) as `logits` and `pull` take them."""
        ...

    def logits(self, encoded: Any, prepared: Block) -> Block:
        """Return X W', float (n_frames, n_classes)."""
        ...

    def pull(self, encoded: Any, residual: Block) -> Block:
        """Return the block's share of the sums that `finish` turns into X' R."""
        ...

    def finish(self, sums: Array, dtype: DTypeLike) -> Array:
        """Return X' R over all blocks, float64 (dim, n_classes)."""
        ...


class LookupMap:
    """Logits as sums of rows of tables, one a layer (see `BlockMap`)."""

    name = "lookups"

    def __init__(self, stack: Stack) -> None:
        self._stacks = _in_both_precisions(stack)
        self._stack = stack
        self._first = (np.arange(stack.n_layers, dtype=np.int32) * stack.n_codewords)[:, None]

    @property
    def n_sums(self) -> int:
        """One sum for each code of each layer."""
        return self._stack.n_layers * self._stack.n_codewords

    def prepare(self, coef: Array, dtype: DTypeLike) -> Block:
        """Return A W'."""
        return self._stacks[np.dtype(dtype).char].spread(coef.astype(dtype, copy=False))

    def encode(self, codes: NDArray[np.uint16], dtype: DTypeLike) -> csr_array:
        """Return B."""
        n_layers, n_frames = codes.shape
        column = np.ascontiguousarray((codes + self._first).T).ravel()
        row_start = np.arange(0, column.size + 1, n_layers, dtype=np.int32)
        return csr_array((np.ones(column.size, dtype), column, row_start), shape=(n_frames, self.n_sums))

    def logits(self, encoded: csr_array, prepared: Block) -> Block:
        """Return B (A W')."""
        return np.asarray(encoded @ prepared)

    def pull(self, encoded: csr_array, residual: Block) -> Block:
        """Return B' R."""
        return np.asarray(encoded.T @ residual)

    def finish(self, sums: Array, dtype: DTypeLike) -> Array:
        """Return A' (B' R)."""
        return self._stacks[np.dtype(dtype).char].gather(sums.astype(dtype, copy=False)).astype(np.float64, copy=False)


class RowMap:
    """Logits as products with rows that are looked up block by block (see `BlockMap`)."""

    name = "rows"

    def __init__(self, stack: Stack) -> None:
        self._stacks = _in_both_precisions(stack)
        self._dim = stack.dim

    @property
    def n_sums(self) -> int:
        """One sum for each feature."""
        return self._dim

    def prepare(self, coef: Array, dtype: DTypeLike) -> Block:
        """Return W'."""
        return coef.astype(dtype)

    def encode(self, codes: NDArray[np.uint16], dtype: DTypeLike) -> Block:
        """Return X."""
        return self._stacks[np.dtype(dtype).char].rows(codes)

    def logits(self, encoded: Block, prepared: Block) -> Block:
        """Return X W'."""
        return encoded @ prepared

    def pull(self, encoded: Block, residual: Block) -> Block:
        """Return X' R."""
        return encoded.T @ residual

    def finish(self, sums: Array, dtype: DTypeLike) -> Array:
        """Return X' R."""
        return sums


def _in_both_precisions(stack: Stack) -> dict[str, Stack]:
    """Return the stack with float32 ("f") and with float64 tables ("d")."""
    return {"f": Stack(stack.tables.astype(np.float32), stack.representation), "d": stack}


def choose_map(stack: Stack, n_classes: int) -> BlockMap:
    """Return the map whose pass seems the shorter, by `seconds_per_frame`."""
    lookups, rows = seconds_per_frame(stack, n_classes)
    return RowMap(stack) if rows < lookups else LookupMap(stack)


def seconds_per_frame(stack: Stack, n_classes: int) -> tuple[float, float]:
    """Return what a frame costs a pass by lookups and by rows, without what both need (softmax)."""
    additions = stack.n_layers * n_classes
    elements = stack.n_layers * stack.tables.shape[2]
    megabytes = 4e-6 * stack.n_layers * stack.n_codewords * n_classes
    by_lookups = 2 * additions * _SECONDS_SPARSE * megabytes**0.5
    return by_lookups, elements * _SECONDS_ELEMENT + 2 * stack.dim * n_classes * _SECONDS_PRODUCT
