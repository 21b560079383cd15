"""The GPU suite runs small on a processor, says that it did, and loses nothing to a piece that fails."""

import json
import subprocess
import sys
from argparse import Namespace
from types import ModuleType

import numpy as np
import pytest

from benchmarks import gpu_suite
from benchmarks.gpu import codes
from benchmarks.gpu.piece import Asked, SkippedPieceError
from benchmarks.scale.tables import CodecTables, frames_of
from benchmarks.scale.voices import draw_voices
from tests.test_benchmarks import ROOT, run

FULL = Namespace(small=False, frames=10, minutes=1.0, minutes_a_piece=1.0)


@pytest.fixture
def asked(tmp_path):
    return Asked("cpu:0", False, True, 100, tmp_path, tmp_path / "kept.json")


@pytest.fixture
def piece(monkeypatch):
    """Register a piece that does what it is told."""

    def register(run, needs=()):
        module = ModuleType("stand_in_piece")
        module.run = run
        monkeypatch.setitem(sys.modules, "stand_in_piece", module)
        monkeypatch.setitem(gpu_suite.PIECES, "stand-in", ("stand_in_piece", needs))

    return register


def rows_of(told):
    return [row for value in told.values() for row in (value if isinstance(value, list) else []) if type(row) is dict]


def test_every_piece_runs_small_on_a_processor_and_says_so(tmp_path):
    told = run("gpu_suite.py", "--output", tmp_path / "gpu.json")
    assert json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8")) == told
    assert (told["benchmark"], told["small"], told["gpu"], told["device"]) == ("gpu_suite", True, False, "cpu")
    assert told["why_no_gpu"]
    assert list(told["pieces"]) == list(gpu_suite.PIECES)
    assert told["pieces"].pop("tsne")["skipped"].startswith(("needs cuml", "cuML needs a GPU"))
    assert not [name for name, piece in told["pieces"].items() if "error" in piece or "skipped" in piece]
    exact, stacked, read, coded, encoded, cuml = told["pieces"].values()
    assert exact["n_probes"] == exact["n_proved"] == exact["n_converged"] == 3
    assert exact["max_gap_bound"] <= 1e-6
    assert [row["relative_difference"] < 2e-7 for row in exact["processor"]] == [True, True]
    assert exact["ratio_to_processor"] > 0
    assert [row["outcome"] for row in stacked["rows"]] == ["converged"] * 2
    assert all(row["gap_estimate"] <= stacked["tol"] for row in stacked["rows"])
    assert all(row["is_equal"] for row in read["rows"])
    assert {row["way"] for row in read["rows"]} == {"read_into, pinned", "codes, gathered there", "stored rows"}
    for name in ("encodec", "speechtokenizer"):
        assert coded[name]["share_equal_by_layer"] == [1.0] * 8
        assert coded[name]["is_repeatable"]
        assert encoded[name]["ratio_to_bare"] > 0
        assert not [row for row in encoded[name]["rows"] if "error" in row]
    by_backend = {}
    for row in cuml["rows"]:
        by_backend.setdefault(row["backend"], []).append(row)
    assert all("skipped" in row for row in by_backend["cuml"])
    assert max(abs(row["relative_gap"]) for row in by_backend["exact"]) < 1e-7
    assert all(row["relative_gap"] > -1e-9 for row in by_backend["sklearn"])


def test_a_piece_runs_in_a_process_of_its_own(tmp_path):
    told = gpu_suite.run_piece("tsne", FULL, tmp_path, 60.0)
    assert told["skipped"].startswith("needs cuml")
    assert told["seconds_with_start"] > 0


def test_pieces_that_need_what_is_missing_are_skipped_by_name(piece, asked):
    piece(lambda asked: {}, needs=("json", "surely_not_installed"))
    assert gpu_suite.run_here("stand-in", asked) == {
        "skipped": "needs surely_not_installed, which cannot be imported here"
    }


def test_a_piece_may_skip_itself(piece, asked):
    def skip(asked):
        raise SkippedPieceError("no such thing here")

    piece(skip)
    assert gpu_suite.run_here("stand-in", asked) == {"skipped": "no such thing here"}


def test_what_a_piece_knew_before_it_failed_is_kept(piece, asked):
    def fail(asked):
        asked.keep({"rows": [1]})
        raise RuntimeError("CUDA error: device-side assert\nand much more")

    piece(fail)
    told = gpu_suite.run_here("stand-in", asked)
    assert (told["rows"], told["error"]) == ([1], "RuntimeError: CUDA error: device-side assert")
    assert told["at"].startswith("tests/test_gpu_suite.py:")
    assert gpu_suite.one_line(told) == "failed: RuntimeError: CUDA error: device-side assert"


def test_a_piece_that_takes_too_long_is_stopped_and_what_it_knew_is_kept(tmp_path, monkeypatch):
    def hang(command, *, timeout, **_):
        (tmp_path / "kept-stacked.json").write_text('{"rows": [7]}', encoding="utf-8")
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(gpu_suite.subprocess, "run", hang)
    told = gpu_suite.run_piece("stacked", FULL, tmp_path, 50.0)
    assert told == {"rows": [7], "error": "stopped after 50 s", "seconds": 50.0}


