"""Files that cannot be read, for a moment or for good: what could be read is right, and the rest is listed by name."""

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.faults import small_codec
from benchmarks.faults.child import Ended
from benchmarks.faults.scene import LAYOUTS, STORE_NAME, Scene, check_whole
from benchmarks.faults.tally import MissedError, NotHeldError, strike_often
from featstore.store import Store

SHARE = 0.1  # of the files
RETRY = "--retry-skipped"


def run_bad_reads(name: str, scene: Scene, n_runs: int, seed: int, folder: Path) -> dict[str, Any]:
    """Build from files of which some cannot be read, then retry what was skipped once they can."""
    made = scene.reference(scene.build("factored")).folder
    file = made / f"{STORE_NAME}.weights" / f"{small_codec.NAME}.npy"
    # weights are given: those made from files that cannot be read would be others
    works = [scene.build(layout, "--weights", f"{small_codec.NAME}={file}") for layout in LAYOUTS]
    expected = codes_of(made / STORE_NAME)

    def strike(rng: np.random.Generator, run_folder: Path) -> None:
        work = works[rng.integers(len(works))]
        reference = scene.reference(work)
        command = work.command(run_folder)
        options = ["--bad-reads-seed", str(rng.integers(2**31)), "--bad-reads-share", str(SHARE)]
        with scene.start(command, *options) as child:
            ended = child.end()
        failed = {step.path for step in ended.steps if step.name.startswith("bad-read")}
        if not failed:
            raise MissedError
        if ended.exit_code:
            raise NotHeldError(f"{len(failed)} unreadable files: {ended.said}")
        _check_kept(run_folder / STORE_NAME, expected, ended)
        with scene.start([*command, RETRY]) as child:
            ended = child.end()
        if ended.exit_code:
            raise NotHeldError(f"with {RETRY}: {ended.said}")
        check_whole(run_folder, reference)

    return strike_often(name, n_runs, seed, folder, strike)


def codes_of(path: Path) -> dict[str, bytes]:
    """Return each utterance's codes."""
    with Store(path) as store:
        frames = store[small_codec.NAME]
        codes, offsets = frames.codes(0, frames.n_frames), frames.offsets
        return {
            name: codes[:, offsets[place] : offsets[place + 1]].tobytes()
            for place, name in enumerate(store.strings("utterances/id"))
        }


def _check_kept(path: Path, expected: dict[str, bytes], ended: Ended) -> None:
    """Check that every utterance has its codes or a reason that names it, and that what never could be read has one."""
    found = codes_of(path)
    with Store(path) as store:
        skipped = dict(zip(store.strings("skipped/id"), store.strings("skipped/reason"), strict=True))
    unreadable = {step.path.rpartition(".")[0] for step in ended.steps if step.name == "bad-read-always"}
    for name, codes in expected.items():
        if name in skipped:
            if name not in skipped[name]:
                raise NotHeldError(f"{name} is skipped with a reason that does not name it: {skipped[name]!r}")
        elif found.get(name) != codes:
            raise NotHeldError(f"{name} is not skipped, and its codes are {'others' if name in found else 'missing'}")
        elif name in unreadable:
            raise NotHeldError(f"{name} could never be read, and yet it is in the store")
