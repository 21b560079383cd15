"""Everything a probe of one layer needs, counted in one streaming pass over a codec's codes and labels.

A probe sees the frames only through how often each code meets each label, so these tables replace the frames: fits and
scores from them are exact, whatever the number of frames. Tables of several stores of one codec add up.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from featstore.store import Frames
from probes.errors import ProbeError
from schemas.store import EVAL, TRAIN

_BLOCK_FRAMES = 1 << 20  # larger than the reader's, so that clearing the tables' temporaries costs little a frame


@dataclass
class Statistics:
    """Tables of one codec, over [train, evaluation] along the first axis.

    Attributes
    ----------
    phoneme : int64 array of shape (2, n_layers, n_codewords, n_phonemes)
        Frames by code and raw phone label.
    speaker : int64 array of shape (2, n_layers, n_codewords, n_speakers)
    pitch : float64 array of shape (2, 3, n_layers, n_codewords)
        Over voiced frames: their number, the sum of F0 (Hz) and of its square.
    eval_codes : uint16 array of shape (n_layers, n_voiced_eval)
    eval_f0_hz : float32 array of shape (n_voiced_eval,)
        The voiced evaluation frames themselves: the mean absolute error is no function of the tables.
    """

    phoneme: NDArray[np.int64]
    speaker: NDArray[np.int64]
    pitch: NDArray[np.float64]
    eval_codes: NDArray[np.uint16]
    eval_f0_hz: NDArray[np.float32]

    def __add__(self, other: "Statistics") -> "Statistics":
        """Return the tables of both sets of frames; vocabularies and codebooks must be the same."""
        for name in ("phoneme", "speaker", "pitch"):
            if getattr(self, name).shape != getattr(other, name).shape:
                raise ProbeError(
                    f"{name} tables of shapes {getattr(self, name).shape} and {getattr(other, name).shape} do not add; "
                    "merge the stores first, so that they share one vocabulary"
                )
        return Statistics(
            self.phoneme + other.phoneme,
            self.speaker + other.speaker,
            self.pitch + other.pitch,
            np.concatenate([self.eval_codes, other.eval_codes], axis=1),
            np.concatenate([self.eval_f0_hz, other.eval_f0_hz]),
        )


def count_frames(frames: Frames, progress: Callable[[int, int], None] | None = None) -> Statistics:
    """Count a codec's frames in one pass over its codes and labels.

    Parameters
    ----------
    frames : Frames
        A codec of an open store.
    progress : callable (n_done, n_total) or None
        Called after each block, in frames.

    Raises
    ------
    ProbeError
        When a code or label is outside its codebook or vocabulary, or F0 is infinite or not positive.
    """
    n_phonemes = len(frames.store.strings("vocab/phonemes"))
    n_speakers = len(frames.store.strings("vocab/speakers"))
    shape = (2, frames.n_layers, frames.n_codewords)
    phoneme = np.zeros((*shape, n_phonemes), dtype=np.int64)
    speaker = np.zeros((*shape, n_speakers), dtype=np.int64)
    pitch = np.zeros((2, 3, *shape[1:]))
    voiced_codes, voiced_f0 = [np.zeros((frames.n_layers, 0), np.uint16)], [np.zeros(0, np.float32)]
    for start, stop in frames.blocks(_BLOCK_FRAMES):
        codes, split = frames.codes(start, stop), frames.frame_splits(start, stop)
        _check_range(frames, "codes", codes, frames.n_codewords)
        for name, table in (("phoneme", phoneme), ("speaker", speaker)):
            labels = frames.labels(name, start, stop)
            _check_range(frames, f"labels/{name}", labels, table.shape[-1])
            _count_labels(table, codes, labels, split)
        f0 = frames.labels("f0", start, stop)
        voiced = ~np.isnan(f0)
        _check_f0(frames, f0[voiced])
        _add_moments(pitch, codes[:, voiced], f0[voiced], split[voiced])
        held_out = voiced & (split == EVAL)
        voiced_codes.append(codes[:, held_out])
        voiced_f0.append(f0[held_out])
        if progress is not None:
            progress(stop, frames.n_frames)
    return Statistics(phoneme, speaker, pitch, np.concatenate(voiced_codes, axis=1), np.concatenate(voiced_f0))


def _count_labels(
    table: NDArray[np.int64], codes: NDArray[np.uint16], labels: NDArray[np.generic], split: NDArray[np.int8]
) -> None:
    _, _, n_codes, n_labels = table.shape
    within = split.astype(np.int64) * (n_codes * n_labels) + labels
    for layer, row in enumerate(codes):
        cells = np.bincount(row.astype(np.int64) * n_labels + within, minlength=2 * n_codes * n_labels)
        table[:, layer] += cells.reshape(2, n_codes, n_labels)


def _add_moments(
    pitch: NDArray[np.float64], codes: NDArray[np.uint16], f0_hz: NDArray[np.float32], split: NDArray[np.int8]
) -> None:
    n_codes = pitch.shape[-1]
    y = f0_hz.astype(np.float64)
    for part in (TRAIN, EVAL):
        of_part = split == part
        for layer, row in enumerate(codes):
            for moment, weights in enumerate((None, y[of_part], np.square(y[of_part]))):
                pitch[part, moment, layer] += np.bincount(row[of_part], weights, minlength=n_codes)


def _check_range(frames: Frames, name: str, values: NDArray[np.generic], n: int) -> None:
    if values.size and not 0 <= int(values.min()) <= int(values.max()) < n:
        raise ProbeError(
            f"{frames.store.path}:/codecs/{frames.name}/{name}: expected values from 0 to {n - 1}, found "
            f"{values.min()} to {values.max()}; the store is damaged, rebuild it"
        )


def _check_f0(frames: Frames, f0_hz: NDArray[np.float32]) -> None:
    if f0_hz.size and not (f0_hz.min() > 0 and np.isfinite(f0_hz.max())):
        raise ProbeError(
            f"{frames.store.path}:/codecs/{frames.name}/labels/f0: expected positive Hz or NaN, found "
            f"{f0_hz.min()} to {f0_hz.max()}; the store is damaged, rebuild it"
        )
