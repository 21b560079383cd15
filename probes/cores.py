"""How a run shares the cores: processes that probe, and threads within a probe."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from featstore.store import Store
from probes.memory import available_bytes
from probes.options import ProbeOptions
from probes.prober import Job
from probes.representation import layers_seen
from probes.tasks import Task

# Work of all jobs from which worker processes, half a second to start, are worth it: numbers in their codebooks, and
# for probes fitted on frames, codes of their frames (0.2 ms for 50 of them, at 71 classes and 100 passes).
_WORTH_CODEBOOKS, _WORTH_CODES = 4_000_000, 1_000_000
# Of a training frame besides its codes: class, weight and what selecting it takes.
_BYTES_A_FRAME = 24
_TASK_ORDER: tuple[Task, ...] = ("pitch", "speaker", "phoneme")


def share_cores(
    todo: Sequence[Job], stores: Mapping[Path, Store], options: ProbeOptions, backend_used: str
) -> tuple[int, int]:
    """Return the number of processes and of threads in each.

    A number of processes that the user asked for is kept, with one thread in each, so that it bounds what a run takes.
    """
    if options.n_workers is not None:
        return min(options.n_workers, len(todo)), 1
    if backend_used != "exact":
        return 1, 1  # a library with threads of its own, and rows in memory
    n_cores = _n_cores()
    if options.representation == "codeword":
        codecs = [stores[job.store][job.codec] for job in todo]
        work = sum(frames.n_codewords * frames.dim for frames in codecs)
        return (min(n_cores, len(todo)) if work >= _WORTH_CODEBOOKS else 1), 1
    n_codes = [_n_codes(job, stores, options) for job in todo]
    if sum(n_codes) < _WORTH_CODES:
        return 1, 1
    n_processes = min(n_cores, len(todo), _n_fitting(todo, stores, options))
    return n_processes, max(1, n_cores // n_processes)


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
    """Return how many processes' training frames fit into half of the free memory, at least one."""
    there = available_bytes()
    needed = max(2 * _n_codes(job, stores, options) + _BYTES_A_FRAME * _n_frames(job, stores, options) for job in todo)
    return len(todo) if there is None else max(1, there // (2 * needed))


def _n_cores() -> int:
    """Return the cores this process may use (a Slurm job has fewer than the machine)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
