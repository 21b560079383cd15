"""Encode a set of recordings with so many processes and threads."""

import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore.audio import read_audio, resample
from featstore.codecs.base import Checkpoint
from featstore.codecs.registry import codec_family


@dataclass(frozen=True)
class Setting:
    """Processes, threads in each, and whether the encoder's network is compiled."""

    n_processes: int
    n_threads: int
    compiled: bool = False


@dataclass(frozen=True)
class Encoding:
    """What came of it.

    Attributes
    ----------
    setting : Setting
    audio_s, seconds : float
        Of all recordings, and the wall time that they took.
    first_s : float
        What two recordings took before that, in which a network is compiled.
    codes : list of uint16 arrays of shape (n_layers, n_frames)
        Of all recordings.
    """

    setting: Setting
    audio_s: float
    seconds: float
    first_s: float
    codes: list[NDArray[np.uint16]]

    def share_equal(self, other: "Encoding") -> float:
        """Return the share of codes that are the other's."""
        equal = sum(int((ours == theirs).sum()) for ours, theirs in zip(self.codes, other.codes, strict=True))
        return equal / sum(ours.size for ours in self.codes)


def encode_with(setting: Setting, codec: str, checkpoint: Checkpoint, paths: Sequence[Path]) -> Encoding:
    """Encode every recording; process p takes the p-th and every n-th after it."""
    context = multiprocessing.get_context("spawn")
    begins = context.Barrier(setting.n_processes)
    shares = [list(paths[place :: setting.n_processes]) for place in range(setting.n_processes)]
    with ProcessPoolExecutor(len(shares), context, initializer=_keep, initargs=(begins,)) as pool:
        # each process takes one share, as it waits for all others to have theirs
        told = [pool.submit(_encode, setting, codec, checkpoint, share) for share in shares]
        parts = [future.result() for future in told]
    codes: list[Any] = [None] * len(paths)
    for place, part in enumerate(parts):
        codes[place :: setting.n_processes] = part.codes
    audio_s, seconds = sum(part.audio_s for part in parts), max(part.seconds for part in parts)
    return Encoding(setting, audio_s, seconds, max(part.first_s for part in parts), codes)


_begins: list[Any] = []


def _keep(barrier: Any) -> None:
    _begins.append(barrier)  # a barrier can be given to a process only when it is started


def _encode(setting: Setting, name: str, checkpoint: Checkpoint, paths: Sequence[Path]) -> Encoding:
    import torch

    torch.set_num_threads(setting.n_threads)
    codec: Any = codec_family(name).load(checkpoint, "cpu")
    if setting.compiled:
        codec.model.encoder = torch.compile(codec.model.encoder, dynamic=True)
    audio = [read_audio(path) for path in paths]
    samples = [resample(item.samples, item.sample_rate_hz, codec.sample_rate_hz) for item in audio]
    first_s = _timed(codec, [samples[0], samples[0][: len(samples[0]) // 2]])[0]
    _begins[0].wait()
    seconds, codes = _timed(codec, samples)
    audio_s = sum(len(item.samples) / item.sample_rate_hz for item in audio)
    return Encoding(setting, audio_s, seconds, first_s, codes)


def _timed(codec: Any, samples: Sequence[NDArray[np.float32]]) -> tuple[float, list[NDArray[np.uint16]]]:
    begun = time.perf_counter()
    codes = [codec.encode(item) for item in samples]
    return time.perf_counter() - begun, codes
