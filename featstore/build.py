"""Build a store: scan, split, weights, shards, merge. Run the same call again to resume it."""

import contextlib
import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from featstore import trust
from featstore.atomic import discard_leftovers, rename
from featstore.batches import choose_batch_s
from featstore.codecs.base import Codec
from featstore.codecs.choose import WeightsRequest, check_weights, find_checkpoint
from featstore.codecs.device import choose_device, describe_device
from featstore.codecs.precision import check_precision, measure_changes, set_precision
from featstore.codecs.registry import codec_family
from featstore.corpora.base import Utterance
from featstore.errors import StoreError
from featstore.header import SkippedRow, read_skipped, read_utterances
from featstore.inputs import check_same_inputs, hash_inputs
from featstore.lock import hold_lock
from featstore.merge import merge_stores
from featstore.plan import BuildOptions, BuildPlan, BuildResult
from featstore.progress import Progress
from featstore.shard import (
    Finished,
    ShardJob,
    Slice,
    build_shards,
    check_same_options,
    find_finished,
    producer_versions,
)
from featstore.split import write_split
from featstore.store import Store
from featstore.verify import verify_store
from featstore.wording import counted
from featstore.workers import choose_workers
from schemas.errors import SchemaError

LOG = logging.getLogger(__name__)
_RETRIED = "retried-{}.h5"  # a shard of utterances taken up after the store was finished
_PACKAGES = (
    "numpy",
    "torch",
    "torchaudio",
    "encodec",
    "speechtokenizer",
    "librosa",
    "scipy",
    "soundfile",
    "textgrid",
    "h5py",
)


@dataclass(frozen=True)
class Built(Finished):
    """A whole output: what it skipped, and what it was merged from."""

    shard_digests: frozenset[str] = frozenset()
    has_latents: bool = False


def build_store(plan: BuildPlan, progress: Progress | None = None) -> BuildResult:
    """Build (or resume, or find finished) the store of a plan.

    Finished shards of equal inputs, options and weights are reused, whoever made them. An interruption at any moment
    loses at most the shard under way.

    Raises
    ------
    FeatstoreError
        When another process writes this output, weights are missing, what stands there was built with other options
        or from other files, or no utterance can be used.
    """
    options = plan.options
    for name, request in options.weights.items():
        check_weights(name, request)
    with contextlib.ExitStack() as locks:
        locks.enter_context(hold_lock(options.output, shared=options.shard is not None))
        if options.shard:
            locks.enter_context(hold_lock(plan.shard_path(options.shard[0] - 1)))
        return _build(plan, progress or _no_progress)


def _no_progress(done: int, total: int, what: str, note: str = "") -> None:
    pass


def _build(plan: BuildPlan, report: Progress) -> BuildResult:
    options = plan.options
    device = choose_device(options.device)
    check_precision(options.precision, device)
    codecs = {name: _load(name, request, plan, device) for name, request in options.weights.items()}
    set_precision(codecs.values(), options.precision)
    job = _job(plan, codecs, device)
    if options.shard:
        return _build_one(plan, job, options.shard[0] - 1, report)
    discard_leftovers(options.output, is_alone=True)
    asked = job.attributes["build_options"]
    there = find_built(plan, asked)
    if there is not None:
        _keep_split(plan)
        return _take_up(plan, job, there, report)
    found = [find_finished(plan.shard_path(index), asked, slice_) for index, slice_ in enumerate(plan.slices)]
    _keep_split(plan)
    result = BuildResult(options.output)
    to_build = []
    for index, finished in enumerate(found):
        if finished is not None and not _is_to_retry(plan, finished):
            _note_repaired(finished.repaired)
            result.n_reused += 1
        else:
            to_build.append(index)
    n_reused = sum(len(slice_) for index, slice_ in enumerate(plan.slices) if index not in to_build)
    report(n_reused, len(plan.utterances), "encode")
    result.seconds = _build_slices(plan, job, to_build, report, n_reused, len(plan.utterances))
    result.n_built = len(to_build)
    shards = [plan.shard_path(index) for index in range(len(plan.slices))]
    _check_some_frames(plan, shards)
    _merge(plan, shards, report)
    result.skipped = _skipped(options.output)
    return result


def _merge(plan: BuildPlan, parts: Sequence[Path], report: Progress) -> None:
    """Merge into a file beside the output, verify that, give it its name, and only then remove what went into it."""
    options, staged = plan.options, plan.staged_path
    _discard_staged(plan)
    merge_stores(
        parts,
        staged,
        options.embeddings,
        options.compression,
        progress=lambda done, total: report(done, total, "merge"),
    )
    try:
        verify_store(staged, full=True, progress=report)
    except StoreError:
        _discard_staged(plan)  # damaged on its way to the disk: the shards are whole, and are merged anew next time
        raise
    trust.forget(staged)
    rename(staged, options.output)
    trust.remember(options.output, trust.identity_of(options.output))
    _remove_shards(plan, [path for path in parts if path != options.output])


def _discard_staged(plan: BuildPlan) -> None:
    """Remove what an earlier build merged but did not live to verify: merging again takes less than it is worth."""
    trust.forget(plan.staged_path)
    plan.staged_path.unlink(missing_ok=True)
    discard_leftovers(plan.staged_path, is_alone=True)


