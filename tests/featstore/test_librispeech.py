import os
import shutil

import numpy as np
import pytest

from featstore.corpora.librispeech import scan_librispeech
from featstore.errors import CorpusError
from tests.support.corpus import make_tiny_corpus


@pytest.fixture
def corpus(tmp_path):
    return make_tiny_corpus(tmp_path, n_speakers=2, n_utterances=2)


def test_scan_is_sorted_and_finds_alignments(corpus):
    scan = scan_librispeech(corpus.librispeech_root, corpus.alignments_root, corpus.split)
    assert [item.id for item in scan.utterances] == ["101-7-0000", "101-7-0001", "102-7-0000", "102-7-0001"]
    assert {item.speaker for item in scan.utterances} == {"101", "102"}
    assert all(item.alignment_path.is_file() for item in scan.utterances)
    assert not scan.irregular


def test_root_above_librispeech_and_alignments_without_split(corpus, tmp_path):
    above = scan_librispeech(tmp_path, corpus.alignments_root / corpus.split, corpus.split)
    assert len(above.utterances) == 4
    assert all(item.alignment_path is not None for item in above.utterances)


def test_symbolic_links_are_followed_and_loops_end(corpus, tmp_path):
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / corpus.split).symlink_to(corpus.librispeech_root / corpus.split)
    os.symlink(corpus.librispeech_root / corpus.split, corpus.librispeech_root / corpus.split / "101" / "loop")
    assert len(scan_librispeech(linked, corpus.alignments_root, corpus.split).utterances) == 4


def test_missing_alignment_is_told_apart(corpus):
    next(corpus.alignments_root.rglob("101-7-0000.TextGrid")).unlink()
    first = scan_librispeech(corpus.librispeech_root, corpus.alignments_root, corpus.split).utterances[0]
    assert first.alignment_path is None


def test_misplaced_file_is_irregular(corpus):
    good = next(corpus.librispeech_root.rglob("101-7-0000.flac"))
    shutil.copy(good, good.with_name("555-7-0009.flac"))
    shutil.copy(good, good.with_name("noise.flac"))
    scan = scan_librispeech(corpus.librispeech_root, corpus.alignments_root, corpus.split)
    assert [name for name, _ in scan.irregular] == ["555-7-0009", "noise"]
    assert "expected at <speaker>/<chapter>/" in scan.irregular[0][1]
    assert len(scan.utterances) == 4


def test_duplicate_id_is_an_error(corpus):
    good = next(corpus.librispeech_root.rglob("101-7-0000.flac"))
    shutil.copy(good, corpus.librispeech_root / corpus.split / "102" / good.name)
    with pytest.raises(CorpusError, match=r"101-7-0000 stands twice: .*; remove one"):
        scan_librispeech(corpus.librispeech_root, corpus.alignments_root, corpus.split)


def test_missing_roots_and_splits(corpus, tmp_path):
    with pytest.raises(CorpusError, match="--librispeech-root"):
        scan_librispeech(tmp_path / "absent", corpus.alignments_root, corpus.split)
    with pytest.raises(CorpusError, match="expected the split dev-clean, found train-clean-100"):
        scan_librispeech(corpus.librispeech_root, corpus.alignments_root, "dev-clean")
    with pytest.raises(CorpusError, match="expected the name of a folder"):
        scan_librispeech(corpus.librispeech_root, corpus.alignments_root, "../x")
    with pytest.raises(CorpusError, match="--alignments-root"):
        scan_librispeech(corpus.librispeech_root, tmp_path / "absent", corpus.split)


def test_nothing_found(tmp_path):
    (tmp_path / "train-clean-100").mkdir()
    with pytest.raises(CorpusError, match="found no FLAC file"):
        scan_librispeech(tmp_path, tmp_path, "train-clean-100")


def test_no_textgrid_at_all(corpus, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(
        CorpusError, match=r"no TextGrid for any of 4 utterances; expected for example 101/7/101-7-0000"
    ):
        scan_librispeech(corpus.librispeech_root, empty, corpus.split)


def test_only_misplaced_files(tmp_path):
    folder = tmp_path / "train-clean-100"
    folder.mkdir()
    (folder / "a.flac").write_bytes(np.arange(5).tobytes())
    with pytest.raises(CorpusError, match="no FLAC lies at"):
        scan_librispeech(tmp_path, tmp_path, "train-clean-100")


def test_real_corpus(shared_data):
    scan = scan_librispeech(shared_data / "LibriSpeech", shared_data / "alignments", "train-clean-100")
    assert len(scan.utterances) == 240
    assert {item.speaker for item in scan.utterances} == {"4088", "4406", "5652", "8226"}
    assert all(item.alignment_path is not None for item in scan.utterances)
