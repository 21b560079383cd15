"""How to encode fastest on a CPU: processes, threads in each, and torch.compile, with the codes that each gives.

    python benchmarks/bench_encoding.py [--utterances 16] [--codec encodec ...] [--no-compile]

Every setting encodes the same utterances, read and resampled before the clock starts, by the codec's ``encode`` as a
build calls it. Processes each take every n-th utterance and begin together; the last to end counts. `codes_equal` is
the share of codes that are those of one process with one thread. `compile_seconds` is what two recordings of different
length took before the clock started: a network that fits any length is compiled in them. Weights are untrained: they
cost what trained ones do.

Real speech where the environment variable RVQPROBE_SHARED_DATA names its folder (default ../shared/data), else
synthetic. Prints one JSON record.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.bench_build import thread_counts  # noqa: E402
from benchmarks.building.corpus import find_corpus  # noqa: E402
from benchmarks.building.encoders import Encoding, Setting, encode_with  # noqa: E402
from benchmarks.measure.ending import run_clearly  # noqa: E402
from benchmarks.measure.machine import machine_facts  # noqa: E402
from featstore.codecs.choose import WeightsRequest, find_checkpoint  # noqa: E402
from featstore.corpora.librispeech import scan_librispeech  # noqa: E402
from featstore.split import take_subset  # noqa: E402


def main() -> None:
    """Measure and print the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--utterances", type=int, default=16, help="utterances of the corpus to encode [16]")
    parser.add_argument("--codec", action="append", help="codec; may be repeated [encodec, speechtokenizer]")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out; it needs a C++ compiler")
    arguments = parser.parse_args()
    facts = machine_facts()
    n_cores = thread_counts()[-1]
    settings = [Setting(1, n_threads) for n_threads in thread_counts()]
    settings += [Setting(n_cores, 1)] if n_cores > 1 else []
    settings += [] if arguments.no_compile else [Setting(1, n_cores, compiled=True)]
    rows = []
    with tempfile.TemporaryDirectory(prefix="bench-encoding-") as folder:
        corpus = find_corpus(Path(folder), arguments.utterances)
        scan = scan_librispeech(corpus.librispeech_root, corpus.alignments_root, corpus.split)
        paths = [utterance.audio_path for utterance in take_subset(scan.utterances, corpus.n_utterances, 42)]
        for name in arguments.codec or ["encodec", "speechtokenizer"]:
            checkpoint = find_checkpoint(name, WeightsRequest("untrained"), scan.utterances, 42, Path(folder))
            encodings = [encode_with(setting, name, checkpoint, paths) for setting in settings]
            rows += [_row(name, encoding, encodings[0]) for encoding in encodings]
    print(json.dumps({"benchmark": "bench_encoding", "speech": corpus.kind, "rows": rows, "machine": facts}))


def _row(codec: str, encoding: Encoding, reference: Encoding) -> dict[str, object]:
    setting = encoding.setting
    return {
        "codec": codec,
        "n_processes": setting.n_processes,
        "n_threads": setting.n_threads,
        "compiled": setting.compiled,
        "audio_seconds": round(encoding.audio_s, 1),
        "seconds": round(encoding.seconds, 2),
        "times_real_time": round(encoding.audio_s / encoding.seconds, 2),
        "ratio_to_one_thread": round(reference.seconds / encoding.seconds, 3),
        "compile_seconds": round(encoding.first_s, 1) if setting.compiled else None,
        "codes_equal": encoding.share_equal(reference),
    }


if __name__ == "__main__":
    run_clearly(main)
