"""Make one probe: from a layer's tables, or a codec's frames, to its record and its saved file.

A `Prober` works in the runner's own process or in a worker process; it opens stores when a call first needs them.
"""

import platform
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featstore import __version__
from featstore.frames import Frames
from featstore.store import Store
from probes.asked import Asked, AskedOfCodeword, AskedOfLayers, device_of_fit
from probes.backends.base import Backend
from probes.backends.registry import backend as backend_called
from probes.bootstrap import resampled_path, save_resampled
from probes.counting import count_frames
from probes.estimator import FittedProbe, save_probe
from probes.evaluation import EvaluationFrames
from probes.fallback import Fitter
from probes.frame_labels import held_out_blocks, held_out_per_class, of_class, voiced
from probes.held_out import evaluation_split
from probes.latents import ask_latents
from probes.options import ProbeOptions
from probes.problem import Design, Fit
from probes.questions import NotApplicable, class_question, pitch_question, task_classes
from probes.representation import place_text
from probes.spool import Spool, Spooled
from probes.stacked.question import stacked_question
from probes.stacked.training import FrameSample
from probes.tasks import Task
from schemas.record import Record, empty_record
from schemas.store import EVAL

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
    "max_train_frames",
    "n_train",
    "n_iter",
    "outcome",
    "content_digest",
)


@dataclass(frozen=True)
class Job:
    """One probe to be made; `layer` is None for latents, `key` its record's ``probe_key``."""

    store: Path
    codec: str
    layer: int | None
    task: Task
    key: str


class Prober:
    """Counts and probes on request.

    Parameters
    ----------
    options : ProbeOptions
    output : Path
        Results folder, for saved probes.
    backend : str
        Name of the backend to use.
    fallback : str or None
        Why it is not the one that was asked for.
    n_threads : int
        Threads of a fit that can share its frames among them.
    """

    def __init__(
        self, options: ProbeOptions, output: Path, backend: str, fallback: str | None, n_threads: int = 1
    ) -> None:
        self._options = options
        self._output = output
        self._n_threads = n_threads
        self._fitter = Fitter(backend_called(backend), fallback, options.require_gpu)
        self._open = ExitStack()
        self._stores: dict[Path, Store] = {}
        self._codecs: dict[tuple[Path, str], Frames] = {}  # which keep the codebooks they have read
        self._counts: dict[tuple[Path, str, Task], Record] = {}
        self._evaluation: tuple[tuple[Path, str], EvaluationFrames] | None = None
        self._codes: tuple[tuple[Path, str, int], NDArray[np.uint16]] | None = None

    @classmethod
    def maker(
        cls, options: ProbeOptions, output: Path, backend: str, fallback: str | None, n_threads: int = 1
    ) -> "partial[Prober]":
        """Return a picklable function without arguments that makes the prober."""
        return partial(cls, options, output, backend, fallback, n_threads)

    def close(self) -> None:
        """Close the stores."""
        self._open.close()

    def count(self, store: Path, codec: str, layers: tuple[int, ...], span: tuple[int, int], folder: Path) -> None:
        """Count a span of a codec's frames; keep its tables and its evaluation frames in `folder`."""
        frames = self._frames(store, codec)
        with Spool(folder, layers) as spool:
            spool.keep(count_frames(frames, layers, self._split(frames), span, spool))

    def probe(self, job: Job, spooled: Spooled) -> Record:
        """Fit, score and save one probe; return its record."""
        frames = self._frames(job.store, job.codec)
        record = self._blank(job, frames)
        try:
            asked = self._ask(job, frames, spooled)
        except NotApplicable as reason:
            return record | self._frame_counts(job, frames) | {"outcome": "not_applicable", "reason": str(reason)}
        name = _name(job, self._options.representation)
        fit, used, fallback = self._fitter.fit(asked, self._options.fit, name)
        record |= _fit_fields(fit)
        record |= {"backend_used": used.name, "fallback_reason": fallback, "versions": _versions(used)}
        record |= {
            "n_threads": asked.n_threads(used, self._options.fit),
            "device": device_of_fit(asked, used, self._options.fit),
        }
        if fit.outcome == "non_finite":
            return record | self._frame_counts(job, frames) | {"reason": "the fit met numbers that are not finite"}
        scores = asked.scores(fit, self._evaluation_of(job, frames, spooled), self._options.scoring)
        record |= scores.fields
        record["probe_file"] = _save(job, asked, fit, record, self._output)
        if scores.resamples is not None and scores.values is not None:
            save_resampled(resampled_path(self._output, record["probe_file"]), scores.resamples, scores.values)
        return record

    def _ask(self, job: Job, frames: Frames, spooled: Spooled) -> Asked:
        """Return the job's question; raises NotApplicable where it cannot be asked."""
        options, settings = self._options, self._options.settings
        if job.task == "speaker" and options.eval_by == "speaker":
            raise NotApplicable("speaker cannot be asked of unseen speakers; use --eval-by utterance")
        representation, sample = options.representation, (options.max_train_frames, options.seed)
        split = self._split(frames)
        if split is not None and not (split == EVAL).any():
            n_speakers = len(np.unique(frames.store.numbers("utterances/speaker")))
            raise NotApplicable(
                f"{job.task} of unseen speakers needs at least two speakers, found {n_speakers}; "
                "use --eval-by utterance"
            )
        if representation == "latent":
            return ask_latents(frames, job.task, settings, split, *sample)
        assert job.layer is not None
        if representation != "codeword":
            question = stacked_question(frames, job.task, job.layer, representation, settings, split, *sample)
            return AskedOfLayers(question, _name(job, representation), self._n_threads)
        tables = spooled.tables(job.layer)
        codes = partial(self._codes_of, job)
        if job.task == "pitch":
            return AskedOfCodeword(pitch_question(frames, tables, job.layer, settings, split), codes)
        return AskedOfCodeword(class_question(frames, tables, job.layer, job.task, settings, split), codes)

    def _frames(self, store: Path, codec: str) -> Frames:
        if store not in self._stores:
            self._stores[store] = self._open.enter_context(Store(store))
        if (store, codec) not in self._codecs:
            self._codecs[store, codec] = self._stores[store][codec]
        return self._codecs[store, codec]

    def _frame_counts(self, job: Job, frames: Frames) -> Record:
        """Return how many frames a probe without scores is about; a codec's layers have them in common."""
        place = (job.store, job.codec, job.task)
        if place not in self._counts:
            self._counts[place] = _frame_counts(frames, job.task, self._options, self._split(frames))
        return self._counts[place]

    def _evaluation_of(self, job: Job, frames: Frames, spooled: Spooled) -> EvaluationFrames:
        place = (job.store, job.codec)
        if self._evaluation is None or self._evaluation[0] != place:
            self._evaluation = place, EvaluationFrames(frames, self._split(frames), spooled)
        return self._evaluation[1]

    def _split(self, frames: Frames) -> NDArray[np.int8] | None:
        return evaluation_split(frames.store, self._options.eval_by, self._options.seed)

    def _codes_of(self, job: Job, evaluation: EvaluationFrames) -> NDArray[np.uint16]:
        """Return the layer's evaluation codes; the last are kept: in one process a layer's tasks follow each other."""
        assert job.layer is not None
        place = (job.store, job.codec, job.layer)
        if self._codes is None or self._codes[0] != place:
            self._codes = place, evaluation.codes(job.layer)
        return self._codes[1]

    def _blank(self, job: Job, frames: Frames) -> Record:
        backend = self._fitter.backend
        options, is_class, is_phoneme = self._options, job.task != "pitch", job.task == "phoneme"
        return empty_record() | {
            "probe_key": job.key,
            "codec": frames.name,
            "layer": job.layer,
            "task": job.task,
            "representation": options.representation,
            "backend_asked": options.backend,
            "backend_used": backend.name,
            "fallback_reason": self._fitter.reason,
            "rows": options.fit.rows,
            "max_train_frames": options.max_train_frames,
            "weights": frames.weights,
            "weights_sha256": frames.weights_sha256,
            "phones": options.phones if is_phoneme else None,
            "keep_silence": options.keep_silence if is_phoneme else None,
            "standardize": options.standardize,
            "class_weight": options.class_weight if is_class else None,
            "C": options.settings.C if is_class else None,
            "eval_by": options.eval_by,
            "seed": options.seed,
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
            "n_threads": 1 if backend.name == "exact" else None,
            "device": backend.availability().device,
            "versions": _versions(backend),
        }


