"""A disk that fills up in the middle of a build: one clear error, finished shards kept, and the build goes on later.

The build would refuse to start on a disk that is too small, so the disk is large and is filled up once it has begun.
The space that is left is drawn between nearly nothing and what the rest of the build takes at most. Where no disk can
be mounted, the size of files is limited instead: writing fails in the same places, with another number.
"""

import re
import shutil
import tempfile
import threading
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.faults.child import Child, Ended
from benchmarks.faults.disk import fill_up, free_again, small_disk
from benchmarks.faults.scene import LAYOUTS, Reference, Scene, Work, check_whole, error_line, finished_shards
from benchmarks.faults.tally import MissedError, NotHeldError, strike_often

DISK_BYTES = 64 * 2**20
MIN_ROOM_BYTES = 4096
_SAYS_WHAT_TO_DO = re.compile(r"\b(free|space|room|ulimit)\b", re.IGNORECASE)


def run_full_disks(name: str, scene: Scene, n_runs: int, seed: int, folder: Path) -> dict[str, Any]:
    """Fill up the disk under builds, free it, run the command again, and look whether anything differs."""
    peak_bytes = cache(lambda work: _peak_bytes(scene, work, folder))

    def strike(rng: np.random.Generator, run_folder: Path) -> None:
        work = scene.build(LAYOUTS[rng.integers(len(LAYOUTS))])
        reference = scene.reference(work)
        room_bytes = int(rng.uniform(MIN_ROOM_BYTES, peak_bytes(work)))
        try:
            with small_disk(run_folder / "disk", DISK_BYTES) as disk:
                _on_disk(scene, work, reference, disk, room_bytes)
        except PermissionError:
            _under_limit(scene, work, reference, run_folder / "limited", room_bytes)

    return strike_often(name, n_runs, seed, folder, strike)


def _on_disk(scene: Scene, work: Work, reference: Reference, disk: Path, room_bytes: int) -> None:
    folder = disk / "made"
    with scene.start(work.command(folder)) as child:
        child.wait_for_step(0)
        fill_up(disk, room_bytes)
        ended = child.end()
    _check_refusal(ended, folder)
    free_again(disk)
    _check_recovery(scene, work, reference, folder)


def _under_limit(scene: Scene, work: Work, reference: Reference, folder: Path, limit_bytes: int) -> None:
    with scene.start(work.command(folder), "--file-limit-bytes", str(limit_bytes)) as child:
        ended = child.end()
    _check_refusal(ended, folder)
    _check_recovery(scene, work, reference, folder)


def _check_refusal(ended: Ended, folder: Path) -> None:
    """Check the error of a full disk, and that shards which were finished by then are there."""
    if ended.exit_code == 0:
        raise MissedError
    line = error_line(ended)
    if str(folder) not in line or not _SAYS_WHAT_TO_DO.search(line):
        raise NotHeldError(f"expected an error that names a path in {folder} and says what to free: {line[:300]!r}")
    synced = {Path(step.path).name for step in _renamed_shards(ended)}
    lost = synced - finished_shards(folder).keys()
    if lost:
        raise NotHeldError(f"finished shards are lost: {sorted(lost)}; {line[:200]!r}")


def _renamed_shards(ended: Ended) -> list[Any]:
    """Return the renamings of shards that were followed by another step, so that they are known to be done."""
    return [step for step in ended.steps[:-1] if step.name == "replace" and Path(step.path).name.startswith("shard-")]


def _check_recovery(scene: Scene, work: Work, reference: Reference, folder: Path) -> None:
    with scene.start(work.command(folder)) as child:
        ended = child.end()
    if ended.exit_code:
        raise NotHeldError(f"with space again: {ended.said}")
    check_whole(folder, reference)


def _peak_bytes(scene: Scene, work: Work, folder: Path) -> int:
    """Return what an undisturbed build takes at most, beyond what it had taken at its first step."""
    with tempfile.TemporaryDirectory(dir=folder) as holder:
        try:
            with small_disk(Path(holder) / "disk", DISK_BYTES) as disk:
                return _watched_peak(scene, work, disk)
        except PermissionError:
            output = Path(holder) / "made"
            scene.finish(work.command(output))
            return max(path.stat().st_size for path in output.rglob("*"))


def _watched_peak(scene: Scene, work: Work, disk: Path) -> int:
    with scene.start(work.command(disk / "made")) as child:
        child.wait_for_step(0)
        first = peak = shutil.disk_usage(disk).used
        ending = threading.Event()
        waiting = threading.Thread(target=_wait_for_end, args=(child, ending))
        waiting.start()
        while not ending.wait(0.002):
            peak = max(peak, shutil.disk_usage(disk).used)
        waiting.join()
    return peak - first


def _wait_for_end(child: Child, ending: threading.Event) -> None:
    try:
        child.end()
    finally:
        ending.set()
