"""Builds with the tiny codec: the options that tests of building start from."""

from pathlib import Path

from featstore.codecs.choose import WeightsRequest
from featstore.plan import BuildOptions
from tests.support import tiny_codec


def tiny_build(corpus, output: Path, **changes) -> BuildOptions:
    """Return options that build a corpus of tests/support/corpus.py with the tiny codec, in shards of five."""
    values = {
        "librispeech_root": corpus.librispeech_root,
        "alignments_root": corpus.alignments_root,
        "split": corpus.split,
        "output": output,
        "weights": {tiny_codec.NAME: WeightsRequest("untrained")},
        "eval_frac": 0.25,
        "shard_utterances": 5,
    }
    return BuildOptions(**values | changes)
