"""A tiny corpus in LibriSpeech's layout, made in a moment: each phone a tone or a noise of its own."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

RATE_HZ = 16_000
_PHONES = {"AA1": 180.0, "IY0": 240.0, "UW2": 140.0, "S": None, "sil": 0.0, "": 0.0}
_UNIT = RATE_HZ // 100  # boundaries lie on a 10 ms grid, as MFA's do


@dataclass(frozen=True)
class TinyCorpus:
    """Roots of a corpus and its number of utterances."""

    librispeech_root: Path
    alignments_root: Path
    n_utterances: int
    split: str = "train-clean-100"


def make_tiny_corpus(
    folder: Path, n_speakers: int = 3, n_utterances: int = 8, seed: int = 0, n_phones: int = 14
) -> TinyCorpus:
    """Write the corpus below `folder`; 14 phones last about 2 s."""
    for speaker in range(n_speakers):
        for utterance in range(n_utterances):
            write_utterance(
                folder,
                f"{101 + speaker}-7-{utterance:04d}",
                np.random.default_rng([seed, speaker, utterance]),
                n_phones=n_phones,
            )
    return TinyCorpus(folder / "LibriSpeech", folder / "alignments", n_speakers * n_utterances)


def write_utterance(
    folder: Path, name: str, rng: np.random.Generator, split: str = "train-clean-100", n_phones: int = 14
) -> Path:
    """Write one FLAC and its TextGrid; return the FLAC's path."""
    speaker, chapter, _ = name.split("-")
    pitch = 1 + 0.15 * (int(speaker) % 7)
    pieces, intervals, at = [], [], 0
    for label in rng.choice(list(_PHONES), size=n_phones):
        n_units = int(rng.integers(8, 24))
        pieces.append(_sound(_PHONES[label], n_units * _UNIT, pitch, rng))
        intervals.append((at / 100, (at + n_units) / 100, str(label)))
        at += n_units
    path = folder / "LibriSpeech" / split / speaker / chapter / f"{name}.flac"
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.concatenate(pieces), RATE_HZ, subtype="PCM_16")
    textgrid = folder / "alignments" / split / speaker / chapter / f"{name}.TextGrid"
    textgrid.parent.mkdir(parents=True, exist_ok=True)
    textgrid.write_text(textgrid_text(intervals), encoding="utf-8")
    return path


def _sound(f0_hz: float | None, n: int, pitch: float, rng: np.random.Generator) -> np.ndarray:
    noise = rng.standard_normal(n)
    if f0_hz is None:
        return 0.1 * noise
    if f0_hz == 0:
        return 0.0005 * noise
    phase = 2 * np.pi * f0_hz * pitch * np.arange(n) / RATE_HZ
    return 0.2 * sum(np.sin(k * phase) / k for k in range(1, 9)) + 0.001 * noise


def textgrid_text(intervals: list[tuple[float, float, str]], tier: str = "phones") -> str:
    """Return a long-form TextGrid with one tier."""
    end = intervals[-1][1]
    head = f'File type = "ooTextFile"\nObject class = "TextGrid"\n\nxmin = 0.0\nxmax = {end}\n'
    head += "tiers? <exists>\nsize = 1\nitem []:\n"
    head += f'\titem [1]:\n\t\tclass = "IntervalTier"\n\t\tname = "{tier}"\n\t\txmin = 0.0\n\t\txmax = {end}\n'
    head += f"\t\tintervals: size = {len(intervals)}\n"
    return head + "".join(
        f'\t\t\tintervals [{index}]:\n\t\t\t\txmin = {start}\n\t\t\t\txmax = {stop}\n\t\t\t\ttext = "{label}"\n'
        for index, (start, stop, label) in enumerate(intervals, start=1)
    )
