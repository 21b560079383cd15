"""Builds of corpora that hold what no corpus should: good utterances are kept, bad ones listed with their reason."""

import os
import shutil

import numpy as np
import pytest

from featstore.build import build_store
from featstore.codecs.choose import WeightsRequest
from featstore.plan import BuildOptions, plan_build
from featstore.store import Store
from featstore.verify import verify_store
from tests.support import tiny_codec
from tests.support.corpus import make_tiny_corpus, write_utterance


@pytest.fixture
def build(tiny, tmp_path):
    """Build the corpus in a folder; return utterance ids, and skipped ids with their reasons."""

    def build_(folder):
        options = BuildOptions(
            folder / "LibriSpeech",
            folder / "alignments",
            "train-clean-100",
            tmp_path / "store.h5",
            {tiny_codec.NAME: WeightsRequest("untrained")},
            device="cpu",
        )
        result = build_store(plan_build(options))
        verify_store(result.path, full=True)
        with Store(result.path) as store:
            ids, names = store.strings("utterances/id"), store.strings("skipped/id")
            return ids, dict(zip(names, store.strings("skipped/reason"), strict=True))

    return build_


def test_special_files_broken_links_and_strange_names(build, tmp_path):
    folder = tmp_path / "corpus"
    make_tiny_corpus(folder, n_speakers=2, n_utterances=2)
    audio = folder / "LibriSpeech" / "train-clean-100" / "101" / "7"
    os.mkfifo(audio / "101-7-0010.flac")
    (audio / "101-7-0011.flac").mkdir()
    (audio / "101-7-0012.flac").symlink_to("/nowhere")
    (audio / "101-7-0013.flac").symlink_to("/dev/zero")
    shutil.copy(audio / "101-7-0000.flac", os.path.join(os.fsencode(audio), b"101-7-\xff\x1b[31m.flac"))
    textgrids = folder / "alignments" / "train-clean-100" / "101" / "7"
    shutil.copy(textgrids / "101-7-0000.TextGrid", textgrids / "101-7-0012.TextGrid")
    ids, skipped = build(folder)
    assert ids == ["101-7-0000", "101-7-0001", "102-7-0000", "102-7-0001"]
    assert "a named pipe" in skipped.pop("101-7-0010")
    assert "No such file" in skipped.pop("101-7-0012")
    assert "a device" in skipped.pop("101-7-0013")
    assert "expected a name in UTF-8" in skipped.pop(r"101-7-\udcff\x1b[31m")
    assert skipped == {}


def test_a_corpus_below_a_folder_whose_name_is_no_utf8(build, tmp_path):
    folder = tmp_path / os.fsdecode(b"corpus-\xff")
    make_tiny_corpus(tmp_path / "corpus", n_speakers=2, n_utterances=2)
    (tmp_path / "corpus").rename(folder)
    textgrid = next(folder.rglob("101-7-0001.TextGrid"))
    textgrid.write_text("no TextGrid")
    ids, skipped = build(folder)
    assert len(ids) == 3
    assert r"corpus-\udcff" in skipped["101-7-0001"]


def test_labels_and_speakers_are_data(build, tmp_path):
    folder = tmp_path / "corpus"
    make_tiny_corpus(folder, n_speakers=2, n_utterances=2)
    for index, speaker in enumerate(("$x$", "|`b`|", "<i>", "字")):
        good = write_utterance(folder, "103-7-0000", np.random.default_rng(index))
        for path in (good, next(folder.rglob("103-7-0000.TextGrid"))):
            new = path.parents[2] / speaker / "7" / f"{speaker}-7-0000{path.suffix}"
            new.parent.mkdir(parents=True)
            path.rename(new)
    textgrid = next(folder.rglob("101-7-0000.TextGrid"))
    textgrid.write_text(textgrid.read_text().replace('"sil"', '"../../$x|`"').replace('"S"', '"\u202e"'))
    ids, skipped = build(folder)
    assert {"$x$-7-0000", "|`b`|-7-0000", "<i>-7-0000", "字-7-0000"} < set(ids)
    assert skipped == {}
    made = {path.name for path in tmp_path.iterdir()}
    assert {"corpus", "split.json", "store.h5", "store.h5.weights"} >= {
        name for name in made if not name.startswith(".")
    }
