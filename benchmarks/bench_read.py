"""Time reading from a store against np.load, np.memmap, NPZ files, HDF5 groups and Zarr, on the same rows.

    python benchmarks/bench_read.py [--frames-128 200000] [--frames-1024 40000] [--repeats 7]

Writes the same rows (random codewords of 128 and of 1024 numbers, used Zipf-like, so that rows repeat) in each layout
(`benchmarks/reading/readers.py`), checks that every reader returns them bit for bit, and times three accesses: a whole
layer, random utterances, batches of random frames.

Cold: each file is synced and dropped from the page cache (posix_fadvise DONTNEED; below a virtual machine the host may
still hold it), then opened and read, best of 3. Warm: opened and read before, best of `--repeats`.

Prints one JSON record. Each of `rows` has `mb_per_second` (10^6 bytes of float32 rows), `ratio_to_npy` (to np.load for
a layer, to np.memmap where only a part is read) and `ratio_to_npz` (one NPZ for each utterance), of the same run.
`copyto` is a copy between two arrays in memory; `training` a softmax probe fed by `featstore.torch_dataset`; `bytes`
the size on disk by layout; `goals` what is hoped for and reached; `skipped` what is not installed.
"""

import argparse
import json
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.measure.ending import run_clearly  # noqa: E402
from benchmarks.measure.machine import machine_facts  # noqa: E402
from benchmarks.reading.readers import NEEDS, READERS, Reader, missing  # noqa: E402
from benchmarks.reading.rows import Rows, draw_rows  # noqa: E402
from benchmarks.reading.timing import Asked, time_reader  # noqa: E402
from benchmarks.reading.training import time_training  # noqa: E402

_INTO = "store.read_into, caller's array"
_REFERENCES = {"layer": "np.load", "utterance": "np.memmap", "random-frames": "np.memmap"}


def main() -> None:
    """Write, check and time; print the record."""
    arguments = _arguments()
    facts = machine_facts()
    told: dict[str, list[Any]] = {name: [] for name in ("rows", "copyto", "bytes", "training")}
    for dim, n_frames in ((128, arguments.frames_128), (1024, arguments.frames_1024)):
        with tempfile.TemporaryDirectory(prefix="bench_read-", dir=arguments.folder) as folder:
            for name, found in bench(draw_rows(n_frames, dim, arguments.seed), Path(folder), arguments).items():
                told[name] += found
    absent = {reader: missing(reader) for reader in READERS if missing(reader)}
    skipped = [f"{reader.layout}, {reader.method}: no {', '.join(names)} installed" for reader, names in absent.items()]
    wanted = {name for names in NEEDS.values() for name in names} - {
        name for names in absent.values() for name in names
    }
    versions = {name: version(name) for name in sorted(wanted)}
    print(json.dumps(told | {"goals": goals(told), "skipped": skipped, "versions": versions, "machine": facts}))


def bench(rows: Rows, folder: Path, arguments: argparse.Namespace) -> dict[str, list[Any]]:
    """Return what the record tells of rows of one dim."""
    asked = Asked(rows, arguments.utterances, arguments.batches, arguments.batch_frames, arguments.seed)
    found: list[dict[str, Any]] = []
    written: dict[str, Reader] = {}
    for kind in READERS:
        if missing(kind):
            continue
        reader = kind(folder, rows)
        if reader.layout not in written:
            reader.write()
            written[reader.layout] = reader
        print(f"dim {rows.dim}: {reader.layout}, {reader.method}", file=sys.stderr)
        found += time_reader(reader, asked, arguments.repeats)
    sizes = {layout: sum(path.stat().st_size for path in reader.files()) for layout, reader in written.items()}
    store = written["factored"].files()[0]
    return {
        "rows": with_ratios(found),
        "copyto": [{"dim": rows.dim, "mb_per_second": copyto_speed(rows, arguments.repeats)}],
        "bytes": [{"dim": rows.dim, "n_frames": rows.n_frames, "n_utterances": rows.n_utterances, **sizes}],
        "training": [time_training(store, arguments.batch_frames, n_workers) for n_workers in (0, 2)],
    }


def with_ratios(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows with their speed over that of the references at the same access and state of the cache."""

    def speed(row: dict[str, Any], layout: str, method: str) -> float:
        same = ("access", "cache")
        (reference,) = (
            other
            for other in found
            if (other["layout"], other["method"]) == (layout, method) and all(other[name] == row[name] for name in same)
        )
        return float(reference["mb_per_second"])

    return [
        row
        | {
            "ratio_to_npy": float(f"{row['mb_per_second'] / speed(row, 'npy', _REFERENCES[row['access']]):.3g}"),
            "ratio_to_npz": float(f"{row['mb_per_second'] / speed(row, 'npz', 'np.load'):.3g}"),
        }
        for row in found
    ]


def copyto_speed(rows: Rows, repeats: int) -> float:
    """Return the speed of a copy of the rows between two arrays, best of several."""
    source, target = rows.layer(), np.zeros((rows.n_frames, rows.dim), np.float32)
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        np.copyto(target, source)
        times.append(time.perf_counter() - started)
    return float(f"{source.nbytes / 1e6 / min(times):.4g}")


def goals(told: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """Return each goal of reading a layer from a warm cache, by dim."""
    found = []
    for copy in told["copyto"]:
        dim = copy["dim"]
        dense, factored = (
            next(
                row
                for row in told["rows"]
                if (row["dim"], row["access"], row["cache"], row["layout"], row["method"])
                == (dim, "layer", "warm", layout, _INTO)
            )
            for layout in ("dense", "factored")
        )
        for goal, ratio, least in (
            ("dense layer over np.load", dense["ratio_to_npy"], 1.0),
            ("factored layer over np.copyto", factored["mb_per_second"] / copy["mb_per_second"], 0.5),
            ("dense layer over one NPZ an utterance", dense["ratio_to_npz"], 10.0),
            ("factored layer over one NPZ an utterance", factored["ratio_to_npz"], 10.0),
        ):
            ratio = float(f"{ratio:.3g}")
            found.append({"dim": dim, "goal": goal, "least": least, "ratio": ratio, "reached": ratio >= least})
    return found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames-128", type=int, default=200_000, help="rows of 128 numbers: 512 bytes each")
    parser.add_argument("--frames-1024", type=int, default=40_000, help="rows of 1024 numbers: 4096 bytes each")
    parser.add_argument("--utterances", type=int, default=100, help="that are read at random")
    parser.add_argument("--batches", type=int, default=4, help="of random frames")
    parser.add_argument("--batch-frames", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=7, help="warm reads, of which the best counts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where the files are written and removed; default: the system's")
    arguments = parser.parse_args()
    positive = ("frames_128", "frames_1024", "utterances", "batches", "batch_frames", "repeats")
    if min(getattr(arguments, name) for name in positive) < 1 or arguments.seed < 0:
        parser.error("expected numbers from 1 on, and --seed from 0 on")
    return arguments


if __name__ == "__main__":
    run_clearly(main)
