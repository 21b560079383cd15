"""95 % percentile bootstrap intervals of a probe's scores, conditional on the fitted probe.

The probe stays as it is; what is drawn anew is which utterances or speakers it is evaluated on (`probes.resamples`).
The interval is the middle 95 % of the resampled scores (Efron and Tibshirani 1993, *An Introduction to the Bootstrap*,
section 13.3, doi:10.1201/9780429246593). A resampled score is computed from weighted sums of per-unit statistics
(`probes.unit_tables`), all resamples at once: weights (n_resamples, n_units) times table (n_units, n_classes).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from featstore.atomic import write_once
from featstore.npz_file import read_npz
from probes.errors import ProbeFileError
from probes.files import output_errors
from probes.resamples import BootstrapUnit, Resamples
from probes.unit_tables import ClassTables, PitchTables
from schemas.record import Record

Array = NDArray[np.float64]
FOLDER = "bootstrap"
_LEVELS = (0.025, 0.975)
# Whole numbers up to here, and sums of them that stay below, are exact in float32.
_EXACT_FLOAT32 = 1 << 24
_BLOCK_RESAMPLES, _BLOCK_CLASSES = 256, 128
# Share of filled cells under which a sparse product is faster.
_SPARSE = 0.02
_VALUES = "values/"  # what the names of a file's samples begin with


def class_values(resamples: Resamples, tables: ClassTables) -> dict[str, Array]:
    """Return accuracy, macro-F1 and the tables' ratios in each resample, NaN where undefined.

    Returns
    -------
    dict from metric to float64 array of shape (n_resamples,)
        Macro-F1 averages over the classes of the full evaluation; one that a resample neither has nor predicts counts
        as zero there, as in the score itself.
    """
    n_hit = weighted_counts(resamples, tables.n_hit)
    n_both = weighted_counts(resamples, tables.n_both)
    values = {"accuracy": _ratio(n_hit.sum(axis=1), _weigh(resamples, tables.n_frames))}
    n_hit, n_both = n_hit[:, tables.scored], n_both[:, tables.scored]
    f1 = 2.0 * n_hit / np.where(n_both > 0, n_both, 1.0)
    undefined = np.isnan(values["accuracy"])
    values["macro_f1"] = np.where(undefined, np.nan, f1.sum(axis=1) / max(1, f1.shape[1]))
    for metric, (over, under) in tables.ratios.items():
        values[metric] = _ratio(_weigh(resamples, over), _weigh(resamples, under))
    return values


def pitch_values(resamples: Resamples, tables: PitchTables) -> dict[str, Array]:
    """Return MAE (Hz) and R2 in each resample, NaN where undefined: no voiced frame, or for R2 a constant y."""
    n, error, error2, y, y2 = np.array([_weigh(resamples, row) for row in tables.sums])
    total = y2 - _ratio(y * y, n)
    centre = tables.centre_hz
    # What rounding leaves of a constant y is no variance: the rule of probes.metrics.r2_score.
    varies = total > 1e-12 * (y2 + 2.0 * centre * y + n * centre**2)
    return {
        "mae_hz": _ratio(error, n),
        "r2": np.where(varies, 1.0 - _ratio(error2, np.where(varies, total, 1.0)), np.nan),
    }


def weighted_counts(resamples: Resamples, counts: NDArray[np.unsignedinteger]) -> Array:
    """Return weights @ counts, exactly: (n_resamples, n_units) times (n_units, n_classes), float64.

    In float32 where no sum can reach 2^24, which halves time and memory; in float64 otherwise.
    """
    dtype = np.float32 if _largest_sum(resamples, counts) < _EXACT_FLOAT32 else np.float64
    if np.count_nonzero(counts) < _SPARSE * counts.size:
        return _weigh_sparse(resamples, counts, dtype)
    product = np.empty((resamples.n_resamples, counts.shape[1]))
    for rows in _blocks(resamples.n_resamples, _BLOCK_RESAMPLES):
        weights = resamples.weights[rows].astype(dtype)
        for columns in _blocks(counts.shape[1], _BLOCK_CLASSES):
            product[rows, columns] = weights @ counts[:, columns].astype(dtype)
    return product


def _weigh_sparse(resamples: Resamples, counts: NDArray[np.unsignedinteger], dtype: type) -> Array:
    from scipy.sparse import csr_array

    table = csr_array(counts.T, dtype=dtype)
    blocks = _blocks(resamples.n_resamples, _BLOCK_RESAMPLES)
    return np.concatenate([(table @ resamples.weights[rows].T.astype(dtype)).T for rows in blocks]).astype(np.float64)


def _largest_sum(resamples: Resamples, counts: NDArray[np.unsignedinteger]) -> int:
    """Return a bound on any class's count in any resample: every draw of a stratum is its largest unit."""
    if not counts.size:
        return 0
    by_stratum = np.argsort(resamples.stratum_of_unit, kind="stable")
    sizes = np.bincount(resamples.stratum_of_unit)
    sizes = sizes[sizes > 0]
    largest = np.maximum.reduceat(counts[by_stratum], np.cumsum(sizes) - sizes)
    return int((largest * sizes[:, None]).sum(axis=0).max())


