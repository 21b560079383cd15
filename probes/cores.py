"""How a run shares the cores: processes that probe, and threads within a probe."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from featstore.memory import available_bytes
from featstore.store import Store
from featstore.torch_device import torch_device
from probes.options import ProbeOptions
from probes.prober import Job
from probes.representation import layers_seen
from probes.stacked.metric import MAX_BLOCK_BYTES
from probes.tasks import Task

# Work of all jobs from which worker processes, half a second to start, are worth it: numbers in their codebooks, and
# for probes fitted on frames, codes of their frames (0.2 ms for 50 of them, at 71 classes and 100 passes).
_WORTH_CODEBOOKS, _WORTH_CODES = 4_000_000, 1_000_000
# Of a training frame besides its codes: class, weight and what selecting it takes.
_BYTES_A_FRAME = 24
# Of a number in the layers' tables: as read, standardised and centred, each in float64, and float32 for passes.
_BYTES_A_TABLE_ENTRY = 40
# Of a number in a regression's second moment: it and its factor.
_BYTES_A_MOMENT_ENTRY = 16
# Of a coefficient of a classification: pairs of the quasi-Newton memory and of conjugate gradients, and points.
_BYTES_A_COEFFICIENT = 240
_TASK_ORDER: tuple[Task, ...] = ("pitch", "speaker", "phoneme")


def share_cores(
    todo: Sequence[Job], stores: Mapping[Path, Store], options: ProbeOptions, backend_used: str
) -> tuple[int, int]:
    """Return the number of processes and of threads in each.

    Numbers that the user asked for are kept; processes that were asked for have one thread each unless threads were
    too, so that they bound what a run takes. A GPU is left to one process.

    Raises
    ------
    FeatstoreError
        When the device that was asked for is not there: before anything is counted.
    """
    on_device = options.fit_device != "cpu"
    if on_device:
        torch_device(options.fit_device)
    if options.n_workers is not None:
        return min(options.n_workers, len(todo)), options.n_threads or 1
    if backend_used != "exact" or on_device:
        return 1, options.n_threads or 1  # a library with threads of its own, and rows in memory; or a GPU
    n_cores = _n_cores()
    if options.representation == "codeword":
        codecs = [stores[job.store][job.codec] for job in todo]
        work = sum(frames.n_codewords * frames.dim for frames in codecs)
        return (min(n_cores, len(todo)) if work >= _WORTH_CODEBOOKS else 1), 1
    if sum(_n_codes(job, stores, options) for job in todo) < _WORTH_CODES:
        return 1, options.n_threads or 1
    n_processes = min(max(1, n_cores // (options.n_threads or 1)), len(todo), _n_fitting(todo, stores, options))
    return n_processes, options.n_threads or max(1, n_cores // n_processes)


def longest_first(todo: Sequence[Job], stores: Mapping[Path, Store]) -> list[Job]:
    """Return the jobs such that processes end together, and that tasks end early for their figures to be drawn.

    Pitch first, which is solved in one factorisation, then speakers, then phonemes: what comes last are the phonemes of
    the narrowest codebook, short fits again. In a task wide codebooks come before narrow ones, and deep layers, whose
    codes say less and need more iterations, before shallow ones.
    """
    return sorted(
        todo,
        key=lambda job: (_TASK_ORDER.index(job.task), -stores[job.store][job.codec].dim, -(job.layer or 0)),
    )


def _n_codes(job: Job, stores: Mapping[Path, Store], options: ProbeOptions) -> int:
    return _n_frames(job, stores, options) * len(layers_seen(options.representation, job.layer))


def _n_frames(job: Job, stores: Mapping[Path, Store], options: ProbeOptions) -> int:
    n_frames = stores[job.store][job.codec].n_frames
    return n_frames if options.max_train_frames is None else min(n_frames, options.max_train_frames)


def _n_fitting(todo: Sequence[Job], stores: Mapping[Path, Store], options: ProbeOptions) -> int:
    """Return how many processes' fits have room in half of the free memory, at least one."""
    there = available_bytes()
    needed = max(bytes_of_fit(job, stores, options) for job in todo)
    return len(todo) if there is None else max(1, there // (2 * needed))


def bytes_of_fit(job: Job, stores: Mapping[Path, Store], options: ProbeOptions) -> int:
    """Return about how much memory a cumulative or concat fit takes at its peak: frames, tables, and what it solves."""
    frames = stores[job.store][job.codec]
    n_layers = len(layers_seen(options.representation, job.layer))
    row = frames.dim * (n_layers if options.representation == "concat" else 1)
    of_frames = 2 * _n_codes(job, stores, options) + _BYTES_A_FRAME * _n_frames(job, stores, options)
    of_tables = _BYTES_A_TABLE_ENTRY * n_layers * frames.n_codewords * frames.dim
    if job.task == "pitch":
        return of_frames + of_tables + _BYTES_A_MOMENT_ENTRY * row**2
    n_classes = len(frames.store.strings(f"vocab/{job.task}s"))
    blocks = min(MAX_BLOCK_BYTES, 4 * n_classes * row * frames.dim)
    return of_frames + of_tables + blocks + _BYTES_A_COEFFICIENT * n_classes * row


def _n_cores() -> int:
    """Return the cores this process may use (a Slurm job has fewer than the machine)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
