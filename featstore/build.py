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
from featstore.codecs.choose import WeightsRequest, find_checkpoint
from featstore.codecs.device import choose_device, describe_device
from featstore.codecs.registry import codec_family
from featstore.errors import StoreError
from featstore.merge import merge_stores
from featstore.plan import BuildPlan, BuildResult
from featstore.shard import ShardJob, build_shard, check_same_options, inputs_sha256, is_finished, producer_versions
from featstore.split import write_split
from featstore.store import Store
from featstore.writer import Layout

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
    device = choose_device(options.device)
    codecs = {name: _load(name, request, plan, device) for name, request in options.weights.items()}
    if not plan.split_path.exists() or options.force_resplit:  # only now: without weights nothing is left behind
        write_split(plan.split_path, plan.split, options.eval_frac, options.seed)
    job = _job(plan, codecs, describe_device(device))
    if options.shard:
        return _build_one(plan, job, options.shard[0] - 1, report)
    inputs, result = [], BuildResult(options.output)
    keys = [_key(plan, index) for index in range(len(plan.slices))]
    whole = hashlib.sha256("\n".join(keys).encode()).hexdigest()
    if _is_built(options.output, whole, job.attributes["build_options"], options.embeddings):
        LOG.info("%s is already built from these inputs; nothing to do", options.output)
        result.n_reused = len(plan.slices)
        result.skipped = _skipped(options.output)
        return result
    n_done = 0
    for index, (slice_, key) in enumerate(zip(plan.slices, keys, strict=True)):
        path = plan.shard_path(index)
        if is_finished(path, key, job.attributes["build_options"]):
            result.n_reused += 1
        else:
            build_shard(
                path, slice_, key, job, _irregular(plan, index), _counting(report, n_done, len(plan.utterances))
            )
            result.n_built += 1
        inputs.append(path)
        n_done += len(slice_)
        report(n_done, len(plan.utterances), "encode")
    _check_some_frames(inputs)
    merge_stores(
        inputs,
        options.output,
        options.embeddings,
        options.compression,
        whole,
        lambda done, total: report(done, total, "merge"),
    )
    shutil.rmtree(plan.shards_folder)
    result.skipped = _skipped(options.output)
    return result


def _load(name: str, request: WeightsRequest, plan: BuildPlan, device: str) -> Codec:
    checkpoint = find_checkpoint(name, request, plan.scanned, plan.options.seed, plan.weights_folder)
    return codec_family(name).load(checkpoint, device)


def _job(plan: BuildPlan, codecs: Mapping[str, Codec], device: str) -> ShardJob:
    options = plan.options
    recorded: dict[str, Any] = {
        "seed": options.seed,
        "eval_frac": options.eval_frac,
        "f0": options.f0,
        "max_utterances": options.max_utterances or 0,
        "weights": {name: f"{codec.weights} {codec.weights_sha256}" for name, codec in sorted(codecs.items())},
        "embeddings": options.embeddings,
        "compression": options.compression,
    }
    attributes = {
        "corpus": {"name": "librispeech layout", "split": options.split, "n_scanned": len(plan.scanned)},
        "build_options": recorded,
        "producer_versions": producer_versions(_PACKAGES),
    }
    return ShardJob(codecs, plan.split, options.f0, device, attributes)


def _build_one(plan: BuildPlan, job: ShardJob, index: int, report: Progress) -> BuildResult:
    slice_, path = plan.slices[index], plan.shard_path(index)
    key = _key(plan, index)
    result = BuildResult(None, path)
    if is_finished(path, key, job.attributes["build_options"]):
        result.n_reused = 1
    else:
        build_shard(path, slice_, key, job, _irregular(plan, index), _counting(report, 0, len(slice_)))
        result.n_built = 1
    result.skipped = _skipped(path)
    return result


def _irregular(plan: BuildPlan, index: int) -> Mapping[str, str]:
    """Return the files that belong to no slice; the first shard lists them as skipped."""
    return plan.irregular if index == 0 else {}


def _key(plan: BuildPlan, index: int) -> str:
    misplaced = json.dumps(_irregular(plan, index), sort_keys=True)
    return hashlib.sha256(f"{inputs_sha256(plan.slices[index])}\0{misplaced}".encode()).hexdigest()


def _counting(report: Progress, n_before: int, n_total: int) -> Callable[[str], None]:
    """Return a callback that counts utterances on from `n_before`."""
    count = itertools.count(n_before + 1)
    return lambda _: report(next(count), n_total, "encode")


def _is_built(output: Path, inputs: str, options: Mapping[str, Any], layout: Layout) -> bool:
    """Tell whether the output is this very build; refuse to overwrite anything else."""
    if not output.exists():
        return False
    with Store(output) as store:
        check_same_options(output, store.json_attribute("build_options"), options)
        layouts = {store[name].layout for name in store.codec_names}
        if store.attributes.get("inputs_sha256") == inputs and layouts == {layout}:
            return True
    found = "another layout" if layouts != {layout} else "other input files"
    raise StoreError(f"{output}: a store with {found} stands there; remove it or choose another --output")


def _check_some_frames(shards: Sequence[Path]) -> None:
    n, skipped = 0, dict[str, str]()
    for path in shards:
        with Store(path) as store:
            n += store.n_utterances
            skipped |= dict(zip(store.strings("skipped/id"), store.strings("skipped/reason"), strict=True))
    if n == 0:
        first = next(iter(skipped.values()), "no utterance")
        raise StoreError(f"none of {len(skipped)} utterances can be used; the first: {first}")


def _skipped(path: Path) -> dict[str, str]:
    with Store(path) as store:
        return dict(zip(store.strings("skipped/id"), store.strings("skipped/reason"), strict=True))