def test_a_process_that_dies_without_a_word_is_told(tmp_path, monkeypatch):
    ended = subprocess.CompletedProcess([], -9, stdout="")
    monkeypatch.setattr(gpu_suite.subprocess, "run", lambda *_, **__: ended)
    told = gpu_suite.run_piece("exact48", FULL, tmp_path, 50.0)
    assert told["error"] == "its process ended with exit code -9, and no record"


def test_pieces_after_the_time_is_over_are_skipped(tmp_path):
    assert gpu_suite.run_piece("exact48", FULL, tmp_path, -1.0) == {"skipped": "no time left of --minutes 1"}


def test_what_fits_need_is_there_without_hdf5_codecs_or_cuml():
    code = (
        "import sys\n"
        "for name in ('h5py', 'hdf5plugin', 'encodec', 'speechtokenizer', 'librosa', 'textgrid', 'cuml'):\n"
        "    sys.modules[name] = None\n"
        "from benchmarks.gpu import codes, encode, exact48, rivals, stacked\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_codecs_that_are_absent_are_named(asked, monkeypatch):
    for name in ("encodec", "speechtokenizer"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SkippedPieceError, match="encodec cannot be imported here .*; speechtokenizer cannot be"):
        codes.run(asked)
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "encodec", None)
    found = dict(codes.checkpoints(asked))
    assert found["encodec"].startswith("cannot be imported here")
    assert found["speechtokenizer"].weights == "untrained"
    again = codes.checkpoints(asked)
    assert dict(again)["speechtokenizer"] == found["speechtokenizer"]  # made once


def test_ties_are_measured_at_the_first_layer_that_differs():
    codebooks = np.array([[[0.0], [1.0], [5.0]], [[0.0], [0.25], [9.0]]], dtype=np.float32)
    latents = np.array([[0.1], [0.49], [0.1], [5.2]], dtype=np.float32)
    ours = np.array([[0, 0, 0, 2], [0, 1, 0, 1]], dtype=np.uint16)
    theirs = np.array([[0, 1, 0, 2], [0, 0, 1, 1]], dtype=np.uint16)
    ties = codes.tie_gaps(ours, theirs, latents, codebooks)
    assert ties.layer.tolist() == [1, 2]
    np.testing.assert_allclose(ties.gap, [(0.51**2 - 0.49**2) / 0.49**2, (0.15**2 - 0.1**2) / 0.1**2], rtol=1e-5)
    assert codes.tie_summary(ties.gap)["largest"] == pytest.approx(1.25, rel=1e-3)
    assert codes.tie_summary(np.empty(0)) is None


class TestTables:
    @pytest.fixture(scope="module")
    @classmethod
    def tables(cls):
        return CodecTables("encodec", draw_voices(80, 8, 12.69, seed=0), seed=0)

    @pytest.mark.parametrize(("task", "n_classes"), [("phoneme", 71), ("speaker", 8)])
    def test_counts_are_of_all_frames_and_the_same_each_time(self, tables, task, n_classes):
        problem, again = tables.problem(task, 2), tables.problem(task, 2)
        np.testing.assert_array_equal(problem.counts, again.counts)
        assert problem.counts.shape[0] == 1024
        assert problem.counts.sum() == pytest.approx(tables.n_frames, rel=0.02)
        assert n_classes - 8 <= problem.counts.shape[1] <= n_classes  # the rarest phonemes may not be there
        used = problem.counts.sum(axis=1)
        assert (used == 0).sum() >= 51
        np.testing.assert_allclose(used @ problem.codewords / used.sum(), 0, atol=1e-9)

    def test_moments_are_those_of_voiced_speech(self, tables):
        problem = tables.problem("pitch", 1)
        assert 0.3 * tables.n_frames < problem.n.sum() < tables.n_frames
        mean = problem.sum_y.sum() / problem.n.sum()
        assert 80 < mean < 250
        assert (problem.sum_y2 * problem.n >= problem.sum_y**2 * (1 - 1e-12)).all()

    def test_frames_are_those_that_were_counted(self, tables):
        problem = tables.problem("phoneme", 1, 500)
        rows, targets = zip(*problem.dense_rows(), strict=True)
        X, y = np.concatenate(rows), np.concatenate(targets)
        found = np.zeros_like(problem.counts)
        row_of = {row.tobytes(): place for place, row in enumerate(problem.codewords.astype(np.float32))}
        np.add.at(found, ([row_of[row.tobytes()] for row in X], y), 1.0)
        np.testing.assert_array_equal(found, problem.counts)
        assert not np.array_equal(y, np.sort(y))
        np.testing.assert_array_equal(next(frames_of(problem.codewords, problem.counts, 1))[1], targets[0])

    def test_edges_draw_codes_by_their_probability(self, tables):
        edges = tables.code_edges(3)
        assert (np.diff(edges.ravel()) >= 0).all()
        share = np.diff(np.concatenate([[0.0], edges[0]]))
        counts = tables.problem("phoneme", 3, 10**8).counts[:, 0]
        np.testing.assert_allclose(share, counts / counts.sum(), atol=5 * np.sqrt(share.max() / counts.sum()))
