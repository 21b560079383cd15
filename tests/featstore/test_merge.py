import shutil

import h5py
import numpy as np
import pytest

from featstore import writer
from featstore.completeness import missing_utterances
from featstore.describe import describe_text
from featstore.errors import StoreError
from featstore.frames import Frames
from featstore.merge import merge_into, merge_stores
from featstore.store import Store
from featstore.verify import verify_store
from tests.support.stores import StoreRecipe, edited, write_store

RECIPE = StoreRecipe()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = write_store(tmp_path_factory.mktemp("whole") / "whole.h5", RECIPE)
    with Store(path) as store:
        return store.content_digest


@pytest.mark.parametrize(
    "parts",
    [[range(0, 5), range(5, 12)], [[11, 3, 0], [1, 2, 4, 5, 6], [7, 8, 9, 10]], [range(0, 12, 2), range(1, 12, 2), []]],
)
@pytest.mark.parametrize("layout", ["dense", "factored", None])
def test_merge_in_any_order_gives_the_whole(tmp_path, whole, parts, layout):
    paths = [write_store(tmp_path / f"{index}.h5", RECIPE, only=part) for index, part in enumerate(parts)]
    for order in (paths, paths[::-1]):
        merge_stores(order, tmp_path / "merged.h5", layout)
        verify_store(tmp_path / "merged.h5", full=True)
        with Store(tmp_path / "merged.h5") as store:
            assert store.content_digest == whole
            assert store["alpha"].layout == (layout or "factored")
            assert store.json_attribute("build_options") == {"seed": 42, "f0": "yin"}
        (tmp_path / "merged.h5").unlink()


def test_vocabularies_are_united(tmp_path):
    paths = [write_store(tmp_path / f"{index}.h5", RECIPE, only=part) for index, part in enumerate([[0, 1], [2, 3]])]
    with edited(paths[1], is_sound=True) as file:
        labels = [label.decode() for label in file["vocab/phonemes"][()]]
        renamed = [label.replace("AH0", "AH9") for label in labels]
        del file["vocab/phonemes"]
        file["vocab/phonemes"] = np.array([label.encode() for label in renamed], dtype=h5py.string_dtype("utf-8", 4))
    merge_stores(paths, tmp_path / "merged.h5")
    with Store(tmp_path / "merged.h5") as merged, Store(paths[1]) as part:
        names = merged.strings("vocab/phonemes")
        assert names == sorted({*labels, "AH9"})
        place = merged.strings("utterances/id").index(part.strings("utterances/id")[0])
        start = int(merged["beta"].offsets[place])
        got = [names[index] for index in merged["beta"].labels("phoneme", start, start + 20)]
        assert got == [renamed[index] for index in part["beta"].labels("phoneme", 0, 20)]


def test_a_part_that_is_not_what_its_digest_says_is_refused_before_anything_is_made(tmp_path):
    paths = [write_store(tmp_path / f"{index}.h5", RECIPE, only=part) for index, part in enumerate([[0, 1], [2, 3]])]
    with edited(paths[1]) as file:
        change_codes(file)
    with pytest.raises(StoreError, match="is not what its own digest says"):
        merge_stores(paths, tmp_path / "merged.h5")
    assert not (tmp_path / "merged.h5").exists()


@pytest.mark.parametrize("layout", ["dense", "factored"])
def test_codes_beyond_the_codebook_are_refused_in_words(tmp_path, layout):
    path = write_store(tmp_path / "0.h5", RECIPE)
    with edited(path) as file:
        file["codecs/alpha/codes"][1, 3] = 999
    with pytest.raises(StoreError, match=r"0\.h5:/codecs/alpha: expected codes below 16"):
        merge_stores([path], tmp_path / "merged.h5", layout)


def test_an_id_that_stands_twice_in_a_part_is_refused(tmp_path):
    path = write_store(tmp_path / "0.h5", RECIPE, only=[0, 1])
    with edited(path, is_sound=True) as file:
        file["utterances/id"][1] = file["utterances/id"][0]
    with pytest.raises(StoreError, match="/utterances/id: expected sorted and unique"):
        merge_stores([path], tmp_path / "merged.h5")


