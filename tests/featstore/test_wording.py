"""Counts with their nouns."""

from featstore.wording import counted


def test_singular_and_plural():
    assert [counted(n, "probe") for n in (0, 1, 2, 2854)] == ["0 probes", "1 probe", "2 probes", "2,854 probes"]
