"""The evaluation frames that a counting pass meets, kept on disk so that no second pass over the store is needed.

Each span's frames are one .npz of plain arrays in a scratch folder inside the results folder; the folder goes when the
run ends, and one that a killed run left behind goes when the next begins.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

TRACKS = ("phoneme", "speaker", "f0")


class Spool:
    """Evaluation frames of one span, block by block, then one file a track.

    Parameters
    ----------
    folder : Path
        Made by `save`; one span's own.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._blocks: dict[str, list[NDArray[Any]]] = {name: [] for name in ("codes", *TRACKS)}

    def add(self, codes: NDArray[np.uint16], labels: Sequence[NDArray[Any]]) -> None:
        """Keep a block's evaluation frames: codes (n_layers, n), and the tracks of `TRACKS`, (n,) each."""
        for name, values in zip(("codes", *TRACKS), (codes, *labels), strict=True):
            self._blocks[name].append(values)

    def save(self) -> None:
        """Write what was kept."""
        self._folder.mkdir(parents=True)
        for name, blocks in self._blocks.items():
            np.save(self._folder / f"{name}.npy", np.concatenate(blocks, axis=-1))


class SpooledTracks:
    """Read what the spans of one codec kept, in their order.

    Parameters
    ----------
    folders : sequence of Path
    layers : sequence of int
        The layers counted, from 1.
    """

    def __init__(self, folders: Sequence[Path], layers: Sequence[int]) -> None:
        self._folders, self._layers = folders, tuple(layers)

    def codes(self, layer: int) -> NDArray[np.uint16]:
        """Return one layer's codes, uint16 (n_frames,)."""
        row = self._layers.index(layer)
        return np.concatenate([np.load(folder / "codes.npy", mmap_mode="r")[row] for folder in self._folders])

    def track(self, name: str) -> NDArray[Any]:
        """Return a label track, (n_frames,)."""
        return np.concatenate([np.load(folder / f"{name}.npy") for folder in self._folders])


@contextmanager
def scratch_folder(output: Path) -> Iterator[Path]:
    """Yield the empty scratch folder of a results folder; only the process that holds the results' lock may ask."""
    folder = output / ".evaluation"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
