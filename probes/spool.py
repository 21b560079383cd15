"""What a counting pass finds, kept on disk: its tables, and the evaluation frames, so that no second pass is needed.

A scratch folder inside the results folder holds one folder a span of frames. Evaluation frames are raw little-endian
files, one a layer and one a label track, written as the frames pass; tables are one .npy a layer and label, so that the
processes that fit read what they need and nobody holds the tables of all layers, which grow with the speakers. The
folder goes when the run ends, and one that a killed run left behind goes when the next begins.
"""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from probes.files import output_errors
from probes.statistics import LayerTables, Statistics

_CODES = "<u2"
_TRACKS = {"phoneme": "<u2", "speaker": "<i4", "f0": "<f4"}
_SCRATCH = ".evaluation"


class Spool:
    """One span's evaluation frames, written block by block, and its tables; a context manager.

    Parameters
    ----------
    folder : Path
        Made here, in a folder that is there; one span's own.
    layers : sequence of int
        The layers counted, from 1.

    Raises
    ------
    OutputError
        When it cannot be written.
    """

    def __init__(self, folder: Path, layers: Sequence[int]) -> None:
        self._folder = folder
        self._open = ExitStack()
        names = [*(_codes_name(layer) for layer in layers), *_TRACKS]
        with output_errors(folder), self._open:
            folder.mkdir()
            self._files = [self._open.enter_context((folder / name).open("wb")) for name in names]
            self._open = self._open.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with output_errors(self._folder):
            self._open.close()

    def add(self, codes: NDArray[np.uint16], labels: Sequence[NDArray[Any]]) -> None:
        """Keep a block's evaluation frames: codes (n_layers, n), and phoneme, speaker and F0 in Hz, (n,) each."""
        dtypes = [_CODES] * len(codes) + list(_TRACKS.values())
        with output_errors(self._folder):
            for file, values, dtype in zip(self._files, (*codes, *labels), dtypes, strict=True):
                file.write(np.ascontiguousarray(values, dtype=dtype).data)

    def keep(self, counted: Statistics) -> None:
        """Write the span's tables."""
        with output_errors(self._folder):
            for row, layer in enumerate(counted.layers):
                for name in ("phoneme", "speaker"):
                    table = getattr(counted, name)[:, row]
                    small = table.astype(np.uint32) if table.max(initial=0) <= np.iinfo(np.uint32).max else table
                    np.save(self._folder / _table_name(name, layer), small)
                np.save(self._folder / _table_name("pitch", layer), counted.pitch[:, :, row])


class Spooled:
    """Read what the spans of one codec kept, in their order.

    Parameters
    ----------
    folders : sequence of Path
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = folders

    def codes(self, layer: int) -> NDArray[np.uint16]:
        """Return one layer's codes, counted from 1: uint16 (n_frames,)."""
        return self._read(_codes_name(layer), _CODES)

    def track(self, name: str) -> NDArray[Any]:
        """Return a label track (``phoneme``, ``speaker``, ``f0``), (n_frames,)."""
        return self._read(name, _TRACKS[name])

    def tables(self, layer: int) -> LayerTables:
        """Return one layer's tables, counted from 1, summed over the spans."""
        phoneme, speaker = (
            np.ascontiguousarray(self._sum(_table_name(name, layer), np.int64).transpose(0, 2, 1))
            for name in ("phoneme", "speaker")
        )
        return LayerTables(phoneme, speaker, self._sum(_table_name("pitch", layer), np.float64))

    def _sum(self, name: str, dtype: type) -> NDArray[Any]:
        total: NDArray[Any] = np.load(self._folders[0] / name, allow_pickle=False).astype(dtype)
        for folder in self._folders[1:]:
            total += np.load(folder / name, allow_pickle=False)
        return total

    def _read(self, name: str, dtype: str) -> NDArray[Any]:
        return np.concatenate([np.fromfile(folder / name, dtype=dtype) for folder in self._folders])


@contextmanager
def scratch_folder(output: Path) -> Iterator[Path]:
    """Yield a new scratch folder of a results folder; only the process that holds the results' lock may ask.

    Its name is this run's own: a worker that a killed run left behind for a moment has lost its folder, and cannot
    come in the way.
    """
    for leftover in output.glob(f"{_SCRATCH}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    with output_errors(output):
        folder = Path(tempfile.mkdtemp(prefix=f"{_SCRATCH}-", dir=output))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _table_name(name: str, layer: int) -> str:
    return f"{name}_{layer:02d}.npy"


def _codes_name(layer: int) -> str:
    return f"codes_{layer:02d}"
