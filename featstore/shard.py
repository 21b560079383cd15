"""A shard: a store of one slice of the corpus, written once, recognised by content when a build is resumed."""

import json
import logging
import os
import platform
import socket
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore.atomic import discard_leftovers
from featstore.batches import windows
from featstore.codecs.base import Codec
from featstore.corpora.base import Utterance
from featstore.encode import Encoder, UtteranceFrames
from featstore.errors import DeviceMemoryError, StoreError, UtteranceError
from featstore.extract import PreparedUtterance, clocks_of
from featstore.header import (
    CodecHeader,
    InputHashes,
    ShardRow,
    SkippedRow,
    StoreHeader,
    UtteranceRow,
    read_skipped,
    read_utterances,
)
from featstore.inputs import check_same_inputs, hash_inputs
from featstore.pipeline import Pipeline
from featstore.seal import check_seal
from featstore.stopwatch import Stopwatch, shares_text
from featstore.store import Store
from featstore.writer import LAYOUT_OPTIONS, ShardFrames

LOG = logging.getLogger(__name__)
# Recorded only where they are other: stores built before there was a choice have none.
_WHERE_ABSENT = {"store_latents": False, "precision": "float32"}


@dataclass(frozen=True)
class ShardJob:
    """What every shard of a build shares.

    Attributes
    ----------
    codecs : mapping of str to Codec
    split : mapping of str to int
    f0_method : str
    device : str
        As recorded, e.g. ``cpu, 2 threads``.
    attributes : mapping
        The root attributes ``corpus``, ``build_options`` and ``producer_versions``.
    with_latents : bool
        Whether the encoders' output is stored too.
    batch_s : float
        Seconds of audio that are encoded together, for codecs that can; 0 for one utterance at a time.
    encoding : mapping
        What `ShardRow.encoding` records.
    """

    codecs: Mapping[str, Codec]
    split: Mapping[str, int]
    f0_method: str
    device: str
    attributes: Mapping[str, Mapping[str, Any]]
    with_latents: bool = False
    batch_s: float = 0.0
    encoding: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Finished:
    """A whole shard that a build may take as it is.

    Attributes
    ----------
    skipped : mapping of str to SkippedRow
        Utterances that could not be used.
    repaired : list of str
        Those of them whose files have changed since.
    """

    skipped: Mapping[str, SkippedRow]
    repaired: list[str]


def find_finished(path: Path, options: Mapping[str, Any], slice_: Sequence[Utterance]) -> Finished | None:
    """Return what there is of a shard, or None where there is none or it is damaged: it is then built.

    Where there is one, all files of its slice are read, to compare.

    Parameters
    ----------
    path : Path
    options : mapping
        ``build_options`` of this build.
    slice_ : sequence of Utterance

    Raises
    ------
    StoreError
        When it was built with other options or from other files: finished work is never thrown away unasked.
    """
    if not path.exists():
        return None
    try:
        check_seal(path)
    except StoreError as error:
        if isinstance(error.__cause__, OSError):
            raise  # it cannot be read now, which is no reason to do its work again
        LOG.warning("warning: %s; this shard is built again", str(error).split(";")[0])
        return None
    with Store(path) as store:
        found = store.json_attribute("build_options")
        utterances, skipped = read_utterances(store), read_skipped(store)
    check_same_options(path, found, options)
    return Finished(skipped, check_same_inputs(path, utterances, skipped, hash_inputs(slice_)))