def test_merging_parts_that_overlap_again_finds_it_done(tmp_path):
    parts = [write_store(tmp_path / f"{index}.h5", RECIPE, only=part) for index, part in enumerate([[0, 1], [1, 2]])]
    assert merge_into(tmp_path / "merged.h5", parts)
    assert not merge_into(tmp_path / "merged.h5", parts)


def test_builds_of_builds_are_told_apart_however_often_they_were_merged(tmp_path):
    """A split that differs is found below two merges too."""
    paths = [write_store(tmp_path / f"{index}.h5", RECIPE, only=[index]) for index in range(4)]
    corpora = ["a", "b", "c", "a"]
    for path, corpus in zip(paths, corpora, strict=True):
        with edited(path) as file:
            file.attrs["corpus"] = np.bytes_(f'{{"split": "{corpus}", "n_scanned": 8}}'.encode())
    merge_stores(paths[:2], tmp_path / "ab.h5")
    merge_stores([tmp_path / "ab.h5", paths[2]], tmp_path / "abc.h5")
    with Store(tmp_path / "abc.h5") as store:
        assert [corpus["split"] for corpus in store.json_attribute("corpus")["merged"]] == ["a", "b", "c"]
    with edited(paths[3]) as file:
        file.attrs["build_options"] = np.bytes_(b'{"seed": 43, "f0": "yin"}')
    with pytest.raises(StoreError, match="a was split with seed 43"):
        merge_stores([tmp_path / "abc.h5", paths[3]], tmp_path / "all.h5")


def test_overlaps_whose_latents_differ_are_refused(tmp_path):
    paths = [write_store(tmp_path / f"{index}.h5", RECIPE, only=part) for index, part in enumerate([[0, 1], [1, 2]])]
    for path in paths:
        with_latents(path)
    with edited(paths[1]) as file:
        file["codecs/beta/latents"][0, 0] += 1
    with pytest.raises(StoreError, match="utterance s1-1-0001 stands in .* and the latents of beta differ"):
        merge_stores(paths, tmp_path / "merged.h5")


def test_options_of_a_stranger_are_not_believed(tmp_path):
    path = write_store(tmp_path / "0.h5", RECIPE, only=[0])
    with edited(path) as file:
        file.attrs["build_options"] = np.bytes_(b'{"f0": [], "embeddings": "foo", "compression": 7}')
    assert merge_stores([path], tmp_path / "merged.h5")


def test_another_place_for_the_parts_of_virtual_stores_is_refused(tmp_path, monkeypatch):
    part = write_store(tmp_path / "0.h5", RECIPE, only=[0])
    merge_into(tmp_path / "virtual.h5", [part], virtual=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "link.h5").symlink_to(tmp_path / "virtual.h5")
    verify_store(tmp_path / "elsewhere" / "link.h5", full=True)
    monkeypatch.setenv("HDF5_VDS_PREFIX", str(tmp_path / "elsewhere"))
    with pytest.raises(StoreError, match="HDF5_VDS_PREFIX is set"):
        Store(tmp_path / "virtual.h5")


def test_an_utterance_that_stands_in_two_parts_alike_is_taken_once(tmp_path):
    whole = write_store(tmp_path / "whole.h5", RECIPE)
    parts = [write_store(tmp_path / f"{index}.h5", RECIPE, only=part) for index, part in enumerate([[0, 1, 2], [1, 2]])]
    parts.append(write_store(tmp_path / "rest.h5", RECIPE, only=range(2, RECIPE.n_utterances)))
    for order in (parts, parts[::-1]):
        merge_stores(order, tmp_path / "merged.h5")
        verify_store(tmp_path / "merged.h5", full=True)
        with Store(tmp_path / "merged.h5") as merged, Store(whole) as expected:
            assert merged.content_digest == expected.content_digest
            # of a shard that gave only some of its utterances nothing can be proved
            assert "" in merged.strings("shards/content_digest")


