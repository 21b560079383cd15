"""How near a build comes to the codecs' own speed: the whole of it against the bare encode calls, in the same run.

    python benchmarks/bench_build.py [--utterances 24] [--codec encodec ...] [--workers N]

Bare: the same utterances, read and resampled before the clock starts, through each codec's ``encode``, with 1 thread
and with one a core; the faster counts. Build: ``build_store`` to the finished, verified store, reading, resampling,
labels and F0 included. Both clocks start when the first utterance is encoded: networks are loaded and processes have
started by then, which is nothing in a build of hours. Then the pipeline
alone: a stand-in codec that sleeps as long as one at 400 times real time would take (a GPU, so the build goes about it
as with one, in batches and a thread of their own), against the slowest of its stages measured alone; the clock of the
build starts with the first call of the codec. Weights are untrained: they cost what trained ones do.

Real speech where the environment variable RVQPROBE_SHARED_DATA names its folder (default ../shared/data), else
synthetic. Prints one JSON record.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.building.corpus import Corpus, build_options, find_corpus  # noqa: E402
from benchmarks.building.standin import NAME as STANDIN  # noqa: E402
from benchmarks.building.standin import Standin, a_device_of_its_own, register_standin  # noqa: E402
from benchmarks.measure.command import run_measured  # noqa: E402
from benchmarks.measure.ending import run_clearly  # noqa: E402
from benchmarks.measure.machine import machine_facts  # noqa: E402
from featstore.batches import BATCH_S, windows  # noqa: E402
from featstore.build import build_store  # noqa: E402
from featstore.codecs.base import Codec  # noqa: E402
from featstore.codecs.choose import find_checkpoint  # noqa: E402
from featstore.codecs.registry import codec_family  # noqa: E402
from featstore.corpora.base import Utterance  # noqa: E402
from featstore.encode import Encoder  # noqa: E402
from featstore.extract import PreparedUtterance, clocks_of  # noqa: E402
from featstore.pipeline import Pipeline  # noqa: E402
from featstore.plan import BuildOptions, plan_build  # noqa: E402
from featstore.workers import choose_workers  # noqa: E402

SPEEDUP_OF_STANDIN = 400.0


def main() -> None:
    """Measure and print the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--utterances", type=int, default=24, help="utterances of the corpus to encode [24]")
    parser.add_argument("--codec", action="append", help="codec; may be repeated [encodec, speechtokenizer]")
    parser.add_argument("--workers", type=int, help="processes that prepare [as a large build chooses]")
    parser.add_argument("--standin-workers", type=int, default=2, help="the same, beside the stand-in codec [2]")
    arguments = parser.parse_args()
    facts = machine_facts()
    with tempfile.TemporaryDirectory(prefix="bench-build-") as folder:
        corpus = find_corpus(Path(folder), arguments.utterances)
        names = arguments.codec or ["encodec", "speechtokenizer"]
        record = measure_codecs(names, corpus, arguments.workers, Path(folder))
        record["standin"] = measure_standin(corpus, arguments.standin_workers, Path(folder))
    print(json.dumps({"benchmark": "bench_build", **record, "machine": facts}))


def measure_codecs(names: Sequence[str], corpus: Corpus, n_workers: int | None, folder: Path) -> dict[str, Any]:
    """Return the bare and the whole time of real codecs."""
    n_workers = choose_workers(n_workers, 10_000, "cpu")  # what a build of a whole corpus does
    options = build_options(corpus, folder / "whole" / "store.h5", names, n_workers)
    plan = plan_build(options)
    checkpoints = {
        name: find_checkpoint(name, request, plan.scanned, options.seed, plan.weights_folder)
        for name, request in options.weights.items()
    }
    codecs = {name: codec_family(name).load(checkpoint, "cpu") for name, checkpoint in checkpoints.items()}
    audio_s, prepared = prepare(plan.utterances, codecs)
    bare = {n_threads: encode_bare(prepared, codecs, n_threads) for n_threads in thread_counts()}
    best = min(bare, key=lambda n_threads: sum(bare[n_threads].values()))
    del prepared
    with threads(best):
        seconds, shares = build(options)
    command = [sys.executable, str(ROOT / "cli.py"), "build-store", "--quiet", "--output", folder / "memory.h5"]
    command += ["--librispeech-root", corpus.librispeech_root, "--alignments-root", corpus.alignments_root]
    command += ["--split", corpus.split, "--embeddings", "factored", "--max-utterances", corpus.n_utterances]
    command += ["--workers", options.workers]
    for name, checkpoint in checkpoints.items():
        command += ["--codec", name]
        if checkpoint.config_path is None:
            command += ["--weights", f"{name}={checkpoint.path}"]
        else:
            command += ["--st-ckpt", checkpoint.path, "--st-config", checkpoint.config_path]
    measured = run_measured([str(word) for word in command], ROOT)
    if measured.exit_code:
        raise RuntimeError(f"build-store ended with {measured.exit_code}: {measured.stderr}")
    return {
        "speech": corpus.kind,
        "n_utterances": corpus.n_utterances,
        "audio_seconds": round(audio_s, 1),
        "codecs": list(names),
        "n_workers": options.workers,
        "bare_seconds_by_threads": {
            n: {name: round(s, 2) for name, s in by_codec.items()} for n, by_codec in bare.items()
        },
        "n_threads": best,
        "build_seconds": round(seconds, 2),
        "ratio_to_bare": round(sum(bare[best].values()) / seconds, 3),
        "audio_seconds_per_second": round(audio_s / seconds, 2),
        "share_by_stage": shares,
        "peak_rss_gb": round(measured.peak_gb, 3),
        "memory_measure": measured.memory_measure,
    }


