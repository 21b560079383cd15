"""Everything a probe of one layer needs: how often each code meets each label, per layer of one codec.

A probe sees the frames only through these tables, so they replace the frames: fits and scores from them are exact,
whatever the number of frames. Tables of several stores, shards or machines add up; `probes.counting` makes them.
"""

import io
import json
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from featstore.atomic import write_once
from probes.errors import ProbeError
from probes.files import output_errors

FORMAT = "rvqprobe-statistics"
FORMAT_VERSION = "1.0"
_TABLES = ("phoneme", "speaker", "pitch")


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

    def save(self, path: Path) -> None:
        """Write everything to one compressed .npz file, whole or not at all."""
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
    def load(cls, path: Path) -> "Statistics":
        """Read what `save` wrote.

        Raises
        ------
        ProbeError
            When the file is missing, of another format or version, or damaged.
        """
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
                about = json.loads(str(arrays["about"]))
                tables = {name: arrays[name] for name in _TABLES}
        except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
            raise ProbeError(f"{path}: expected saved statistics, found {error}; count the store again") from error
        if about.get("format") != FORMAT or str(about.get("format_version")).split(".")[0] != "1":
            found = f"{about.get('format')} {about.get('format_version')}"
            raise ProbeError(f"{path}: expected {FORMAT} {FORMAT_VERSION}, found {found}; count the store again")
        layers, phonemes, speakers = (tuple(about[name]) for name in ("layers", "phonemes", "speakers"))
        return cls(about["codec"], layers, phonemes, speakers, about["codebooks_sha256"], **tables)


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
