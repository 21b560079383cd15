"""The store a benchmark runs on: made when it is not there, with the record of its making beside it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

MAKER = Path(__file__).resolve().parents[1] / "make_scale_store.py"


def ensure_scale_store(path: Path, shape: str, n_utterances: int | None = None, n_speakers: int | None = None) -> None:
    """Make the synthetic store of true shape at `path`, in a process of its own, unless a file is there.

    The record that the maker prints stays beside the store (`record_path`).

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
    done = subprocess.run(command, stdout=subprocess.DEVNULL)  # the record stays in its file
    if done.returncode:
        sys.exit(f"{path}: the store could not be made; see above")


def record_path(store: Path) -> Path:
    """Return where the record of a store's making lies: ``store.json`` beside ``store.h5``."""
    return store.with_suffix(".json")


def read_making(store: Path, content_digest: str) -> dict[str, Any] | None:
    """Return the record of a store's making; None where there is none, or only one of another content."""
    try:
        record: dict[str, Any] = json.loads(record_path(store).read_text(encoding="utf-8"))
        return record if record["content_digest"] == content_digest else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def warm_up(path: Path) -> None:
    """Read a file once, so that every run finds it in the page cache."""
    with open(path, "rb", buffering=0) as file:
        while file.read(1 << 24):
            pass
