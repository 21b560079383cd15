"""A process that damages copies of a store and tells whether they are refused, so that a crash or a hang is survived.

    python -m benchmarks.faults.checker STORE FOLDER

Reads one request a line on stdin, ``{"flip": [byte, bit]}`` or ``{"cut": n_bytes}`` or ``{}`` for no damage, and
answers each with ``{"outcome": "refused" | "passed" | "crashed", "told": ...}``: whether it was refused as a bad file
should be, and in which words, or ended in an error that no caller expects.
"""

import itertools
import json
import sys
from pathlib import Path
from typing import Any

from featstore.store import Store
from featstore.verify import verify_store
from schemas.errors import RvqprobeError


def main() -> None:
    """Answer requests until there are no more."""
    original, folder = Path(sys.argv[1]), Path(sys.argv[2])
    data = original.read_bytes()
    for index in itertools.count():
        line = sys.stdin.readline()
        if not line:
            return
        request = json.loads(line)
        # a new file each time: HDF5 takes a file that something still holds open for the one that it has in memory
        path = folder / f"damaged-{index}.h5"
        path.write_bytes(damaged(data, request))
        answered = answer(path, full="cut" not in request)
        path.unlink()
        print(json.dumps(answered), flush=True)


def damaged(data: bytes, request: dict[str, Any]) -> bytes:
    """Return a file's content after the damage that was asked for."""
    if "cut" in request:
        return data[: request["cut"]]
    if "flip" not in request:
        return data
    place, bit = request["flip"]
    flipped = bytearray(data)
    flipped[place] ^= 1 << bit
    return bytes(flipped)


def answer(path: Path, full: bool) -> dict[str, str]:
    """Open a store, with `full` verify it too, and return how that went."""
    try:
        if full:
            verify_store(path, full=True)
        else:
            Store(path).close()
    except RvqprobeError as error:
        return {"outcome": "refused", "told": str(error)}
    except Exception as error:  # noqa: BLE001  (whatever it is, it is the finding)
        return {"outcome": "crashed", "told": f"{type(error).__name__}: {error}"}
    return {"outcome": "passed", "told": ""}


if __name__ == "__main__":
    main()
