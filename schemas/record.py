"""Probe-result record 1.0: the fields, their types and the check that writer and reader share.

The machine-readable schema is ``record-1.0.json`` (JSON Schema, draft 7), the rules in words ``record-1.0.md``.
"""

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from schemas.errors import SchemaError
from schemas.versions import check_version

RECORD_VERSION = "1.0"
Record = dict[str, Any]


@cache
def record_schema() -> dict[str, Any]:
    """Return the JSON Schema of a record, as a dictionary."""
    schema: dict[str, Any] = json.loads(files("schemas").joinpath("record-1.0.json").read_text(encoding="utf-8"))
    return schema


def field_names() -> list[str]:
    """Return every field of a record, in the order in which files and tables show them."""
    return list(record_schema()["properties"])


def empty_record() -> Record:
    """Return a record with every field present and null, ready to be filled."""
    return {"record_version": RECORD_VERSION} | {name: None for name in field_names() if name != "record_version"}


@cache
def _validator() -> Any:
    import fastjsonschema  # compiled once; only writers and readers of records need it

    return fastjsonschema.compile(record_schema())


def check_record(record: Mapping[str, Any], where: str = "record") -> None:
    """Check one record against the schema; unknown further fields are allowed.

    Parameters
    ----------
    record : mapping
        The parsed JSON object.
    where : str
        Names the record in messages, e.g. ``results/records.jsonl line 7``.

    Raises
    ------
    SchemaError
        When the version's major number is unknown, a field is missing or has another type.
    """
    import fastjsonschema

    check_version(record.get("record_version"), RECORD_VERSION, f"{where}: record_version")
    try:
        _validator()(dict(record))
    except fastjsonschema.JsonSchemaValueException as error:
        raise SchemaError(
            f"{where}: does not follow record schema {RECORD_VERSION}: {error.message}; rerun the probe"
        ) from error
