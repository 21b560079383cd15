"""Seconds of each stage of a store, from given codes to a layer in memory."""

import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.scale import speech
from benchmarks.scale.corpus import ScaleCorpus, make_corpus
from benchmarks.scale.drawing import draw_frames, make_codecs, store_header
from benchmarks.scale.voices import SHAPES
from featstore.merge import merge_stores
from featstore.plan import MOST_SHARDS, SHARD_UTTERANCES
from featstore.reading import BLOCK_FRAMES
from featstore.stopwatch import Stopwatch
from featstore.store import Store
from featstore.verify import verify_store
from featstore.writer import StoreWriter

_CODEC = "encodec"
_LAYER = 1
_OPENINGS = 5
STAGES = ("write shards", "merge", "verify", "verify --full", "open", "read codes", "read embeddings")

Clock = Callable[[str], AbstractContextManager[None]]


def measure_stages(n_utterances: int, folder: Path) -> dict[str, Any]:
    """Return the seconds of every stage for a store of so many utterances, in all and as microseconds a frame.

    Frames are those of both codecs; of reading, those of EnCodec. The folder is removed again.
    """
    shape = SHAPES["clean100"]
    corpus = make_corpus(n_utterances, min(n_utterances // 4, shape.n_speakers), shape.mean_duration_s, seed=0)
    clock = Stopwatch()
    parts = _write_shards(corpus, folder / "parts", clock)
    output = folder / "store.h5"
    with clock("merge"):
        merge_stores(parts, output, layout="factored")
    with clock("verify"):
        verify_store(output)
    with clock("verify --full"):
        verify_store(output, full=True)
    clock.seconds["open"] = statistics.median(_opening(output) for _ in range(_OPENINGS))
    n_frames, n_read = _read(output, clock)
    n_bytes = output.stat().st_size
    shutil.rmtree(folder)
    seconds = {stage: clock.seconds[stage] for stage in STAGES}
    return {
        "n_utterances": n_utterances,
        "n_shards": len(parts),
        "n_frames": n_frames,
        "n_frames_read": n_read,
        "bytes": n_bytes,
        "seconds": {stage: round(value, 4) for stage, value in seconds.items()},
        "us_per_frame": {
            stage: float(f"{value / (n_read if stage.startswith('read') else n_frames) * 1e6:.3g}")
            for stage, value in seconds.items()
        },
    }


def exponents(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return by stage the least-squares slope of log seconds over log frames; nothing for a single size."""
    if len(rows) < 2:
        return {}
    log_frames = np.log([row["n_frames"] for row in rows])
    return {
        stage: round(float(np.polyfit(log_frames, np.log([row["seconds"][stage] for row in rows]), 1)[0]), 3)
        for stage in STAGES
    }


def _write_shards(corpus: ScaleCorpus, folder: Path, clock: Clock) -> list[Path]:
    labels = speech.label_model()
    makers = make_codecs(labels, corpus, seed=0)
    paths = []
    n_here = max(SHARD_UTTERANCES, -(-len(corpus.rows) // MOST_SHARDS))  # as a build cuts a corpus
    for first in range(0, len(corpus.rows), n_here):
        here = slice(first, first + n_here)
        part = replace(corpus, rows=corpus.rows[here], speaker_of=corpus.speaker_of[here])
        header = store_header(part, labels, makers, "clean100", seed=0)
        drawn = list(draw_frames(part, labels, makers, seed=first))
        paths.append(folder / f"shard-{first:06d}.h5")
        with clock("write shards"), StoreWriter(paths[-1], header, "factored") as writer:
            for codec, codes, phoneme, f0_hz in drawn:
                writer.append(codec, codes, phoneme, f0_hz)
    return paths


def _opening(path: Path) -> float:
    begun = time.perf_counter()
    with Store(path) as store:
        assert store.codec_names
    return time.perf_counter() - begun


def _read(path: Path, clock: Clock) -> tuple[int, int]:
    """Read a layer from first to last frame; return the frames of all codecs, and those read."""
    with Store(path) as store:
        layer = store[_CODEC].layer(_LAYER)
        n_read, dim = layer.shape
        rows = np.empty((BLOCK_FRAMES, dim), np.float32)
        for start in range(0, n_read, BLOCK_FRAMES):
            stop = min(start + BLOCK_FRAMES, n_read)
            with clock("read codes"):
                layer.codes(start, stop)
            with clock("read embeddings"):
                layer.read_into(rows[: stop - start], start, stop)
        return sum(store[name].n_frames for name in store.codec_names), n_read
