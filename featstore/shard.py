"""A shard: a store of one slice of the corpus, written once, recognised by content when a build is resumed."""

import logging
import os
import platform
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from featstore.codecs.base import Codec
from featstore.corpora.base import Utterance
from featstore.errors import StoreError, UtteranceError
from featstore.extract import UtteranceFrames, extract_utterance
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
from featstore.inputs import check_same_inputs, hash_file, hash_inputs
from featstore.seal import check_seal
from featstore.store import Store
from featstore.writer import LAYOUT_OPTIONS, StoreWriter
from schemas.errors import SchemaError

LOG = logging.getLogger(__name__)


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
    """

    codecs: Mapping[str, Codec]
    split: Mapping[str, int]
    f0_method: str
    device: str
    attributes: Mapping[str, Mapping[str, Any]]


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
        with Store(path) as store:
            found = store.json_attribute("build_options")
            utterances, skipped = read_utterances(store), read_skipped(store)
    except (StoreError, SchemaError, OSError, KeyError) as error:
        LOG.warning("warning: %s; this shard is built again", str(error).split(";")[0])
        return None
    check_same_options(path, found, options)
    return Finished(skipped, check_same_inputs(path, utterances, skipped, hash_inputs(slice_)))


def check_same_options(path: Path, found: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Refuse a store that was built with other options, spelling out each difference.

    Raises
    ------
    StoreError
    """
    names = [name for name in {**found, **asked} if name not in LAYOUT_OPTIONS]
    differ = [
        f"{name} {found.get(name)!r} there, {asked.get(name)!r} now"
        for name in names
        if found.get(name) != asked.get(name)
    ]
    if differ:
        raise StoreError(
            f"{path}: was built with other options ({'; '.join(differ)}); "
            "repeat those, remove what is there, or choose another --output"
        )


def build_shard(
    path: Path,
    utterances: Sequence[Utterance],
    job: ShardJob,
    irregular: Mapping[str, str],
    progress: Callable[[str], None],
) -> None:
    """Encode and label a slice and write it as a factored store; bad utterances are skipped with their reason.

    Parameters
    ----------
    path : Path
        Appears when it is whole.
    utterances : sequence of Utterance
        The slice, sorted by id.
    job : ShardJob
    irregular : mapping of str to str
        Ids and reasons of files that could not even be scanned, to be listed as skipped.
    progress : callable (id) -> None
        Called after each utterance.
    """
    started = _now()
    done: list[UtteranceFrames] = []
    alignments: dict[str, str] = {}
    skipped = {id_: SkippedRow(reason) for id_, reason in irregular.items()}
    for utterance in utterances:
        inputs = InputHashes(hash_file(utterance.audio_path), hash_file(utterance.alignment_path))
        try:
            done.append(extract_utterance(utterance, job.codecs, job.f0_method))
            alignments[utterance.id] = inputs.alignment
        except UtteranceError as error:
            skipped[utterance.id] = SkippedRow(str(error), *inputs)
        progress(utterance.id)
    vocabulary = sorted({label for item in done for frames in item.codecs.values() for label in set(frames.phonemes)})
    place = {label: index for index, label in enumerate(vocabulary)}
    row = ShardRow(socket.gethostname(), job.device, started, _now(), _job_id())
    header = StoreHeader(
        utterances=[_row(item, job.split, alignments[item.utterance.id]) for item in done],
        skipped=skipped,
        phonemes=vocabulary,
        shards=[row],
        codecs=[
            codec_header(codec, [item.codecs[name].codes.shape[1] for item in done])
            for name, codec in job.codecs.items()
        ],
        attributes=job.attributes,
    )
    with StoreWriter(path, header, layout="factored") as writer:
        for item in done:
            for name, frames in item.codecs.items():
                index = np.array([place[label] for label in frames.phonemes.tolist()], dtype=np.uint16)
                writer.append(name, frames.codes, index, frames.f0_hz)


def codec_header(codec: Codec, n_frames: Sequence[int]) -> CodecHeader:
    """Return the store's header of a loaded codec."""
    return CodecHeader(
        codec.name,
        codec.sample_rate_hz,
        codec.hop_samples,
        codec.weights,
        codec.weights_sha256,
        codec.codebooks,
        n_frames,
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


def _row(item: UtteranceFrames, split: Mapping[str, int], alignment_sha256: str) -> UtteranceRow:
    utterance = item.utterance
    return UtteranceRow(
        utterance.id,
        utterance.speaker,
        split[utterance.id],
        item.n_samples,
        item.sample_rate_hz,
        item.sha256,
        alignment_sha256=alignment_sha256,
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _job_id() -> str:
    job, task = os.environ.get("SLURM_JOB_ID", ""), os.environ.get("SLURM_ARRAY_TASK_ID", "")
    return f"{os.environ.get('SLURM_ARRAY_JOB_ID', job)}_{task}" if task else job
