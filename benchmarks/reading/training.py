"""Does a training loop wait for its rows? A softmax probe trained by minibatches, with and without its steps."""

import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from benchmarks.reading.rows import CODEC, LAYER
from featstore.torch_dataset import FrameBatches

_N_CLASSES = 70


def time_training(path: Path, batch_frames: int, n_workers: int) -> dict[str, Any]:
    """Return seconds a batch of loading alone, of the step alone, and of both together; workers are forked.

    Parameters
    ----------
    path : Path
        A store of `rows.write_rows_store`.
    batch_frames : int
    n_workers : int
    """
    with FrameBatches(path, CODEC, layers=[LAYER], batch_size=batch_frames) as dataset:
        step = _Step(dataset[0])  # opens the store and holds the codes, which forked workers share
        context = "fork" if n_workers else None
        loader = DataLoader(dataset, batch_size=None, num_workers=n_workers, multiprocessing_context=context)
        loading = _epoch(loader, lambda batch: None)
        batch = dataset[0]
        alone = _epoch([batch] * len(dataset), step)
        both = _epoch(loader, step)
        return {
            "dim": batch["embeddings"].shape[2],
            "batch_frames": batch_frames,
            "n_workers": n_workers,
            "n_batches": len(dataset),
            "ms_loading": round(loading * 1e3, 3),
            "ms_step": round(alone * 1e3, 3),
            "ms_both": round(both * 1e3, 3),
        }


class _Step:
    """One step of a softmax probe by Adam on the CPU: about the least that a training loop does with a batch."""

    def __init__(self, batch: dict[str, Any]) -> None:
        self._probe = torch.nn.Linear(batch["embeddings"].shape[2], _N_CLASSES)
        self._optimiser = torch.optim.Adam(self._probe.parameters())

    def __call__(self, batch: dict[str, Any]) -> None:
        self._optimiser.zero_grad()
        torch.nn.functional.cross_entropy(self._probe(batch["embeddings"][0]), batch["phoneme"]).backward()
        self._optimiser.step()


def _epoch(batches: Any, use: Any) -> float:
    """Return the seconds a batch of one pass, from the first batch on: starting workers is not counted."""
    iterator = iter(batches)
    use(next(iterator))
    started, n = time.perf_counter(), 0
    for batch in iterator:
        use(batch)
        n += 1
    return (time.perf_counter() - started) / max(1, n)
