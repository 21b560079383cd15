"""Weights made for a corpus and kept beside its store: taken again where the note is right, else made anew."""

import json
import os
from pathlib import Path

import pytest

from featstore.codecs import choose
from featstore.codecs.weights import sha256_of


@pytest.fixture
def note(tmp_path):
    """A folder with weights and the note of a recipe; writes the note anew with changes."""
    (tmp_path / "melrvq.npz").write_bytes(b"weights")

    def write(**changes):
        content = {"recipe_sha256": "recipe", "files": {"melrvq.npz": sha256_of(tmp_path / "melrvq.npz")}}
        (tmp_path / "melrvq.json").write_text(json.dumps(content | changes))
        return tmp_path / "melrvq.json"

    return write


def test_a_right_note_is_taken(note, tmp_path):
    kept = choose._kept(note(), "recipe", tmp_path)
    assert (kept.path, kept.weights, kept.config_path) == (tmp_path / "melrvq.npz", "untrained", None)
    assert choose._kept(note(), "another recipe", tmp_path) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"files": {}},
        {"files": []},
        {"files": None},
        {"files": "melrvq.npz"},
        {"files": {"melrvq.npz": "0" * 64}},
        {"files": {"melrvq.npz": 5}},
        {"files": {"melrvq.npz": ["x"]}},
        {"files": {"": "0" * 64}},
        {"files": {"..": "0" * 64}},
        {"files": {"a\0b": "0" * 64}},
        {"files": {"x" * 10_000: "0" * 64}},
        {"files": {"a": "", "b": "", "c": ""}},
        {"recipe_sha256": ["recipe"]},
    ],
)
def test_a_wrong_note_is_no_note(note, tmp_path, changes):
    assert choose._kept(note(**changes), "recipe", tmp_path) is None


def test_a_name_in_a_note_is_no_path(note, tmp_path):
    outside = tmp_path.parent / "outside.npz"
    outside.write_bytes(b"other")
    for name in ("../outside.npz", str(outside), f"./{outside.name}", "melrvq.npz/"):
        assert choose._kept(note(files={name: sha256_of(outside)}), "recipe", tmp_path) is None


@pytest.mark.parametrize("content", [b"", b"[]", b"[" * 50_000, b"\xff", b"5", b"null", b" " * 10**6])
def test_a_damaged_note_is_no_note(tmp_path, content):
    (tmp_path / "melrvq.json").write_bytes(content)
    assert choose._kept(tmp_path / "melrvq.json", "recipe", tmp_path) is None


def test_a_named_pipe_hangs_nothing(note, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert choose._kept(note(files={"pipe": "0" * 64}), "recipe", tmp_path) is None
    assert choose._kept(Path(tmp_path / "pipe"), "recipe", tmp_path) is None


def test_audio_at_an_impossible_rate_is_left_out_of_the_sample(monkeypatch, tmp_path):
    import numpy as np
    import soundfile

    from featstore.corpora.base import Utterance

    rng = np.random.default_rng(0)
    for name, rate_hz in (("a", 44_101), ("b", 16_000)):
        soundfile.write(tmp_path / f"{name}.flac", 0.1 * rng.standard_normal(rate_hz), rate_hz)
    utterances = [Utterance(name, name, tmp_path / f"{name}.flac", None) for name in "ab"]
    (sample,) = choose.read_sample(utterances, 16_000, 0, choose.SAMPLE_S)
    assert sample.shape == (16_000,)
