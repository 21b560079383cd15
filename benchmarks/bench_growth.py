"""How time and memory grow: store stages and reading with the number of frames, encoding with the length of a corpus.

    python benchmarks/bench_growth.py [--sizes 3567 7135 14270 28539] [--encode-utterances 240] [--codec encodec ...]

Store stages: codes are given (drawn as by `make_scale_store.py`, outside of the clock), in shards of as many utterances
as a build's. Timed are writing the shards, merging them, verifying the store, opening it, and reading one layer of
EnCodec, codes and embeddings, into the caller's array. What is linear costs the same a frame at every size: each row of
`stages` holds microseconds a frame, and `exponents` the slope of log seconds over log frames, 1 where linear, 0 where
constant.

Encoding: one build of real speech (RVQPROBE_SHARED_DATA; synthetic without), with the audio and the seconds that had
passed at each fifth of it, and its largest memory so far. Weights are untrained: they cost what trained ones do.

Prints one JSON record.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.building.corpus import find_corpus  # noqa: E402
from benchmarks.growth.encoding import measure_encoding  # noqa: E402
from benchmarks.growth.stages import exponents, measure_stages  # noqa: E402
from benchmarks.measure.ending import run_clearly  # noqa: E402
from benchmarks.measure.machine import machine_facts  # noqa: E402


def main() -> None:
    """Measure and print the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--sizes",
        type=int,
        nargs="+",
        default=[3567, 7135, 14270, 28539],
        help="utterances of the stores [an eighth to all of train-clean-100: 3 to 27 million EnCodec frames]",
    )
    parser.add_argument("--encode-utterances", type=int, default=240, help="of the build; 0 leaves it out [240]")
    parser.add_argument("--codec", action="append", help="codec; may be repeated [encodec, speechtokenizer]")
    arguments = parser.parse_args()
    record: dict[str, Any] = {"benchmark": "bench_growth"}
    facts = machine_facts()
    with tempfile.TemporaryDirectory(prefix="bench-growth-") as folder:
        rows = [measure_stages(size, Path(folder) / f"{size}") for size in arguments.sizes]
        record |= {"stages": rows, "exponents": exponents(rows)}
        if arguments.encode_utterances:
            corpus = find_corpus(Path(folder), arguments.encode_utterances)
            names = arguments.codec or ["encodec", "speechtokenizer"]
            record["encoding"] = measure_encoding(names, corpus, Path(folder))
    print(json.dumps(record | {"machine": facts}))


if __name__ == "__main__":
    run_clearly(main)
