"""Content digest: SHA-256 over what a store says, not over how it says it.

Equal for equal inputs, options and weights on one machine and library set, whatever the layout, compression, chunking,
shard boundaries, merge order, number of workers and time. The byte-exact definition is in ``schemas/store-1.0.md``.
"""

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from featstore.errors import StoreError
from featstore.frames import Frames
from featstore.ranges import check_codes, check_phonemes
from featstore.store import Store

_CANONICAL_NAN = np.uint32(0x7FC00000)


def content_digest(store: Store) -> str:
    """Return the hex SHA-256 over every utterance in id order, then over every codec's codebooks and identity."""
    return combined_digest(store, utterance_digests(store))


def utterance_digests(store: Store) -> list[bytes]:
    """Return the 32-byte SHA-256 of every utterance, in id order: what it is, says and sounds like to every codec.

    Parameters
    ----------
    store : Store
        Read once, codec by codec, in blocks of frames.

    Raises
    ------
    StoreError
        When a code, a phoneme or a speaker is none of the store's, or a dataset cannot be read.
    """
    ids = store.strings("utterances/id")
    speakers = store.strings("vocab/speakers")
    columns = [store.numbers(f"utterances/{name}") for name in ("speaker", "split", "n_samples", "sample_rate_hz")]
    utterances = [hashlib.sha256() for _ in ids]
    if columns[0].size and not 0 <= columns[0].min() <= columns[0].max() < len(speakers):
        raise StoreError(f"{store.path}:/utterances/speaker: expected values below {len(speakers)}; build it again")
    for name, (speaker, split, n_samples, rate), digest in zip(
        ids, zip(*columns, strict=True), utterances, strict=True
    ):
        _add_text(digest, name, speakers[speaker], str(split), str(n_samples), str(rate))
    phonemes = store.strings("vocab/phonemes")
    for codec in store.codec_names:
        _add_frames(utterances, store[codec], phonemes)
    return [digest.digest() for digest in utterances]


def combined_digest(store: Store, digests: Iterable[bytes]) -> str:
    """Return the content digest of a store that holds these utterances and this one's codecs.

    Parameters
    ----------
    store : Store
        Whose codecs' identities and codebooks count.
    digests : iterable of bytes
        Of `utterance_digests`, in id order: all of them, or those of a part.
    """
    total = hashlib.sha256(b"rvqprobe-content-1\0")
    for digest in digests:
        total.update(digest)
    for codec in store.codec_names:
        frames = store[codec]
        clock = (frames.sample_rate_hz, frames.hop_samples, *frames.codebooks.shape)
        _add_text(total, codec, frames.weights, frames.weights_sha256, *map(str, clock))
        total.update(np.ascontiguousarray(frames.codebooks, dtype="<f4").data)
    return total.hexdigest()


def wrong_shards(store: Store, digests: Sequence[bytes]) -> list[int]:
    """Return the places of merged shards that a store does not hold as they were: their digests tell.

    Parameters
    ----------
    store : Store
    digests : sequence of bytes
        Its `utterance_digests`.
    """
    shard_of = store.numbers("utterances/shard")
    wrong = []
    for place, expected in enumerate(store.strings("shards/content_digest")):
        its_own = [digest for digest, shard in zip(digests, shard_of, strict=True) if shard == place]
        if expected and combined_digest(store, its_own) != expected:
            wrong.append(place)
    return wrong


def _add_frames(utterances: "list[hashlib._Hash]", frames: Frames, phonemes: list[str]) -> None:
    offsets = frames.offsets
    first = 0
    while first < len(utterances):
        # whole utterances, about a block of frames at a time
        last = int(np.searchsorted(offsets, offsets[first] + 65_536, side="right")) - 1
        last = min(max(last, first + 1), len(utterances))
        start, stop = int(offsets[first]), int(offsets[last])
        codes = frames.codes(start, stop)
        phoneme, f0 = frames.labels("phoneme", start, stop), canonical_f0(frames.labels("f0", start, stop))
        check_codes(frames, codes)
        check_phonemes(frames, phoneme, len(phonemes))
        for place in range(first, last):
            span = slice(int(offsets[place]) - start, int(offsets[place + 1]) - start)
            _add_text(utterances[place], frames.name, str(span.stop - span.start))
            utterances[place].update(np.ascontiguousarray(codes[:, span], dtype="<u2").data)
            used, index = np.unique(phoneme[span], return_inverse=True)
            _add_text(utterances[place], *(phonemes[label] for label in used))
            utterances[place].update(index.astype("<u2").data)
            utterances[place].update(f0[span].data)
        first = last


def canonical_f0(f0: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Return the bits of F0 as little-endian integers, every NaN the same; uint32 of F0's shape."""
    bits = np.ascontiguousarray(f0, dtype="<f4").view("<u4").copy()
    bits[np.isnan(f0)] = _CANONICAL_NAN
    return bits


def _add_text(digest: "hashlib._Hash", *parts: str) -> None:
    for part in parts:
        data = part.encode("utf-8")
        digest.update(len(data).to_bytes(8, "little") + data)
