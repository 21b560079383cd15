"""Write a synthetic factored store of the true shape: as many frames, layers, codes and classes as the real study has.

    python benchmarks/make_scale_store.py [--output clean100.h5] [--shape clean360] [--utterances N] [--speakers N]

No speech was encoded: lengths, phones, F0, codebooks and codes are drawn from a seed, so that probes can be timed and
their memory measured without the corpus. What is imitated and how is told in `benchmarks/scale`: lengths and speakers
as in LibriSpeech (`corpus.py`), phone shares and lengths as in its alignments (`speech.py`), codebooks of condition
1e2 (layer 1) to 1e5 (layer 8) with a code use far from even, and codes that depend on phoneme, speaker and pitch in a
partly linear way (`codecs.py`). Scores of probes on it say nothing about any codec.

It goes through the utterances in blocks and holds one block at a time. Prints one JSON record, and leaves it beside the
store (clean100.json): frames, code use and condition by codec and layer, bytes, seconds, peak memory.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.measure.command import own_peak_gb  # noqa: E402
from benchmarks.measure.ending import run_clearly  # noqa: E402
from benchmarks.measure.scale_store import record_path  # noqa: E402
from benchmarks.scale import codecs, speech  # noqa: E402
from benchmarks.scale.alias import N_CODEWORDS  # noqa: E402
from benchmarks.scale.corpus import ScaleCorpus, make_corpus  # noqa: E402
from benchmarks.scale.drawing import draw_frames, frames_of_rows, make_codecs, store_header  # noqa: E402
from benchmarks.scale.voices import SAMPLE_RATE_HZ, SHAPES  # noqa: E402
from featstore.atomic import write_text_once  # noqa: E402
from featstore.store import Store  # noqa: E402
from featstore.writer import StoreWriter  # noqa: E402
from schemas.errors import RvqprobeError  # noqa: E402
from schemas.store import EVAL  # noqa: E402


def main() -> None:
    """Write the store and print the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("results/scale/clean100.h5"))
    parser.add_argument("--shape", choices=list(SHAPES), default="clean100")
    parser.add_argument("--utterances", type=int, help="default: all of the shape's")
    parser.add_argument("--speakers", type=int, help="default: all of the shape's")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    shape = SHAPES[arguments.shape]
    started = time.perf_counter()
    n_speakers = shape.n_speakers if arguments.speakers is None else arguments.speakers
    n_utterances = shape.n_utterances if arguments.utterances is None else arguments.utterances
    try:
        check_output(arguments.output)
        corpus = make_corpus(n_utterances, n_speakers, shape.mean_duration_s, arguments.seed)
    except (RvqprobeError, ValueError) as error:
        parser.error(str(error))
    told = write_scale_store(arguments.output, corpus, arguments.seed, arguments.shape)
    told |= {"seconds": round(time.perf_counter() - started, 1), "peak_rss_gb": round(own_peak_gb(), 3)}
    write_text_once(record_path(arguments.output), json.dumps(told) + "\n")
    print(json.dumps(told))


def check_output(path: Path) -> None:
    """Refuse to write over anything but an earlier store of this kind and the record of its making.

    Raises
    ------
    RvqprobeError
        When the file is no store that this build reads.
    ValueError
        When it is a store, but of a real corpus, or when the place of the record is taken by something else.
    """
    record = record_path(path)
    if record == path:
        raise ValueError(f"{path}: this name is that of the record beside the store; choose another --output")
    if record.exists() and not is_record(record):
        raise ValueError(f"{record}: holds something else than the record of such a store; choose another --output")
    if path.exists():
        with Store(path) as store:
            if not store.json_attribute("corpus").get("synthetic"):
                raise ValueError(f"{path}: holds a store that is not synthetic; choose another --output")


def is_record(path: Path) -> bool:
    """Return whether a file holds what this program prints."""
    try:
        return {"shape", "content_digest"} <= set(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return False


def write_scale_store(output: Path, corpus: ScaleCorpus, seed: int, shape: str) -> dict[str, Any]:
    """Write the store of a corpus; return what the record tells of it."""
    labels = speech.label_model()
    makers = make_codecs(labels, corpus, seed)
    n_samples = np.array([row.n_samples for row in corpus.rows])
    n_frames = frames_of_rows(corpus, makers)
    n_of_code = {name: np.zeros((codecs.N_LAYERS, N_CODEWORDS), dtype=np.int64) for name in makers}
    with StoreWriter(output, store_header(corpus, labels, makers, shape, seed), "factored") as writer:
        for name, codes, phoneme, f0_hz in draw_frames(corpus, labels, makers, seed):
            writer.append(name, codes, phoneme, f0_hz)
            for layer, of_layer in enumerate(codes):
                n_of_code[name][layer] += np.bincount(of_layer, minlength=N_CODEWORDS)
    with Store(output) as store:
        digest = store.content_digest
    is_eval = np.array([row.split == EVAL for row in corpus.rows])
    return {
        "shape": shape,
        "seed": seed,
        "n_utterances": len(corpus.rows),
        "n_speakers": len(corpus.is_female),
        "hours": round(float(n_samples.sum()) / SAMPLE_RATE_HZ / 3600, 2),
        "codecs": {
            name: {
                "n_frames": int(n_frames[name].sum()),
                "n_train": int(n_frames[name][~is_eval].sum()),
                "n_eval": int(n_frames[name][is_eval].sum()),
                "dim": maker.shape.dim,
                "perplexity": [round(float(value), 1) for value in perplexity(n_of_code[name])],
                "n_unused_codes": (n_of_code[name] == 0).sum(axis=1).tolist(),
                "condition": [float(f"{value:.4g}") for value in codecs.condition_numbers(maker.codebooks)],
            }
            for name, maker in makers.items()
        },
        "content_digest": digest,
        "bytes": output.stat().st_size,
    }


def perplexity(n_of_code: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the exponential of the entropy of each row of counts; float64 (n_layers,)."""
    share = n_of_code / n_of_code.sum(axis=1, keepdims=True)
    log_share = np.log(share, where=share > 0, out=np.zeros_like(share))
    return np.asarray(np.exp(-(share * log_share).sum(axis=1)))


if __name__ == "__main__":
    run_clearly(main)
