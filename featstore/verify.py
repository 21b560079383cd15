"""Check a store: that it follows the format, that its values are in range, that its content is what it claims."""

from pathlib import Path
from typing import Any

import numpy as np

from featstore.digest import content_digest
from featstore.store import Frames, Store
from featstore.structure import raise_problems

_LATENTS_FRAMES = 4096  # a row has up to a thousand numbers


def verify_store(path: Path, full: bool = False) -> None:
    """Check structure, order and offsets; with `full` every frame as well.

    Parameters
    ----------
    path : Path
    full : bool
        Also recompute the content digest and prove, bit for bit, that dense rows equal codebook[code].

    Raises
    ------
    StoreError
        With every violation found.
    """
    with Store(path) as store:  # opening it checks the structure
        problems = _tables(store)
        if not problems and full:
            for name in store.codec_names:
                problems += _frames(store[name])
            if not problems and content_digest(store) != store.content_digest:
                problems.append("/@content_digest: differs from the content: the file was changed after it was built")
    raise_problems(path, problems)


def check_tables(store: Store) -> None:
    """Check the tables that everything read from a store rests on, without reading a frame.

    Utterances, vocabularies, the split, offsets and codebooks: a wrong one gives wrong numbers where it gives no error.

    Raises
    ------
    StoreError
        With every violation found.
    """
    raise_problems(store.path, _tables(store))


def _tables(store: Store) -> list[str]:
    problems = []
    for path in ("utterances/id", "vocab/phonemes", "vocab/speakers"):
        values = store.strings(path)
        if values != sorted(set(values)):
            problems.append(f"/{path}: expected sorted and unique values")
    for path, n in (("utterances/speaker", len(store.strings("vocab/speakers"))), ("utterances/split", 2)):
        problems += _outside(f"/{path}", store.numbers(path), n)
    for name in store.codec_names:
        frames = store[name]
        offsets = frames.offsets
        if offsets[0] != 0 or offsets[-1] != frames.n_frames or (np.diff(offsets) < 0).any():
            problems.append(f"/codecs/{name}/offsets: expected to rise from 0 to {frames.n_frames}")
        finite = np.isfinite(frames.codebooks).all(axis=2)
        if not finite.all():
            layer, code = np.argwhere(~finite)[0]
            value = frames.codebooks[layer, code][~np.isfinite(frames.codebooks[layer, code])][0]
            problems.append(
                f"/codecs/{name}/codebooks: expected finite values, found {value} in layer {layer + 1}, code {code}"
            )
    return problems


def _frames(frames: Frames) -> list[str]:
    place = f"/codecs/{frames.name}"
    speaker_of = frames.store.numbers("utterances/speaker")
    n_phonemes = len(frames.store.strings("vocab/phonemes"))
    for start, stop in frames.blocks():
        codes = frames.codes(start, stop)
        problems = _outside(f"{place}/codes", codes, frames.n_codewords)
        problems += _outside(f"{place}/labels/phoneme", frames.labels("phoneme", start, stop), n_phonemes)
        owner = np.searchsorted(frames.offsets, np.arange(start, stop), side="right") - 1
        if not np.array_equal(frames.labels("speaker", start, stop), speaker_of[owner]):
            problems.append(
                f"{place}/labels/speaker: differs from the utterances' speakers in frames {start} to {stop}"
            )
        f0 = frames.labels("f0", start, stop)
        if np.isinf(f0).any() or (f0 <= 0).any():
            problems.append(f"{place}/labels/f0: expected positive Hz or NaN in frames {start} to {stop}")
        if not problems and frames.stored_embeddings() is not None:
            problems += _dense_rows(frames, codes, start, stop)
        if problems:
            return problems
    return _latents(frames) if frames.has_latents else []


def _latents(frames: Frames) -> list[str]:
    """Read latents, the one float track that no codes explain; their shape is a matter of structure."""
    for start, stop in frames.blocks(_LATENTS_FRAMES):
        if not np.isfinite(frames.latents(start, stop)).all():
            return [f"/codecs/{frames.name}/latents: expected finite numbers in frames {start} to {stop}"]
    return []


def _dense_rows(frames: Frames, codes: np.ndarray[Any, Any], start: int, stop: int) -> list[str]:
    for layer in range(1, frames.n_layers + 1):
        expected = frames.codebooks[layer - 1][codes[layer - 1]]
        if frames.layer(layer)[start:stop].tobytes() != expected.tobytes():
            return [f"/codecs/{frames.name}/embeddings: layer {layer} differs from codebook[code] in {start} to {stop}"]
    return []


def _outside(path: str, values: np.ndarray[Any, Any], n: int) -> list[str]:
    if values.size and not 0 <= values.min() <= values.max() < n:
        return [f"{path}: expected values from 0 to {n - 1}, found {values.min()} to {values.max()}"]
    return []
