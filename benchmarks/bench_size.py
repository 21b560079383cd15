"""How many bytes a store takes in either layout, and what train-clean-100 would take.

    python benchmarks/bench_size.py [--max-utterances 240] [--max-dense-frames 40000]

Codes decide how far rows compress, because rows repeat where codes do. So the codes and labels are those of `melrvq` on
real speech, built here (RVQPROBE_SHARED_DATA names the folder, default ../shared/data), or without that those of the
synthetic store of `make_scale_store.py`. The same codes are written again with random codebooks of the sizes of EnCodec
and of SpeechTokenizer, whose weights are a download.

Prints one JSON record. `bytes_factored`, `bytes_dense`, `bytes_float32` (the bare array) are those of the codec built
here, as are `n_frames` and `dim`; `rows` has the same for each size, over the first `n_frames` of the codes, with
`train_clean_100`: the bytes extrapolated, by the rule that `assumption` spells out.
"""

import argparse
import json
import os
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.measure.ending import run_clearly  # noqa: E402
from benchmarks.measure.machine import machine_facts  # noqa: E402
from benchmarks.measure.scale_store import ensure_scale_store  # noqa: E402
from featstore.frames import Frames  # noqa: E402
from featstore.header import StoreHeader, read_header  # noqa: E402
from featstore.store import Store  # noqa: E402
from featstore.writer import StoreWriter  # noqa: E402

DATA = Path(os.environ.get("RVQPROBE_SHARED_DATA", ROOT.parent / "shared" / "data"))
HOURS = 100.6  # of train-clean-100: Panayotov et al. 2015, table 1 (doi:10.1109/ICASSP.2015.7178964)
ASSUMPTION = (
    f"train-clean-100 has {HOURS} hours; bytes are the codebooks', once, and the rest of the measured store times the "
    "frames of those hours over the frames measured; EnCodec's and SpeechTokenizer's codes are taken to repeat as the "
    "codes measured here do, layer by layer, and labels to cost as much a frame; an utterance's line in the tables "
    "counts as part of its frames"
)


@dataclass(frozen=True)
class Size:
    """A codec's clock and dimension; `dim` None: the codebooks measured, as they are."""

    name: str
    frame_rate_hz: float
    dim: int | None


def main() -> None:
    """Make the stores, weigh them, print the record."""
    arguments = _arguments()
    facts = machine_facts()
    with tempfile.TemporaryDirectory(prefix="bench_size-", dir=arguments.folder) as name:
        folder = Path(name)
        path, codec, source = source_store(folder, arguments.max_utterances)
        with Store(path) as store:
            frames = store[codec]
            sizes = (
                Size(codec, frames.frame_rate_hz, None),
                Size("encodec", 75.0, 128),
                Size("speechtokenizer", 50.0, 1024),
            )
            rows = [weigh(frames, size, folder, arguments.max_dense_frames) for size in sizes]
    kept = ("bytes_factored", "bytes_dense", "bytes_float32", "n_frames", "n_layers", "dim")
    told = {"codes_of": source} | {name: rows[0][name] for name in kept}
    print(json.dumps(told | {"rows": rows, "assumption": ASSUMPTION, "machine": facts}))