def _weigh(resamples: Resamples, values: NDArray[np.floating] | NDArray[np.integer]) -> Array:
    """Return the weighted sum of one number a unit in each resample, in float64."""
    blocks = _blocks(resamples.n_resamples, _BLOCK_RESAMPLES)
    return np.concatenate([resamples.weights[rows].astype(np.float64) @ values for rows in blocks])


def _blocks(n: int, step: int) -> Iterator[slice]:
    yield from (slice(start, start + step) for start in range(0, n, step))


def _ratio(over: Array, under: Array) -> Array:
    return np.where(under > 0, over / np.where(under > 0, under, 1.0), np.nan)


def interval(values: Array) -> tuple[float, float] | None:
    """Return the middle 95 % of the resampled values that are defined (not NaN); None where fewer than two are.

    One value would be an interval without width, however uncertain the score.
    """
    defined = values[~np.isnan(values)]
    if len(defined) < 2:
        return None
    low, high = np.quantile(defined, _LEVELS)
    return float(low), float(high)


def interval_fields(resamples: Resamples, values: Mapping[str, Array]) -> Record:
    """Return the record's fields: ``<metric>_low`` and ``<metric>_high``, and over what was resampled.

    Every field is null where the units allow no other sample than the one given (a single one, or one a stratum), and
    a metric's where fewer than two resamples define it: an interval without width would claim a certainty that was
    never measured.
    """
    ends = {name: interval(sample) if resamples.can_vary else None for name, sample in values.items()}
    fields: Record = {}
    for name, pair in ends.items():
        fields[f"{name}_low"], fields[f"{name}_high"] = pair or (None, None)
    found = any(pair is not None for pair in ends.values())
    return fields | {
        "n_bootstrap": resamples.n_resamples if found else None,
        "bootstrap_unit": resamples.unit if found else None,
    }


@dataclass(frozen=True)
class Resampled:
    """Resampled scores of one probe as kept on disk, with what tells whether two probes' can be paired.

    Attributes
    ----------
    values : mapping from metric to float64 array of shape (n_resamples,)
    unit : str
    units_sha256 : str
    seed : int
    """

    values: Mapping[str, Array]
    unit: str
    units_sha256: str
    seed: int

    def pairs_with(self, other: "Resampled", metric: str) -> bool:
        """Whether both have `metric` on the same resamples of the same units."""
        if metric not in self.values or metric not in other.values:
            return False
        same = (self.unit, self.units_sha256, self.seed) == (other.unit, other.units_sha256, other.seed)
        return same and len(self.values[metric]) == len(other.values[metric])


def resampled_path(results: Path, probe_file: str) -> Path:
    """Return the file of a probe's resampled scores, from the record's `probe_file`."""
    return Path(results) / FOLDER / f"{Path(probe_file).stem}.npz"


def save_resampled(path: Path, resamples: Resamples, values: Mapping[str, Array]) -> None:
    """Write resampled scores as .npz without pickle, whole or not at all; the folder is created where absent."""
    arrays: dict[str, Any] = {f"{_VALUES}{metric}": sample.astype(np.float64) for metric, sample in values.items()}
    arrays |= {"unit": resamples.unit, "units_sha256": resamples.units_sha256, "seed": resamples.seed}
    with output_errors(path), write_once(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)


def read_resampled(path: Path) -> Resampled:
    """Read what `save_resampled` wrote.

    Raises
    ------
    ProbeFileError
        When the file is absent, damaged, or no such file.
    """
    try:
        return _resampled(read_npz(path.read_bytes()))
    except (OSError, ValueError) as error:
        raise ProbeFileError(
            f"{path}: expected resampled scores, found {error}; remove its probe's line in records.jsonl and probe "
            "again"
        ) from error


def _resampled(arrays: Mapping[str, NDArray[Any]]) -> Resampled:
    """Check names, shapes and types; a ValueError says what does not fit."""
    values = {name.removeprefix(_VALUES): array for name, array in arrays.items() if name.startswith(_VALUES)}
    missing = [name for name in ("unit", "units_sha256", "seed") if name not in arrays]
    if missing or not values:
        raise ValueError(f"an .npz file without {', '.join(missing or ['values'])}")
    for name, array in values.items():
        if array.dtype != np.float64 or array.ndim != 1:
            raise ValueError(f"{_VALUES}{name} of type {array.dtype} and shape {array.shape}")
    if len({len(array) for array in values.values()}) > 1:
        raise ValueError("values of unequal numbers of resamples")
    unit, units_sha256, seed = arrays["unit"], arrays["units_sha256"], arrays["seed"]
    if any(array.ndim for array in (unit, units_sha256, seed)) or units_sha256.dtype.kind != "U":
        raise ValueError("unit, units_sha256 or seed of another type")
    if unit.item() not in get_args(BootstrapUnit) or seed.dtype.kind not in "iu" or seed.item() < 0:
        raise ValueError(f"unit {unit.item()!r} and seed {seed.item()!r}")
    return Resampled(values, unit.item(), units_sha256.item(), seed.item())
