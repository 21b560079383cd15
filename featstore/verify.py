"""Check a store: that it follows the format, that its values are in range, that its content is what it claims."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from featstore import trust
from featstore.atomic import sync
from featstore.digest import combined_digest, utterance_digests, wrong_shards
from featstore.foreign import check_foreign
from featstore.frames import Frames
from featstore.parts import part_path
from featstore.progress import Progress
from featstore.seal import check_is_file, check_seal, read_seal, write_seal
from featstore.store import Store
from featstore.structure import raise_problems
from featstore.wording import counted
from featstore.zarr_seal import SEAL_NAME, is_zarr, write_folder_seal

_LATENTS_FRAMES = 4096  # a row has up to a thousand numbers


def verify_store(
    path: Path,
    full: bool = False,
    against: Sequence[Path] = (),
    *,
    reseal: bool = False,
    progress: Progress | None = None,
) -> list[str]:
    """Check structure, order and offsets; with `full` every byte as well.

    Parameters
    ----------
    path : Path
    full : bool
        Also compare the whole file with its seal before HDF5 sees it, recompute the content digest and those of the
        shards it was merged from, and prove, bit for bit, that dense rows equal codebook[code].
    against : sequence of Path
        Stores, each of which has to stand in this one, whole and unchanged.
    reseal : bool
        With `full`: leave the seal out of it, and when all else is right seal the file anew: it was changed on
        purpose.
    progress : callable (n_done, n_total, what) or None
        Called with bytes read ("hash"), then with frames ("check").

    Returns
    -------
    list of str
        What could not be checked, in words.

    Raises
    ------
    StoreError
        With every violation found.
    """
    if not is_zarr(path):
        check_is_file(path)
    if reseal:
        _check_as_foreign(path)
    elif full:
        check_seal(path, _hashing(progress))
    with Store.of_own(path) if reseal else Store(path) as store:  # opening it checks the structure
        problems = [f"its part {name} {problem}" for name, problem in store.absent_parts.items()]
        problems = problems or _tables(store)
        if not problems and full:
            for part in store.parts:  # before HDF5 reads a frame of it
                check_seal(part_path(path, part.path), _hashing(progress))
            problems = _every_frame(store, progress)
        if not problems and (full or against):
            problems = _digests(store, against)
    raise_problems(path, problems)
    if reseal:
        _seal_anew(path)
    return [] if _has_seal(path) else ["it has no seal, so damage where HDF5 does not look is not seen"]


def _check_as_foreign(path: Path) -> None:
    if is_zarr(path):
        from featstore.zarr_rules import check_foreign_folder

        check_foreign_folder(path)
    else:
        trust.forget(path)
        check_foreign(path)


def _seal_anew(path: Path) -> None:
    if is_zarr(path):
        from featstore.zarr_rules import folder_identity, remember_folder

        write_folder_seal(path)
        sync(path / SEAL_NAME)
        remember_folder(path, folder_identity(path))
    else:
        write_seal(path)
        sync(path)
        trust.remember(path, trust.identity_of(path))


def _has_seal(path: Path) -> bool:
    return (path / SEAL_NAME).is_file() if is_zarr(path) else read_seal(path) is not None


def _hashing(progress: Progress | None) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, total: progress(done, total, "hash")


def _every_frame(store: Store, progress: Progress | None) -> list[str]:
    problems, n_done = list[str](), 0
    n_total = sum(store[name].n_frames for name in store.codec_names)
    for name in store.codec_names:
        problems += _frames(store[name], n_done, n_total, progress)
        n_done += store[name].n_frames
    return problems


def _digests(store: Store, against: Sequence[Path]) -> list[str]:
    """Recompute the content digest, those of the shards that were merged, and those of the stores given."""
    digests = utterance_digests(store)
    if combined_digest(store, digests) != store.content_digest:
        return ["/@content_digest: differs from the content: the file was changed after it was built"]
    problems = [
        f"/shards/content_digest: shard {place} was merged, but is not what the store holds"
        for place in wrong_shards(store, digests)
    ]
    by_id = dict(zip(store.strings("utterances/id"), digests, strict=True))
    for path in against:
        check_seal(path)
        with Store(path) as part:
            missing = [id_ for id_ in part.strings("utterances/id") if id_ not in by_id]
            if missing:
                problems.append(f"lacks {counted(len(missing), 'utterance')} of {path} ({missing[0]}, ...)")
            elif combined_digest(store, [by_id[id_] for id_ in part.strings("utterances/id")]) != part.content_digest:
                problems.append(f"differs from {path} in what both hold")
    return problems


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
    n_speakers, n_shards = (len(store.strings(path)) for path in ("vocab/speakers", "shards/host"))
    for path, n in (("utterances/speaker", n_speakers), ("utterances/split", 2), ("utterances/shard", n_shards)):
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


def _frames(frames: Frames, n_before: int, n_total: int, progress: Progress | None) -> list[str]:
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
        if progress is not None:
            progress(n_before + stop, n_total, "check")
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
        rows = frames.layer(layer).stored_rows(start, stop)
        if rows is None or rows.tobytes() != expected.tobytes():
            return [f"/codecs/{frames.name}/embeddings: layer {layer} differs from codebook[code] in {start} to {stop}"]
    return []


def _outside(path: str, values: np.ndarray[Any, Any], n: int) -> list[str]:
    if values.size and not 0 <= values.min() <= values.max() < n:
        return [f"{path}: expected values from 0 to {n - 1}, found {values.min()} to {values.max()}"]
    return []