def source_store(folder: Path, max_utterances: int) -> tuple[Path, str, str]:
    """Return a factored store, the codec in it whose codes are used, and what they are the codes of."""
    path = folder / "source.h5"
    if DATA.is_dir():
        build_melrvq(path, max_utterances)
        return path, "melrvq", f"melrvq on up to {max_utterances} utterances of LibriSpeech train-clean-100"
    print(f"no real data at {DATA}: the codes are synthetic", file=sys.stderr)
    n_speakers = max(1, max_utterances // 20)
    ensure_scale_store(path, "clean100", max(max_utterances, 2 * n_speakers), n_speakers)
    return path, "encodec", "a synthetic store of LibriSpeech's shape"


def build_melrvq(path: Path, max_utterances: int) -> None:
    """Build the log-mel baseline's store of real speech."""
    from featstore.build import build_store
    from featstore.codecs.choose import parse_weights
    from featstore.plan import BuildOptions, plan_build

    options = BuildOptions(
        librispeech_root=DATA / "LibriSpeech",
        alignments_root=DATA / "alignments",
        split="train-clean-100",
        output=path,
        weights=parse_weights(["melrvq"], ["untrained"], {}),
        embeddings="factored",
        max_utterances=max_utterances,
    )
    build_store(plan_build(options))


def weigh(frames: Frames, size: Size, folder: Path, max_dense_frames: int) -> dict[str, Any]:
    """Return bytes by layout of the first utterances' codes with codebooks of this size."""
    codebooks = frames.codebooks
    if size.dim is not None:
        shape = (frames.n_layers, frames.n_codewords, size.dim)
        codebooks = np.random.default_rng(size.dim).standard_normal(shape).astype(np.float32)
    # whole utterances, at least one
    n_utterances = max(1, int(np.searchsorted(frames.offsets, max_dense_frames, side="right")) - 1)
    n_frames, dim = int(frames.offsets[n_utterances]), codebooks.shape[2]
    told: dict[str, Any] = {"codec": size.name, "n_frames": n_frames, "n_layers": frames.n_layers, "dim": dim}
    for layout in ("factored", "dense"):
        path = folder / f"{size.name}-{layout}.h5"
        write_part(path, frames, n_utterances, codebooks, layout)
        told[f"bytes_{layout}"] = path.stat().st_size
        path.unlink()
    told["bytes_float32"] = 4 * frames.n_layers * n_frames * dim
    told["ratio_dense"] = round(told["bytes_float32"] / told["bytes_dense"], 2)
    told["ratio_factored"] = round(told["bytes_float32"] / told["bytes_factored"], 1)
    return told | {"train_clean_100": extrapolated(told, size.frame_rate_hz, codebooks.nbytes)}


def extrapolated(told: dict[str, Any], frame_rate_hz: float, bytes_codebooks: int) -> dict[str, int]:
    """Return bytes by layout of `HOURS` at a frame rate, as `ASSUMPTION` has it, and the frames."""
    n_frames = round(HOURS * 3600 * frame_rate_hz)
    scale = n_frames / told["n_frames"]
    found = {
        name: bytes_codebooks + round((told[name] - bytes_codebooks) * scale)
        for name in ("bytes_factored", "bytes_dense")
    }
    return {"n_frames": n_frames, **found, "bytes_float32": round(told["bytes_float32"] * scale)}


def write_part(path: Path, frames: Frames, n_utterances: int, codebooks: NDArray[np.float32], layout: Any) -> None:
    """Write the first utterances of a codec as a store, with other codebooks."""
    with StoreWriter(path, part_header(frames, n_utterances, codebooks), layout) as writer:
        for start, stop in zip(frames.offsets[:n_utterances], frames.offsets[1 : n_utterances + 1], strict=True):
            codes = frames.codes(start, stop)
            writer.append(frames.name, codes, frames.labels("phoneme", start, stop), frames.labels("f0", start, stop))


def part_header(frames: Frames, n_utterances: int, codebooks: NDArray[np.float32]) -> StoreHeader:
    """Return the header of the first utterances and one codec of a store."""
    header = read_header(frames.store)
    (codec,) = (codec for codec in header.codecs if codec.name == frames.name)
    n_frames = list(codec.n_frames[:n_utterances])
    codecs = [replace(codec, codebooks=codebooks, n_frames=n_frames)]
    utterances = [replace(row, shard=0) for row in header.utterances[:n_utterances]]
    shards = [replace(header.shards[0], content_digest="")]  # it no longer holds what the shard said
    return replace(header, utterances=utterances, shards=shards, codecs=codecs)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--max-utterances", type=int, default=240, help="that are encoded, or drawn")
    parser.add_argument("--max-dense-frames", type=int, default=40_000, help="that are written in either layout")
    parser.add_argument("--folder", type=Path, help="where the stores are written and removed; default: the system's")
    arguments = parser.parse_args()
    if min(arguments.max_utterances, arguments.max_dense_frames) < 1:
        parser.error("expected numbers from 1 on")
    return arguments


if __name__ == "__main__":
    run_clearly(main)
