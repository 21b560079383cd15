"""Build a store: scan, split, weights, shards, merge. Run the same call again to resume it."""

import hashlib
import itertools
import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from featstore.codecs.base import Codec
from featstore.codecs.choose import WeightsRequest, check_weights, find_checkpoint
from featstore.codecs.device import choose_device, describe_device
from featstore.codecs.registry import codec_family
from featstore.errors import StoreError
from featstore.merge import merge_stores
from featstore.plan import BuildOptions, BuildPlan, BuildResult
from featstore.shard import ShardJob, build_shard, check_same_options, inputs_sha256, is_finished, producer_versions
from featstore.split import write_split
from featstore.store import Store
from featstore.wording import counted

LOG = logging.getLogger(__name__)
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
Progress = Callable[[int, int, str], None]  # (done, total, what)


def build_store(plan: BuildPlan, progress: Progress | None = None) -> BuildResult:
    """Build (or resume, or find finished) the store of a plan.

    Finished shards of equal inputs, options and weights are reused, whoever made them. An interruption at any moment
    loses at most the shard under way.

    Raises
    ------
    FeatstoreError
        When weights are missing, an existing output was built with other options, or no utterance can be used.
    """
    options = plan.options
    report = progress or (lambda done, total, what: None)
    for name, request in options.weights.items():
        check_weights(name, request)
    device = choose_device(options.device)
    codecs = {name: _load(name, request, plan, device) for name, request in options.weights.items()}
    job = _job(plan, codecs, describe_device(device))
    asked = job.attributes["build_options"]
    if options.shard:
        return _build_one(plan, job, options.shard[0] - 1, report)
    inputs, result = [], BuildResult(options.output)
    keys = [slice_key(plan, index) for index in range(len(plan.slices))]
    there = is_built(plan, asked, keys)
    finished = [not there and is_finished(plan.shard_path(index), key, asked) for index, key in enumerate(keys)]
    _keep_split(plan)
    if there:
        LOG.info("%s is already built from these inputs; nothing to do", options.output)
        result.n_reused = len(plan.slices)
        result.skipped = _skipped(options.output)
        return result
    n_done = 0
    for index, (slice_, key) in enumerate(zip(plan.slices, keys, strict=True)):
        path = plan.shard_path(index)
        if finished[index]:
            result.n_reused += 1
        else:
            build_shard(
                path, slice_, key, job, _irregular(plan, index), _counting(report, n_done, len(plan.utterances))
            )
            result.n_built += 1
        inputs.append(path)
        n_done += len(slice_)
        report(n_done, len(plan.utterances), "encode")
    _check_some_frames(plan, inputs)
    merge_stores(
        inputs,
        options.output,
        options.embeddings,
        options.compression,
        _whole_key(keys),
        lambda done, total: report(done, total, "merge"),
    )
    shutil.rmtree(plan.shards_folder)
    result.skipped = _skipped(options.output)
    return result


def _load(name: str, request: WeightsRequest, plan: BuildPlan, device: str) -> Codec:
    checkpoint = find_checkpoint(name, request, plan.scanned, plan.options.seed, plan.weights_folder)
    return codec_family(name).load(checkpoint, device)


def _job(plan: BuildPlan, codecs: Mapping[str, Codec], device: str) -> ShardJob:
    weights = {name: f"{codec.weights} {codec.weights_sha256}" for name, codec in sorted(codecs.items())}
    attributes = {
        "corpus": {"name": "librispeech layout", "split": plan.options.split, "n_scanned": len(plan.scanned)},
        "build_options": recorded_options(plan.options, weights),
        "producer_versions": producer_versions(_PACKAGES),
    }
    return ShardJob(codecs, plan.split, plan.options.f0, device, attributes)


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
    }


def _build_one(plan: BuildPlan, job: ShardJob, index: int, report: Progress) -> BuildResult:
    slice_, path = plan.slices[index], plan.shard_path(index)
    key = slice_key(plan, index)
    result = BuildResult(None, path)
    is_whole = is_finished(path, key, job.attributes["build_options"])
    _keep_split(plan)
    if is_whole:
        result.n_reused = 1
    else:
        build_shard(path, slice_, key, job, _irregular(plan, index), _counting(report, 0, len(slice_)))
        result.n_built = 1
    result.skipped = _skipped(path)
    return result


def _keep_split(plan: BuildPlan) -> None:
    """Write ``split.json`` where it is not there or was asked anew; called when nothing can refuse the build any more.

    A refused build that had replaced it would leave a split that does not belong to the store beside it.
    """
    if not plan.split_path.exists() or plan.options.force_resplit:
        write_split(plan.split_path, plan.split, plan.options.eval_frac, plan.options.seed)


def _irregular(plan: BuildPlan, index: int) -> Mapping[str, str]:
    """Return the files that belong to no slice; the first shard lists them as skipped."""
    return plan.irregular if index == 0 else {}


def slice_key(plan: BuildPlan, index: int) -> str:
    """Return the hash by which a slice's shard is recognised; reads every file of the slice."""
    misplaced = json.dumps(_irregular(plan, index), sort_keys=True)
    return hashlib.sha256(f"{inputs_sha256(plan.slices[index])}\0{misplaced}".encode()).hexdigest()


def _whole_key(keys: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(keys).encode()).hexdigest()


def _counting(report: Progress, n_before: int, n_total: int) -> Callable[[str], None]:
    """Return a callback that counts utterances on from `n_before`."""
    count = itertools.count(n_before + 1)
    return lambda _: report(next(count), n_total, "encode")


def is_built(plan: BuildPlan, asked: Mapping[str, Any], keys: Sequence[str]) -> bool:
    """Tell whether a plan's output is this very build, by its options (`recorded_options`) and `slice_key`s.

    Raises
    ------
    StoreError
        When something else stands there: nothing is overwritten.
    """
    output, layout = plan.options.output, plan.options.embeddings
    if not output.exists():
        return False
    with Store(output) as store:
        check_same_options(output, store.json_attribute("build_options"), asked)
        layouts = {store[name].layout for name in store.codec_names}
        if store.attributes.get("inputs_sha256") == _whole_key(keys) and layouts == {layout}:
            return True
    found = "another layout" if layouts != {layout} else "other input files"
    raise StoreError(f"{output}: a store with {found} stands there; remove it or choose another --output")


def _check_some_frames(plan: BuildPlan, shards: Sequence[Path]) -> None:
    n, skipped = 0, dict[str, str]()
    for path in shards:
        with Store(path) as store:
            n += store.n_utterances
            skipped |= dict(zip(store.strings("skipped/id"), store.strings("skipped/reason"), strict=True))
    if n == 0:
        shutil.rmtree(plan.shards_folder)  # they hold nothing but reasons, of which the error tells
        first = next(iter(skipped.values()), "no utterance")
        raise StoreError(f"none of {counted(len(skipped), 'utterance')} can be used; the first: {first}")


def _skipped(path: Path) -> dict[str, str]:
    with Store(path) as store:
        return dict(zip(store.strings("skipped/id"), store.strings("skipped/reason"), strict=True))
