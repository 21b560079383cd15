"""The frames of a synthetic corpus, block of utterances after block, and the header of their store."""

import hashlib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from benchmarks.scale import codecs, speech
from benchmarks.scale.corpus import ScaleCorpus
from benchmarks.scale.voices import SAMPLE_RATE_HZ
from featstore.header import CodecHeader, ShardRow, StoreHeader
from featstore.shard import producer_versions

BLOCK_UTTERANCES = 64  # about 60,000 EnCodec frames
# what a stream of random numbers is for, beside the seed
_CODEC, _SPEECH, _CODES = 1, 2, 3


def make_codecs(labels: speech.LabelModel, corpus: ScaleCorpus, seed: int) -> dict[str, codecs.ScaleCodec]:
    """Return codecs of EnCodec's and SpeechTokenizer's shapes for a corpus, by name."""
    return {
        name: codecs.ScaleCodec(codec, labels, corpus.is_female, [seed, _CODEC, place])
        for place, (name, codec) in enumerate(codecs.SHAPES.items())
    }


def frames_of_rows(corpus: ScaleCorpus, makers: Mapping[str, codecs.ScaleCodec]) -> dict[str, NDArray[np.int64]]:
    """Return the frames of each utterance by codec, int64 (n_utterances,)."""
    n_samples = np.array([row.n_samples for row in corpus.rows])
    return {name: maker.n_frames(n_samples, SAMPLE_RATE_HZ) for name, maker in makers.items()}


def draw_frames(
    corpus: ScaleCorpus, labels: speech.LabelModel, makers: Mapping[str, codecs.ScaleCodec], seed: int
) -> Iterator[tuple[str, NDArray[np.uint16], NDArray[np.uint16], NDArray[np.float32]]]:
    """Yield codec, codes, phoneme and F0, block of utterances after block, all codecs from one timeline."""
    n_frames = frames_of_rows(corpus, makers)
    for first in range(0, len(corpus.rows), BLOCK_UTTERANCES):
        block = slice(first, first + BLOCK_UTTERANCES)
        speakers = corpus.speaker_of[block]
        n_samples = np.array([row.n_samples for row in corpus.rows[block]])
        n_steps = -(-n_samples * speech.STEPS_PER_S // SAMPLE_RATE_HZ)
        rng = np.random.default_rng([seed, _SPEECH, first])
        timeline = speech.draw_timeline(rng, labels, n_steps, corpus.log_f0_mean[speakers])
        for place, (name, maker) in enumerate(makers.items()):
            n_tokens, codec = n_frames[name][block], maker.shape
            phoneme, f0_hz = speech.at_token_centres(timeline, n_tokens, codec.sample_rate_hz, codec.hop_samples)
            rng = np.random.default_rng([seed, _CODES, place, first])
            yield name, maker.draw(rng, phoneme, np.repeat(speakers, n_tokens), f0_hz), phoneme, f0_hz


def store_header(
    corpus: ScaleCorpus, labels: speech.LabelModel, makers: Mapping[str, codecs.ScaleCodec], shape: str, seed: int
) -> StoreHeader:
    """Return the header of a store of these utterances."""
    n_frames = frames_of_rows(corpus, makers)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return StoreHeader(
        utterances=corpus.rows,
        skipped={},
        phonemes=labels.names,
        shards=[ShardRow("synthetic", "none", now, now, "")],
        codecs=[
            CodecHeader(
                name,
                maker.shape.sample_rate_hz,
                maker.shape.hop_samples,
                "untrained",
                hashlib.sha256(maker.codebooks.tobytes()).hexdigest(),
                maker.codebooks,
                n_frames[name].tolist(),
            )
            for name, maker in makers.items()
        ],
        attributes={
            "corpus": {"split": f"synthetic in the shape of train-{shape[:5]}-{shape[5:]}", "synthetic": True},
            "build_options": {"seed": seed, "f0": "synthetic", "embeddings": "factored", "compression": "zstd"},
            "producer_versions": producer_versions(["numpy", "h5py"]),
        },
    )
