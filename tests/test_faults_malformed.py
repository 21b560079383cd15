"""The fuzzer of inputs, run small, and made to see what it is there to see."""

import json
import os

import numpy as np
import pytest

from benchmarks.faults import malformed, mutations
from featstore.errors import UtteranceError

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="no /proc on this system")


def test_damaged_inputs_are_accepted_or_refused(tmp_path):
    told = malformed.run_malformed(60, 5, tmp_path, ("flac", "textgrid", "config", "split", "checkpoint"))
    assert told == {"runs": 60, "held": 60, "failures": []}
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == []


def test_damaged_stores_are_accepted_or_refused(tmp_path):
    told = malformed.run_malformed(12, 5, tmp_path, ("store",))
    assert told == {"runs": 12, "held": 12, "failures": []}


def raising(error):
    def read():
        raise error

    return read


def test_what_is_not_held_is_said():
    names = ("a.flac",)
    assert malformed.outcome(lambda: None, names) is None
    assert malformed.outcome(raising(UtteranceError("a.flac: empty; replace it")), names) is None
    assert "KeyError: \"'x'\"" in malformed.outcome(raising(KeyError("x")), names)
    assert "MemoryError" in malformed.outcome(raising(MemoryError()), names)
    assert "does not name the file" in malformed.outcome(raising(UtteranceError("empty")), names)
    for text in ("a.flac: two\nlines", "a.flac: \x1b[31m"):
        assert "not one printable line" in malformed.outcome(raising(UtteranceError(text)), names)


def test_a_worker_that_dies_and_one_that_hangs_are_laid_to_their_mutants(tmp_path, monkeypatch, capfd):
    malformed.make_sources(tmp_path / "sources", ["split"])
    monkeypatch.setattr(malformed, "LIMIT_S", {"slow": 0.0})
    jobs = [(1, "split"), (2, "no such kind"), (3, "split"), (4, "slow"), (5, "split")]
    died, hung = malformed._watch(jobs, 0, tmp_path, tmp_path / "sources")
    assert died == "no such kind 2 of seed 0: ended its process (exit code 1)"
    assert hung == "slow 4 of seed 0: took more than 0 s"
    capfd.readouterr()


def test_mutants_are_seeded_and_differ():
    json_text = json.dumps({"a": [1, 2, 3], "b": "text", "c": 5}).encode()
    for mutate in (mutations.mutate_bytes, mutations.mutate_text, mutations.mutate_json):
        first, again = (
            [mutate(json_text, np.random.default_rng([3, index])) for index in range(200)] for _ in range(2)
        )
        assert first == again
        assert len(set(first)) > 100
    for mutate in (mutations.mutate_bytes, mutations.mutate_text):
        for content in (b"", b"x"):
            for index in range(100):
                mutate(content, np.random.default_rng(index))