def change_codes(file):
    file["codecs/alpha/codes"][0, 0] ^= 1


def change_split(file):
    file["utterances/split"][0] ^= 1


@pytest.mark.parametrize(
    ("change", "message"), [(change_codes, "codes or labels differ"), (change_split, "split is 0 there, 1 here")]
)
def test_an_utterance_that_stands_in_two_parts_unlike_is_refused_by_name(tmp_path, change, message):
    paths = [write_store(tmp_path / f"{index}.h5", RECIPE, only=part) for index, part in enumerate([[0, 1], [1, 2]])]
    with edited(paths[1]) as file:
        change(file)
    with pytest.raises(StoreError, match=rf"1\.h5: utterance s1-1-0001 stands in .*0\.h5 too, and .*{message}"):
        merge_stores(paths, tmp_path / "merged.h5")
    assert not (tmp_path / "merged.h5").exists()


def test_parts_of_one_corpus_under_different_splits_are_refused(tmp_path):
    paths = [write_store(tmp_path / f"{index}.h5", RECIPE, only=[index]) for index in range(2)]
    with edited(paths[1]) as file:
        file.attrs["build_options"] = np.bytes_(b'{"seed": 43, "f0": "yin"}')
    with pytest.raises(StoreError, match=r"1\.h5: train-clean-100 was split with seed 43 .*0\.h5 with seed 42"):
        merge_stores(paths, tmp_path / "merged.h5")
    with edited(paths[1]) as file:
        file.attrs["corpus"] = np.bytes_(b'{"split": "train-clean-360", "n_scanned": 8}')
    merge_stores(paths, tmp_path / "merged.h5")


def test_a_damaged_part_is_refused_and_nothing_is_written(tmp_path):
    paths = [write_store(tmp_path / f"{index}.h5", RECIPE, only=[index]) for index in range(2)]
    data = bytearray(paths[1].read_bytes())
    data[-40] ^= 4
    paths[1].write_bytes(data)
    with pytest.raises(StoreError, match=r"1\.h5: the file is not as it was when it was finished"):
        merge_stores(paths, tmp_path / "merged.h5")
    assert not (tmp_path / "merged.h5").exists()


def test_merging_again_finds_it_done_and_replaces_nothing_else(tmp_path):
    paths = [write_store(tmp_path / f"{index}.h5", RECIPE, only=[index]) for index in range(3)]
    output = tmp_path / "merged.h5"
    assert merge_into(output, paths[:2])
    before = output.stat().st_ino, output.stat().st_mtime_ns  # reading may touch the time of access
    assert not merge_into(output, paths[:2])
    assert (output.stat().st_ino, output.stat().st_mtime_ns) == before
    with pytest.raises(StoreError, match="stands there already"):
        merge_into(output, paths)
    with pytest.raises(StoreError, match="is one of the parts"):
        merge_into(output, [output, paths[2]])
    assert (output.stat().st_ino, output.stat().st_mtime_ns) == before
    assert not list(tmp_path.glob("*.lock"))


def test_a_merged_store_proves_what_its_shards_said(tmp_path):
    paths = [write_store(tmp_path / f"{index}.h5", RECIPE, only=part) for index, part in enumerate([[0, 1], [2, 3]])]
    merge_stores(paths, tmp_path / "merged.h5")
    verify_store(tmp_path / "merged.h5", full=True, against=paths)
    with Store(tmp_path / "merged.h5") as merged, Store(paths[0]) as one, Store(paths[1]) as two:
        assert merged.strings("shards/content_digest") == [one.content_digest, two.content_digest]
    other = write_store(tmp_path / "other.h5", RECIPE, only=[4])
    with pytest.raises(StoreError, match=r"lacks 1 utterance of .*other\.h5"):
        verify_store(tmp_path / "merged.h5", against=[other])
    with edited(paths[1]) as file:
        change_codes(file)
        file.attrs["content_digest"] = np.bytes_("ab" * 32)
    with pytest.raises(StoreError, match=r"differs from .*1\.h5 in what both hold"):
        verify_store(tmp_path / "merged.h5", against=paths)
    with edited(tmp_path / "merged.h5") as file:
        digests = file["shards/content_digest"][()]
        file["shards/content_digest"][...] = digests[::-1]
    with pytest.raises(StoreError, match="shard 0 was merged, but is not what the store holds"):
        verify_store(tmp_path / "merged.h5", full=True)


