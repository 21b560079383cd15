"""Encoding throughput, audio seconds a second: one utterance at a time, in batches, and the bare model on the same.

Utterances of a batch are equally long, so that every way encodes the same samples. `bare` is the library's own
``encode`` on a batch that is on the device already, with TF32 off as everywhere here; what it leaves there is not
fetched.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.piece import Asked, peak_gb, significant, timed
from benchmarks.gpu.speech import Samples, checkpoints, load, utterances
from featstore.codecs.base import Checkpoint, Codec
from featstore.codecs.torch_support import exact_float32
from featstore.safe_text import first_line

_DURATION_S, _BATCHES = 12.0, (1, 8, 32)
_SMALL_DURATION_S, _SMALL_BATCHES = 2.0, (1, 2)
_REPEATS = 3


def run(asked: Asked) -> dict[str, Any]:
    """Measure and return the record."""
    told: dict[str, Any] = {}
    for name, found in checkpoints(asked):
        told[name] = {"skipped": found} if isinstance(found, str) else measure(asked, name, found)
        asked.keep(told)
    return told


def measure(asked: Asked, name: str, found: Checkpoint) -> dict[str, Any]:
    """Return the speeds of a codec."""
    codec: Any = load(name, found, asked.torch_device)
    duration_s, batches = (_SMALL_DURATION_S, _SMALL_BATCHES) if asked.small else (_DURATION_S, _BATCHES)
    n_samples = int(duration_s * codec.sample_rate_hz)  # whole hops of either codec
    speech = [samples[:n_samples] for samples in utterances(max(batches), duration_s, codec.sample_rate_hz)]
    has_batches = hasattr(codec, "encode_batch")
    rows = []
    for size in batches:
        batch = speech[:size]
        ways: dict[str, Callable[[], Any]] = {"one at a time": partial(one_at_a_time, codec, batch)}
        if has_batches:
            ways["encode_batch"] = partial(codec.encode_batch, batch)
        ways["bare"] = bare(codec.model, batch, asked.torch_device)
        rows += [speed(asked, way, call, size, duration_s) for way, call in ways.items()]
    best = {way: max((row["audio_s_per_s"] for row in rows if row["way"] == way), default=None) for way in _ways(rows)}
    ours = [speed for way, speed in best.items() if way != "bare"]
    return {
        "duration_s": duration_s,
        "has_encode_batch": has_batches,
        "rows": rows,
        "best_audio_s_per_s": best,
        "ratio_to_bare": significant(max(ours) / best["bare"]) if ours and "bare" in best else None,
    }


def _ways(rows: list[dict[str, Any]]) -> list[str]:
    return sorted({row["way"] for row in rows if "audio_s_per_s" in row})


def one_at_a_time(codec: Codec, batch: list[Samples]) -> None:
    """Encode utterance after utterance."""
    for samples in batch:
        codec.encode(samples)


def bare(model: Any, batch: list[Samples], device: str) -> Callable[[], Any]:
    """Return the model's own call on a batch that lies on the device from the first call on."""
    there: list[torch.Tensor] = []

    def call() -> Any:
        if not there:
            there.append(torch.from_numpy(np.stack(batch))[:, None].to(device))
        with exact_float32():
            return model.encode(there[0])

    return call


def speed(asked: Asked, way: str, call: Callable[[], Any], size: int, duration_s: float) -> dict[str, Any]:
    """Return the speed of one way, the best of a few times; a way that fails says why."""
    row: dict[str, Any] = {"way": way, "batch": size}
    try:
        call()  # kernels are chosen and memory is taken at the first call
        peak_gb(asked)
        seconds = []
        for _ in range(1 if asked.small else _REPEATS):
            with timed(asked) as clock:
                call()
            seconds.append(clock.seconds)
    except Exception as error:  # noqa: BLE001  (too little memory, say: the other ways are worth having)
        return row | {"error": first_line(error)}
    speed_of_best = significant(size * duration_s / min(seconds))
    return row | {"audio_s_per_s": speed_of_best, "peak_device_gb": peak_gb(asked)}
