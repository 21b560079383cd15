"""One pass over the training frames: loss, gradient and curvature, or the Hessian's image, never all logits at once.

Frames are taken in blocks, by threads that each own a span of them (NumPy and SciPy release the interpreter's lock).
Within a block numbers are float32 in the first iterations, where their rounding, 1e-7 of the loss, is far below the
gap, and float64 at the end; sums over blocks are always float64.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from probes.stacked.maps import Block, BlockMap, LookupMap, choose_map
from probes.stacked.problem import StackedLogisticProblem
from probes.stacked.stack import Stack

Array = NDArray[np.float64]

_BLOCK_BYTES = 1 << 22  # of one block's logits, so that they stay in the cache between the steps
# exp overflows beyond 88 in float32 and 709 in float64; logits within these need no shift by their row's maximum.
_SAFE_LOGIT = {np.dtype(np.float32): 60.0, np.dtype(np.float64): 600.0}


@dataclass
class Loss:
    """The weighted loss at one point, without the penalty.

    Attributes
    ----------
    value : float
    gradient : float64 array of shape (dim + 1, n_classes)
        Over W' and, in the last row, the intercept.
    curvature : float64 array of shape (n_classes,)
        sum_i r_i p_ik (1 - p_ik): the second derivative over each class's own intercept.
    products : float64 array of shape (n_classes, n_classes) or None
        sum_i r_i p_i p_i', in double precision only: what Newton's step for the intercept needs.
    """

    value: float
    gradient: Array
    curvature: Array
    products: Array | None = None


class FramePass(Protocol):
    """The loss of a problem over all of its frames."""

    name: str

    def loss(self, unknown: Array, precise: bool) -> Loss:
        """Evaluate at `unknown`, float64 (dim + 1, n_classes): W' above the intercept; `precise` means in float64."""
        ...

    def curved(self, unknown: Array, direction: Array) -> Array:
        """Return the loss's Hessian at `unknown` times `direction`, both as above, in single precision."""
        ...


def probabilities(stack: Stack, codes: NDArray[np.uint16], unknown: Array) -> NDArray[np.float32]:
    """Return the class probabilities of some frames, float32 (n_frames, n_classes), for codes (n_layers, n_frames)."""
    lookups = LookupMap(stack)
    p = lookups.logits(lookups.encode(codes, np.float32), lookups.prepare(unknown[:-1], np.float32))
    p += unknown[-1].astype(np.float32)
    softmax_rows(p)
    return p


def softmax_rows(logits: Block) -> Block:
    """Turn logits (n_frames, n_classes) into probabilities, in place; return the logarithm of their sum before."""
    ones, top = np.ones(logits.shape[1], logits.dtype), None
    if max(float(logits.max(initial=0.0)), -float(logits.min(initial=0.0))) > _SAFE_LOGIT[logits.dtype]:
        top = logits.max(axis=1)
        logits -= top[:, None]
    np.exp(logits, out=logits)
    total = logits @ ones
    logits *= (1.0 / total)[:, None]
    return np.log(total) if top is None else np.log(total) + top


class _Sums:
    """What a pass adds up over blocks, in double precision."""

    def __init__(self, n_sums: int, n_classes: int) -> None:
        self.value = 0.0
        self.pulled = np.zeros((n_sums, n_classes))
        self.intercept, self.curvature = np.zeros((2, n_classes))
        self.products = np.zeros((n_classes, n_classes))

    def add(self, other: "_Sums") -> None:
        """Add the sums over other frames."""
        self.value += other.value
        for mine, theirs in zip(self._arrays(), other._arrays(), strict=True):
            mine += theirs

    def _arrays(self) -> tuple[Array, ...]:
        return self.pulled, self.intercept, self.curvature, self.products


@dataclass(frozen=True)
class _Prepared:
    """Coefficients as the map takes them, and the intercept, in one precision."""

    coef: Block
    intercept: Block


