"""Speech to build a store from: real where it is there, else synthetic."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from featstore.codecs.choose import WeightsRequest
from featstore.corpora.synthetic import make_corpus
from featstore.plan import BuildOptions

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("RVQPROBE_SHARED_DATA", ROOT.parent / "shared" / "data"))


@dataclass(frozen=True)
class Corpus:
    """Where the speech lies, what it is (``real`` or ``synthetic``), and how many utterances of it to take."""

    librispeech_root: Path
    alignments_root: Path
    split: str
    kind: str
    n_utterances: int


def find_corpus(folder: Path, n_utterances: int) -> Corpus:
    """Return real speech if it is there, else a synthetic corpus made below `folder`."""
    split = "train-clean-100"
    if (DATA / "LibriSpeech" / split).is_dir():
        return Corpus(DATA / "LibriSpeech", DATA / "alignments", split, "real", n_utterances)
    n_speakers = min(4, n_utterances)
    paths = make_corpus(folder / "corpus", n_speakers, -(-n_utterances // n_speakers), seed=0)
    return Corpus(paths.librispeech_root, paths.alignments_root, split, "synthetic", n_utterances)


def build_options(corpus: Corpus, output: Path, codecs: Sequence[str], n_workers: int) -> BuildOptions:
    """Return the options of a factored build of a corpus with untrained weights, which cost what trained ones do."""
    return BuildOptions(
        corpus.librispeech_root,
        corpus.alignments_root,
        corpus.split,
        output,
        {name: WeightsRequest("untrained") for name in codecs},
        embeddings="factored",
        max_utterances=corpus.n_utterances,
        workers=n_workers,
    )