def _remove_shards(plan: BuildPlan, paths: Iterable[Path]) -> None:
    """Remove shards that are merged, and their folder if nothing else is in it."""
    for path in paths:
        trust.forget(path)
        path.unlink(missing_ok=True)
        discard_leftovers(path, is_alone=True)
    with contextlib.suppress(OSError):  # another build's shards stand there too
        plan.shards_folder.rmdir()


def _take_up(plan: BuildPlan, job: ShardJob, there: Built, report: Progress) -> BuildResult:
    """Leave a finished store as it is, or encode what has been repaired since and add that."""
    options = plan.options
    result = BuildResult(options.output, n_reused=len(plan.slices), skipped=_reasons(there.skipped))
    again = [utterance for utterance in plan.utterances if utterance.id in there.repaired]
    if not (options.retry_skipped and again):
        LOG.info("%s is already built from these inputs; nothing to do", options.output)
        _note_repaired(there.repaired)
        # of a build that ended between the store's last byte and now
        _discard_staged(plan)
        merged = [path for path in _shards_there(plan) if _digest_of(path) in there.shard_digests]
        _remove_shards(plan, merged)
        return result
    if there.has_latents != options.store_latents:  # not as its build left it, whose options are these
        found = "some" if there.has_latents else "none"
        raise StoreError(
            f"{options.output}: expected {'' if options.store_latents else 'no '}latents (--store-latents), found "
            f"{found}, which a retry cannot add to; build it again with another --output"
        )
    slices = _retry_slices(plan, again)
    asked = job.attributes["build_options"]
    there_already = [find_finished(slice_.path, asked, slice_.utterances) for slice_ in slices]
    left = [slice_ for slice_, done in zip(slices, there_already, strict=True) if done is None or done.repaired]
    result.seconds = build_shards(left, _measured(plan, job, left), 0, _counting(report, 0, len(again)))
    result.n_built = len(left)
    skipped = dict(there.skipped)
    n_new = 0
    for slice_ in slices:
        with Store(slice_.path) as store:
            n_new += store.n_utterances
            skipped |= read_skipped(store)
    if n_new:
        _merge(plan, [options.output, *(slice_.path for slice_ in slices)], report)
        result.skipped = _skipped(options.output)
    else:  # nothing to add: the store stays, and the reasons of today are told
        result.skipped = _reasons(skipped)
    _remove_shards(plan, plan.shards_folder.glob(_RETRIED.format("*")))
    return result


def _retry_slices(plan: BuildPlan, utterances: Sequence[Utterance]) -> list[Slice]:
    """Return the shards in which repaired utterances are taken up; their names tell which utterances they hold."""
    n = plan.options.shard_utterances
    pieces = [utterances[first : first + n] for first in range(0, len(utterances), n)]
    ids = (hashlib.sha256("\0".join(item.id for item in piece).encode()).hexdigest()[:16] for piece in pieces)
    return [Slice(plan.shards_folder / _RETRIED.format(id_), piece) for id_, piece in zip(ids, pieces, strict=True)]


def _shards_there(plan: BuildPlan) -> list[Path]:
    own = [path for index in range(len(plan.slices)) if (path := plan.shard_path(index)).exists()]
    return [*own, *plan.shards_folder.glob(_RETRIED.format("*"))]


def _digest_of(path: Path) -> str:
    """Return the content digest of a shard; empty where it cannot be had."""
    try:
        with Store(path) as store:
            return store.content_digest
    except (StoreError, SchemaError):
        return ""


def _is_to_retry(plan: BuildPlan, finished: Finished) -> bool:
    return plan.options.retry_skipped and bool(finished.repaired)


def _note_repaired(ids: Sequence[str]) -> None:
    if ids:
        LOG.warning(
            "note: %s that could not be used may be by now (%s): files are others, or there was too little memory; "
            "--retry-skipped takes them up",
            counted(len(ids), "utterance"),
            ", ".join(ids[:5]) + (", ..." if len(ids) > 5 else ""),
        )


def _load(name: str, request: WeightsRequest, plan: BuildPlan, device: str) -> Codec:
    with contextlib.ExitStack() as stack:
        if request.kind != "checkpoint":  # made or downloaded once: tasks of a job array wait for the first
            stack.enter_context(hold_lock(plan.weights_folder, wait=True))
        checkpoint = find_checkpoint(name, request, plan.scanned, plan.options.seed, plan.weights_folder)
    return codec_family(name).load(checkpoint, device)


def _job(plan: BuildPlan, codecs: Mapping[str, Codec], device: str) -> ShardJob:
    options = plan.options
    weights = {name: f"{codec.weights} {codec.weights_sha256}" for name, codec in sorted(codecs.items())}
    attributes = {
        "corpus": {"name": "librispeech layout", "split": options.split, "n_scanned": len(plan.scanned)},
        "build_options": recorded_options(options, weights),
        "producer_versions": producer_versions(_PACKAGES),
    }
    batch_s = 0.0 if options.store_latents else choose_batch_s(options.batch_s, codecs, device)
    return ShardJob(
        codecs,
        plan.split,
        options.f0,
        describe_device(device),
        attributes,
        options.store_latents,
        batch_s,
        encoding={"batch_s": batch_s} if batch_s else {},
    )


