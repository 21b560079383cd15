"""How large a build will be, before it starts, against the free space."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from featstore.codecs.base import CodecFamily
from featstore.corpora.base import Utterance
from featstore.errors import StoreError

_PROBED = 200  # utterances whose headers are read to estimate durations
# Bytes on disk for one byte of embeddings. Rows repeat, so Zstandard shrinks them 5 to 11 times and gzip 1.7 to 3 times
# (measured on codes of real speech); these are the cautious ends.
_EMBEDDING_SHARE = {"zstd": 0.2, "gzip": 0.6, "none": 1.0}


@dataclass(frozen=True)
class SizeEstimate:
    """Estimated audio duration, frames per codec, and bytes of the shards and of both layouts."""

    duration_s: float
    n_frames: dict[str, int]
    bytes_shards: int
    bytes_factored: int
    bytes_dense: int

    def bytes_needed(self, layout: str) -> int:
        """Return the bytes of shards and result together, which lie side by side until the merge is done."""
        return self.bytes_shards + (self.bytes_dense if layout == "dense" else self.bytes_factored)


def estimate_sizes(utterances: Sequence[Utterance], families: Sequence[CodecFamily], compression: str) -> SizeEstimate:
    """Estimate a build's sizes from the headers of a few hundred evenly spaced audio files."""
    step = max(1, len(utterances) // _PROBED)
    durations = [seconds for utterance in utterances[::step] if (seconds := _duration_s(utterance.audio_path))]
    duration_s = sum(durations) / max(1, len(durations)) * len(utterances)
    n_frames, factored, dense = {}, 0, 0
    for family in families:
        n = int(duration_s * family.sample_rate_hz / family.hop_samples) + len(utterances)
        n_frames[family.name] = n
        codebooks = family.n_layers * family.n_codewords * family.dim * 4
        factored += n * (2 * family.n_layers + 10) + codebooks
        dense += int(n * family.n_layers * family.dim * 4 * _EMBEDDING_SHARE[compression])
    return SizeEstimate(duration_s, n_frames, factored, factored, factored + dense)


def check_free_space(estimate: SizeEstimate, layout: str, compression: str, folder: Path) -> None:
    """Refuse a build that does not fit, naming the flag that would.

    Raises
    ------
    StoreError
    """
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    needed = estimate.bytes_needed(layout)
    if needed <= free:
        return
    ways = []
    if layout == "dense" and compression != "zstd":
        ways.append("--compression zstd")
    if layout == "dense" and estimate.bytes_needed("factored") <= free:
        ways.append(f"--embeddings factored, which needs {in_bytes(estimate.bytes_needed('factored'))}")
    way = f"use {' or '.join(ways)}" if ways else "free some space or choose another --output"
    raise StoreError(f"{folder}: the build needs about {in_bytes(needed)}, {in_bytes(free)} are free; {way}")


def in_bytes(n: int) -> str:
    """Return a size for people, e.g. ``1.4 GB``."""
    size = float(n)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _duration_s(path: Path) -> float | None:
    import soundfile

    try:
        info = soundfile.info(str(path))
    except (soundfile.SoundFileError, RuntimeError, OSError):
        return None
    return float(info.frames / info.samplerate) if info.samplerate else None
