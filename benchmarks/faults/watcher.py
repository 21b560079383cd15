"""A reader that looks at a store and its shards again and again while they are built.

    python -m benchmarks.faults.watcher STORE

Says ``ready``, looks until its stdin is closed, and then tells in JSON how often it looked, how often it saw each file
as a whole store, and what it found that was neither a whole store nor nothing.
"""

import json
import select
import sys
from collections.abc import Iterator
from pathlib import Path

from featstore.verify import verify_store
from schemas.errors import RvqprobeError


def main() -> None:
    """Look until told to stop."""
    output = Path(sys.argv[1])
    n_looks = 0
    whole, broken = dict[str, int](), list[str]()
    print("ready", flush=True)
    while not select.select([sys.stdin], [], [], 0.001)[0]:
        n_looks += 1
        for path in visible(output):
            problem = look_at(path)
            if problem is None:
                whole[path.name] = whole.get(path.name, 0) + 1
            elif path.exists():  # else it was removed while it was read, as shards are in the end
                broken.append(f"{path.name}: {problem}")
    print(json.dumps({"n_looks": n_looks, "whole": whole, "broken": broken[:20]}))


def visible(output: Path) -> Iterator[Path]:
    """Yield what a reader would take for a finished store."""
    shards = output.with_name(f"{output.name}.shards")
    for path in (output, *sorted(shards.glob("shard-*.h5"))):
        if path.exists():
            yield path


def look_at(path: Path) -> str | None:
    """Open a store and recompute its digest; return what is wrong with it, None where nothing is."""
    try:
        verify_store(path, full=True)
    except (RvqprobeError, OSError, KeyError, RuntimeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return None


if __name__ == "__main__":
    main()
