"""The store a benchmark runs on: made when it is not there."""

import subprocess
import sys
from pathlib import Path

MAKER = Path(__file__).resolve().parents[1] / "make_scale_store.py"


def ensure_scale_store(path: Path, shape: str, n_utterances: int | None = None, n_speakers: int | None = None) -> None:
    """Make the synthetic store of true shape at `path`, in a process of its own, unless a file is there.

    Parameters
    ----------
    path : Path
    shape : {"clean100", "clean360"}
    n_utterances, n_speakers : int or None
        None: all of the shape's.
    """
    if path.exists():
        return
    command = [sys.executable, str(MAKER), "--output", str(path), "--shape", shape]
    for name, number in (("--utterances", n_utterances), ("--speakers", n_speakers)):
        command += [name, str(number)] if number is not None else []
    print(f"making {path}, once", file=sys.stderr)
    path.parent.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(command, stdout=subprocess.DEVNULL)
    if done.returncode:
        sys.exit(f"{path}: the store could not be made; see above")


def warm_up(path: Path) -> None:
    """Read a file once, so that every run finds it in the page cache."""
    with open(path, "rb", buffering=0) as file:
        while file.read(1 << 24):
            pass