class BlockPass:
    """A pass in NumPy and SciPy.

    Parameters
    ----------
    problem : StackedLogisticProblem
    block_map : BlockMap or None
        None: what the cost model says.
    n_threads : int
    """

    def __init__(self, problem: StackedLogisticProblem, block_map: BlockMap | None = None, n_threads: int = 1) -> None:
        self._problem = problem
        self._map = choose_map(problem.stack, problem.n_classes) if block_map is None else block_map
        self.name = self._map.name
        edges = np.linspace(0, problem.n_frames, n_threads + 1).astype(int)
        self._spans = list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))

    def loss(self, unknown: Array, precise: bool) -> Loss:
        """Evaluate (see `FramePass`)."""
        dtype = np.dtype(np.float64 if precise else np.float32)
        at = self._prepared(unknown, dtype)
        total = self._over_spans(lambda span: self._losses(span, at))
        gradient = np.vstack([self._map.finish(total.pulled, dtype), total.intercept])
        return Loss(total.value, gradient, total.curvature, total.products if precise else None)

    def curved(self, unknown: Array, direction: Array) -> Array:
        """Return the Hessian's image (see `FramePass`)."""
        dtype = np.dtype(np.float32)
        at, along = self._prepared(unknown, dtype), self._prepared(direction, dtype)
        total = self._over_spans(lambda span: self._images(span, at, along))
        return np.vstack([self._map.finish(total.pulled, dtype), total.intercept])

    # Both loop over blocks themselves: arrays that live until the next block's are there keep their memory warm.
    def _losses(self, span: tuple[int, int], at: _Prepared) -> _Sums:
        sums = _Sums(self._map.n_sums, self._problem.n_classes)
        for block in self._blocks(span, at.coef.dtype):
            y, r, encoded, p = self._logits(block, at)
            of_truth = p[np.arange(len(y)), y]
            sums.value += float(r @ (softmax_rows(p) - of_truth))
            weighted = p * r[:, None]
            if p.dtype == np.float64:
                sums.products += weighted.T @ p
            ones = np.ones(len(r), r.dtype)
            sums.curvature += ones @ weighted - np.einsum("ik,ik->k", weighted, p)
            weighted[np.arange(len(y)), y] -= r
            sums.intercept += ones @ weighted
            sums.pulled += self._map.pull(encoded, weighted)
        return sums

    def _images(self, span: tuple[int, int], at: _Prepared, along: _Prepared) -> _Sums:
        sums = _Sums(self._map.n_sums, self._problem.n_classes)
        for block in self._blocks(span, at.coef.dtype):
            _, r, encoded, p = self._logits(block, at)
            softmax_rows(p)
            change = self._map.logits(encoded, along.coef)
            change += along.intercept
            change -= np.einsum("ik,ik->i", change, p)[:, None]
            p *= r[:, None]
            change *= p
            sums.intercept += np.ones(len(r), r.dtype) @ change
            sums.pulled += self._map.pull(encoded, change)
        return sums

    def _prepared(self, unknown: Array, dtype: np.dtype) -> _Prepared:
        return _Prepared(self._map.prepare(unknown[:-1], dtype), unknown[-1].astype(dtype))

    def _logits(self, block: slice, at: _Prepared) -> tuple[NDArray[np.integer], Block, Any, Block]:
        """Return classes, weights, encoded codes and logits of a block."""
        y, dtype = self._problem.y[block], at.coef.dtype
        encoded = self._map.encode(self._problem.codes[:, block], dtype)
        logits = self._map.logits(encoded, at.coef)
        logits += at.intercept
        return y, self._problem.weight_of_class.astype(dtype)[y], encoded, logits

    def _blocks(self, span: tuple[int, int], dtype: np.dtype) -> list[slice]:
        n = max(256, _BLOCK_BYTES // (dtype.itemsize * self._problem.n_classes))
        return [slice(start, min(start + n, span[1])) for start in range(*span, n)]

    def _over_spans(self, work: Callable[[tuple[int, int]], _Sums]) -> _Sums:
        if len(self._spans) == 1:
            return work(self._spans[0])
        with ThreadPoolExecutor(len(self._spans)) as pool:
            total, *others = pool.map(work, self._spans)
        for other in others:
            total.add(other)
        return total


def make_pass(problem: StackedLogisticProblem, n_threads: int = 1, device: str = "cpu") -> FramePass:
    """Return the pass that runs on `device`: "cpu", or one of torch's such as "cuda".

    Raises
    ------
    BackendError
        When torch or its device is not there.
    """
    if device != "cpu":
        from probes.stacked.torch_pass import TorchPass

        return TorchPass(problem, device)
    return BlockPass(problem, n_threads=n_threads)