@pytest.mark.parametrize("layout", ["dense", "factored"])
def test_a_virtual_store_reads_as_a_copy_does(tmp_path, layout):
    parts = [
        write_store(tmp_path / "parts" / f"{index}.h5", RECIPE, layout=layout, only=part)
        for index, part in enumerate([[0, 3, 6], [1, 2, 5], [4, 7]])
    ]
    merge_stores(parts, tmp_path / "copy.h5", layout)
    merge_into(tmp_path / "virtual.h5", parts, virtual=True)
    verify_store(tmp_path / "virtual.h5", full=True, against=parts)
    with Store(tmp_path / "virtual.h5") as virtual, Store(tmp_path / "copy.h5") as copy:
        assert virtual.content_digest == copy.content_digest
        assert [row.path for row in virtual.parts] == [f"parts/{index}.h5" for index in range(3)]
        for codec in copy.codec_names:
            assert virtual[codec].layout == layout
            for layer in range(1, RECIPE.n_layers + 1):
                np.testing.assert_array_equal(virtual[codec].layer(layer)[:], copy[codec].layer(layer)[:])
    moved = tmp_path / "moved"
    moved.mkdir()
    shutil.move(tmp_path / "parts", moved / "parts")
    shutil.move(tmp_path / "virtual.h5", moved / "virtual.h5")
    verify_store(moved / "virtual.h5", full=True)


def test_a_virtual_store_tells_of_missing_and_changed_parts(tmp_path, caplog):
    parts = [write_store(tmp_path / f"{index}.h5", RECIPE, only=part) for index, part in enumerate([[0, 3], [1], [2]])]
    merge_into(tmp_path / "virtual.h5", parts, virtual=True)
    with edited(parts[1]) as file:
        change_codes(file)
    parts[2].unlink()
    with Store(tmp_path / "virtual.h5") as store:
        assert "its part 1.h5 has changed since" in caplog.text
        assert "its part 2.h5 is missing" in caplog.text
        frames, ids = store["alpha"], store.strings("utterances/id")
        spans = {id_: tuple(frames.offsets[place : place + 2]) for place, id_ in enumerate(ids)}
        assert frames.codes(*spans["s0-1-0000"]).any()
        for id_, what in (("s1-1-0001", r"1\.h5, which has changed"), ("s2-1-0002", r"2\.h5, which is missing")):
            for read in (lambda a, b: frames.codes(a, b), lambda a, b: frames.layer(2)[a:b]):
                with pytest.raises(StoreError, match=f"lie in the part {what}"):
                    read(*spans[id_])
        frames.labels("phoneme", 0, frames.n_frames)  # labels are the store's own
    with pytest.raises(StoreError, match=r"its part 1\.h5 has changed since"):
        verify_store(tmp_path / "virtual.h5")


