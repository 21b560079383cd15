"""Throw faults at the store, its builds and its readers, and count how often what has to hold did.

    python benchmarks/faults.py [--long] [--only kill truncation ...] [--real-codecs 20] [--add-to earlier.json]

Builds and merges are killed, interrupted, run out of space, run twice at once, read meanwhile and given files that
cannot be read; stores are damaged bit by bit and cut short; inputs are malformed (`benchmarks/faults/` has a module for
each). Where a process is struck it is one of its own, and the product is spoken to by its command line.

Prints one JSON record: for every fault the ``runs`` in which it struck, in how many of them all ``held``, and what
happened in the others. Progress goes to stderr. ``--short``, the default, takes about two minutes. With ``--add-to``
the record holds an earlier one's faults too, except for those that were run now.
"""

import argparse
import json
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.faults.every import LONG, N_REAL_CODECS, REAL_CODECS, SHORT, run_faults  # noqa: E402
from benchmarks.measure.ending import run_clearly  # noqa: E402
from benchmarks.measure.machine import machine_facts  # noqa: E402


def main() -> None:
    """Run the faults and print the record."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that children end too, and the scratch folder goes
    mode = "long" if arguments.long else "short"
    earlier = _earlier(arguments.add_to, mode)
    facts = machine_facts()
    if arguments.folder is not None:
        arguments.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="faults-", dir=arguments.folder) as folder:
        told = run_faults(_counts(arguments), arguments.seed, Path(folder).resolve())
    print(json.dumps({"benchmark": "faults", "mode": mode, "faults": earlier | told, "machine": facts}))


def _counts(arguments: argparse.Namespace) -> dict[str, int]:
    """Return how often each fault that was asked for is to strike."""
    counts = dict(LONG if arguments.long else SHORT)
    n_real, is_asked = arguments.real_codecs, REAL_CODECS in arguments.only or (arguments.long and not arguments.only)
    counts[REAL_CODECS] = n_real if n_real is not None else N_REAL_CODECS if is_asked else 0
    only = [*arguments.only, REAL_CODECS] if arguments.only else list(counts)
    return {name: counts[name] for name in counts if name in only and counts[name]}


def _earlier(path: Path | None, mode: str) -> dict[str, Any]:
    """Return the faults of an earlier record of the same mode."""
    if path is None:
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8").splitlines()[-1])
        found, faults = record["mode"], dict(record["faults"])
    except (ValueError, KeyError, IndexError, TypeError) as error:
        sys.exit(f"Error: {path}: expected a record of this benchmark, found something else ({error})")
    if found != mode:
        sys.exit(f"Error: {path}: expected a record of the mode {mode}, found {found}; run with --{found}")
    return faults


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    lengths = parser.add_mutually_exclusive_group()
    lengths.add_argument("--long", action="store_true", help="over an hour")
    lengths.add_argument("--short", action="store_true", help="about two minutes; the default")
    parser.add_argument("--only", nargs="+", choices=[*LONG, REAL_CODECS], default=[], help="these faults alone")
    parser.add_argument("--real-codecs", type=int, metavar="N", help="kills of builds with the real codecs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="for scratch files; default: a temporary one")
    parser.add_argument("--add-to", type=Path, metavar="FILE", help="an earlier record to complete")
    arguments = parser.parse_args()
    if arguments.seed < 0 or (arguments.real_codecs or 0) < 0:
        parser.error("expected --seed and --real-codecs from 0 on")
    return arguments


if __name__ == "__main__":
    run_clearly(main)
