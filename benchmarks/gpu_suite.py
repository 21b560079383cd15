"""What a GPU does for rvqprobe, in one command of under 8 minutes: codes, encoding, exact fits, rivals, reading.

    python benchmarks/gpu_suite.py [--output gpu.json] [--only exact48 ...] [--small] [--frames N]

It needs nothing but the package: speech, codebooks and counts are drawn from a seed, networks are untrained. Each piece
runs in a process of its own, so that one that fails, hangs or leaves the device broken costs the others nothing. A
piece whose packages are not there is skipped by name. The record is written anew after each piece (``--output``), and
printed as the last line; what each piece shows stands in benchmarks/README.md.

``--small`` runs every piece in seconds, in this process; without a GPU it runs on torch's processor, and so says the
record (``"gpu": false``): then no number of it is about a GPU.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ["SCIPY_ARRAY_API"] = "1"  # for scikit-learn on tensors; SciPy reads it when it is imported

from benchmarks.gpu.piece import Asked, SkippedPieceError, device_facts  # noqa: E402
from benchmarks.measure.machine import machine_facts  # noqa: E402
from featstore.atomic import write_text_once  # noqa: E402
from featstore.safe_text import first_line  # noqa: E402

# Name: module and packages without which it makes no sense. In this order, those that need least first.
PIECES = {
    "exact48": ("benchmarks.gpu.exact48", ("torch",)),
    "stacked": ("benchmarks.gpu.stacked", ("torch",)),
    "device_read": ("benchmarks.gpu.device_read", ("torch", "h5py", "hdf5plugin")),
    "codes": ("benchmarks.gpu.codes", ("torch",)),
    "encode": ("benchmarks.gpu.encode", ("torch",)),
    "cuml": ("benchmarks.gpu.rivals", ("torch", "sklearn")),
    "tsne": ("benchmarks.gpu.tsne", ("cuml",)),
}
_CUML = ("cupy", "cupy-cuda12x", "cupy-cuda13x", "cuml", "cuml-cu12", "cuml-cu13")
_PACKAGES = ("torch", *_CUML, "encodec", "speechtokenizer", "scikit-learn", "numpy", "scipy", "h5py", "hdf5plugin")


def main() -> None:
    """Run the pieces and print the record."""
    arguments = _arguments()
    if arguments.run is not None:
        print(json.dumps(run_here(arguments.run, asked_of(arguments.run, arguments, Path(arguments.work)))))
        return
    begun = time.perf_counter()
    record: dict[str, Any] = {"benchmark": "gpu_suite", "small": arguments.small, **device_facts()}
    record |= {"versions": versions(), "machine": machine_facts(), "pieces": {}}
    with tempfile.TemporaryDirectory(prefix="gpu-suite-") as folder:
        for name in arguments.only or PIECES:
            left_s = 60 * arguments.minutes - (time.perf_counter() - begun)
            record["pieces"][name] = run_piece(name, arguments, Path(folder), left_s)
            record["seconds"] = round(time.perf_counter() - begun, 1)
            print(f"{name}: {one_line(record['pieces'][name])}", file=sys.stderr, flush=True)
            if arguments.output is not None:
                write_text_once(arguments.output, json.dumps(record) + "\n")
    print(json.dumps(record))


def run_piece(name: str, arguments: argparse.Namespace, work: Path, left_s: float) -> dict[str, Any]:
    """Run a piece, in a process of its own but for small ones; return its part of the record, whatever happens."""
    asked = asked_of(name, arguments, work)
    if arguments.small:
        return run_here(name, asked)
    limit_s = min(left_s, 60 * arguments.minutes_a_piece)
    if limit_s <= 0:
        return {"skipped": f"no time left of --minutes {arguments.minutes:g}"}
    command = [sys.executable, __file__, "--run", name, "--work", str(work), "--frames", str(arguments.frames)]
    begun = time.perf_counter()
    try:
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        return kept(asked) | {"error": f"stopped after {limit_s:.0f} s", "seconds": round(limit_s, 1)}
    try:
        told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        told = kept(asked) | {"error": f"its process ended with exit code {done.returncode}, and no record"}
    return told | {"seconds_with_start": round(time.perf_counter() - begun, 1)}


def run_here(name: str, asked: Asked) -> dict[str, Any]:
    """Run a piece in this process; what stops it becomes its part of the record."""
    module, needed = PIECES[name]
    missing = [package for package in needed if not is_there(package)]
    if missing:
        return {"skipped": f"needs {', '.join(missing)}, which cannot be imported here"}
    begun = time.perf_counter()
    try:
        told: dict[str, Any] = import_module(module).run(asked)
    except SkippedPieceError as reason:
        return {"skipped": str(reason)}
    except Exception as error:  # noqa: BLE001  (whatever a library, a driver or we do wrong: the other pieces go on)
        told = kept(asked) | {"error": first_line(error), "at": _where(error)}
    return told | {"seconds": round(time.perf_counter() - begun, 2)}


def is_there(package: str) -> bool:
    """Say whether a package seems to be installed, without importing it."""
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):
        return False


def asked_of(name: str, arguments: argparse.Namespace, work: Path) -> Asked:
    """Return what a piece is told."""
    is_gpu = bool(device_facts()["gpu"])
    kept_at = work / f"kept-{name}.json"
    return Asked("cuda" if is_gpu else "cpu:0", is_gpu, arguments.small, arguments.frames, work, kept_at)


def kept(asked: Asked) -> dict[str, Any]:
    """Return what a piece kept before it was stopped."""
    if not asked.kept.exists():
        return {}
    told: dict[str, Any] = json.loads(asked.kept.read_text(encoding="utf-8"))
    return told


def versions() -> dict[str, str]:
    """Return the versions of what is installed of the packages that matter here."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def one_line(told: dict[str, Any]) -> str:
    """Say how a piece ended."""
    if "skipped" in told:
        return f"skipped: {told['skipped']}"
    return f"failed: {told['error']}" if "error" in told else f"done in {told['seconds']} s"


def _where(error: Exception) -> str:
    """Return file and line of the innermost frame that is ours."""
    place, trace = "", error.__traceback__
    while trace is not None:
        path = Path(trace.tb_frame.f_code.co_filename)
        if path.is_relative_to(ROOT) and "site-packages" not in path.parts:
            place = f"{path.relative_to(ROOT)}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, help="file for the record, written anew after each piece")
    parser.add_argument("--only", action="append", choices=list(PIECES), help="piece; may be repeated [all]")
    parser.add_argument("--small", action="store_true", help="every piece in seconds, to try it")
    parser.add_argument("--frames", type=int, default=24_400_000, help="of the piece stacked [%(default)s]")
    parser.add_argument("--minutes", type=float, default=7.5, help="for all pieces together [%(default)s]")
    parser.add_argument("--minutes-a-piece", type=float, default=2.5, help="for one [%(default)s]")
    parser.add_argument("--run", choices=list(PIECES), help=argparse.SUPPRESS)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.frames < 1 or arguments.minutes <= 0 or arguments.minutes_a_piece <= 0:
        parser.error("expected --frames from 1 on, --minutes and --minutes-a-piece above 0")
    return arguments


if __name__ == "__main__":
    main()
