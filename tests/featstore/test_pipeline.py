"""Reading ahead and writing behind in other processes: the same store, and no utterance lost to a dead worker."""

import os
import signal
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from featstore import pipeline as pipeline_module
from featstore.build import build_store
from featstore.codecs.choose import WeightsRequest
from featstore.corpora.librispeech import scan_librispeech
from featstore.errors import StoreError
from featstore.extract import CodecClock
from featstore.pipeline import Pipeline
from featstore.plan import BuildOptions, plan_build
from featstore.store import Store
from featstore.workers import choose_workers
from tests.support import tiny_codec

CLOCKS = [CodecClock("tiny", 8_000, 160)]


@pytest.fixture
def build(tiny, tiny_corpus, tmp_path):
    def run(n_workers, progress=None):
        options = BuildOptions(
            tiny_corpus.librispeech_root,
            tiny_corpus.alignments_root,
            tiny_corpus.split,
            tmp_path / f"workers-{n_workers}" / "store.h5",
            {tiny_codec.NAME: WeightsRequest("untrained")},
            eval_frac=0.25,
            shard_utterances=5,
            workers=n_workers,
        )
        return build_store(plan_build(options), progress)

    return run


@pytest.fixture
def utterances(tiny_corpus):
    return scan_librispeech(tiny_corpus.librispeech_root, tiny_corpus.alignments_root, tiny_corpus.split).utterances


@pytest.mark.parametrize("numbers", [(0, 2), pytest.param((0, 1, 2, 4), marks=pytest.mark.slow)])
def test_the_store_does_not_depend_on_the_number_of_workers(build, numbers):
    found = set()
    for n_workers in numbers:
        notes = []
        result = build(n_workers, lambda done, total, what, note="", notes=notes: notes.append(note))
        with Store(result.path) as store:
            found.add(store.content_digest)
            assert all('"encode"' in seconds for seconds in store.strings("shards/seconds_by_stage"))
        assert any("wait for input" in note for note in notes)
        assert not list(result.path.parent.rglob("*.partial"))
    assert len(found) == 1


def test_prepared_ahead_is_bounded_by_the_workers(utterances):
    with Pipeline(CLOCKS, "yin", 2) as pipeline:
        places, handed_out = [], []

        def watched():
            for utterance in utterances:
                handed_out.append(utterance.id)
                yield utterance

        taken = pipeline._preparing.run(("prepare", (utterance,)) for utterance in watched())
        for n_taken, (place, prepared) in enumerate(taken, start=1):
            places.append(place)
            assert prepared.utterance == utterances[place]
            assert len(handed_out) <= n_taken + 2
    assert sorted(places) == list(range(len(utterances)))


def children():
    return {int(path.name) for path in Path("/proc").glob("[0-9]*") if parent_of(path) == os.getpid()}


def parent_of(path):
    try:
        return int((path / "stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError):
        return None


class Deadly(pipeline_module._Preparer):
    """Dies of one utterance: as often as it comes, or once only."""

    def __init__(self, clocks, f0_method, victim, mark):
        super().__init__(clocks, f0_method)
        self._victim, self._mark = victim, mark

    def prepare(self, utterance):
        if utterance.id == self._victim and not (self._mark and self._mark.exists()):
            if self._mark:
                self._mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().prepare(utterance)


@pytest.mark.parametrize("is_once", [True, False])
def test_a_killed_worker_costs_no_utterance_or_the_one_that_kills_twice(utterances, tmp_path, is_once):
    victim = utterances[7].id
    pipeline = Pipeline(CLOCKS, "yin", 2)
    pipeline._make = partial(Deadly, CLOCKS, "yin", victim, tmp_path / "mark" if is_once else None)
    with pipeline:
        prepared = dict(pipeline.prepare(utterances))
    assert sorted(prepared) == list(range(len(utterances)))
    problems = {item.utterance.id: item.problem for item in prepared.values() if item.problem}
    if is_once:
        assert problems == {}
    else:
        assert list(problems) == [victim]
        assert "the process that read it ended twice (exit code -9; too little memory?)" in problems[victim]
        assert not any(prepared[7].inputs), "nothing is known of its files, so --retry-skipped takes it up"


class Hanging(pipeline_module._Preparer):
    def prepare(self, utterance):
        if utterance.id.endswith("0003"):
            time.sleep(600)
        return super().prepare(utterance)


@pytest.mark.slow
def test_a_file_system_that_hangs_is_given_up_in_words(utterances, monkeypatch):
    monkeypatch.setattr(pipeline_module, "PREPARE_TIMEOUT_S", 30.0)
    pipeline = Pipeline(CLOCKS, "yin", 1)
    pipeline._make = partial(Hanging, CLOCKS, "yin")
    chosen = [item for item in utterances if item.id.startswith("101-")][2:5]
    with pipeline:
        prepared = dict(pipeline.prepare(chosen))
    (problem,) = [item.problem for item in prepared.values() if item.problem]
    assert "reading it took longer than 30 s, twice (a file system that hangs?); use --retry-skipped" in problem


def test_a_writer_that_fails_is_told(tmp_path):
    (tmp_path / "file").write_text("mine")
    with Pipeline(CLOCKS, "yin", 1) as pipeline:
        pipeline._writing.begin(("write", (tmp_path / "file" / "x.h5", None)))
        with pytest.raises((StoreError, OSError)):
            pipeline.finish()


def test_no_process_is_left(utterances):
    before = children()
    with Pipeline(CLOCKS, "yin", 2) as pipeline:
        next(pipeline.prepare(utterances))
        assert len(children() - before) >= 3
    deadline = time.monotonic() + 5
    while children() - before and time.monotonic() < deadline:
        time.sleep(0.05)
    left = children() - before
    assert len(left) <= 1, left  # multiprocessing's resource tracker stays
    assert threading.active_count() < 5


def test_the_number_of_workers():
    assert choose_workers(None, 10, "cpu, 2 threads") == 0
    assert choose_workers(None, 1000, "cpu, 2 threads") == 1
    assert choose_workers(None, 1000, "cuda, H") >= 1
    assert choose_workers(5, 3, "cpu, 2 threads") == 3
    assert choose_workers(0, 1000, "cuda, H") == 0
