"""The pass over training frames on a GPU, through torch: codes stay on the device, blocks are large.

Sums over frames are atomic additions in no fixed order, so results differ between runs by rounding.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from probes.errors import BackendError
from probes.stacked.passes import Loss
from probes.stacked.problem import StackedLogisticProblem

Array = NDArray[np.float64]
_BLOCK_CELLS = 1 << 25  # frames times layers times classes of the rows that a gradient adds up


class TorchPass:
    """A pass by lookups (see `probes.stacked.passes.FramePass`).

    Parameters
    ----------
    problem : StackedLogisticProblem
    device : str
        A device of torch, such as ``cuda``.

    Raises
    ------
    BackendError
        When torch or the device is not there.
    """

    name = "torch lookups"

    def __init__(self, problem: StackedLogisticProblem, device: str) -> None:
        self._torch = torch = _torch_with(device)
        self._problem = problem
        self._tables = torch.from_numpy(np.ascontiguousarray(problem.stack.tables)).to(device)
        first = np.arange(problem.stack.n_layers, dtype=np.int32)[:, None] * np.int32(problem.stack.n_codewords)
        self._columns = torch.from_numpy(np.ascontiguousarray((problem.codes + first).T)).to(device)
        self._y = torch.from_numpy(problem.y.astype(np.int64)).to(device)
        self._weight_of_class = torch.from_numpy(problem.weight_of_class).to(device)
        self._device = device

    def loss(self, unknown: Array, precise: bool) -> Loss:
        """Evaluate (see `FramePass`)."""
        torch, problem = self._torch, self._problem
        dtype = torch.float64 if precise else torch.float32
        coef = torch.from_numpy(unknown).to(self._device)
        tables, intercept = self._spread(coef[:-1]).to(dtype), coef[-1].to(dtype)
        value, pulled = torch.zeros((), dtype=torch.float64, device=self._device), torch.zeros_like(tables)
        sums = torch.zeros((3, problem.n_classes), dtype=torch.float64, device=self._device)
        products = torch.zeros((problem.n_classes,) * 2, dtype=torch.float64, device=self._device)
        n = max(1, _BLOCK_CELLS // (problem.n_classes * problem.stack.n_layers))
        for start in range(0, problem.n_frames, n):
            columns, y = self._columns[start : start + n], self._y[start : start + n]
            r = self._weight_of_class[y].to(dtype)[:, None]
            log_p = torch.nn.functional.embedding_bag(columns, tables, mode="sum") + intercept
            log_p = torch.log_softmax(log_p, dim=1)
            value -= (r[:, 0] * log_p.gather(1, y[:, None])[:, 0]).sum(dtype=torch.float64)
            p = log_p.exp()
            weighted = p * r
            if precise:
                products += weighted.T @ p
            sums[1] += weighted.sum(dim=0, dtype=torch.float64)
            sums[2] += (weighted * p).sum(dim=0, dtype=torch.float64)
            weighted.scatter_add_(1, y[:, None], -r)
            sums[0] += weighted.sum(dim=0, dtype=torch.float64)
            rows = weighted[:, None].expand(-1, columns.shape[1], -1).reshape(-1, problem.n_classes)
            pulled.index_add_(0, columns.reshape(-1), rows)
        gradient = torch.vstack([self._gather(pulled.to(torch.float64)), sums[:1]]).cpu().numpy()
        curvature = (sums[1] - sums[2]).cpu().numpy()
        return Loss(float(value), gradient, curvature, products.cpu().numpy() if precise else None)

    def _spread(self, coef: Any) -> Any:
        """Return `Stack.spread` on the device."""
        if self._problem.stack.representation == "cumulative":
            return (self._tables @ coef).reshape(-1, coef.shape[1])
        by_layer = coef.reshape(self._tables.shape[0], self._tables.shape[2], -1)
        return self._torch.bmm(self._tables, by_layer).reshape(-1, coef.shape[1])

    def _gather(self, sums: Any) -> Any:
        """Return `Stack.gather` on the device."""
        by_layer = sums.reshape(self._tables.shape[0], self._tables.shape[1], -1)
        gathered = self._torch.bmm(self._tables.transpose(1, 2), by_layer)
        if self._problem.stack.representation == "cumulative":
            return gathered.sum(dim=0)
        return gathered.reshape(-1, sums.shape[1])


def _torch_with(device: str) -> Any:
    try:
        import torch
    except ImportError as error:
        raise BackendError(f"device {device} needs torch, which cannot be imported ({error}); use the CPU") from error
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise BackendError(f"device {device}: torch {torch.__version__} finds no usable GPU; use the CPU")
    return torch
