"""A layer's rows from a store's file to the device, GB of rows a second, from the page cache."""

from collections.abc import Callable
from typing import Any, Literal

import torch

from benchmarks.gpu.piece import Asked, significant, timed
from benchmarks.reading.rows import CODEC, LAYER, Rows, draw_rows, write_rows_store
from featstore.layer import Layer
from featstore.store import Store

_BLOCK_FRAMES = 1 << 16
_SIZES = ((128, 2_000_000), (1024, 250_000))  # dim, frames: 1 GB of rows each
_SMALL_SIZES = ((128, 4_000), (1024, 1_000))
_REPEATS = 3
Reader = Callable[[Layer, torch.Tensor], None]


def run(asked: Asked) -> dict[str, Any]:
    """Write stores, read their layer in several ways, and return the record."""
    found = []
    for dim, n_frames in _SMALL_SIZES if asked.small else _SIZES:
        rows = draw_rows(n_frames, dim, seed=0)
        for layout in ("dense", "factored"):
            found += read_store(asked, rows, layout)  # type: ignore[arg-type]
    return {"cache": "warm: just written", "block_frames": _BLOCK_FRAMES, "repeats": _REPEATS, "rows": found}


def read_store(asked: Asked, rows: Rows, layout: Literal["dense", "factored"]) -> list[dict[str, Any]]:
    """Return the speed of each way to read one store; every way has to give the same rows."""
    path = asked.work / f"read-{layout}-{rows.dim}.h5"
    write_rows_store(path, rows, layout)
    target = torch.empty((rows.n_frames, rows.dim), dtype=torch.float32, device=asked.torch_device)
    expected = torch.from_numpy(rows.layer())
    ways: dict[str, Reader] = {
        "read_into, pinned": _Pinned(asked, rows.dim).read,
        "codes, gathered there": gather_there,
    }
    if layout == "dense":
        ways["stored rows"] = read_stored
    found = []
    with Store(path) as store:
        layer = store[CODEC].layer(LAYER)
        for name, read in ways.items():
            seconds = []
            for _ in range(_REPEATS):
                with timed(asked) as clock:
                    read(layer, target)
                seconds.append(clock.seconds)
            speed = expected.nbytes / 1e9 / min(seconds)
            found.append({"dim": rows.dim, "n_frames": rows.n_frames, "layout": layout, "way": name})
            found[-1] |= {"gb_per_second": significant(speed), "is_equal": bool(torch.equal(target.cpu(), expected))}
            target.zero_()
    path.unlink()
    return found


class _Pinned:
    """Rows through two pinned buffers: one is filled while the other's copy is on its way."""

    def __init__(self, asked: Asked, dim: int) -> None:
        self._is_gpu = asked.is_gpu
        self._buffers = [torch.empty((_BLOCK_FRAMES, dim), pin_memory=asked.is_gpu) for _ in range(2)]

    def read(self, layer: Layer, target: torch.Tensor) -> None:
        events: list[Any] = [None, None]
        for place, start in enumerate(range(0, len(layer), _BLOCK_FRAMES)):
            stop, which = min(start + _BLOCK_FRAMES, len(layer)), place % 2
            if events[which] is not None:
                events[which].synchronize()
            rows = self._buffers[which][: stop - start]
            layer.read_into(rows.numpy(), start, stop)
            target[start:stop].copy_(rows, non_blocking=True)
            if self._is_gpu:
                events[which] = torch.cuda.Event()
                events[which].record()


def gather_there(layer: Layer, target: torch.Tensor) -> None:
    """Bring codes and codebook to the device, and look the rows up there."""
    codebook = torch.from_numpy(layer.codebook.copy()).to(target.device)
    for start in range(0, len(layer), _BLOCK_FRAMES):
        stop = min(start + _BLOCK_FRAMES, len(layer))
        codes = torch.from_numpy(layer.codes(start, stop).astype("int32")).to(target.device)
        torch.index_select(codebook, 0, codes, out=target[start:stop])


def read_stored(layer: Layer, target: torch.Tensor) -> None:
    """Read the rows that a dense file holds, which only a check has to do: `read_into` makes them from codes."""
    for start in range(0, len(layer), _BLOCK_FRAMES):
        stop = min(start + _BLOCK_FRAMES, len(layer))
        rows = layer.stored_rows(start, stop)
        assert rows is not None
        target[start:stop].copy_(torch.from_numpy(rows))
