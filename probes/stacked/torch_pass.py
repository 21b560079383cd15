"""The pass over training frames on a GPU, through torch: codes stay on the device, blocks are large.

Sums over frames are atomic additions in no fixed order, so results differ between runs by rounding. Sums over blocks
are float64 here too. Apple's GPUs have no such numbers: theirs are added up by the processor, which also makes the few
passes that are double precision throughout.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from featstore.torch_device import torch_device
from probes.stacked.passes import Array, BlockPass, Loss
from probes.stacked.problem import StackedLogisticProblem
from probes.torch_errors import device_errors

_BLOCK_CELLS = 1 << 25  # frames times layers times classes of the rows that a gradient adds up


class TorchPass:
    """A pass by lookups (see `probes.stacked.passes.FramePass`).

    Parameters
    ----------
    problem : StackedLogisticProblem
    device : str
        A device of torch, such as ``cuda``.
    has_double : bool or None
        Whether the device has float64; None: all but ``mps``.

    Raises
    ------
    FeatstoreError
        When torch or the device is not there.
    BackendError
        When the device has too little memory, or fails.
    """

    name = "torch lookups"

    def __init__(self, problem: StackedLogisticProblem, device: str, has_double: bool | None = None) -> None:
        self._device = torch_device(device)
        import torch

        self._torch, self._problem = torch, problem
        double = self._device.type != "mps" if has_double is None else has_double
        self._real = torch.float64 if double else torch.float32
        self._adding = self._device if double else torch.device("cpu")
        self._in_double = None if double else BlockPass(problem)
        first = np.arange(problem.stack.n_layers, dtype=np.int32)[:, None] * np.int32(problem.stack.n_codewords)
        with self._errors():
            self._tables = self._there(problem.stack.tables).to(self._real)
            self._columns = self._there((problem.codes + first).T)
            self._y = self._there(problem.y.astype(np.int64))
            self._weight_of_class = self._there(problem.weight_of_class)

    def loss(self, unknown: Array, precise: bool) -> Loss:
        """Evaluate (see `FramePass`)."""
        if precise and self._in_double is not None:
            return self._in_double.loss(unknown, precise)
        torch, n_classes = self._torch, self._problem.n_classes
        with self._errors():
            at = self._prepared(unknown, torch.float64 if precise else torch.float32)
            pulled, sums = self._zeros(len(at[0]), n_classes), self._zeros(4, n_classes)
            products = self._zeros(n_classes, n_classes)
            for columns, y, r in self._blocks(at[0].dtype):
                log_p = torch.log_softmax(self._logits(columns, *at), dim=1)
                self._add(sums[3], r * log_p.gather(1, y[:, None]))
                p = log_p.exp()
                weighted = p * r
                if precise:
                    products += weighted.T @ p
                self._add(sums[1], weighted)
                self._add(sums[2], weighted * p)
                weighted.scatter_add_(1, y[:, None], -r)
                self._add(sums[0], weighted)
                self._pull(pulled, columns, weighted)
            gradient = np.vstack([self._gather(pulled), sums[:1].cpu().numpy()])
            curvature = (sums[1] - sums[2]).cpu().numpy()
            return Loss(-float(sums[3, 0]), gradient, curvature, products.cpu().numpy() if precise else None)

    def curved(self, unknown: Array, direction: Array) -> Array:
        """Return the Hessian's image (see `FramePass`)."""
        torch = self._torch
        with self._errors():
            at, along = (self._prepared(point, torch.float32) for point in (unknown, direction))
            pulled, intercept = self._zeros(len(at[0]), self._problem.n_classes), self._zeros(self._problem.n_classes)
            for columns, _, r in self._blocks(torch.float32):
                p = torch.softmax(self._logits(columns, *at), dim=1)
                change = self._logits(columns, *along)
                change = r * p * (change - (p * change).sum(dim=1, keepdim=True))
                self._add(intercept, change)
                self._pull(pulled, columns, change)
            return np.vstack([self._gather(pulled), intercept.cpu().numpy()])

    def _errors(self) -> AbstractContextManager[None]:
        advice = "sample with --max-train-frames, or use --device cpu"
        return device_errors(self._device, "the frames and tables of this probe", advice)

    def _there(self, values: Any) -> Any:
        """Return an array on the device; float64 becomes what the device has."""
        real = values.dtype == np.float64 and self._real == self._torch.float32
        return self._torch.from_numpy(np.ascontiguousarray(values, np.float32 if real else None)).to(self._device)

    def _zeros(self, *shape: int) -> Any:
        return self._torch.zeros(shape, dtype=self._torch.float64, device=self._adding)

    def _prepared(self, unknown: Array, dtype: Any) -> tuple[Any, Any]:
        """Return the tables A W' one under the other, and the intercept."""
        there = self._there(unknown)
        return self._spread(there[:-1]).to(dtype), there[-1].to(dtype)

    def _blocks(self, dtype: Any) -> Iterator[tuple[Any, Any, Any]]:
        """Yield columns (n, n_layers), classes (n,) and weights (n, 1) of a block."""
        n = max(1, _BLOCK_CELLS // (self._problem.n_classes * self._problem.stack.n_layers))
        for start in range(0, self._problem.n_frames, n):
            y = self._y[start : start + n]
            yield self._columns[start : start + n], y, self._weight_of_class[y].to(dtype)[:, None]

    def _logits(self, columns: Any, tables: Any, intercept: Any) -> Any:
        return self._torch.nn.functional.embedding_bag(columns, tables, mode="sum") + intercept

    def _add(self, total: Any, values: Any) -> None:
        """Add a block's sum over frames, in float64 where the device has it."""
        total += values.sum(dim=0, dtype=self._real).to(self._adding).to(total.dtype)

    def _pull(self, total: Any, columns: Any, residual: Any) -> None:
        """Add a block's sums over the frames of each code."""
        of_block = self._torch.zeros(total.shape, dtype=residual.dtype, device=self._device)
        for column in columns.T:  # all layers at once would need the residual as often in memory
            of_block.index_add_(0, column, residual)
        total += of_block.to(self._adding).to(total.dtype)

    def _spread(self, coef: Any) -> Any:
        """Return `Stack.spread` on the device."""
        if self._problem.stack.representation == "cumulative":
            return (self._tables @ coef).reshape(-1, coef.shape[1])
        by_layer = coef.reshape(self._tables.shape[0], self._tables.shape[2], -1)
        return self._torch.bmm(self._tables, by_layer).reshape(-1, coef.shape[1])

    def _gather(self, sums: Any) -> Array:
        """Return `Stack.gather`, made on the device."""
        there = sums.to(self._real).to(self._device)
        by_layer = there.reshape(self._tables.shape[0], self._tables.shape[1], -1)
        gathered = self._torch.bmm(self._tables.transpose(1, 2), by_layer)
        whole = gathered.sum(dim=0) if self._problem.stack.representation == "cumulative" else gathered
        return np.asarray(whole.reshape(-1, sums.shape[1]).cpu().numpy(), dtype=np.float64)


def device_text(name: str) -> str:
    """Return what a record says of a device: its name, the card's where there is one, and torch's version."""
    import torch

    device = torch_device(name)
    card = f" {torch.cuda.get_device_name(device)}" if device.type == "cuda" else ""
    return f"{device}{card}, torch {torch.__version__}"
