"""Probe stores: every codec, layer and task, one record each, on disk as soon as its probe ends."""

import hashlib
import json
import logging
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from itertools import groupby
from pathlib import Path

from featstore.errors import UnknownNameError
from featstore.frames import Frames
from featstore.store import Store
from featstore.verify import check_tables
from featstore.wording import counted as counted_noun
from probes.backends.base import Backend
from probes.backends.registry import backend, resolve
from probes.cores import longest_first, share_cores
from probes.counting import spans
from probes.errors import BackendError, ProbeError
from probes.latents import REFUSAL as LATENTS_REFUSED
from probes.options import ProbeOptions
from probes.pool import Call, InProcess, Pool
from probes.prober import Job, Prober
from probes.records import RecordFile
from probes.representation import Representation, layers_seen
from probes.spool import Spooled, scratch_folder
from probes.tasks import TASKS, Task
from schemas.record import Record

LOG = logging.getLogger(__name__)
Progress = Callable[[int, int, str], None]  # (done, total, what)
TaskDone = Callable[[Task, list[Record]], None]


def run_probes(
    stores: Sequence[Path],
    output: Path,
    options: ProbeOptions,
    progress: Progress | None = None,
    task_done: TaskDone | None = None,
) -> list[Record]:
    """Fit, score and record every probe asked for; those recorded before with equal settings are not repeated.

    Parameters
    ----------
    stores : sequence of Path
        Finished stores of different codecs.
    output : Path
        Results folder: ``records.jsonl``, ``records.csv`` and ``probes/``.
    options : ProbeOptions
    progress : callable (done, total, what) or None
    task_done : callable (task, records) or None
        Called as soon as the last probe of a task is recorded, with all records of the task that were asked for.

    Returns
    -------
    list of Record
        One for each probe asked for, in the order codec, layer, task, whether new or found.

    Raises
    ------
    RvqprobeError
        When a store or an option cannot be used.
    """
    report = progress or (lambda done, total, what: None)
    used, fallback = _backend(options)
    with ExitStack() as stack:
        opened = [stack.enter_context(Store(path)) for path in stores]
        for store in opened:
            check_tables(store)
        jobs = list(_jobs(opened, options, used.name))
        results = stack.enter_context(RecordFile(output))
        # what a device was too full or too broken for may be possible by now
        finished = results.finished_keys(fitted_by=used.name if used.name == "cuml" else None)
        todo = [job for job in jobs if job.key not in finished]
        if len(todo) < len(jobs):
            LOG.info(
                "%d of %s were recorded before with these settings; they are not repeated",
                len(jobs) - len(todo),
                counted_noun(len(jobs), "probe"),
            )
        if todo:
            by_path = {store.path: store for store in opened}
            n_workers, n_threads = share_cores(todo, by_path, options, used.name)
            make = Prober.maker(options, output, used.name, fallback, n_threads)
            scratch = stack.enter_context(scratch_folder(output))  # outlives the workers that write to it
            pool: Pool | InProcess = Pool(make, n_workers) if n_workers > 1 else InProcess(make)
            stack.enter_context(pool)

            def end_of(task: Task) -> None:
                if task_done is not None:
                    task_done(task, _records_of([job for job in jobs if job.task == task], results))

            _run(todo, len(jobs), options.representation, by_path, pool, scratch, results, report, end_of)
        return _records_of(jobs, results)


def _records_of(jobs: Sequence[Job], results: RecordFile) -> list[Record]:
    latest = {record["probe_key"]: record for record in results.records}
    return [latest[job.key] for job in jobs]


def _run(
    todo: list[Job],
    n_jobs: int,
    representation: Representation,
    stores: dict[Path, Store],
    pool: Pool | InProcess,
    scratch: Path,
    results: RecordFile,
    report: Progress,
    end_of: Callable[[Task], None],
) -> None:
    begin = time.perf_counter()
    counted, n_frames = _count(todo, representation, stores, pool, scratch, report)
    after_counting = time.perf_counter()
    LOG.info("counted %s frames in %.1f s", f"{n_frames:,}", after_counting - begin)
    n_done, n_left = n_jobs - len(todo), Counter(job.task for job in todo)
    ordered = longest_first(todo, stores) if pool.n_workers > 1 and representation == "codeword" else todo
    for index, record in pool.run(("probe", (job, counted[job.store, job.codec])) for job in ordered):
        results.append(record)
        n_done += 1
        report(n_done, n_jobs, f"fit {ordered[index].codec}")
        n_left[ordered[index].task] -= 1
        if not n_left[ordered[index].task]:
            end_of(ordered[index].task)
    seconds = time.perf_counter() - after_counting
    LOG.info("fitted and scored %s in %.1f s (workers: %d)", counted_noun(len(todo), "probe"), seconds, pool.n_workers)


