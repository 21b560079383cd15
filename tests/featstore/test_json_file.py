"""JSON from other hands: an object, or one line that says what was found."""

import json
import os

import pytest

from featstore.json_file import NotJsonError, read_json_object


def found(path, content, max_bytes=2**20):
    path.write_bytes(content)
    with pytest.raises(NotJsonError) as caught:
        read_json_object(path, max_bytes)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 300
    return message


def test_an_object_is_read(tmp_path):
    content = {"a": [1, 2.5, "é", None, True], "b": {}}
    for text in (json.dumps(content).encode(), json.dumps(content, ensure_ascii=False).encode("utf-8-sig")):
        (tmp_path / "a.json").write_bytes(text)
        assert read_json_object(tmp_path / "a.json", 1000) == content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no JSON"),
        (b"\xff\xfe{", "no JSON"),
        (b"[1]", "a JSON list"),
        (b"null", "a JSON NoneType"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "no JSON"),
        (b'{"a": NaN}', "NaN is no JSON number"),
        (b'{"a": -Infinity}', "-Infinity is no JSON number"),
        (b'{"a": 1e999}', "1e999 is too large a number"),
        (b'{"a": 1, "a": 2}', "names an entry twice"),
        (b'{"a": "\x1b[31m', "no JSON"),
    ],
)
def test_anything_else_is_one_line(tmp_path, content, message):
    assert message in found(tmp_path / "a.json", content)


def test_files_that_cannot_be_read(tmp_path):
    assert "larger than 10 bytes" in found(tmp_path / "a.json", b"{}" + b" " * 9, 10)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(NotJsonError, match=r"a file that cannot be read \(a named pipe"):
        read_json_object(tmp_path / "pipe", 10)
    with pytest.raises(NotJsonError, match=r"a file that cannot be read \(No such file"):
        read_json_object(tmp_path / "absent", 10)
