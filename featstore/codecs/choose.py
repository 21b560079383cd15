"""From what the user asked (``--weights``, ``--encodec-ckpt`` ...) to a checkpoint that can be loaded.

Untrained weights are made once for a corpus, before any shard, and kept beside the store: they are what encodes further
audio in the same way. A recipe hash beside them tells whether they are those asked for.
"""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featstore.atomic import write_text_once
from featstore.audio import read_audio, resample
from featstore.codecs.base import Checkpoint, CodecFamily, WeightsKind
from featstore.codecs.registry import codec_family, codec_names
from featstore.codecs.weights import sha256_of
from featstore.corpora.base import Utterance
from featstore.errors import FeatstoreError, UnknownNameError, UtteranceError, WeightsError
from featstore.json_file import NotJsonError, read_json_object

LOG = logging.getLogger(__name__)
MAX_NOTE_BYTES = 2**16
# The options that name a codec's files (weights, configuration); any codec takes --weights NAME=FILE besides.
_FILE_OPTIONS = {"encodec": ("--encodec-ckpt", ""), "speechtokenizer": ("--st-ckpt", "--st-config")}
SAMPLE_S = 400.0  # enough for the k-means samples of all built-in codecs


@dataclass(frozen=True)
class WeightsRequest:
    """What the user asked for one codec: a kind and, for ``checkpoint``, the files and the option that named them."""

    kind: WeightsKind
    path: Path | None = None
    config_path: Path | None = None
    option: str = "--weights"


def parse_weights(
    codecs: Sequence[str], weights: Sequence[str], checkpoints: Mapping[str, tuple[Path | None, Path | None]]
) -> dict[str, WeightsRequest]:
    """Read ``--weights`` (``pretrained``, ``untrained`` or ``NAME=pretrained|untrained|FILE``) and checkpoint files.

    Parameters
    ----------
    codecs : sequence of str
        The codecs of this build.
    weights : sequence of str
        Values of ``--weights``; later ones win, and one that names a codec wins over one that does not.
    checkpoints : mapping of str to (Path or None, Path or None)
        Weights file and configuration file by codec, as given by their own options.

    Raises
    ------
    UnknownNameError
        When a name or a kind is not known.
    WeightsError
        When a codec is given a configuration without weights.
    """
    requests = {name: WeightsRequest("pretrained") for name in codecs}
    for value in sorted(weights, key=lambda value: "=" in value):
        name, named, kind = value.rpartition("=")
        if named and name not in codec_names():
            raise UnknownNameError(f"--weights {value}: unknown codec {name!r}; known are {', '.join(codec_names())}")
        if named and name not in requests:
            raise UnknownNameError(
                f"--weights {value}: {name} is not among the codecs of this build ({', '.join(codecs)}); "
                f"add --codec {name}"
            )
        for codec in [name] if named else codecs:
            requests[codec] = _request(kind, value, may_be_file=bool(named))
    for name, (path, config_path) in checkpoints.items():
        if path is not None or config_path is not None:
            option = _FILE_OPTIONS[name][0] if name in _FILE_OPTIONS else "--weights"
            if path is None:
                raise WeightsError(f"{config_path}: a configuration without weights for {name}; add {option} FILE")
            if name in requests:
                requests[name] = WeightsRequest("checkpoint", path, config_path, option)
    return requests


def _request(kind: str, value: str, *, may_be_file: bool) -> WeightsRequest:
    if kind == "pretrained":
        return WeightsRequest("pretrained")
    if kind == "untrained":
        return WeightsRequest("untrained")
    if may_be_file:
        return WeightsRequest("checkpoint", Path(kind), option=f"--weights {value}")
    raise UnknownNameError(f"--weights {value}: expected pretrained, untrained or NAME=pretrained|untrained|FILE")


def check_weights(name: str, request: WeightsRequest) -> None:
    """Check what can be checked of a request without downloading, making or reading anything.

    A build asks this of all its codecs first: nobody should wait for one codec's download to hear that the other's
    files are missing.

    Raises
    ------
    WeightsError
        When a file is missing, or the authors' weights have no download of their own.
    """
    family = codec_family(name)
    if request.kind == "pretrained" and family.fetch_pretrained is not None and not family.has_download:
        family.fetch_pretrained()
    if request.kind != "checkpoint":
        return
    config_option = _FILE_OPTIONS.get(name, ("", ""))[1]
    if request.path is None or not request.path.is_file():
        raise WeightsError(f"{request.path}: expected {name}'s checkpoint, found no file; check {request.option}")
    if request.config_path is None and family.needs_config:
        raise WeightsError(f"{request.path}: {name} needs its config.json as well; add {config_option} FILE")
    if request.config_path is not None and not request.config_path.is_file():
        raise WeightsError(
            f"{request.config_path}: expected {name}'s configuration, found no file; check {config_option}"
        )


