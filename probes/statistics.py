"""Everything a probe of one layer needs: how often each code meets each label, per layer of one codec.

A probe sees the frames only through these tables, so they replace the frames: fits and scores from them are exact,
whatever the number of frames. Tables of several stores, shards or machines add up; `probes.counting` makes them.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore.atomic import write_once
from featstore.npz_file import read_npz
from probes.errors import ProbeError
from probes.files import output_errors

FORMAT = "rvqprobe-statistics"
FORMAT_VERSION = "1.0"
_TABLES = {"phoneme": np.int64, "speaker": np.int64, "pitch": np.float64}


@dataclass(frozen=True)
class LayerTables:
    """Tables of one layer, over [train, evaluation] along the first axis.

    Attributes
    ----------
    phoneme : int64 array of shape (2, n_codewords, n_phonemes)
        Frames by code and raw phone label.
    speaker : int64 array of shape (2, n_codewords, n_speakers)
    pitch : float64 array of shape (2, 3, n_codewords)
        Over voiced frames: their number, the sum of F0 (Hz) and of its square (Hz^2).
    """

    phoneme: NDArray[np.int64]
    speaker: NDArray[np.int64]
    pitch: NDArray[np.float64]


@dataclass(frozen=True)
class Statistics:
    """Tables of one codec; objects of the same codec and codebooks add, save and load.

    Attributes
    ----------
    codec : str
    layers : tuple of int
        The layers counted, from 1.
    phonemes, speakers : tuple of str
        What the label axes stand for, sorted.
    codebooks_sha256 : str
        Of the codebooks the codes point into: tables of other codebooks must not be added.
    phoneme : int64 array of shape (2, n_layers, n_phonemes, n_codewords)
        Frames by part (train, evaluation), layer, raw phone label and code.
    speaker : int64 array of shape (2, n_layers, n_speakers, n_codewords)
    pitch : float64 array of shape (2, 3, n_layers, n_codewords)
        Over voiced frames: their number, the sum of F0 (Hz) and of its square (Hz^2).
    """

    codec: str
    layers: tuple[int, ...]
    phonemes: tuple[str, ...]
    speakers: tuple[str, ...]
    codebooks_sha256: str
    phoneme: NDArray[np.int64]
    speaker: NDArray[np.int64]
    pitch: NDArray[np.float64]

    def layer(self, layer: int) -> LayerTables:
        """Return the tables of one layer, counted from 1.

        Raises
        ------
        ProbeError
            When that layer was not counted.
        """
        if layer not in self.layers:
            raise ProbeError(f"{self.codec}: layer {layer} was not counted, only {', '.join(map(str, self.layers))}")
        row = self.layers.index(layer)
        phoneme, speaker = (np.ascontiguousarray(t[:, row].transpose(0, 2, 1)) for t in (self.phoneme, self.speaker))
        return LayerTables(phoneme, speaker, self.pitch[:, :, row])

    def __add__(self, other: "Statistics") -> "Statistics":
        """Return the tables of both sets of frames; labels are matched by name.

        Raises
        ------
        ProbeError
            When the two are of different codecs, codebooks or layers.
        """
        for name in ("codec", "layers", "codebooks_sha256"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise ProbeError(f"statistics of different {name} do not add: {mine} and {theirs}")
        phonemes, phoneme = _add_by_name(self.phonemes, self.phoneme, other.phonemes, other.phoneme)
        speakers, speaker = _add_by_name(self.speakers, self.speaker, other.speakers, other.speaker)
        pitch = self.pitch + other.pitch
        return Statistics(self.codec, self.layers, phonemes, speakers, self.codebooks_sha256, phoneme, speaker, pitch)

    def save(self, path: Path | str) -> None:
        """Write everything to one compressed .npz file, whole or not at all."""
        path = Path(path)
        about = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "codec": self.codec,
            "layers": self.layers,
            "phonemes": self.phonemes,
            "speakers": self.speakers,
            "codebooks_sha256": self.codebooks_sha256,
        }
        tables = {name: getattr(self, name) for name in _TABLES}
        with output_errors(path), write_once(path) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, allow_pickle=False, about=np.array(json.dumps(about)), **tables)

    @classmethod
    def load(cls, path: Path | str) -> "Statistics":
        """Read what `save` wrote.

        Raises
        ------
        ProbeError
            When the file is missing, damaged, of another format or version, or its tables do not fit its names.
        """
        try:
            arrays = read_npz(Path(path).read_bytes())
            about = _about(arrays)
            layers, phonemes, speakers = (tuple(about[name]) for name in ("layers", "phonemes", "speakers"))
            found = cls(about["codec"], layers, phonemes, speakers, about["codebooks_sha256"], *_tables(arrays))
            _check_tables(found)
        except (OSError, ValueError) as error:
            raise ProbeError(
                f"{path}: expected {FORMAT} {FORMAT_VERSION}, found {error}; count the store again"
            ) from error
        return found


def _about(arrays: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """Return what a file says of its tables; a ValueError tells what is wrong with it."""
    try:
        about = json.loads(str(arrays["about"])) if "about" in arrays else None
    except RecursionError as error:
        raise ValueError("JSON that is nested too deeply") from error
    if not isinstance(about, dict):
        raise ValueError("an .npz file that does not say what it is")
    if about.get("format") != FORMAT or str(about.get("format_version")).split(".")[0] != "1":
        raise ValueError(f"{about.get('format')} {about.get('format_version')}")
    for name in ("codec", "codebooks_sha256"):
        if not isinstance(about.get(name), str):
            raise ValueError(f"{name} {about.get(name)!r}")
    for name, kind in (("layers", int), ("phonemes", str), ("speakers", str)):
        values = about.get(name)
        if not isinstance(values, list) or any(type(value) is not kind for value in values):
            raise ValueError(f"{name} that are no list of {kind.__name__}")
        if len(set(values)) < len(values):
            raise ValueError(f"{name} named twice")
    if min(about["layers"], default=0) < 1:
        raise ValueError(f"layers {about['layers']}, which count from 1")
    return about


def _tables(arrays: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
    """Return the tables in the order of `Statistics`; a ValueError tells what none can hold."""
    missing = [name for name in _TABLES if name not in arrays]
    if missing:
        raise ValueError(f"no table {', '.join(missing)}")
    for name, dtype in _TABLES.items():
        if arrays[name].dtype != dtype:
            raise ValueError(f"table {name} of {arrays[name].dtype}, not {np.dtype(dtype)}")
        if not (np.isfinite(arrays[name]) & (arrays[name] >= 0)).all():
            raise ValueError(f"table {name} with negative or undefined entries")
    return [arrays[name] for name in _TABLES]


def _check_tables(statistics: Statistics) -> None:
    """Check the tables' shapes against the names and layers; a ValueError tells the first that does not fit."""
    n_layers, n_codewords = len(statistics.layers), statistics.pitch.shape[-1] if statistics.pitch.ndim else 0
    shapes = {
        "phoneme": (2, n_layers, len(statistics.phonemes), n_codewords),
        "speaker": (2, n_layers, len(statistics.speakers), n_codewords),
        "pitch": (2, 3, n_layers, n_codewords),
    }
    for name, shape in shapes.items():
        found = getattr(statistics, name).shape
        if found != shape:
            raise ValueError(f"table {name} of shape {found} where its names and layers make {shape}")


def _add_by_name(
    names: tuple[str, ...], table: NDArray[np.int64], other_names: tuple[str, ...], other_table: NDArray[np.int64]
) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Add two tables whose third axis is named, over the union of the names."""
    if names == other_names:
        return names, table + other_table
    union = tuple(sorted({*names, *other_names}))
    total = np.zeros((*table.shape[:2], len(union), table.shape[3]), dtype=np.int64)
    for part_names, part in ((names, table), (other_names, other_table)):
        total[:, :, [union.index(name) for name in part_names]] += part
    return union, total
