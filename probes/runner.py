"""Probe stores: every codec, layer and task, one record each, on disk before the next begins."""

import hashlib
import json
import logging
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from featstore import __version__
from featstore.store import Frames, Store
from probes.backends.base import Backend
from probes.backends.registry import backend as backend_called
from probes.backends.registry import resolve
from probes.errors import BackendError, ProbeError
from probes.estimator import FittedProbe, save_probe
from probes.problem import Fit, FitOptions
from probes.questions import ClassQuestion, NotApplicable, PitchQuestion, Settings, class_question, pitch_question
from probes.records import RecordFile
from probes.scores import class_scores, pitch_scores
from probes.statistics import Statistics, count_frames
from probes.tasks import TASKS, Phones, Task
from schemas.record import Record, empty_record

LOG = logging.getLogger(__name__)
# What a saved probe says of itself.
_DESCRIBED = (
    "probe_key",
    "codec",
    "layer",
    "task",
    "representation",
    "weights",
    "weights_sha256",
    "phones",
    "keep_silence",
    "standardize",
    "class_weight",
    "C",
    "n_train",
    "n_iter",
    "outcome",
    "content_digest",
)
Progress = Callable[[int, int, str], None]  # (done, total, what)


@dataclass(frozen=True)
class ProbeOptions:
    """What to probe and how; see ``cli.py probe --help``. Empty `codecs`, `layers`, `tasks` mean all."""

    backend: str = "auto"
    rows: str = "collapsed"
    codecs: Sequence[str] = ()
    layers: Sequence[int] = ()
    tasks: Sequence[str] = ()
    phones: Phones = "raw"
    keep_silence: bool = True
    standardize: bool = True
    class_weight: str = "balanced"
    max_iter: int | None = None
    tol: float | None = None
    require_gpu: bool = False

    @property
    def settings(self) -> Settings:
        """The part that changes a probe's question."""
        return Settings(self.phones, self.keep_silence, self.standardize, self.class_weight)  # type: ignore[arg-type]

    @property
    def fit(self) -> FitOptions:
        """The part that changes how it is fitted."""
        return FitOptions(self.tol, self.max_iter, self.rows)  # type: ignore[arg-type]


@dataclass(frozen=True)
class _Job:
    """One probe to be made."""

    frames: Frames
    layer: int
    task: Task
    key: str