def find_checkpoint(
    name: str, request: WeightsRequest, utterances: Sequence[Utterance], seed: int, folder: Path
) -> Checkpoint:
    """Return the checkpoint asked for, downloading or making it where that is what was asked.

    Parameters
    ----------
    name : str
        Codec name.
    request : WeightsRequest
    utterances : sequence of Utterance
        The full scan, of which untrained weights take a seeded sample.
    seed : int
    folder : Path
        Where untrained weights are kept.

    Raises
    ------
    WeightsError
        When the files are missing or cannot be fetched.
    """
    family = codec_family(name)
    check_weights(name, request)
    if request.kind == "checkpoint":
        assert request.path is not None
        return Checkpoint(request.path, "checkpoint", request.config_path)
    if request.kind == "pretrained" and family.fetch_pretrained is not None:
        return family.fetch_pretrained()
    return _untrained(family, utterances, seed, folder)


def _untrained(family: CodecFamily, utterances: Sequence[Utterance], seed: int, folder: Path) -> Checkpoint:
    # by ids, not by audio: a file repaired in the middle of a build must not change the weights of finished shards
    recipe = hashlib.sha256(f"{family.name}\0{seed}\0{SAMPLE_S}".encode())
    for utterance in utterances:
        recipe.update(f"\0{utterance.id}".encode())
    note = folder / f"{family.name}.json"
    kept = _kept(note, recipe.hexdigest(), folder)
    if kept is not None:
        return kept
    if family.fetch_pretrained is None:
        LOG.info("fitting the codebooks of %s to a sample of the corpus ...", family.name)
    else:
        LOG.info("making untrained weights of %s (k-means codebooks on a sample of the corpus) ...", family.name)
    folder.mkdir(parents=True, exist_ok=True)
    sample = read_sample(utterances, family.sample_rate_hz, seed, SAMPLE_S)
    checkpoint = family.make_untrained(sample, seed, folder)
    paths = [path for path in (checkpoint.path, checkpoint.config_path) if path is not None]
    content = {"recipe_sha256": recipe.hexdigest(), "files": {path.name: sha256_of(path) for path in paths}}
    write_text_once(note, json.dumps(content, indent=1) + "\n")
    return checkpoint


def _kept(note: Path, recipe: str, folder: Path) -> Checkpoint | None:
    """Return the weights that an earlier run noted; None where they are absent, damaged or others: made anew then."""
    try:
        content = read_json_object(note, MAX_NOTE_BYTES)
    except NotJsonError:
        return None
    files = content.get("files")
    if content.get("recipe_sha256") != recipe or not isinstance(files, dict) or len(files) not in (1, 2):
        return None
    # The note is data: a name that is more than a name could lead anywhere.
    if any(Path(name).name != name or "\0" in name for name in files):
        return None
    try:
        if any(sha256_of(folder / name) != sha256 for name, sha256 in files.items()):
            return None
    except WeightsError:
        return None
    path, *config_path = (folder / name for name in files)
    return Checkpoint(path, "untrained", *config_path)


def read_sample(
    utterances: Sequence[Utterance], sample_rate_hz: int, seed: int, total_s: float
) -> list[NDArray[np.float32]]:
    """Read about `total_s` seconds of audio, utterances in a seeded order, resampled to `sample_rate_hz`.

    Raises
    ------
    FeatstoreError
        When none can be read.
    """
    sample, read_s = [], 0.0
    for utterance in sorted(
        utterances, key=lambda item: hashlib.sha256(f"weights\0{seed}\0{item.id}".encode()).digest()
    ):
        try:
            audio = read_audio(utterance.audio_path)
            sample.append(resample(audio.samples, audio.sample_rate_hz, sample_rate_hz))
        except UtteranceError:
            continue  # listed with its reason when its own shard is built
        read_s += len(audio.samples) / audio.sample_rate_hz
        if read_s >= total_s:
            break
    if not sample:
        raise FeatstoreError("no utterance of the corpus has readable audio: there is nothing to encode")
    return sample
