"""Curves of two codecs whose weights are no download, on real LibriSpeech: the log-mel baseline and pretrained Lyra.

    python benchmarks/real_curves.py [--output results/real_curves] [--class-weight none]

Needs the folder that the environment variable RVQPROBE_SHARED_DATA names (default ../shared/data): LibriSpeech,
alignments, and lyra's two model files with the package ai-edge-litert. Prints one JSON record: scores by layer and the
ratios between the first layers. The README's figure is the phoneme figure of the same run with `--codec melrvq`.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.measure.ending import run_clearly  # noqa: E402

DATA = Path(os.environ.get("RVQPROBE_SHARED_DATA", ROOT.parent / "shared" / "data"))
LAYERS = {"melrvq": tuple(range(1, 9)), "lyra": (*range(1, 9), 16, 32, 46)}
SCORES = {"phoneme": ("accuracy", "macro_f1"), "speaker": ("accuracy", "macro_f1"), "pitch": ("mae_hz", "r2")}


def main() -> None:
    """Build the store, probe it, draw the figures, print the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("results/real_curves"))
    parser.add_argument("--codec", choices=list(LAYERS), action="append")
    parser.add_argument("--class-weight", choices=["balanced", "none"], default="none")
    parser.add_argument("--max-utterances", type=int, default=0)
    arguments = parser.parse_args()
    if not DATA.is_dir():
        print(f"skipped: no real data at {DATA}; set RVQPROBE_SHARED_DATA to its folder", file=sys.stderr)
        return
    codecs = arguments.codec or list(LAYERS)
    started = time.perf_counter()
    stores = [build(codec, arguments) for codec in codecs]
    seconds_build = time.perf_counter() - started
    records = probe(dict(zip(codecs, stores, strict=True)), arguments)
    print(json.dumps(summary(records, codecs) | {"seconds_build": round(seconds_build, 1)}))


def build(codec: str, arguments: argparse.Namespace) -> Path:
    """Make the store of one codec; a finished one is used again."""
    from featstore.build import build_store
    from featstore.codecs.choose import parse_weights
    from featstore.plan import BuildOptions, plan_build

    if codec == "lyra":
        from tests.support.lyra_codec import register

        register(DATA)
    store = arguments.output / f"{codec}.h5"
    if not store.exists():
        options = BuildOptions(
            librispeech_root=DATA / "LibriSpeech",
            alignments_root=DATA / "alignments",
            split="train-clean-100",
            output=store,
            weights=parse_weights([codec], [] if codec == "lyra" else ["untrained"], {}),
            embeddings="factored",
            max_utterances=arguments.max_utterances or None,
        )
        arguments.output.mkdir(parents=True, exist_ok=True)
        build_store(plan_build(options))
    return store


def probe(stores: dict[str, Path], arguments: argparse.Namespace) -> list[dict]:
    """Fit the probes of the layers shown, and draw."""
    from probes.figures import write_figures
    from probes.options import ProbeOptions
    from probes.report import write_report
    from probes.runner import run_probes

    results = arguments.output / arguments.class_weight
    records = []
    for codec, store in stores.items():
        options = ProbeOptions(layers=LAYERS[codec], class_weight=arguments.class_weight)
        records += run_probes([store], results, options)
    write_figures(records, results / "figures")
    write_report(records, results)
    return records


def summary(records: list[dict], codecs: list[str]) -> dict:
    """Return what the record tells: every score by codec, task and layer."""
    told: dict = {"n_probes": len(records), "n_converged": sum(r["outcome"] == "converged" for r in records)}
    for codec in codecs:
        own = [record for record in records if record["codec"] == codec]
        told[codec] = {"layers": list(LAYERS[codec]), "weights": own[0]["weights"]}
        for task, names in SCORES.items():
            rows = [record for record in own if record["task"] == task]
            told[codec][task] = {name: [round(row[name], 4) for row in rows] for name in names}
            told[codec][task]["n_train"], told[codec][task]["n_eval"] = rows[0]["n_train"], rows[0]["n_eval"]
        accuracy = told[codec]["phoneme"]["accuracy"]
        told[codec]["phoneme_layer_1_over_2"] = round(accuracy[0] / accuracy[1], 2)
        told[codec]["phoneme_majority_accuracy"] = next(r for r in own if r["task"] == "phoneme")["majority_accuracy"]
    return told


if __name__ == "__main__":
    run_clearly(main)
