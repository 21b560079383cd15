"""Make the tiny stores of a format version that are kept for ever, and what they have to say.

Run once for a new version, before its release, and never again for that version:

    python -m tests.support.kept_store tests/data/stores/v1.0
"""

import json
import sys
from pathlib import Path

from featstore.merge import merge_into
from featstore.store import Store
from tests.support.stores import StoreRecipe, write_store

RECIPE = StoreRecipe(
    n_utterances=6, n_codewords=16, dim=4, frames_per_utterance=(8, 20), skipped={"s9-1-0000": "silent"}
)


def make(folder: Path) -> None:
    """Write dense, factored and virtual stores, and beside each the JSON of what it says."""
    folder.mkdir(parents=True)
    for layout, compression in (("dense", "zstd"), ("dense", "gzip"), ("factored", "none")):
        path = write_store(folder / f"{layout}-{compression}.h5", RECIPE, layout, compression)
        path.with_suffix(".json").write_text(json.dumps(content_of(path), indent=1, sort_keys=True) + "\n")
    parts = [
        write_store(folder / "parts" / f"{place}.h5", RECIPE, only=only)
        for place, only in enumerate(([0, 2, 4], [1, 3, 5]))
    ]
    path = folder / "virtual.h5"
    merge_into(path, parts, virtual=True)
    path.with_suffix(".json").write_text(json.dumps(content_of(path), indent=1, sort_keys=True) + "\n")


def content_of(path: Path) -> dict[str, object]:
    """Return everything that a store says to its reader, as JSON takes it; floats as the hex of their bytes."""
    with Store(path) as store:
        said: dict[str, object] = {"content_digest": store.content_digest, "attributes": store.attributes}
        for name in ("utterances/id", "skipped/id", "skipped/reason", "vocab/phonemes", "vocab/speakers"):
            said[name] = store.strings(name)
        for name in ("speaker", "split", "n_samples", "sample_rate_hz"):
            said[f"utterances/{name}"] = store.numbers(f"utterances/{name}").tolist()
        for name in store.codec_names:
            frames = store[name]
            said[name] = {
                "layout": frames.layout,
                "offsets": frames.offsets.tolist(),
                "codes": frames.codes(0, frames.n_frames).tolist(),
                "phoneme": frames.labels("phoneme", 0, frames.n_frames).tolist(),
                "speaker": frames.labels("speaker", 0, frames.n_frames).tolist(),
                "f0": frames.labels("f0", 0, frames.n_frames).tobytes().hex(),
                "layers": [frames.layer(layer)[:].tobytes().hex() for layer in range(1, frames.n_layers + 1)],
            }
    return said


if __name__ == "__main__":
    make(Path(sys.argv[1]))
