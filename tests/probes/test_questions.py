"""Questions that cannot be asked: how many frames they were about, and what to do."""

import numpy as np
import pytest

from featstore.store import Store
from probes.held_out import evaluation_split
from probes.options import ProbeOptions
from probes.runner import run_probes
from tests.support.stores import PHONEMES, StoreRecipe, edited, write_store

RECIPE = StoreRecipe(codecs=("alpha",))
REPRESENTATIONS = ["codeword", "cumulative", "concat"]


@pytest.fixture
def spoilt(tmp_path):
    """Return a function that writes a store whose phone labels `change(labels, parts of the frames)` has changed."""

    def spoil(change):
        path = write_store(tmp_path / "a.h5", RECIPE)
        with edited(path) as file:
            labels = file["codecs/alpha/labels/phoneme"]
            part = np.repeat(file["utterances/split"][()], np.diff(file["codecs/alpha/offsets"][()]))
            values = change(labels[()], part)
            labels[...] = values
        return path, values, part

    return spoil


def probe(path, output, task, **options):
    """Return the one record of a task and of layer 2."""
    (record,) = run_probes([path], output, ProbeOptions(tasks=[task], layers=[2], **options))
    return record


def counts(record):
    return {name: record[name] for name in ("n_train", "n_eval", "n_unseen")}


@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_evaluation_frames_all_of_unseen_classes(spoilt, tmp_path, representation):
    rare = PHONEMES.index("spn")

    def change(labels, part):
        return np.where(part == 1, rare, np.where(labels == rare, PHONEMES.index("S"), labels))

    path, _, part = spoilt(change)
    record = probe(path, tmp_path / "out", "phoneme", representation=representation)
    assert record["outcome"] == "not_applicable"
    assert record["reason"] == "phoneme: no evaluation frame has a class that was seen in training"
    assert counts(record) == {"n_train": (part == 0).sum(), "n_eval": 0, "n_unseen": (part == 1).sum()}


@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_one_class_in_training(spoilt, tmp_path, representation):
    said, silent = PHONEMES.index("S"), [PHONEMES.index(name) for name in ("", "sil")]
    path, labels, part = spoilt(lambda labels, part: np.where((part == 0) & ~np.isin(labels, silent), said, labels))
    options = {"representation": representation, "keep_silence": False}
    if representation != "codeword":
        options["max_train_frames"] = 50
    record = probe(path, tmp_path / "out", "phoneme", **options)
    assert record["reason"] == "phoneme needs at least two classes in training, found 1 (S)"
    n_train = (part == 0)[~np.isin(labels, silent)].sum()
    assert counts(record) == {
        "n_train": n_train if representation == "codeword" else 50,
        "n_eval": ((part == 1) & (labels == said)).sum(),
        "n_unseen": ((part == 1) & (labels != said) & ~np.isin(labels, silent)).sum(),
    }


@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_pitch_without_a_voiced_evaluation_frame(tmp_path, representation):
    path = write_store(tmp_path / "a.h5", RECIPE)
    with edited(path) as file:
        f0 = file["codecs/alpha/labels/f0"]
        part = np.repeat(file["utterances/split"][()], np.diff(file["codecs/alpha/offsets"][()]))
        values = np.where(part == 1, np.nan, f0[()])
        f0[...] = values
    record = probe(path, tmp_path / "out", "pitch", representation=representation)
    assert record["reason"] == "pitch needs voiced frames, found none in evaluation"
    assert counts(record) == {"n_train": (~np.isnan(values)).sum(), "n_eval": 0, "n_unseen": 0}


@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_speakers_that_training_does_not_hear(tmp_path, representation):
    path = write_store(tmp_path / "a.h5", RECIPE)
    record = probe(path, tmp_path / "out", "speaker", eval_by="speaker", representation=representation)
    assert record["reason"] == "speaker cannot be asked of unseen speakers; use --eval-by utterance"
    with Store(path) as store:
        split, n = evaluation_split(store, "speaker", 0), np.diff(store["alpha"].offsets)
    assert counts(record) == {"n_train": n[split == 0].sum(), "n_eval": 0, "n_unseen": n[split == 1].sum()}


@pytest.mark.parametrize("representation", REPRESENTATIONS)
@pytest.mark.parametrize("task", ["phoneme", "pitch"])
def test_one_speaker_evaluated_by_speaker_is_told_what_helps(tmp_path, task, representation):
    path = write_store(tmp_path / "a.h5", StoreRecipe(codecs=("alpha",), n_speakers=1))
    record = probe(path, tmp_path / "out", task, eval_by="speaker", representation=representation)
    assert record["outcome"] == "not_applicable"
    assert record["reason"] == (
        f"{task} of unseen speakers needs at least two speakers, found 1; use --eval-by utterance"
    )
    assert record["n_train"] > 0
    assert probe(path, tmp_path / "out", task, representation=representation)["outcome"] == "converged"