def _measured(plan: BuildPlan, job: ShardJob, slices: Sequence[Slice]) -> ShardJob:
    """Return the job with what its precision changes, where it is not float32 and there is something to encode."""
    precision = plan.options.precision
    if precision == "float32" or not any(slice_.utterances for slice_ in slices):
        return job
    changes = measure_changes(job.codecs, plan.scanned, plan.options.seed, precision)
    return replace(job, encoding={**job.encoding, "precision": precision, "changed_codes": changes})


def recorded_options(options: BuildOptions, weights: Mapping[str, str]) -> dict[str, Any]:
    """Return the options that a store records and that a resumed build must share; `weights` is kind and hash."""
    return {
        "seed": options.seed,
        "eval_frac": options.eval_frac,
        "f0": options.f0,
        "max_utterances": options.max_utterances or 0,
        "weights": dict(weights),
        "embeddings": options.embeddings,
        "compression": options.compression,
        **({"store_latents": True} if options.store_latents else {}),
        **({"precision": options.precision} if options.precision != "float32" else {}),
    }


def _build_one(plan: BuildPlan, job: ShardJob, index: int, report: Progress) -> BuildResult:
    path = plan.shard_path(index)
    result = BuildResult(None, path)
    finished = find_finished(path, job.attributes["build_options"], plan.slices[index])
    _keep_split(plan)
    if finished is not None and not _is_to_retry(plan, finished):
        _note_repaired(finished.repaired)
        result.n_reused = 1
    else:
        result.seconds = _build_slices(plan, job, [index], report, 0, len(plan.slices[index]))
        result.n_built = 1
    result.skipped = _skipped(path)
    return result


def _build_slices(
    plan: BuildPlan, job: ShardJob, indices: Sequence[int], report: Progress, n_before: int, n_total: int
) -> dict[str, float]:
    # files that belong to no slice are listed as skipped by the first shard
    slices = [
        Slice(plan.shard_path(index), plan.slices[index], plan.irregular if index == 0 else {}) for index in indices
    ]
    n_workers = choose_workers(plan.options.workers, sum(len(slice_.utterances) for slice_ in slices), job.device)
    return build_shards(slices, _measured(plan, job, slices), n_workers, _counting(report, n_before, n_total))


def _keep_split(plan: BuildPlan) -> None:
    """Write ``split.json`` where it is not there or was asked anew; called when nothing can refuse the build any more.

    A refused build that had replaced it would leave a split that does not belong to the store beside it.
    """
    if not plan.split_path.exists() or plan.options.force_resplit:
        write_split(plan.split_path, plan.split, plan.options.eval_frac, plan.options.seed)


def _counting(report: Progress, n_before: int, n_total: int) -> Callable[[int, str], None]:
    """Return a callback that counts utterances on from `n_before`."""
    return lambda n_done, note: report(n_before + n_done, n_total, "encode", note)


def find_built(plan: BuildPlan, asked: Mapping[str, Any]) -> Built | None:
    """Return what there is of a plan's output, or None where nothing stands there; reads the plan's files to compare.

    Parameters
    ----------
    plan : BuildPlan
    asked : mapping
        Options of this build, as `recorded_options` gives them.

    Raises
    ------
    StoreError
        When something else stands there: nothing is overwritten.
    """
    output, layout = plan.options.output, plan.options.embeddings
    if not output.exists():
        return None
    with Store(output) as store:
        check_same_options(output, store.json_attribute("build_options"), asked)
        layouts = {store[name].layout for name in store.codec_names}
        utterances, skipped = read_utterances(store), read_skipped(store)
        # the shards that a virtual store shows are its own: never taken for leftovers
        digests = frozenset() if store.parts else frozenset(store.strings("shards/content_digest")) - {""}
        has_latents = any(store[name].has_latents for name in store.codec_names)
    if layouts != {layout}:
        raise StoreError(f"{output}: a store with another layout stands there; remove it or choose another --output")
    repaired = check_same_inputs(output, utterances, skipped, hash_inputs(plan.utterances))
    return Built(skipped, repaired, digests, has_latents)


def _check_some_frames(plan: BuildPlan, shards: Sequence[Path]) -> None:
    n, skipped = 0, dict[str, str]()
    for path in shards:
        with Store(path) as store:
            n += store.n_utterances
            skipped |= _reasons(read_skipped(store))
    if n == 0:
        _remove_shards(plan, shards)  # they hold nothing but reasons, of which the error tells
        first = next(iter(skipped.values()), "no utterance")
        raise StoreError(f"none of {counted(len(skipped), 'utterance')} can be used; the first: {first}")


def _skipped(path: Path) -> dict[str, str]:
    with Store(path) as store:
        return _reasons(read_skipped(store))


def _reasons(skipped: Mapping[str, SkippedRow]) -> dict[str, str]:
    return {id_: row.reason for id_, row in skipped.items()}
