"""From a phone sequence to control tracks: formants, source amplitudes and noise bands, one value every 5 ms.

Klatt's synthesiser updates its parameters every 5 ms as well. Phone boundaries lie on a 10 ms grid, so that every
boundary is a control point and a track can be zero up to it exactly.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from featstore.corpora.synthetic_lexicon import fold_stress, stress_of
from featstore.corpora.synthetic_phones import (
    NEUTRAL_HZ,
    PHONES,
    STRESS_LEVEL_DB,
    UNSTRESSED_REDUCTION,
    Phone,
)

CONTROL_SAMPLES = 80
"""Samples from one control point to the next: 5 ms at 16 kHz."""

_FORMANT_SMOOTHING_STEPS = 2.2
"""Standard deviation of the smoothing of formant targets, in control steps: transitions of about 40 ms."""

_CLOSURE_FRACTION = {"stop": 0.5, "affricate": 0.4}
_BURST_STEPS = 2
_GLIDE_FROM, _GLIDE_TO = 0.25, 0.8

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Tracks:
    """Control tracks of an utterance of ``n_steps`` steps of 5 ms.

    Attributes
    ----------
    formants_hz : float64 array of shape (n_steps + 1, 3)
        F1 to F3 of an average man at the control points.
    nasality : float64 array of shape (n_steps + 1,)
        0 to 1, depth of the nasal zero.
    nasal_zero_hz : float64 array of shape (n_steps + 1,)
        Frequency of the nasal zero.
    noise_centre_hz, noise_bandwidth_hz : float64 arrays of shape (n_steps + 1,)
        Band of the frication noise.
    voice : float64 array of shape (n_samples,)
        Amplitude of the voice source, 1 in a stressed vowel, exactly 0 in voiceless phones and silence.
    frication, aspiration : float64 arrays of shape (n_samples,)
        Amplitudes of the noise sources.
    """

    formants_hz: FloatArray
    nasality: FloatArray
    nasal_zero_hz: FloatArray
    noise_centre_hz: FloatArray
    noise_bandwidth_hz: FloatArray
    voice: FloatArray
    frication: FloatArray
    aspiration: FloatArray


class _Targets:
    """Unsmoothed targets per 5 ms step; NaN where a phone has none of its own."""

    def __init__(self, n_steps: int) -> None:
        self.formants = np.full((n_steps, 3), np.nan)
        self.zero = np.full(n_steps, np.nan)
        self.band = np.full((n_steps, 2), np.nan)
        self.voice = np.zeros(n_steps)
        self.frication = np.zeros(n_steps)
        self.aspiration = np.zeros(n_steps)

    def add(self, label: str, start: int, stop: int) -> None:
        """Write the targets of the phone that covers steps [start, stop)."""
        phone, stress = PHONES[fold_stress(label)], stress_of(label)
        here = slice(start, stop)
        if phone.formants_hz is not None:
            self.formants[here] = _formant_targets(phone, stress, stop - start)
        if phone.nasal_zero_hz is not None:
            self.zero[here] = phone.nasal_zero_hz
        self.voice[here] = _amplitude(phone.voicing_db, 0.0 if stress is None else STRESS_LEVEL_DB[stress])
        self._add_noise(phone, start, stop)

    def _add_noise(self, phone: Phone, start: int, stop: int) -> None:
        """Let noise sound throughout a fricative, but only after the closure of a stop or an affricate."""
        release = start + round(_CLOSURE_FRACTION.get(phone.kind, 0.0) * (stop - start))
        if phone.frication_hz is not None:
            # Not in the closure: the band of a noise just before it would jump while that noise still sounds.
            self.band[release:stop] = phone.frication_hz
        burst_end = min(release + _BURST_STEPS, stop) if phone.kind == "stop" else stop
        self.frication[release:burst_end] = _amplitude(phone.frication_db)
        breath_start = burst_end if phone.kind == "stop" else release
        self.aspiration[breath_start:stop] = _amplitude(phone.aspiration_db)


def make_tracks(phones: Sequence[tuple[str, int, int]], silences: frozenset[str]) -> Tracks:
    """Turn phones into control tracks.

    Parameters
    ----------
    phones : sequence of (label, start_sample, end_sample)
        Contiguous from sample 0; all boundaries multiples of ``CONTROL_SAMPLES``.
    silences : frozenset of str
        Labels that are silent.

    Returns
    -------
    Tracks
    """
    n_samples = phones[-1][2]
    targets = _Targets(n_samples // CONTROL_SAMPLES)
    for label, start, stop in phones:
        if label not in silences:
            targets.add(label, start // CONTROL_SAMPLES, stop // CONTROL_SAMPLES)
    formants = np.stack([_smooth(_fill(targets.formants[:, k], NEUTRAL_HZ[k])) for k in range(3)], axis=1)
    return Tracks(
        formants_hz=formants,
        nasality=_smooth(np.where(np.isnan(targets.zero), 0.0, 1.0)),
        nasal_zero_hz=_to_points(_fill(targets.zero, 1000.0)),
        noise_centre_hz=_to_points(_fill(targets.band[:, 0], 4000.0)),
        noise_bandwidth_hz=_to_points(_fill(targets.band[:, 1], 4000.0)),
        voice=_voice_amplitude(targets.voice, n_samples),
        frication=_noise_amplitude(targets.frication, n_samples),
        aspiration=_noise_amplitude(targets.aspiration, n_samples),
    )


def _formant_targets(phone: Phone, stress: int | None, n_steps: int) -> FloatArray:
    start = np.array(phone.formants_hz, dtype=np.float64)
    end = start if phone.glide_hz is None else np.array(phone.glide_hz, dtype=np.float64)
    within = (np.arange(n_steps) + 0.5) / n_steps
    way = np.clip((within - _GLIDE_FROM) / (_GLIDE_TO - _GLIDE_FROM), 0, 1)[:, None]
    targets: FloatArray = start + way * (end - start)
    if stress == 0:
        targets += UNSTRESSED_REDUCTION * (np.array(NEUTRAL_HZ) - targets)
    return targets


def _amplitude(level_db: float | None, change_db: float = 0.0) -> float:
    return 0.0 if level_db is None else float(10 ** ((level_db + change_db) / 20))


def _fill(values: FloatArray, otherwise: float) -> FloatArray:
    """Fill NaN by linear interpolation between known neighbours; ``otherwise`` where nothing is known."""
    known = np.flatnonzero(~np.isnan(values))
    if known.size == 0:
        return np.full(values.shape, otherwise)
    return np.interp(np.arange(values.size), known, values[known])


def _to_points(steps: FloatArray) -> FloatArray:
    """Give each of the n + 1 control points the value of the step it begins (the last: the last step's)."""
    return np.append(steps, steps[-1])


def _smooth(steps: FloatArray) -> FloatArray:
    reach = round(3 * _FORMANT_SMOOTHING_STEPS)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / _FORMANT_SMOOTHING_STEPS) ** 2)
    return np.convolve(np.pad(_to_points(steps), reach, "edge"), kernel / kernel.sum(), "valid")


def _voice_amplitude(steps: FloatArray, n_samples: int) -> FloatArray:
    """Ramp the voice amplitude inside the voiced phones, so that it is exactly 0 outside them.

    A minimum over neighbours comes before the average over the same neighbours: at no sample does the result exceed
    the target there, and the ramp (15 ms) lies wholly on the louder side of a boundary.
    """
    around = np.pad(steps, 1)
    points = np.pad(np.minimum(around[:-1], around[1:]), 1, "edge")
    eroded = np.pad(np.minimum(np.minimum(points[:-2], points[1:-1]), points[2:]), 1, "edge")
    ramped = 0.25 * eroded[:-2] + 0.5 * eroded[1:-1] + 0.25 * eroded[2:]
    return np.interp(np.arange(n_samples), np.arange(ramped.size) * CONTROL_SAMPLES, ramped)


def _noise_amplitude(steps: FloatArray, n_samples: int) -> FloatArray:
    """Interpolate between step centres: noise sets in and ends within 5 ms, as a burst must."""
    centres = (np.arange(steps.size) + 0.5) * CONTROL_SAMPLES
    return np.interp(np.arange(n_samples), centres, steps)
