"""A fitted probe as an object and as files: arrays in .npz, the rest in JSON, nothing pickled (schemas/probe-1.0.md).

Saving and predicting need NumPy alone; `load_probe` gives scikit-learn's own estimators, built from the arrays.
"""

import hashlib
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from featstore.atomic import write_once
from featstore.npz_file import read_npz
from featstore.safe_text import shown
from probes.errors import ProbeFileError
from probes.objective import softmax

Array = NDArray[np.float64]

FORMAT = "rvqprobe-probe"
FORMAT_VERSION = "1.0"
_ARRAYS = ("coef", "intercept", "mean", "scale")


@dataclass(frozen=True)
class FittedProbe:
    """A linear probe on raw embedding rows.

    Attributes
    ----------
    kind : {"logistic", "linear"}
    coef : float64 array of shape (n_classes, dim), or (1, dim) for linear
        Acts on standardised rows, (x - mean) / scale.
    intercept : float64 array of shape (n_classes,) or (1,)
    mean, scale : float64 arrays of shape (dim,)
        Zeros and ones where rows are taken as they are.
    classes : array of shape (n_classes,), strings or integers, or None for linear
    metadata : dict
        Whatever describes the probe (codec, layer, task, digest, ...); must be JSON.
    """

    kind: Literal["logistic", "linear"]
    coef: Array
    intercept: Array
    mean: Array
    scale: Array
    classes: NDArray[Any] | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    def scores(self, X: NDArray[np.floating]) -> Array:
        """Return logits (n_rows, n_classes), or predictions (n_rows, 1), of raw rows X (n_rows, dim)."""
        return ((X.astype(np.float64) - self.mean) / self.scale) @ self.coef.T + self.intercept

    def predict(self, X: NDArray[np.floating]) -> NDArray[Any]:
        """Return the class (logistic) or the value in Hz (linear) of every raw row."""
        if self.classes is None:
            return self.scores(X)[:, 0]
        return np.asarray(self.classes[np.argmax(self.scores(X), axis=1)])

    def predict_proba(self, X: NDArray[np.floating]) -> Array:
        """Return class probabilities, float64 array of shape (n_rows, n_classes)."""
        return softmax(self.scores(X))[0]


