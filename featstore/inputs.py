"""What a shard or a store was made from, against what is there now: files are told by content, never by name alone."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from featstore.corpora.base import Utterance
from featstore.errors import StoreError
from featstore.hashing import file_sha256
from featstore.header import InputHashes, SkippedRow, UtteranceRow
from featstore.patient_read import UnreadableFileError, kind_of_special, with_patience
from featstore.wording import counted

_N_NAMED = 5


def hash_inputs(utterances: Iterable[Utterance]) -> dict[str, InputHashes]:
    """Return the hashes of audio and alignment file of each utterance, by id."""
    return {item.id: InputHashes(hash_file(item.audio_path), hash_file(item.alignment_path)) for item in utterances}


def hash_file(path: Path | None) -> str:
    """Return the hex SHA-256 of a file; empty where there is none or it cannot be read."""
    if path is None or kind_of_special(path) is not None:
        return ""
    try:
        return with_patience(lambda: file_sha256(path))
    except UnreadableFileError:
        return ""


def check_same_inputs(
    path: Path,
    utterances: Sequence[UtteranceRow],
    skipped: Mapping[str, SkippedRow],
    now: Mapping[str, InputHashes],
) -> list[str]:
    """Compare what a finished file was made from with what is there now.

    Parameters
    ----------
    path : Path
        The finished shard or store.
    utterances, skipped : sequence of UtteranceRow, mapping of str to SkippedRow
        Its tables.
    now : mapping of str to InputHashes
        Of the utterances that the same build would take today.

    Returns
    -------
    list of str
        Ids of skipped utterances whose files have changed since: they may have been repaired.

    Raises
    ------
    StoreError
        When a file of a finished utterance has changed, or utterances have come or gone; the message names them.
    """
    done = {row.id: row.inputs for row in utterances}
    differences = [
        ("changed", [id_ for id_, then in done.items() if id_ in now and not _same(then, now[id_])]),
        ("new", [id_ for id_ in now if id_ not in done and id_ not in skipped]),
        ("gone", [id_ for id_ in done if id_ not in now]),
    ]
    found = [f"{counted(len(ids), 'utterance')} {what} ({_named(ids)})" for what, ids in differences if ids]
    if found:
        raise StoreError(
            f"{path}: was built from other input files: {', '.join(found)}; bring those files back, remove {path} to "
            "build it again, or choose another --output"
        )
    return [id_ for id_, row in skipped.items() if id_ in now and row.inputs != now[id_]]


def _same(then: InputHashes, now: InputHashes) -> bool:
    """Tell whether two hashes of an utterance agree; one that a store does not know agrees with any."""
    return all(not before or before == after for before, after in zip(then, now, strict=True))


def _named(ids: Sequence[str]) -> str:
    return ", ".join(ids[:_N_NAMED]) + (", ..." if len(ids) > _N_NAMED else "")
