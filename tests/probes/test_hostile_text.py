"""Names and reasons in a results folder from elsewhere: shown as they stand, obeyed by nothing."""

import csv
import io

import pytest

from probes.errors import ProbeFileError
from probes.estimator import read_probe
from probes.figure_text import figure_text
from probes.figures import write_figures
from probes.records import RecordFile, read_records
from probes.report import summary_markdown, summary_table, write_report
from schemas.errors import SchemaError
from tests.support.records import make_record

NAMES = [
    "../../x",
    "/etc/passwd",
    "a\0b",
    "x" * 10_000,
    "\u202eabc",
    "two\nlines",
    r"$\frac{1}{0}$",
    "$",
    "|`b`|",
    "\x1b[31mred",
    "\udcff",
    "_hidden",
    "字",
    "[a](http://x)",
    "<script>",
]


def records_of(name):
    reason = f"needs two classes, found 1 ({name})"
    return [
        make_record(name, weights="untrained"),
        make_record(name, 1, "speaker", outcome="not_applicable", reason=reason, accuracy=None, macro_f1=None),
    ]


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_any_name_can_be_reported_drawn_and_read_again(tmp_path, name):
    records = records_of(name)
    with RecordFile(tmp_path) as file:
        for record in records:
            file.append(record)
    assert [record["codec"] for record in read_records(tmp_path)] == [name] * 2
    (line, _) = csv.DictReader(io.StringIO((tmp_path / "records.csv").read_text("utf-8"), newline=""))
    assert line["codec"] == name.replace("\udcff", r"\udcff")
    assert all(text.isprintable() for text in summary_table(records).split("\n"))
    assert all(len(text) <= 100 for text in summary_table(records).split("\n"))
    report = write_report(records, tmp_path).read_text("utf-8")
    assert all(text.isprintable() for text in report.split("\n"))
    written = write_figures(records, tmp_path / "figures")
    assert [path.name for path in written] == [
        f"{t}_probing.{s}" for t in ("phoneme", "speaker") for s in ("png", "pdf")
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".lock", "figures", "records.csv", "records.jsonl", "report.md",
    ]  # fmt: skip


def test_markdown_signs_in_a_name_are_text():
    text = summary_markdown(records_of("|`b`|$x$[a](http://x)<i>*"))
    assert r"\|\`b\`\|\$x\$[a\](http://x)\<i>\*" in text


def test_figure_text_begins_no_formula_and_needs_no_further_font():
    from matplotlib.cbook import is_math_text

    for name in NAMES:
        assert not is_math_text(figure_text(name))
        assert figure_text(name).isascii()
    assert figure_text("one\ntwo") == "one\ntwo"


def test_a_record_nested_too_deeply_is_a_schema_error(tmp_path):
    (tmp_path / "records.jsonl").write_bytes(b"[" * 100_000 + b"\n")
    with pytest.raises(SchemaError, match=r"records\.jsonl line 1: not JSON"):
        read_records(tmp_path)


@pytest.mark.parametrize(
    ("arrays", "metadata"),
    [
        ('"../x.npz"', "{}"),
        ('"/etc/passwd"', "{}"),
        ('""', "{}"),
        ("5", "{}"),
        ('"a\\u0000b"', "{}"),
        ('"a.npz"', "[]"),
    ],
)
def test_a_probes_header_names_a_file_beside_it(tmp_path, arrays, metadata):
    (tmp_path / "a.json").write_text(
        f'{{"format": "rvqprobe-probe", "format_version": "1.0", "kind": "linear", "arrays": {arrays}, '
        f'"arrays_sha256": "", "metadata": {metadata}}}'
    )
    with pytest.raises(ProbeFileError, match=r"a\.json: expected (arrays|metadata) to be") as caught:
        read_probe(tmp_path / "a.json")
    assert str(caught.value).isprintable()


def test_a_probes_header_nested_too_deeply_is_refused(tmp_path):
    (tmp_path / "a.json").write_bytes(b"[" * 100_000)
    with pytest.raises(ProbeFileError, match="cannot be read as JSON"):
        read_probe(tmp_path / "a.json")