def measure_standin(corpus: Corpus, n_workers: int, folder: Path) -> dict[str, Any]:
    """Return how near a build with a codec as fast as a GPU's comes to the slowest stage alone."""
    register_standin(SPEEDUP_OF_STANDIN)
    options = build_options(corpus, folder / "standin" / "store.h5", [STANDIN], n_workers)
    plan = plan_build(options)
    codec = codec_family(STANDIN).load(
        find_checkpoint(STANDIN, options.weights[STANDIN], plan.scanned, options.seed, plan.weights_folder), "cpu"
    )
    with Pipeline(clocks_of({STANDIN: codec}), options.f0, n_workers) as pipeline:
        list(pipeline.prepare(plan.utterances[:n_workers]))  # the processes have started
        begun = time.perf_counter()
        prepared = [item for _, item in pipeline.prepare(plan.utterances)]
        prepare_s = time.perf_counter() - begun
    warmed_up = [prepared[0], *prepared]  # so that the first is timed as well
    audio_s = seconds_after_first(warmed_up)
    one_at_a_time_s = encode_bare(warmed_up, {STANDIN: codec}, 1)[STANDIN]
    encode_s = encode_in_batches(prepared, {STANDIN: codec}, [len(slice_) for slice_ in plan.slices])
    del prepared, warmed_up
    Standin.first_call_s = None
    with a_device_of_its_own():
        _, shares = build(options)
    assert Standin.first_call_s is not None
    seconds = time.perf_counter() - Standin.first_call_s
    slowest = max(prepare_s, encode_s)
    return {
        "times_real_time": SPEEDUP_OF_STANDIN,
        "n_workers": n_workers,
        "prepare_seconds_alone": round(prepare_s, 2),
        "encode_seconds_alone": round(encode_s, 2),
        "one_at_a_time_seconds": round(one_at_a_time_s, 2),
        "build_seconds": round(seconds, 2),
        "ratio_to_slowest_stage": round(slowest / seconds, 3),
        "audio_seconds_per_second": round(audio_s / seconds, 1),
        "share_by_stage": shares,
    }


def prepare(utterances: Sequence[Utterance], codecs: Mapping[str, Codec]) -> tuple[float, list[PreparedUtterance]]:
    """Return the seconds of audio after the first utterance, and all utterances in memory, ready to be encoded."""
    with Pipeline(clocks_of(codecs), "yin", 0) as pipeline:
        prepared = [item for _, item in pipeline.prepare(utterances)]
    return seconds_after_first(prepared), prepared


def seconds_after_first(prepared: Sequence[PreparedUtterance]) -> float:
    """Return the seconds of audio that are encoded while the clock runs."""
    return sum(item.n_samples / item.sample_rate_hz for item in prepared[1:])


def encode_bare(prepared: Sequence[PreparedUtterance], codecs: Mapping[str, Codec], n_threads: int) -> dict[str, float]:
    """Return the seconds that each codec's encode calls take."""
    seconds = {}
    with threads(n_threads):
        for name, codec in codecs.items():
            codec.encode(prepared[0].samples[codec.sample_rate_hz])
            begun = time.perf_counter()
            for item in prepared[1:]:
                codec.encode(item.samples[codec.sample_rate_hz])
            seconds[name] = time.perf_counter() - begun
    return seconds


def encode_in_batches(
    prepared: Sequence[PreparedUtterance], codecs: Mapping[str, Codec], of_slices: Sequence[int]
) -> float:
    """Return the seconds that a build's encoder takes alone, padding included; `of_slices`: utterances of each."""
    shard_of = [shard for shard, n in enumerate(of_slices) for _ in range(n)]
    encoder = Encoder(codecs, batch_s=BATCH_S)
    begun = time.perf_counter()
    for window in windows(enumerate(prepared), shard_of, BATCH_S):
        encoder.encode([item for _, item in window])
    return time.perf_counter() - begun


def build(options: BuildOptions) -> tuple[float, dict[str, float]]:
    """Return the seconds from the first encoded utterance to the verified store, and the share of each stage."""
    called: list[float] = []
    begun: list[float] = []

    def note(done: int, total: int, what: str, note: str = "", /) -> None:
        if not called:
            called.append(time.perf_counter())
        if not begun and done:
            begun.append(time.perf_counter())

    result = build_store(plan_build(replace(options, force_resplit=True)), note)
    seconds = time.perf_counter() - begun[0]
    stages = sorted({"encode", "wait for input", "wait for disk"})
    total = seconds + begun[0] - called[0]
    shares = {stage: round(result.seconds.get(stage, 0.0) / total, 4) for stage in stages}
    shares["merge, verify and the rest"] = round(1 - sum(shares.values()), 4)
    return seconds, shares


def thread_counts() -> list[int]:
    """Return 1 and one thread a core."""
    return sorted({1, len(os.sched_getaffinity(0))})


@contextmanager
def threads(n_threads: int) -> Iterator[None]:
    """Let torch use so many threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


if __name__ == "__main__":
    run_clearly(main)