def _frame_counts(frames: Frames, task: Task, options: ProbeOptions, split: NDArray[np.int8] | None) -> Record:
    """Count a task's training frames, or their sample, and its evaluation frames of seen and of unseen classes."""
    sample = partial(FrameSample, frames, split=split, max_frames=options.max_train_frames, seed=options.seed)
    if task == "pitch":
        n_eval = sum(int(taken.sum()) for _, taken in held_out_blocks(frames, "f0", voiced, split))
        return {"n_train": sample("f0", voiced).n_frames, "n_eval": n_eval, "n_unseen": 0}
    classes = task_classes(frames, task, options.settings)
    held_out = held_out_per_class(frames, task, classes, split)
    n_train = np.zeros_like(held_out)
    for _, _, _, values in sample(task, partial(of_class, classes)).blocks():
        n_train += np.bincount(values, minlength=len(n_train))
    seen = n_train > 0
    return {"n_train": int(n_train.sum()), "n_eval": int(held_out[seen].sum()), "n_unseen": int(held_out[~seen].sum())}


def _fit_fields(fit: Fit) -> Record:
    return {
        "outcome": fit.outcome,
        "n_iter": fit.n_iter,
        "objective": fit.objective,
        "seconds": fit.seconds,
        "gap_estimate": fit.gap_estimate,
        "gap_bound": fit.gap_bound,
    } | _design_fields(fit.design)


def _design_fields(design: Design | None) -> Record:
    if design is None:
        return {}
    return {
        "design": design.kind,
        "design_rows": design.n_rows,
        "design_rows_asked": design.n_rows_asked,
        "design_note": design.note or None,
    }


def _versions(used: Backend) -> dict[str, str]:
    return {"rvqprobe": __version__, "python": platform.python_version(), "numpy": np.__version__} | used.versions()


def _name(job: Job, representation: str) -> str:
    """Return what to call a probe in messages."""
    return f"{representation} {job.task} probe of {job.codec}, layer {place_text(representation, job.layer)}"


def _save(job: Job, asked: Asked, fit: Fit, record: Record, output: Path) -> str:
    """Write the probe and return the name of its arrays' file, relative to the results folder."""
    representation = record["representation"]
    parts = [job.codec, *([] if representation == "codeword" else [representation])]
    parts += [*([] if job.layer is None else [f"layer{job.layer:02d}"]), job.task, job.key[:8]]
    path = output / "probes" / f"{'-'.join(parts)}.npz"
    save_probe(
        path,
        FittedProbe(
            kind="linear" if asked.classes is None else "logistic",
            coef=fit.coef,
            intercept=fit.intercept,
            mean=asked.standardiser.mean,
            scale=asked.standardiser.scale,
            classes=None if asked.classes is None else np.array(asked.classes),
            metadata={name: record[name] for name in _DESCRIBED},
        ),
    )
    return str(path.relative_to(output))