def save_probe(path: Path | str, probe: FittedProbe) -> Path:
    """Write ``<name>.npz`` and ``<name>.json``, each under a temporary name first, the JSON last.

    Returns
    -------
    Path
        The JSON file, which names and hashes the other: a pair that does not match is refused on reading.

    Raises
    ------
    ProbeFileError
        When the probe holds what is no number or no JSON.
    """
    npz, description = _pair(path)
    arrays = {name: np.asarray(getattr(probe, name), dtype=np.float64) for name in _ARRAYS}
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise ProbeFileError(f"{npz}: the probe's coefficients are not finite, so it is not saved; see its outcome")
    if probe.classes is not None:
        arrays["classes"] = _plain(probe.classes)
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    header = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "kind": probe.kind,
        "arrays": npz.name,
        "arrays_sha256": hashlib.sha256(buffer.getvalue()).hexdigest(),
        "metadata": probe.metadata,
    }
    try:
        text = json.dumps(header, indent=1, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ProbeFileError(f"{description}: the probe's metadata is no JSON ({error})") from error
    for file, content in ((npz, buffer.getvalue()), (description, text.encode())):
        with write_once(file) as temporary:
            temporary.write_bytes(content)
    return description


def read_probe(path: Path | str) -> FittedProbe:
    """Read what `save_probe` wrote; `path` is either file, or their common name.

    Raises
    ------
    ProbeFileError
        When a file is missing, damaged, of another format version, or not the other's pair.
    """
    _, description = _pair(path)
    header = _read_header(description)
    npz = description.with_name(header["arrays"])
    arrays = _read_arrays(npz, header["arrays_sha256"])
    missing = [name for name in _ARRAYS if name not in arrays]
    if missing:
        raise ProbeFileError(f"{npz}: lacks {', '.join(missing)}; fit the probe again")
    coef, intercept, mean, scale = (arrays[name] for name in _ARRAYS)
    probe = FittedProbe(header["kind"], coef, intercept, mean, scale, arrays.get("classes"), header["metadata"])
    _check_shapes(probe, description)
    return probe


def load_probe(path: Path | str) -> Any:
    """Read a probe as a fitted ``Pipeline(StandardScaler, LogisticRegression | LinearRegression)``.

    Its ``predict`` and ``predict_proba`` take raw embedding rows. Two classes get the single row that scikit-learn
    keeps for them; a probe with one class, which scikit-learn's regression cannot hold, becomes a constant
    ``DummyClassifier`` with ``coef_`` and ``intercept_`` added.

    Raises
    ------
    ProbeFileError
        As `read_probe`.
    """
    return to_sklearn(read_probe(path))


def to_sklearn(probe: FittedProbe) -> Any:
    """Return `probe` as the scikit-learn pipeline that `load_probe` describes."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler()
    scaler.mean_, scaler.scale_, scaler.var_ = probe.mean, probe.scale, probe.scale**2
    scaler.n_features_in_, scaler.n_samples_seen_ = len(probe.mean), int(probe.metadata.get("n_train") or 1)
    return make_pipeline(scaler, _linear_model(probe) if probe.classes is None else _logistic_model(probe))


def _linear_model(probe: FittedProbe) -> Any:
    from sklearn.linear_model import LinearRegression

    model = LinearRegression()
    model.coef_, model.intercept_, model.n_features_in_ = probe.coef[0], float(probe.intercept[0]), probe.coef.shape[1]
    return model


def _logistic_model(probe: FittedProbe) -> Any:
    from sklearn.dummy import DummyClassifier
    from sklearn.linear_model import LogisticRegression

    coef, intercept = probe.coef, probe.intercept
    if len(coef) == 1:
        model: Any = DummyClassifier(strategy="prior").fit(np.zeros((1, coef.shape[1])), probe.classes)
    else:
        model = LogisticRegression()
        model.classes_, model.n_iter_ = probe.classes, np.array([int(probe.metadata.get("n_iter") or 0)])
    if len(coef) == 2:
        coef, intercept = coef[1:] - coef[:1], intercept[1:] - intercept[:1]
    model.coef_, model.intercept_, model.n_features_in_ = coef, intercept, coef.shape[1]
    return model


def _plain(classes: NDArray[Any]) -> NDArray[Any]:
    """Return class names as a fixed-width array: an object array would need pickle."""
    plain = np.asarray(classes)
    return plain.astype(np.str_) if plain.dtype == object else plain


def _pair(path: Path | str) -> tuple[Path, Path]:
    """Return the .npz and the .json file of a probe called by either, or by their common name."""
    path = Path(path)
    name = path.name.removesuffix(".npz").removesuffix(".json")
    return path.with_name(name + ".npz"), path.with_name(name + ".json")


def _read_header(path: Path) -> dict[str, Any]:
    try:
        header: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ProbeFileError(f"{path}: no such probe; fit it with the probe command") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ProbeFileError(f"{path}: cannot be read as JSON ({error}); fit the probe again") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ProbeFileError(f"{path}: not a saved probe (expected format {FORMAT!r})")
    version = str(header.get("format_version"))
    if version.split(".")[0] != FORMAT_VERSION.split(".")[0]:
        raise ProbeFileError(f"{path}: format {version}, this build reads {FORMAT_VERSION}; fit the probe again")
    missing = [name for name in ("kind", "arrays", "arrays_sha256", "metadata") if name not in header]
    if missing:
        raise ProbeFileError(f"{path}: lacks {', '.join(missing)}; fit the probe again")
    name = header["arrays"]
    if not isinstance(name, str) or Path(name).name != name or name in ("", "..") or "\0" in name:
        raise ProbeFileError(
            f"{path}: expected arrays to be a file beside it, found {shown(name)}; fit the probe again"
        )
    if not isinstance(header["metadata"], dict):
        raise ProbeFileError(f"{path}: expected metadata to be an object; fit the probe again")
    return header


def _read_arrays(path: Path, sha256: str) -> dict[str, NDArray[Any]]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ProbeFileError(f"{path}: cannot be read ({error.strerror}); fit the probe again") from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise ProbeFileError(f"{path}: its SHA-256 is not the one its JSON file names; fit the probe again")
    try:
        return read_npz(data)
    except ValueError as error:
        raise ProbeFileError(f"{path}: expected a probe's arrays, found {error}; fit the probe again") from error


def _check_shapes(probe: FittedProbe, path: Path) -> None:
    if probe.coef.ndim != 2:
        raise ProbeFileError(f"{path}: coef is no matrix; fit the probe again")
    n_outputs, dim = probe.coef.shape
    n_classes = 1 if probe.classes is None else len(probe.classes)
    shapes = [probe.intercept.shape == (n_outputs,), probe.mean.shape == probe.scale.shape == (dim,)]
    if probe.kind not in ("logistic", "linear") or (probe.kind == "linear") != (probe.classes is None):
        raise ProbeFileError(f"{path}: kind {probe.kind!r} does not fit its arrays; fit the probe again")
    if not all(shapes) or n_classes != n_outputs:
        raise ProbeFileError(f"{path}: arrays of unequal sizes; fit the probe again")
