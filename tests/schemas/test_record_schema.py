"""The record schema: the two texts of one specification, and what is a valid record."""

import json
import re
from importlib.resources import files

import pytest

from schemas.errors import SchemaError
from schemas.record import RECORD_VERSION, check_record, empty_record, field_names, record_schema
from tests.support.records import make_record

JSON_TYPES = {"string": "text", "integer": 7, "number": 0.5, "boolean": True, "object": {"numpy": "2"}, "null": None}


def types_of(name):
    kinds = record_schema()["properties"][name]["type"]
    return [kinds] if isinstance(kinds, str) else kinds


def nullable():
    return [name for name in field_names() if "null" in types_of(name)]


# Fields that came after the first records, which have to stay valid without them.
LATER = ["design", "design_rows", "design_rows_asked", "design_note"]


def test_specification_loads_and_every_field_is_described_and_required_or_later():
    schema = record_schema()
    assert schema["required"] + LATER == list(schema["properties"])
    assert all("null" in types_of(name) for name in LATER)
    assert all(item["description"] for item in schema["properties"].values())
    assert field_names()[:5] == ["record_version", "probe_key", "codec", "layer", "task"]


def test_prose_lists_every_field_once():
    prose = files("schemas").joinpath("record-1.0.md").read_text(encoding="utf-8")
    fields = prose.split("\n## Fields\n")[1].split("\n## ")[0]
    in_prose = re.findall(r"`([^`]+)`", fields)
    assert sorted(in_prose) == sorted(field_names())
    assert f"# Probe-result record {RECORD_VERSION}\n" in prose


def test_names_used_in_the_prose_are_fields_or_values():
    """What the rules speak of exists: fields, patterns of fields such as ``chance_*``, values, or other files."""
    prose = files("schemas").joinpath("record-1.0.md").read_text(encoding="utf-8")
    values = {value for item in record_schema()["properties"].values() for value in item.get("enum", [])}
    for name in re.findall(r"`([^`]+)`", prose):
        if re.fullmatch(r"[a-zA-Z_0-9*]+", name):
            pattern = re.compile(name.replace("*", ".+"))
            assert any(pattern.fullmatch(known) for known in (*field_names(), *(values - {None}))), name


def test_an_empty_record_has_every_field_and_is_not_yet_valid():
    record = empty_record()
    assert list(record) == field_names()
    assert {name for name, value in record.items() if value is not None} == {"record_version"}
    with pytest.raises(SchemaError, match="codec|probe_key"):
        check_record(record)


def test_every_nullable_field_may_be_null_at_once():
    check_record(make_record() | dict.fromkeys(nullable()))
    assert len(nullable()) > 50


@pytest.mark.parametrize("name", sorted(set(field_names()) - set(nullable()) - {"record_version"}))
def test_other_fields_may_not_be_null(name):
    with pytest.raises(SchemaError, match=rf"r line 2: does not follow record schema 1\.0: .*{name}.*rerun"):
        check_record(make_record() | {name: None}, "r line 2")


@pytest.mark.parametrize("name", [name for name in field_names() if name not in LATER])
def test_a_missing_field_is_refused(name):
    record = make_record()
    del record[name]
    with pytest.raises(SchemaError, match=name):
        check_record(record)


def test_a_record_from_before_a_field_is_valid():
    check_record({name: value for name, value in make_record().items() if name not in LATER})


@pytest.mark.parametrize("name", [name for name in field_names() if name != "record_version"])
def test_a_value_of_another_type_is_refused(name):
    allowed = set(types_of(name))
    for kind, value in JSON_TYPES.items():
        fits = kind in allowed or (kind == "integer" and "number" in allowed)
        if not fits:
            with pytest.raises(SchemaError, match=name):
                check_record(make_record() | {name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("task", "emotion"),
        ("outcome", "fine"),
        ("layer", 0),
        ("rows", "sparse"),
        ("weights", "stolen"),
        ("representation", "sum"),
        ("phones", "ipa"),
        ("class_weight", "heavy"),
        ("design", "random"),
        ("design_rows", 0),
        ("versions", {"numpy": 2}),
    ],
)
def test_a_value_outside_its_range_is_refused(name, value):
    with pytest.raises(SchemaError, match=name):
        check_record(make_record() | {name: value})


@pytest.mark.parametrize("task", ["phoneme", "speaker", "pitch"])
def test_what_the_program_writes_is_valid(task):
    record = make_record(task=task)
    check_record(json.loads(json.dumps(record)))


def test_a_field_that_is_not_known_is_kept():
    record = make_record() | {"colour": "blue", "record_version": "1.4"}
    check_record(record)
    assert record["colour"] == "blue"


def test_versions_of_records():
    with pytest.raises(SchemaError, match=r"f line 3: record_version: version 2\.0 is not known"):
        check_record(make_record() | {"record_version": "2.0"}, "f line 3")
    with pytest.raises(SchemaError, match="expected a version such as"):
        check_record({"colour": "blue"})
