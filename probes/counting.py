"""Count a codec's frames in one streaming pass over its codes and labels.

Memory is that of the tables, a number or two an utterance, and one block of frames, however many there are; evaluation
frames that are to be kept go to disk as they pass. Spans of frames can be counted apart (by processes, Slurm tasks or
machines) and added.
"""

import hashlib
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from featstore.frames import Frames
from probes.errors import ProbeError
from probes.spool import Spool
from probes.statistics import Statistics
from probes.tally import Tally
from schemas.store import EVAL

# Large enough that adding the tables' temporaries costs little a frame; larger ones only take more memory.
_BLOCK_FRAMES = 1 << 19
_MOMENT_FRAMES = 1 << 16  # voiced ones, whose F0 and codes are to stay in the cache
_SPAN_FRAMES = 4_000_000
_MAX_SPANS = 4


def spans(n_frames: int) -> list[tuple[int, int]]:
    """Cut frames into spans to be counted apart; the cut depends on nothing else, so that sums are reproducible."""
    n_spans = min(_MAX_SPANS, max(1, n_frames // _SPAN_FRAMES))
    edges = [round(n_frames * i / n_spans) for i in range(n_spans + 1)]
    return list(pairwise(edges))


def count_frames(
    frames: Frames,
    layers: Sequence[int] = (),
    split: NDArray[np.int8] | None = None,
    span: tuple[int, int] | None = None,
    spool: Spool | None = None,
) -> Statistics:
    """Count a codec's frames.

    Parameters
    ----------
    frames : Frames
        A codec of an open store.
    layers : sequence of int
        Layers to count, from 1; empty means all.
    split : int8 array of shape (n_utterances,) or None
        Part of each utterance: 0 train, 1 evaluation, -1 neither. None: the store's own.
    span : (start, stop) or None
        Frames to count; None means all.
    spool : Spool or None
        Of the same layers; keeps the evaluation frames as they pass.

    Raises
    ------
    ProbeError
        When a code or label is outside its codebook or vocabulary, a frame's speaker is not that of its utterance, or
        F0 is infinite or not positive.
    """
    chosen = tuple(sorted(set(layers))) or tuple(range(1, frames.n_layers + 1))
    phonemes, speakers = (tuple(frames.store.strings(f"vocab/{name}")) for name in ("phonemes", "speakers"))
    shape = (len(chosen), frames.n_codewords)
    phoneme = np.zeros((2, shape[0], len(phonemes), shape[1]), dtype=np.int64)
    speaker = np.zeros((2, shape[0], len(speakers), shape[1]), dtype=np.int64)
    pitch = np.zeros((2, 3, *shape))
    speaker_of_utterance = frames.store.numbers("utterances/speaker")
    for start, stop in _blocks(*(span or (0, frames.n_frames))):
        codes, part = _codes(frames, chosen, start, stop), _parts(frames, split, start, stop)
        labels = [frames.labels(name, start, stop) for name in ("phoneme", "speaker", "f0")]
        _check(frames, codes, labels, len(phonemes), len(speakers))
        _check_speakers(frames, labels[1], speaker_of_utterance, start, stop)
        if part.min(initial=0) < 0:
            taken = part >= 0
            codes, part, labels = codes[:, taken], part[taken], [track[taken] for track in labels]
        wide = codes.astype(np.int32)
        _count_phonemes(phoneme, wide, labels[0], part)
        _count_speakers_and_voiced(speaker, pitch[:, 0], wide, labels[1], labels[2], part)
        _sum_pitch(pitch[:, 1:], wide, labels[2], part)
        if spool is not None:
            held_out = part == EVAL
            spool.add(codes[:, held_out], [track[held_out] for track in labels])
    sha256 = hashlib.sha256(np.ascontiguousarray(frames.codebooks, dtype="<f4").data).hexdigest()
    return Statistics(frames.name, chosen, phonemes, speakers, sha256, phoneme, speaker, pitch)


def _blocks(start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Cut at multiples of the block, which are edges of the store's chunks too: none is decompressed twice.

    No frames are one empty block, so that what is kept of them has its shape.
    """
    while True:
        block_stop = min(start - start % _BLOCK_FRAMES + _BLOCK_FRAMES, stop)
        yield start, block_stop
        if block_stop >= stop:
            return
        start = block_stop


def _codes(frames: Frames, layers: tuple[int, ...], start: int, stop: int) -> NDArray[np.uint16]:
    if len(layers) == frames.n_layers:
        return frames.codes(start, stop)
    return np.stack([frames.layer(layer).codes(start, stop) for layer in layers])


def _parts(frames: Frames, split: NDArray[np.int8] | None, start: int, stop: int) -> NDArray[np.int8]:
    if split is None:
        return frames.frame_splits(start, stop)
    result: NDArray[np.int8] = frames.of_frames(split, start, stop)
    return result


def _count_phonemes(
    table: NDArray[np.int64], codes: NDArray[np.int32], labels: NDArray[np.integer], part: NDArray[np.int8]
) -> None:
    """Add the frames of a block to `table` (2, n_layers, n_labels, n_codewords)."""
    n_labels, n_codes = table.shape[2:]
    tally = Tally(labels + part * np.int32(n_labels), 2 * n_labels, n_codes)
    for layer, row in enumerate(codes):
        table[:, layer] += tally.of(row).reshape(2, n_labels, n_codes)


def _count_speakers_and_voiced(
    table: NDArray[np.int64],
    n_voiced: NDArray[np.float64],
    codes: NDArray[np.int32],
    labels: NDArray[np.integer],
    f0_hz: NDArray[np.float32],
    part: NDArray[np.int8],
) -> None:
    """Add the frames of a block to `table` (2, n_layers, n_labels, n_codewords), the voiced ones to `n_voiced` too."""
    if not labels.size:
        return
    # A block holds few of the speakers, and neighbours where utterances are sorted: the others' rows are left alone.
    low, high = int(labels.min()), int(labels.max()) + 1
    rows = 2 * (labels - np.int32(low) + part * np.int32(high - low)) + ~np.isnan(f0_hz)
    tally = Tally(rows, 4 * (high - low), table.shape[3])
    for layer, row in enumerate(codes):
        cells = tally.of(row).reshape(2, high - low, 2, -1)
        table[:, layer, low:high] += cells.sum(axis=2)
        n_voiced[:, layer] += cells[:, :, 1].sum(axis=1)


def _sum_pitch(
    sums: NDArray[np.float64], codes: NDArray[np.int32], f0_hz: NDArray[np.float32], part: NDArray[np.int8]
) -> None:
    """Add F0 and its square, of the voiced frames of a block, to `sums` (2, 2, n_layers, n_codewords)."""
    voiced = np.flatnonzero(~np.isnan(f0_hz))
    for start in range(0, len(voiced), _MOMENT_FRAMES):
        taken = voiced[start : start + _MOMENT_FRAMES]
        y = f0_hz[taken].astype(np.float64)
        # As the parts of a complex number both are summed in one pass.
        tally = Tally(part[taken].astype(np.int32), 2, sums.shape[3], y + 1j * np.square(y))
        for layer, row in enumerate(codes):
            both = tally.of(row.take(taken))
            sums[:, 0, layer] += both.real
            sums[:, 1, layer] += both.imag


def _check(
    frames: Frames,
    codes: NDArray[np.uint16],
    labels: list[NDArray[np.generic]],
    n_phonemes: int,
    n_speakers: int,
) -> None:
    _check_range(frames, "codes", codes, frames.n_codewords)
    _check_range(frames, "labels/phoneme", labels[0], n_phonemes)
    _check_range(frames, "labels/speaker", labels[1], n_speakers)
    f0_hz = labels[2]
    lowest, highest = np.fmin.reduce(f0_hz, initial=np.inf), np.fmax.reduce(f0_hz, initial=0.0)
    if not (lowest > 0 and np.isfinite(highest)):
        raise ProbeError(
            f"{frames.store.path}:/codecs/{frames.name}/labels/f0: expected positive Hz or NaN, found "
            f"{lowest} to {highest}; the store is damaged, rebuild it"
        )


def _check_speakers(
    frames: Frames, labels: NDArray[np.generic], speaker_of_utterance: NDArray[np.integer], start: int, stop: int
) -> None:
    expected = frames.of_frames(speaker_of_utterance, start, stop)
    if not np.array_equal(labels, expected):
        place = int((labels != expected).argmax())
        raise ProbeError(
            f"{frames.store.path}:/codecs/{frames.name}/labels/speaker: expected {expected[place]} in frame "
            f"{start + place}, the speaker of its utterance in /utterances/speaker, found {labels[place]}; the store "
            "is damaged, rebuild it"
        )


def _check_range(frames: Frames, name: str, values: NDArray[np.generic], n: int) -> None:
    if values.size and not 0 <= int(values.min()) <= int(values.max()) < n:
        raise ProbeError(
            f"{frames.store.path}:/codecs/{frames.name}/{name}: expected values from 0 to {n - 1}, found "
            f"{values.min()} to {values.max()}; the store is damaged, rebuild it"
        )
