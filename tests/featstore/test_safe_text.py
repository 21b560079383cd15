import pytest

from featstore.safe_text import printable, shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain é 字", "plain é 字"),
        ("a\nb\x1b[31m\0", r"a\nb\x1b[31m\x00"),
        ("\u202eabc", r"\u202eabc"),
        ("\udcff.flac", r"\udcff.flac"),
        ("\U000e0001", r"\U000e0001"),
    ],
)
def test_text_becomes_one_line_that_can_be_encoded(text, expected):
    assert printable(text) == expected
    assert printable(text).encode()


def test_long_text_is_cut_in_the_middle():
    assert printable("a" * 50 + "b" * 50, 10) == "aaaaa...bbbbb"
    assert len(printable("x" * 10**6)) < 5000


def test_values_are_shown_short():
    deep = []
    for _ in range(5000):
        deep = [deep]
    for value in (deep, "x" * 10**6, 10**4000, {"a": "\x1b"}, list(range(10**5)), None):
        assert len(shown(value)) <= 510
        assert shown(value).isprintable()
