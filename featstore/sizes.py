"""How large a build will be, before it starts."""

import heapq
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from featstore.codecs.base import CodecFamily
from featstore.corpora.base import Utterance

_PROBED = 200  # utterances whose headers are read to estimate durations
_LARGEST = 20  # files whose headers are read to find the longest: FLAC of equal length differs in size by half or so
# Bytes on disk for one byte of embeddings, cautiously. Pieces of rows repeat, and a compressor finds that as far as its
# window reaches: Zstandard in chunks of 8192 pieces of at most 1024 kinds (0.137 where all codes are as frequent, less
# on speech); gzip looks back over 64 pieces only (0.87, and 0.27 to 0.79 on speech).
_EMBEDDING_SHARE = {"zstd": 0.2, "gzip": 0.9, "none": 1.0}
_LABEL_BYTES = 10  # of a frame: phoneme, speaker and F0
_FILE_BYTES = 20_000  # of a store without frames and codebooks: 16 kB were seen, and the utterance table grows


@dataclass(frozen=True)
class SizeEstimate:
    """What a build amounts to, estimated from some of its audio.

    Attributes
    ----------
    duration_s, longest_s : float
        Of all the audio, and of the longest file found; seconds.
    n_frames : dict of str to int
        By codec.
    bytes_frames : int
        Codes and labels of all codecs; stored uncompressed in this estimate.
    bytes_codebooks : int
        Of all codecs. The result holds them, and so does every shard.
    bytes_embeddings : int
        Of all codecs, before compression; in the dense layout only.
    n_shards : int
    compression : str
        Of the embeddings: "zstd", "gzip" or "none".
    bytes_latents : int
        Of all codecs, in shards and in either layout; hardly compressible, so stored as they are in this estimate.
    """

    duration_s: float
    longest_s: float
    n_frames: dict[str, int]
    bytes_frames: int
    bytes_codebooks: int
    bytes_embeddings: int
    n_shards: int
    compression: str
    bytes_latents: int = 0

    @property
    def bytes_factored(self) -> int:
        """Bytes of the result in the factored layout."""
        return self.bytes_frames + self.bytes_latents + self.bytes_codebooks + _FILE_BYTES

    @property
    def bytes_dense(self) -> int:
        """Bytes of the result in the dense layout."""
        return self.bytes_of("dense")

    @property
    def bytes_shards(self) -> int:
        """Bytes of all the shards together."""
        return self.bytes_of_shards(self.n_shards, 1.0)

    def bytes_of(self, layout: str, compression: str | None = None) -> int:
        """Return the bytes of the result in a layout, with another compression where one is given."""
        if layout != "dense":
            return self.bytes_factored
        return self.bytes_factored + int(_EMBEDDING_SHARE[compression or self.compression] * self.bytes_embeddings)

    def bytes_of_shards(self, n_shards: int, share: float) -> int:
        """Return the bytes of some of the shards, which hold this share (0 to 1) of the frames."""
        return int((self.bytes_frames + self.bytes_latents) * share) + n_shards * (self.bytes_codebooks + _FILE_BYTES)

    def bytes_needed(self, layout: str) -> int:
        """Return the bytes of shards and result together, which lie side by side until the merge is done."""
        return self.bytes_shards + self.bytes_of(layout)


def estimate_sizes(
    utterances: Sequence[Utterance],
    families: Sequence[CodecFamily],
    compression: str,
    n_shards: int,
    with_latents: bool = False,
) -> SizeEstimate:
    """Estimate a build's sizes from the headers of a few hundred evenly spaced audio files and of the largest ones."""
    step = max(1, len(utterances) // _PROBED)
    durations = [seconds for utterance in utterances[::step] if (seconds := _duration_s(utterance.audio_path))]
    duration_s = sum(durations) / max(1, len(durations)) * len(utterances)
    n_frames, frames, codebooks, latents, embeddings = {}, 0, 0, 0, 0
    for family in families:
        n = int(duration_s * family.sample_rate_hz / family.hop_samples) + len(utterances)
        n_frames[family.name] = n
        frames += bytes_of_frames(n, family.n_layers)
        codebooks += family.n_layers * family.n_codewords * family.dim * 4
        latents += n * family.dim * 4 if with_latents else 0
        embeddings += bytes_of_embeddings(n, family.n_layers, family.dim)
    longest_s = max([*durations, *_durations_of_largest(utterances)], default=0.0)
    return SizeEstimate(duration_s, longest_s, n_frames, frames, codebooks, embeddings, n_shards, compression, latents)


def estimate_merged(codecs: Sequence[tuple[int, int, int]], bytes_codebooks: int, compression: str) -> SizeEstimate:
    """Return the sizes of a store of known frames: (n_frames, n_layers, dim) of each codec; no shards, no audio."""
    frames = sum(bytes_of_frames(n, n_layers) for n, n_layers, _ in codecs)
    embeddings = sum(bytes_of_embeddings(n, n_layers, dim) for n, n_layers, dim in codecs)
    return SizeEstimate(0.0, 0.0, {}, frames, bytes_codebooks, embeddings, 0, compression)


def bytes_of_frames(n_frames: int, n_layers: int) -> int:
    """Return the bytes of codes and labels of a codec's frames."""
    return n_frames * (2 * n_layers + _LABEL_BYTES)


def bytes_of_embeddings(n_frames: int, n_layers: int, dim: int) -> int:
    """Return the bytes of a codec's dense rows, float32, before compression."""
    return n_frames * n_layers * dim * 4


def in_bytes(n: int) -> str:
    """Return a size for people, e.g. ``1.4 GB``."""
    size = float(n)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _durations_of_largest(utterances: Sequence[Utterance]) -> list[float]:
    """Return the durations, in seconds, of the files that hold the most bytes: one of them lasts longest."""
    largest = heapq.nlargest(_LARGEST, (utterance.audio_path for utterance in utterances), key=_file_bytes)
    return [seconds for path in largest if (seconds := _duration_s(path))]


def _file_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _duration_s(path: Path) -> float | None:
    import soundfile

    try:
        info = soundfile.info(os.fsencode(path))
    except (soundfile.SoundFileError, RuntimeError, OSError):
        return None
    return float(info.frames / info.samplerate) if info.samplerate else None