def run_probes(
    stores: Sequence[Path], output: Path, options: ProbeOptions, progress: Progress | None = None
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
        jobs = list(_jobs(opened, options, used.name))
        results = stack.enter_context(RecordFile(output))
        finished = results.finished_keys()
        n_done = sum(job.key in finished for job in jobs)
        if n_done:
            LOG.info(
                "%d of %d probes were recorded before with these settings; they are not repeated", n_done, len(jobs)
            )
        counted: tuple[tuple[str, Path], Statistics] | None = None
        for job in jobs:
            if job.key in finished:
                continue
            place = (job.frames.name, job.frames.store.path)
            if counted is None or counted[0] != place:
                counted = place, count_frames(job.frames, lambda done, total: report(done, total, "count frames"))
            results.append(_probe(job, counted[1], options, used, fallback, output))
            n_done += 1
            report(n_done, len(jobs), f"fit {job.frames.name}")
        latest = {record["probe_key"]: record for record in results.records}
    return [latest[job.key] for job in jobs]


def _backend(options: ProbeOptions) -> tuple[Backend, str | None]:
    if options.require_gpu and options.backend != "cuml":
        raise BackendError(f"--require-gpu: the backend {options.backend} runs on the CPU; add --backend cuml")
    used, fallback = resolve(options.backend)
    if fallback is not None:
        if options.require_gpu:
            raise BackendError(f"--require-gpu: {options.backend} cannot be used: {fallback}")
        LOG.warning("%s cannot be used (%s); falling back to %s on the CPU", options.backend, fallback, used.name)
    return used, fallback


def _jobs(stores: Sequence[Store], options: ProbeOptions, backend_used: str) -> Iterator[_Job]:
    owners: dict[str, Path] = {}
    for store in stores:
        for codec in store.codec_names:
            if codec in owners:
                raise ProbeError(
                    f"{codec} is both in {owners[codec]} and in {store.path}; give one store of each codec "
                    "(merge-stores joins parts that were made with the same weights)"
                )
            owners[codec] = store.path
    unknown = [codec for codec in options.codecs if codec not in owners]
    if unknown:
        raise ProbeError(f"no codec {unknown[0]!r} in the stores given; they have {', '.join(owners) or 'none'}")
    for store in stores:
        for codec in store.codec_names:
            if not options.codecs or codec in options.codecs:
                yield from _codec_jobs(store[codec], options, backend_used)


def _codec_jobs(frames: Frames, options: ProbeOptions, backend_used: str) -> Iterator[_Job]:
    for layer in sorted(set(options.layers)) or range(1, frames.n_layers + 1):
        frames.layer(layer)  # an unknown layer is refused before anything is counted
        for task in TASKS:
            if not options.tasks or task in options.tasks:
                yield _Job(frames, layer, task, _key(frames, layer, task, options, backend_used))


def _key(frames: Frames, layer: int, task: str, options: ProbeOptions, backend_used: str) -> str:
    settings = asdict(options.settings) | asdict(options.fit)
    asked = {"backend": options.backend, "used": backend_used, "codec": frames.name, "layer": layer, "task": task}
    text = json.dumps(asked | settings | {"content": frames.store.content_digest}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _probe(
    job: _Job, statistics: Statistics, options: ProbeOptions, used: Backend, fallback: str | None, output: Path
) -> Record:
    record = _blank(job, options, used, fallback)
    question: ClassQuestion | PitchQuestion
    try:
        if job.task == "pitch":
            question = pitch_question(job.frames, statistics, job.layer, options.settings)
        else:
            question = class_question(job.frames, statistics, job.layer, job.task, options.settings)
    except NotApplicable as reason:
        return record | {"outcome": "not_applicable", "reason": str(reason)}
    refusal = used.refuses(question.problem, options.fit)
    if refusal is not None:
        if options.require_gpu:
            raise BackendError(f"--require-gpu: {used.name} refuses {job.task} of {job.frames.name}: {refusal}")
        used, fallback = backend_called("sklearn"), refusal
    fit = _fit(question, used, options)
    record |= _fit_fields(fit) | {"backend_used": used.name, "fallback_reason": fallback, "versions": _versions(used)}
    if fit.outcome == "non_finite":
        return record | {"reason": "the fit met numbers that are not finite"}
    if isinstance(question, ClassQuestion):
        record |= class_scores(question, fit)
    else:
        record |= pitch_scores(question, fit)
    return record | {"probe_file": _save(job, question, fit, record, output)}


def _fit(question: ClassQuestion | PitchQuestion, used: Backend, options: ProbeOptions) -> Fit:
    if isinstance(question, ClassQuestion):
        return used.fit_logistic(question.problem, options.fit)
    return used.fit_least_squares(question.problem, options.fit)


def _blank(job: _Job, options: ProbeOptions, used: Backend, fallback: str | None) -> Record:
    frames, is_class, is_phoneme = job.frames, job.task != "pitch", job.task == "phoneme"
    return empty_record() | {
        "probe_key": job.key,
        "codec": frames.name,
        "layer": job.layer,
        "task": job.task,
        "representation": "codeword",
        "backend_asked": options.backend,
        "backend_used": used.name,
        "fallback_reason": fallback,
        "rows": options.rows,
        "weights": frames.weights,
        "weights_sha256": frames.weights_sha256,
        "phones": options.phones if is_phoneme else None,
        "keep_silence": options.keep_silence if is_phoneme else None,
        "standardize": options.standardize,
        "class_weight": options.class_weight if is_class else None,
        "C": options.settings.C if is_class else None,
        "tol": options.tol,
        "max_iter": options.max_iter,
        "n_train": 0,
        "n_eval": 0,
        "n_unseen": 0,
        "dim": frames.dim,
        "frame_rate_hz": frames.frame_rate_hz,
        "seconds": 0.0,
        "content_digest": frames.store.content_digest,
        "store_format_version": frames.store.attributes["format_version"],
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": used.availability().device,
        "versions": _versions(used),
    }


def _fit_fields(fit: Fit) -> Record:
    return {
        "outcome": fit.outcome,
        "n_iter": fit.n_iter,
        "objective": fit.objective,
        "seconds": fit.seconds,
        "gap_estimate": fit.gap_estimate,
        "gap_bound": fit.gap_bound,
    }


def _versions(used: Backend) -> dict[str, str]:
    return {"rvqprobe": __version__, "python": platform.python_version(), "numpy": np.__version__} | used.versions()


def _save(job: _Job, question: ClassQuestion | PitchQuestion, fit: Fit, record: Record, output: Path) -> str:
    """Write the probe and return the name of its arrays' file, relative to the results folder."""
    path = output / "probes" / f"{job.frames.name}-layer{job.layer:02d}-{job.task}-{job.key[:8]}.npz"
    save_probe(
        path,
        FittedProbe(
            kind="logistic" if isinstance(question, ClassQuestion) else "linear",
            coef=fit.coef,
            intercept=fit.intercept,
            mean=question.standardiser.mean,
            scale=question.standardiser.scale,
            classes=np.array(question.classes) if isinstance(question, ClassQuestion) else None,
            metadata={name: record[name] for name in _DESCRIBED},
        ),
    )
    return str(path.relative_to(output))