def test_a_virtual_store_lies_above_its_parts(tmp_path):
    part = write_store(tmp_path / "a" / "0.h5", RECIPE, only=[0])
    with pytest.raises(StoreError, match="in its own folder or below it"):
        merge_into(tmp_path / "b" / "virtual.h5", [part], virtual=True)
    odd = write_store(tmp_path / "a" / "100%b.h5", RECIPE, only=[1])
    with pytest.raises(StoreError, match="a file name without '%'"):
        merge_into(tmp_path / "a" / "virtual.h5", [odd], virtual=True)
    with pytest.raises(StoreError, match="is factored"):
        merge_into(tmp_path / "a" / "virtual.h5", [part], "dense", virtual=True)
    merge_into(tmp_path / "a" / "virtual.h5", [part], virtual=True)
    with pytest.raises(StoreError, match="is a virtual store itself"):
        merge_into(tmp_path / "a" / "again.h5", [tmp_path / "a" / "virtual.h5"], virtual=True)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (StoreRecipe(codecs=("alpha",)), "expected the codecs of"),
        (StoreRecipe(weights="pretrained"), "weights is pretrained, in .* it is untrained"),
        (StoreRecipe(seed=1), "codebooks differ"),
    ],
)
def test_different_codecs_are_refused(tmp_path, other, message):
    paths = [write_store(tmp_path / "0.h5", RECIPE, only=[0]), write_store(tmp_path / "1.h5", other, only=[1])]
    with pytest.raises(StoreError, match=message):
        merge_stores(paths, tmp_path / "merged.h5")


def test_different_f0_methods_are_refused(tmp_path):
    paths = [write_store(tmp_path / f"{index}.h5", RECIPE, only=[index]) for index in range(2)]
    with edited(paths[1]) as file:
        file.attrs["build_options"] = np.bytes_(b'{"seed": 42, "f0": "pyin"}')
    with pytest.raises(StoreError, match=r"yin in .*0\.h5; pyin in .*1\.h5"):
        merge_stores(paths, tmp_path / "merged.h5")


def test_missing_shards_are_named(tmp_path, caplog):
    places = {1: [0, 1], 2: [2], 3: [3, 4], 5: [5]}
    paths = [write_store(tmp_path / f"shard-{i:05d}-of-00005.h5", RECIPE, only=only) for i, only in places.items()]
    merge_stores(paths, tmp_path / "a.h5")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert f"{tmp_path}: 1 shard of 5 not given (4); the merged store lacks their utterances" in caplog.text
    caplog.clear()
    merge_stores([paths[3]], tmp_path / "b.h5")
    assert "4 shards of 5 not given (1, 2, 3, 4)" in caplog.text
    with Store(tmp_path / "a.h5") as store:
        assert store.n_utterances == 6


def test_parts_under_other_names_that_are_not_the_whole_are_told(tmp_path, caplog):
    """The recipe says that 8 utterances were scanned."""
    paths = [write_store(tmp_path / f"{i}.h5", RECIPE, only=only) for i, only in enumerate(([0, 1, 2], [3, 4, 5, 6]))]
    merge_stores(paths, tmp_path / "a.h5")
    assert "the parts hold 7 of 8 utterances that were to be built of train-clean-100" in caplog.text
    caplog.clear()
    last = write_store(tmp_path / "last.h5", RECIPE, only=[7])
    merge_stores([*paths, last], tmp_path / "b.h5")
    assert caplog.text == ""


def test_a_subset_or_skipped_utterances_are_no_missing_parts():
    corpus = {"split": "dev-clean", "n_scanned": 100}
    assert missing_utterances([(corpus, {"max_utterances": 10}, 4), (corpus, {"max_utterances": 10}, 6)]) == []
    assert missing_utterances([(corpus, {"max_utterances": 0}, 60), (corpus, {"max_utterances": 0}, 40)]) == []
    assert missing_utterances([({"merged": []}, {}, 5)]) == []
    (told,) = missing_utterances([(corpus, {"max_utterances": 10}, 9)])
    assert told.startswith("the parts hold 9 of 10 utterances")


def with_latents(path, codecs=RECIPE.codecs):
    """Give frames latents that tell them apart: made of the utterance's id and the frame's place in it."""
    with edited(path) as file:
        ids = [int(name.decode()[-4:]) for name in file["utterances/id"][()]]
        for codec in codecs:
            group = file["codecs"][codec]
            n_frames = np.diff(group["offsets"][()])
            rows = [(np.full(n, id_), np.arange(n)) for id_, n in zip(ids, n_frames, strict=True)]
            owner, place = (np.concatenate(column) for column in zip(*rows, strict=True)) if rows else ([], [])
            group["latents"] = np.stack([owner, place, *([owner] * 3)], axis=1).astype(np.float32)
    return path


