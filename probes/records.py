"""The results of a probing run on disk: ``records.jsonl``, the truth, and ``records.csv``, the same for spreadsheets.

Each record is on the disk before `RecordFile.append` returns, so whatever kills the program costs at most the probe
that was running. What a kill leaves half-written is put right when the folder is opened again.
"""

import csv
import io
import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from featstore.atomic import write_once
from probes.files import (
    FolderLock,
    OutputError,
    append_synced,
    output_errors,
    sync_folder,
    truncate_synced,
)
from schemas.errors import SchemaError
from schemas.record import Record, check_record, field_names

JSONL_NAME = "records.jsonl"
CSV_NAME = "records.csv"
# A fit on equal data with equal settings ends the same way, so these need no rerun. Numbers that are not finite may
# come from a faulty device, so that probe is tried again.
FINAL_OUTCOMES = frozenset({"converged", "iteration_limit", "stalled", "singular", "not_applicable"})

log = logging.getLogger(__name__)


class RecordFile:
    """The records of one results folder, open for appending by this process alone.

    Opening takes an exclusive lock, drops a torn last line and rebuilds the CSV where it differs. Use it as a context
    manager, or call `close`. To read while another process appends, use `read_records`.

    Parameters
    ----------
    folder : Path
        The results folder; created where absent.

    Raises
    ------
    OutputError
        When another process holds the folder, or it cannot be written.
    SchemaError
        When a line before the last is damaged, or a record has an unknown major version.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._lock = FolderLock(self.folder)
        try:
            self._records = self._repair()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the folder for others; closing twice does nothing."""
        self._lock.release()

    @property
    def records(self) -> list[Record]:
        """Every record of the folder, in the order of writing."""
        return list(self._records)

    def finished_keys(self, fitted_by: str | None = None) -> set[str]:
        """Return the ``probe_key`` of each probe that a rerun may skip.

        Parameters
        ----------
        fitted_by : str or None
            A backend, where what another one fitted in its place is to be tried again; None: any will do.
        """
        return {
            record["probe_key"]
            for record in self._records
            if record["outcome"] in FINAL_OUTCOMES and fitted_by in (None, record["backend_used"])
        }

    def append(self, record: Mapping[str, Any]) -> None:
        """Check a record and write it to both files, synced to the disk.

        Parameters
        ----------
        record : mapping
            Every field of the record schema. NumPy scalars are taken as numbers; NaN and infinity, which JSON does
            not have, are written as null.

        Raises
        ------
        SchemaError
            When the record does not follow the schema; nothing is written then.
        OutputError
            When it cannot be written (a full disk, say); no half line is left behind.
        """
        if not self._lock.held:
            raise OutputError(f"{self.folder}: appending after close; open the folder again with RecordFile")
        plain = _plain(record)
        check_record(plain, f"{self.folder / JSONL_NAME}: new record")
        append_synced(self.folder / JSONL_NAME, _json_line(plain))
        self._records.append(plain)
        append_synced(self.folder / CSV_NAME, _csv_text([plain]))

    def _repair(self) -> list[Record]:
        """Make both files whole and return the records."""
        path = self.folder / JSONL_NAME
        content = _read_bytes(path)
        whole = _whole_lines(content)
        records = _parse(whole, path)
        if len(whole) < len(content):
            log.warning("%s: dropped a half-written last line; its probe will run again", path)
            truncate_synced(path, len(whole))
        append_synced(path, b"")
        expected = _csv_text([], header=True) + _csv_text(records)
        if _read_bytes(self.folder / CSV_NAME) != expected:
            with output_errors(self.folder / CSV_NAME), write_once(self.folder / CSV_NAME) as temporary:
                temporary.write_bytes(expected)
        sync_folder(self.folder)
        return records


def read_records(folder: Path) -> list[Record]:
    """Read a folder's records without locking or changing it; a last line still being written is left out.

    Raises
    ------
    OutputError
        When the folder holds no ``records.jsonl``.
    SchemaError
        When a line is damaged, or has an unknown major version; the message names file and line.
    """
    path = Path(folder) / JSONL_NAME
    if not path.is_file():
        raise OutputError(f"{path}: no such file; expected a results folder written by `cli.py probe --output DIR`")
    return _parse(_whole_lines(_read_bytes(path)), path)


def _plain(record: Mapping[str, Any]) -> Record:
    """Return the record in the schema's field order, with JSON's types only."""
    names = field_names()
    ordered = [name for name in names if name in record] + [name for name in record if name not in names]
    return {name: _plain_value(record[name]) for name in ordered}


def _plain_value(value: Any) -> Any:
    if type(value).__module__ == "numpy" and hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _json_line(record: Record) -> bytes:
    # What stands for bytes that were no UTF-8 cannot be encoded; backslashreplace makes of it what JSON escapes it to.
    return (json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8", "backslashreplace")


def _csv_text(records: list[Record], header: bool = False) -> bytes:
    """Return CSV lines with the schema's columns: null is empty, an object is JSON text."""
    text = io.StringIO()
    writer = csv.DictWriter(text, field_names(), extrasaction="ignore", lineterminator="\n")
    if header:
        writer.writeheader()
    for record in records:
        writer.writerow(
            {name: json.dumps(value) if isinstance(value, dict) else value for name, value in record.items()}
        )
    return text.getvalue().encode("utf-8", "backslashreplace")


def _read_bytes(path: Path) -> bytes:
    with output_errors(path):
        return path.read_bytes() if path.exists() else b""


def _whole_lines(content: bytes) -> bytes:
    """Return `content` up to its last newline: what follows was torn off while being written."""
    return content[: content.rfind(b"\n") + 1]


def _parse(content: bytes, path: Path) -> list[Record]:
    return [_parse_line(line, f"{path} line {i}") for i, line in enumerate(content.split(b"\n")[:-1], start=1)]


def _parse_line(line: bytes, where: str) -> Record:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:  # covers bytes that are not UTF-8
        raise SchemaError(f"{where}: not JSON ({error}); remove that line, and rerun to repeat its probe") from error
    if not isinstance(record, dict):
        raise SchemaError(
            f"{where}: expected a JSON object, found {type(record).__name__}; remove that line, and rerun its probe"
        )
    check_record(record, where)
    return record
