"""Bootstrap resamples of the evaluation part: which utterances or speakers are drawn, and how often.

Frames of an utterance, and utterances of a speaker, are alike, so frames are never drawn alone: the units are whole
speakers (the cluster bootstrap; Davison and Hinkley 1997, *Bootstrap Methods and their Application*, section 3.8,
doi:10.1017/CBO9780511802843) or utterances. The speaker task, whose classes are the speakers, draws utterances within
each speaker, so that every class stays (stratified; section 3.2 there).

The draws depend on the seed and on the names of the units alone, not on their order in a store: probes of all layers
and codecs over the same utterances are scored on the same resamples, and their scores can be subtracted as pairs. Equal
draws are not enough for that: the same speakers may stand for other utterances, so `units_sha256` covers these too.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from probes.errors import ProbeError
from probes.tasks import Task

BootstrapUnit = Literal["utterance", "utterance within speaker", "speaker"]
# With fewer clusters than this an interval over clusters is far too narrow.
MIN_SPEAKERS = 10
_BLOCK_CELLS = 1 << 20  # draws made at a time


@dataclass(frozen=True)
class Resamples:
    """How often each unit is drawn in each resample.

    Attributes
    ----------
    unit : {"utterance", "utterance within speaker", "speaker"}
    unit_of_utterance : int64 array of shape (n_utterances,)
        Unit of each evaluation utterance.
    stratum_of_unit : int64 array of shape (n_units,)
        Each resample draws as many units from a stratum as the stratum has.
    weights : unsigned integer array of shape (n_resamples, n_units)
        Times that unit u is drawn in resample b; read-only.
    seed : int
        As given.
    units_sha256 : str
        Of what the units are and of every utterance with its speaker, in any order. Two `Resamples` of equal hash,
        seed and number are the same draws of the same utterances.
    """

    unit: BootstrapUnit
    unit_of_utterance: NDArray[np.int64]
    stratum_of_unit: NDArray[np.int64]
    weights: NDArray[np.unsignedinteger]
    seed: int
    units_sha256: str

    @property
    def n_resamples(self) -> int:
        """Number of resamples."""
        return len(self.weights)

    @property
    def n_units(self) -> int:
        """Number of units that are drawn from, and in each resample."""
        return len(self.stratum_of_unit)

    @property
    def can_vary(self) -> bool:
        """Whether another sample than the given one can be drawn: some stratum has two units."""
        return self.n_units > 0 and int(np.bincount(self.stratum_of_unit).max()) > 1

    def total(self, values: NDArray[np.floating] | NDArray[np.integer]) -> NDArray[np.float64]:
        """Sum one number an utterance, (n_utterances,), over the utterances of each unit: float64 (n_units,)."""
        return np.bincount(self.unit_of_utterance, values, minlength=self.n_units).astype(np.float64)


def draw_resamples(
    task: Task, utterances: Sequence[str], speakers: Sequence[str], n_resamples: int = 1000, seed: int = 0
) -> Resamples:
    """Draw the resamples of a task's evaluation utterances.

    Parameters
    ----------
    task : {"phoneme", "speaker", "pitch"}
        ``speaker`` draws utterances within speakers; the others draw speakers when there are at least ten, else
        utterances.
    utterances : sequence of str
        Id of each evaluation utterance, all different, in the order of the evaluation frames.
    speakers : sequence of str
        Name of the speaker of each.
    n_resamples : int
        At least 1.
    seed : int
        Not negative.

    Raises
    ------
    ProbeError
        When the numbers do not fit, or an utterance is named twice.
    """
    if n_resamples < 1 or seed < 0:
        raise ProbeError(f"bootstrap: expected at least 1 resample and a seed from 0, found {n_resamples} and {seed}")
    if len(utterances) != len(speakers) or len(set(utterances)) < len(utterances):
        raise ProbeError(
            f"bootstrap: expected one speaker for each of different utterances, found {len(utterances)} utterances "
            f"({len(set(utterances))} different) and {len(speakers)} speakers; verify the store"
        )
    return _draw(_unit_of(task, speakers), tuple(utterances), tuple(speakers), n_resamples, seed)


def _unit_of(task: Task, speakers: Sequence[str]) -> BootstrapUnit:
    if task == "speaker":
        return "utterance within speaker"
    return "speaker" if len(set(speakers)) >= MIN_SPEAKERS else "utterance"


@lru_cache(maxsize=4)  # one draw serves all probes of a process
def _draw(
    unit: BootstrapUnit, utterances: tuple[str, ...], speakers: tuple[str, ...], n_resamples: int, seed: int
) -> Resamples:
    named = speakers if unit == "speaker" else utterances
    names, unit_of_utterance = _numbered(named)
    stratum_of_unit = np.zeros(len(names), dtype=np.int64)
    strata: list[str] = []
    if unit == "utterance within speaker":
        strata, stratum_of_utterance = _numbered(speakers)
        stratum_of_unit[unit_of_utterance] = stratum_of_utterance
    of_names = _sha256([unit, names, [strata[stratum] for stratum in stratum_of_unit] if strata else []])
    entropy = [seed, *(int(of_names[i : i + 8], 16) for i in range(0, 64, 8))]
    weights = _draw_weights(stratum_of_unit, n_resamples, np.random.default_rng(entropy))
    # Drawn in the order of names; kept in the order of appearance, in which a unit's frames are neighbours.
    appearance = np.array(list(dict.fromkeys(unit_of_utterance.tolist())), dtype=np.int64)
    weights = weights[:, appearance]
    weights.setflags(write=False)
    units_sha256 = _sha256([unit, sorted(zip(utterances, speakers, strict=True))])
    return Resamples(
        unit, np.argsort(appearance)[unit_of_utterance], stratum_of_unit[appearance], weights, seed, units_sha256
    )


def _numbered(names: Sequence[str]) -> tuple[list[str], NDArray[np.int64]]:
    """Return the different names, sorted, and the place of each given name among them."""
    different = sorted(set(names))
    place = {name: index for index, name in enumerate(different)}
    return different, np.array([place[name] for name in names], dtype=np.int64)


def _sha256(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _draw_weights(
    stratum_of_unit: NDArray[np.int64], n_resamples: int, rng: np.random.Generator
) -> NDArray[np.unsignedinteger]:
    """Draw with replacement within strata and count: (n_resamples, n_units).

    Row sums are multinomial counts, made by counting draws, which is faster than drawing counts.
    """
    n_units = len(stratum_of_unit)
    weights = np.zeros((n_resamples, n_units), dtype=np.min_scalar_type(max(n_units, 1)))
    if n_units == 0:
        return weights
    by_stratum = np.argsort(stratum_of_unit, kind="stable")
    sizes = np.bincount(stratum_of_unit)
    size = sizes[stratum_of_unit[by_stratum]]
    start = (np.cumsum(sizes) - sizes)[stratum_of_unit[by_stratum]]
    step = max(1, _BLOCK_CELLS // n_units)
    for first in range(0, n_resamples, step):
        n = min(step, n_resamples - first)
        # A double has 53 random bits: floor(u * size) favours no unit by more than size / 2^53.
        place = start + (rng.random((n, n_units)) * size).astype(np.int64)
        cells = by_stratum[place] + np.arange(n)[:, None] * n_units
        weights[first : first + n] = np.bincount(cells.ravel(), minlength=n * n_units).reshape(n, n_units)
    return weights
