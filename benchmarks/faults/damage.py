"""One flipped bit, or a file cut short: a damaged store is refused, whatever was hit."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from benchmarks.faults.asking import Asked, NoAnswerError
from benchmarks.faults.scene import LAYOUTS, STORE_NAME, Scene
from benchmarks.faults.tally import Tally, generator

PATIENCE_S = 10.0
HEAD_BYTES = 8192
SMALL_UTTERANCES = "3"  # of the smaller stores
Request = Callable[[np.random.Generator, Path], dict[str, Any]]


def run_bit_flips(name: str, scene: Scene, n_runs: int, seed: int, folder: Path) -> dict[str, Any]:
    """Flip one bit of a store at a time; ``verify --full`` has to refuse each."""
    metadata = {path: metadata_regions(path) for path in stores(scene)}

    def draw(rng: np.random.Generator, store: Path) -> dict[str, Any]:
        place = draw_place(rng, store.stat().st_size, metadata[store])
        return {"flip": [place, int(rng.integers(8))]}

    return _damage_often(name, stores(scene), n_runs, seed, folder, draw)


def run_truncations(name: str, scene: Scene, n_runs: int, seed: int, folder: Path) -> dict[str, Any]:
    """Cut a store at a random length; opening it has to fail, with the file's name."""

    def draw(rng: np.random.Generator, store: Path) -> dict[str, Any]:
        size_bytes = store.stat().st_size
        lengths = (rng.integers(size_bytes), rng.integers(HEAD_BYTES), size_bytes - rng.integers(1, 513))
        return {"cut": int(min(rng.choice(lengths), size_bytes - 1))}

    return _damage_often(name, stores(scene), n_runs, seed, folder, draw)


def stores(scene: Scene) -> list[Path]:
    """Return finished stores of both layouts and of two sizes, made when they are first asked for."""
    works = [scene.build(layout, *more) for layout in LAYOUTS for more in ((), ("--max-utterances", SMALL_UTTERANCES))]
    return [scene.reference(work).folder / STORE_NAME for work in works]


def draw_place(rng: np.random.Generator, size_bytes: int, metadata: Sequence[tuple[int, int]]) -> int:
    """Return a byte of a file: of all its bytes, of its head, or (as often as both together) of its metadata."""
    kind = rng.random()
    if kind < 0.3:
        return int(rng.integers(size_bytes))
    if kind < 0.5:
        return int(rng.integers(min(HEAD_BYTES, size_bytes)))
    n_bytes = np.array([stop - start for start, stop in metadata])
    place = int(rng.integers(n_bytes.sum()))
    region = int(np.searchsorted(np.cumsum(n_bytes), place, side="right"))
    return metadata[region][0] + place - int(n_bytes[:region].sum())


def metadata_regions(path: Path) -> list[tuple[int, int]]:
    """Return the parts (start, stop) of an HDF5 file that hold no dataset's values: headers, trees, heaps, gaps."""
    values: list[tuple[int, int]] = []

    def add(_: str, item: Any) -> None:
        if not isinstance(item, h5py.Dataset):
            return
        if item.chunks is None:
            start = item.id.get_offset()
            values.extend([] if start is None else [(start, start + item.id.get_storage_size())])
        else:
            chunks = map(item.id.get_chunk_info, range(item.id.get_num_chunks()))
            values.extend((chunk.byte_offset, chunk.byte_offset + chunk.size) for chunk in chunks)

    with h5py.File(path, "r") as file:
        file.visititems(add)
    edges = [0, *(edge for region in sorted(values) for edge in region), path.stat().st_size]
    return [(start, stop) for start, stop in zip(edges[::2], edges[1::2], strict=True) if start < stop]


def _damage_often(
    name: str, paths: Sequence[Path], n_runs: int, seed: int, folder: Path, draw: Request
) -> dict[str, Any]:
    """Damage each of `paths` in turn, `n_runs` times in all, each time as `draw` says."""
    tally = Tally(name, n_runs)
    for place, path in enumerate(paths):
        scratch = folder / f"{name}-{place}"
        scratch.mkdir(parents=True)
        with Asked("checker", [str(path), str(scratch)]) as checker:
            _check_undamaged(checker, path)
            for index in range(place, n_runs, len(paths)):
                request = draw(generator(name, seed, index), path)
                problem = _problem(checker, request)
                if problem is None:
                    tally.held()
                else:
                    tally.failed(f"run {index}, {path.parent.name}, {request}: {problem}")
    return tally.record()


def _check_undamaged(checker: Asked, path: Path) -> None:
    """Make sure that what is refused below is the damage: the store itself passes."""
    answered = checker.ask({}, PATIENCE_S)
    assert answered["outcome"] == "passed", f"{path}, undamaged: {answered}"


def _problem(checker: Asked, request: dict[str, Any]) -> str | None:
    """Return what is wrong with the answer to a damaged store, None where nothing is."""
    try:
        answered = checker.ask(request, PATIENCE_S)
    except NoAnswerError as error:
        return str(error)
    if answered["outcome"] != "refused":
        return f"{answered['outcome']} {answered['told']}"
    return None if "damaged-" in answered["told"] else f"the error names no file: {answered['told']}"