def check_same_options(path: Path, found: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Refuse a store that was built with other options, spelling out each difference.

    Raises
    ------
    StoreError
    """
    there, now = {**_WHERE_ABSENT, **found}, {**_WHERE_ABSENT, **asked}
    names = [name for name in {**there, **now} if name not in LAYOUT_OPTIONS]
    differ = [
        f"{name} {there.get(name)!r} there, {now.get(name)!r} now" for name in names if there.get(name) != now.get(name)
    ]
    if differ:
        raise StoreError(
            f"{path}: was built with other options ({'; '.join(differ)}); "
            "repeat those, remove what is there, or choose another --output"
        )


@dataclass(frozen=True)
class Slice:
    """One shard to be built: its path, its utterances sorted by id, and files that could not even be scanned."""

    path: Path
    utterances: Sequence[Utterance]
    irregular: Mapping[str, str] = field(default_factory=dict)


def build_shards(
    slices: Sequence[Slice], job: ShardJob, n_workers: int, progress: Callable[[int, str], None]
) -> dict[str, float]:
    """Encode and label slices and write each as a factored store; bad utterances are skipped with their reason.

    Parameters
    ----------
    slices : sequence of Slice
        Each file appears when it is whole.
    job : ShardJob
    n_workers : int
        Processes that read and label ahead (see `featstore.pipeline`); 0 for none.
    progress : callable (n_done, note)
        Called after each utterance, with what the time goes into.

    Returns
    -------
    dict of str to float
        Seconds by stage.
    """
    places = [(index, place) for index, slice_ in enumerate(slices) for place in range(len(slice_.utterances))]
    gathered = [_Gathered(slice_) for slice_ in slices]
    total = Counter[str]()
    encoder = Encoder(job.codecs, job.with_latents, job.batch_s)
    is_ahead = n_workers > 0 and job.batch_s > 0 and not job.device.startswith("cpu")
    try:
        with Pipeline(clocks_of(job.codecs), job.f0_method, n_workers) as pipeline:
            for shard in gathered:
                if not shard.slice.utterances:
                    pipeline.write(shard.slice.path, shard.frames(job, {}))
            before = Counter(pipeline.stopwatch.seconds)
            flat = [utterance for slice_ in slices for utterance in slice_.utterances]
            prepared = windows(pipeline.prepare(flat), [index for index, _ in places], job.batch_s)
            n_done = 0
            for window, outcomes in encoder.run(prepared, is_ahead):
                index = places[window[0][0]][0]
                shard = gathered[index]
                total += shard.take([(places[which][1], item) for which, item in window], outcomes)
                n_done += len(window)
                if shard.is_complete:
                    waits = {stage: value - before[stage] for stage, value in pipeline.stopwatch.seconds.items()}
                    before = Counter(pipeline.stopwatch.seconds)
                    pipeline.write(shard.slice.path, shard.frames(job, waits), is_last=n_done == len(flat))
                    gathered[index] = _Gathered(shard.slice)  # its frames are on their way
                pipeline.check()
                note = shares_text(total + Counter(pipeline.stopwatch.seconds))
                for n in range(n_done - len(window), n_done):
                    progress(n + 1, note)
            pipeline.finish()
            return dict(total + Counter(pipeline.stopwatch.seconds))
    finally:
        for slice_ in slices:
            discard_leftovers(slice_.path)  # of a writing process that was stopped


class _Gathered:
    """What is encoded of a slice so far."""

    def __init__(self, slice_: Slice) -> None:
        self.slice = slice_
        self._started = ""
        self._done: dict[int, UtteranceFrames] = {}
        self._skipped = {id_: SkippedRow(reason) for id_, reason in slice_.irregular.items()}
        self._n_skipped = 0
        self._seconds = Counter[str]()

    @property
    def is_complete(self) -> bool:
        return len(self._done) + self._n_skipped == len(self.slice.utterances)

    def take(
        self,
        window: Sequence[tuple[int, PreparedUtterance]],
        outcomes: Callable[[], Sequence[UtteranceFrames | UtteranceError]],
    ) -> "Counter[str]":
        """Wait for what becomes of utterances, by their places in the slice; returns the seconds of their stages."""
        self._started = self._started or _now()
        stopwatch = Stopwatch()
        with stopwatch("encode"):
            found = outcomes()
        seconds = Counter(stopwatch.seconds)
        for (place, prepared), outcome in zip(window, found, strict=True):
            seconds += Counter(prepared.seconds)
            if isinstance(outcome, UtteranceError):
                # for lack of memory: elsewhere it may be encoded, so it is taken up again as a repaired one is
                inputs = InputHashes() if isinstance(outcome.__cause__, DeviceMemoryError) else prepared.inputs
                self._skipped[prepared.utterance.id] = SkippedRow(str(outcome), *inputs)
                self._n_skipped += 1
            else:
                self._done[place] = outcome
        self._seconds += seconds
        return seconds

    def frames(self, job: ShardJob, waits: Mapping[str, float]) -> ShardFrames:
        """Return the shard to be written: utterances in their order, whatever the order they came in."""
        done = [self._done[place] for place in sorted(self._done)]
        tracks = [frames for item in done for frames in item.codecs.values()]
        vocabulary = sorted({label for frames in tracks for label in set(frames.phonemes.tolist())})
        number = {label: index for index, label in enumerate(vocabulary)}
        seconds = {stage: round(value, 3) for stage, value in {**self._seconds, **waits}.items()}
        row = ShardRow(
            socket.gethostname(),
            job.device,
            self._started or _now(),
            _now(),
            _job_id(),
            seconds_by_stage=json.dumps(seconds, sort_keys=True),
            encoding=json.dumps(job.encoding, sort_keys=True),
        )
        header = StoreHeader(
            utterances=[_row(item, job.split) for item in done],
            skipped=dict(sorted(self._skipped.items())),
            phonemes=vocabulary,
            shards=[row],
            codecs=[
                codec_header(codec, [item.codecs[name].codes.shape[1] for item in done], job.with_latents)
                for name, codec in job.codecs.items()
            ],
            attributes=job.attributes,
        )
        frames = [
            (name, track.codes, _numbers(track.phonemes, number), track.f0_hz, track.latents)
            for item in done
            for name, track in item.codecs.items()
        ]
        return ShardFrames(header, frames)


def codec_header(codec: Codec, n_frames: Sequence[int], has_latents: bool = False) -> CodecHeader:
    """Return the store's header of a loaded codec."""
    return CodecHeader(
        codec.name,
        codec.sample_rate_hz,
        codec.hop_samples,
        codec.weights,
        codec.weights_sha256,
        codec.codebooks,
        n_frames,
        has_latents,
    )


def producer_versions(packages: Sequence[str]) -> dict[str, str]:
    """Return the versions of Python and of the installed ones among `packages`."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {"python": platform.python_version()}
    for name in packages:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def _numbers(labels: NDArray[np.str_], number: Mapping[str, int]) -> NDArray[np.uint16]:
    return np.array([number[label] for label in labels.tolist()], np.uint16)


def _row(item: UtteranceFrames, split: Mapping[str, int]) -> UtteranceRow:
    utterance = item.utterance
    return UtteranceRow(
        utterance.id,
        utterance.speaker,
        split[utterance.id],
        item.n_samples,
        item.sample_rate_hz,
        item.inputs.audio,
        alignment_sha256=item.inputs.alignment,
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _job_id() -> str:
    job, task = os.environ.get("SLURM_JOB_ID", ""), os.environ.get("SLURM_ARRAY_TASK_ID", "")
    return f"{os.environ.get('SLURM_ARRAY_JOB_ID', job)}_{task}" if task else job