@pytest.mark.parametrize("layout", ["dense", "factored"])
def test_latents_go_with_their_frames_a_chunk_at_a_time(tmp_path, monkeypatch, layout):
    monkeypatch.setattr(writer, "_CHUNK_BYTES", 4 * RECIPE.dim * 16)
    parts = [[11, 3, 0], [1, 2, 4, 5, 6], [7, 8, 9, 10]]
    paths = [with_latents(write_store(tmp_path / f"{i}.h5", RECIPE, only=only)) for i, only in enumerate(parts)]
    read, latents = [], Frames.latents
    monkeypatch.setattr(
        Frames, "latents", lambda self, start, stop: read.append(stop - start) or latents(self, start, stop)
    )
    merge_stores(paths, tmp_path / "merged.h5", layout)
    assert max(read) == 16
    verify_store(tmp_path / "merged.h5", full=True)
    expected = with_latents(write_store(tmp_path / "whole.h5", RECIPE))
    with Store(tmp_path / "merged.h5") as store, Store(expected) as whole:
        for name in RECIPE.codecs:
            n = whole[name].n_frames
            np.testing.assert_array_equal(store[name].latents(0, n), whole[name].latents(0, n))


def test_latents_that_not_all_parts_have_are_left_out_with_a_word(tmp_path, caplog):
    parts = [[0, 1, 2], [3, 4, 5, 6, 7]]
    paths = [write_store(tmp_path / f"{i}.h5", RECIPE, only=only) for i, only in enumerate(parts)]
    with_latents(paths[0])
    with_latents(paths[1], ["beta"])
    merge_stores(paths, tmp_path / "merged.h5")
    (record,) = caplog.records
    assert record.getMessage() == (
        f"warning: the merged store lacks the latents of alpha: 1 of 2 parts have none ({paths[1]})"
    )
    with Store(tmp_path / "merged.h5") as store:
        assert [store[name].has_latents for name in RECIPE.codecs] == [False, True]


def test_latents_of_fewer_frames_than_promised_are_no_store(tmp_path):
    header = writer.CodecHeader("alpha", 16_000, 320, "untrained", "cd" * 32, np.zeros((1, 2, 3), "f4"), [4], True)
    row = writer.UtteranceRow("s0-1-0000", "s0", 0, 1280, 16_000, "ab" * 32)
    store = writer.StoreHeader([row], {}, ["sil"], [], [header], {})

    def write():
        with writer.StoreWriter(tmp_path / "a.h5", store) as opened:
            opened.append("alpha", np.zeros((1, 4), "u2"), np.zeros(4, "u2"), np.zeros(4, "f4"))
            opened.append_latents("alpha", np.zeros((3, 3), "f4"))

    with pytest.raises(StoreError, match="alpha got latents of 3 frames, expected 4"):
        write()
    assert not (tmp_path / "a.h5").exists()


def test_nothing_to_merge(tmp_path):
    with pytest.raises(StoreError, match="no store to merge"):
        merge_stores([], tmp_path / "merged.h5")


def test_a_virtual_store_is_described_as_such(tmp_path):
    parts = [write_store(tmp_path / f"{index}.h5", RECIPE, only=[index]) for index in range(2)]
    merge_into(tmp_path / "virtual.h5", parts, virtual=True)
    with Store(tmp_path / "virtual.h5") as store:
        assert "virtual         over 2 parts: 0.h5, ..." in describe_text(store)
    parts[1].unlink()
    with Store(tmp_path / "virtual.h5") as store:
        assert "over 2 parts, of which 1 are not there" in describe_text(store)


def test_what_a_store_says_cannot_steer_a_terminal(tmp_path):
    recipe = StoreRecipe(n_utterances=2, skipped={"s0-1-9999": "\x1b[2Jgone\nsecond line \u202e"})
    with Store(write_store(tmp_path / "a.h5", recipe)) as store:
        text = describe_text(store)
    assert r"s0-1-9999: \x1b[2Jgone\nsecond line \u202e" in text
