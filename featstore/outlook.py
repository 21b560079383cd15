"""What running a build would do, in words: ``build-store --dry-run``. Nothing is written, downloaded or encoded."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from featstore.build import find_built, recorded_options
from featstore.codecs.choose import check_weights
from featstore.codecs.registry import codec_family
from featstore.codecs.weights import sha256_of
from featstore.errors import StoreError, WeightsError
from featstore.memory import available_bytes
from featstore.plan import BuildPlan, evaluation_note
from featstore.preflight import free_bytes, free_files
from featstore.shard import Finished, check_same_options, find_finished
from featstore.sizes import in_bytes
from featstore.store import Store
from featstore.wording import counted
from schemas.errors import SchemaError


def plan_text(plan: BuildPlan) -> str:
    """Return the plan as lines of a name and a value, the first of which says what would happen.

    Where the output stands already, all input files are read, to tell whether it was built from them.
    """
    options = plan.options
    n_eval = sum(plan.split[utterance.id] for utterance in plan.utterances)
    lines = [
        _first_line(plan),
        _line(
            "from",
            f"{len(plan.utterances)} of {counted(len(plan.scanned), 'utterance')} of {options.split}, "
            f"about {plan.sizes.duration_s / 3600:.2f} h; {n_eval} for evaluation",
        ),
        _line("frames", ", ".join(f"{name} about {n:,}" for name, n in plan.sizes.n_frames.items())),
    ]
    if lines[0].startswith("would build"):
        lines += [_line("size", _sizes(plan)), *_room(plan)]
        lines += [_line("shards", _shards(plan)), _line("weights", _weights(plan))]
    note = evaluation_note(plan)
    return "\n".join([*lines, _line("split", _split(plan)), *([note] if note else [])])


def _line(name: str, value: str) -> str:
    return f"{name:15} {value}"


def _first_line(plan: BuildPlan) -> str:
    options = plan.options
    target = options.output if options.shard is None else plan.shard_path(options.shard[0] - 1)
    part = "" if options.shard is None else f", slice {options.shard[0]} of {options.shard[1]} of {options.output}"
    try:
        there = _find_there(plan, target)
    except (StoreError, SchemaError) as error:
        return _line("would refuse", str(error))
    if there is not None:
        again = [utterance.id for utterance in plan.utterances if utterance.id in there.skipped]
        if options.retry_skipped and again:
            return _line(
                "would retry", f"{counted(len(again), 'skipped utterance')} of {target} ({again[0]}, ...){part}"
            )
        return _line("nothing to do", f"{target} is already built from these inputs{part}")
    with_latents = " with latents" if options.store_latents else ""
    with_latents += f" in {options.precision}" if options.precision != "float32" else ""
    layout = f"{'factored' if part else options.embeddings}{with_latents}"
    layout += " until it is merged" if part else f", {options.compression}"
    return _line("would build", f"{target} ({layout}){part}")


def _find_there(plan: BuildPlan, target: Path) -> Finished | None:
    """Return the output, or the one slice asked for, if it is finished; raises what the build would raise."""
    if not target.exists():
        if plan.options.shard is None:
            _check_shards(plan)
        return None
    asked = recorded_options(plan.options, _weights_asked(plan, _options_of(target)))
    if plan.options.shard is not None:
        return find_finished(target, asked, plan.slices[plan.options.shard[0] - 1])
    return find_built(plan, asked)


def _check_shards(plan: BuildPlan) -> None:
    """Raise StoreError where shards of other options wait in the folder: the build would not touch them."""
    for path in (plan.shard_path(index) for index in range(len(plan.slices))):
        found = _options_of(path)
        if found:
            check_same_options(path, found, recorded_options(plan.options, _weights_asked(plan, found)))


def _options_of(path: Path) -> Mapping[str, Any]:
    """Return the options that a store was built with; nothing where it is absent or damaged."""
    try:
        with Store(path) as store:
            return store.json_attribute("build_options")
    except (StoreError, SchemaError):
        return {}


def _weights_asked(plan: BuildPlan, options_found: Mapping[str, Any]) -> dict[str, str]:
    """Return the weights asked for as a store records them, kind and hash.

    Without a download (or k-means) their hash is not always known: then the kind decides.
    """
    weights = options_found.get("weights")
    found = weights if isinstance(weights, dict) else {}
    asked = {}
    for name, request in sorted(plan.options.weights.items()):
        kind = "untrained" if codec_family(name).fetch_pretrained is None else request.kind
        paths = [path for path in (request.path, request.config_path) if path is not None and path.is_file()]
        known = f"checkpoint {sha256_of(*paths)}" if paths else kind
        recorded = str(found.get(name, ""))
        asked[name] = recorded if f"{recorded} ".startswith(f"{known} ") else known
    return asked


def _sizes(plan: BuildPlan) -> str:
    sizes, layout = plan.sizes, plan.options.embeddings
    both = {"dense": in_bytes(sizes.bytes_dense), "factored": in_bytes(sizes.bytes_factored)}
    other = "factored" if layout == "dense" else "dense"
    whole = "" if plan.options.shard is None else " of the whole"
    latents = f"; {in_bytes(sizes.bytes_latents)} of each are latents" if plan.options.store_latents else ""
    return (
        f"{layout} about {both[layout]}{whole} ({other} would be about {both[other]}), "
        f"and {in_bytes(sizes.bytes_shards)} of shards until they are merged{latents}"
    )


def _room(plan: BuildPlan) -> list[str]:
    """Return what is needed, not counting what is there already, beside what is free; see `featstore.preflight`."""
    left = plan.work_left
    n_files, n_bytes = free_files(left.output), available_bytes()
    files = "no limit known" if n_files is None else f"{n_files:,} free"
    memory = "what is free is not known" if n_bytes is None else f"{in_bytes(n_bytes)} free"
    return [
        _line("space", f"about {in_bytes(left.bytes_on_disk())} needed, {in_bytes(free_bytes(left.output))} free"),
        _line("files", f"up to {left.n_files:,} needed, {files}"),
        _line("memory", f"about {in_bytes(left.bytes_of_memory)} needed, {memory}"),
    ]


def _shards(plan: BuildPlan) -> str:
    n_there = sum(plan.shard_path(index).exists() for index in range(len(plan.slices)))
    there = f"; {n_there} there, kept where options and inputs are the same" if n_there else ""
    return f"{len(plan.slices)} in {plan.shards_folder}{there}"


def _weights(plan: BuildPlan) -> str:
    """Name each codec's weights, and what is missing: a build would end there."""
    found = []
    for name, request in plan.options.weights.items():
        try:
            check_weights(name, request)
        except WeightsError as error:
            found.append(f"MISSING: {error}")
            continue
        is_fitted = codec_family(name).fetch_pretrained is None and request.kind != "checkpoint"
        found.append(f"{name} {'fitted to this corpus' if is_fitted else request.path or request.kind}")
    return "; ".join(found)


def _split(plan: BuildPlan) -> str:
    how = "made anew" if plan.options.force_resplit else "reused" if plan.split_path.exists() else "to be written"
    return f"{plan.split_path} ({how})"