def _count(
    todo: list[Job],
    representation: Representation,
    stores: dict[Path, Store],
    pool: Pool | InProcess,
    scratch: Path,
    report: Progress,
) -> tuple[dict[tuple[Path, str], Spooled], int]:
    """Count each codec's frames once, in the layers asked for; return what that keeps, and the number of frames.

    Probes that need no tables need the evaluation frames that the same pass checks and keeps.
    """
    calls: list[Call] = []
    folders: dict[tuple[Path, str], list[Path]] = defaultdict(list)
    for (path, codec), jobs in groupby(todo, key=lambda job: (job.store, job.codec)):
        seen = {layer for job in jobs for layer in layers_seen(representation, job.layer)}
        layers = tuple(sorted(seen)) or (1,)
        for span in spans(stores[path][codec].n_frames):
            folders[path, codec].append(scratch / f"{len(calls):03d}")
            calls.append(("count", (path, codec, layers, span, folders[path, codec][-1])))
    n_total = sum(stop - start for _, (_, _, _, (start, stop), _) in calls)
    n_done = 0
    for index, _ in pool.run(calls):
        _, _, _, (start, stop), _ = calls[index][1]
        n_done += stop - start
        report(n_done, n_total, "count frames")
    return {place: Spooled(kept) for place, kept in folders.items()}, n_total


def _backend(options: ProbeOptions) -> tuple[Backend, str | None]:
    if options.require_gpu and options.backend != "cuml" and options.fit_device == "cpu":
        raise BackendError(
            f"--require-gpu: the backend {options.backend} runs on the CPU; add --backend cuml, or --device cuda"
        )
    used, fallback = resolve(options.backend)
    if options.representation == "latent" and used.name == "exact":
        if options.backend == "exact":
            LOG.warning("exact cannot be used (%s); falling back to sklearn", LATENTS_REFUSED)
        return backend("sklearn"), LATENTS_REFUSED
    if fallback is not None:
        if options.require_gpu:
            raise BackendError(f"--require-gpu: {options.backend} cannot be used: {fallback}")
        LOG.warning("%s cannot be used (%s); falling back to %s on the CPU", options.backend, fallback, used.name)
    return used, fallback


def _jobs(stores: Sequence[Store], options: ProbeOptions, backend_used: str) -> Iterator[Job]:
    owners: dict[str, Path] = {}
    for store in stores:
        for codec in store.codec_names:
            if codec in owners and (not options.codecs or codec in options.codecs):
                raise ProbeError(
                    f"{codec} is both in {owners[codec]} and in {store.path}; give one store of each codec "
                    "(merge-stores joins parts that were made with the same weights)"
                )
            owners[codec] = store.path
    unknown = [codec for codec in options.codecs if codec not in owners]
    if unknown:
        raise UnknownNameError(f"no codec {unknown[0]!r} in the stores given; they have {', '.join(owners) or 'none'}")
    for store in stores:
        for codec in store.codec_names:
            if not options.codecs or codec in options.codecs:
                yield from _codec_jobs(store[codec], options, backend_used)


def _codec_jobs(frames: Frames, options: ProbeOptions, backend_used: str) -> Iterator[Job]:
    for layer in _layers(frames, options):
        for task in TASKS:
            if not options.tasks or task in options.tasks:
                yield Job(frames.store.path, frames.name, layer, task, _key(frames, layer, task, options, backend_used))


def _layers(frames: Frames, options: ProbeOptions) -> Sequence[int | None]:
    """Return the layers to probe; what the store does not have is refused before anything is counted."""
    if options.representation == "latent":
        if not frames.has_latents:
            raise ProbeError(
                f"{frames.store.path}:/codecs/{frames.name}/latents: expected the encoder's output before "
                "quantisation, found none (build-store --store-latents writes it); "
                "use --representation codeword, cumulative or concat, or --codec with a codec that has it"
            )
        return [None]
    for layer in options.layers:
        frames.layer(layer)  # raises for an unknown one
    return sorted(set(options.layers)) or range(1, frames.n_layers + 1)


def _key(frames: Frames, layer: int | None, task: str, options: ProbeOptions, backend_used: str) -> str:
    asked = {"backend": options.backend, "used": backend_used, "codec": frames.name, "layer": layer, "task": task}
    fit = asdict(options.fit)
    del fit["device"]  # no part of the question
    asked |= asdict(options.settings) | fit | asdict(options.scoring)
    asked |= {"eval_by": options.eval_by, "content": frames.store.content_digest}
    if options.representation != "codeword":  # which are not sampled
        asked |= {"representation": options.representation, "max_train_frames": options.max_train_frames}
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
