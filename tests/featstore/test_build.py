"""Building a store from audio and alignments, with the tiny codec."""

import contextlib
import os
import re
import shutil

import numpy as np
import pytest
import soundfile

from featstore import build as build_module
from featstore.build import build_store
from featstore.codecs.choose import WeightsRequest, parse_weights
from featstore.errors import CorpusError, FeatstoreError, StoreError, UnknownNameError, WeightsError
from featstore.labels.alignment import read_alignment, token_phonemes
from featstore.lock import hold_lock
from featstore.merge import merge_into, merge_stores
from featstore.outlook import plan_text
from featstore.plan import plan_build, result_text
from featstore.store import Store
from featstore.verify import verify_store
from tests.support import tiny_codec
from tests.support.builds import tiny_build
from tests.support.corpus import make_tiny_corpus, textgrid_text


@pytest.fixture
def options(tiny, tiny_corpus, tmp_path):
    def make(**changes):
        return tiny_build(tiny_corpus, **{"output": tmp_path / "out" / "store.h5"} | changes)

    return make


def digest_of(path):
    with Store(path) as store:
        return store.content_digest


def test_build_makes_a_verified_store(options, tiny_corpus):
    plan = plan_build(options())
    assert len(plan.slices) == 5
    assert "would build" in plan_text(plan)
    result = build_store(plan)
    assert (result.n_built, result.n_reused, result.skipped) == (5, 0, {})
    assert "5 shards built" in result_text(plan, result)
    verify_store(result.path, full=True)
    assert not plan.shards_folder.exists()
    assert plan.split_path.exists()
    with Store(result.path) as store:
        assert store.n_utterances == tiny_corpus.n_utterances
        assert store.strings("vocab/speakers") == ["101", "102", "103"]
        assert store.numbers("utterances/split").sum() == 6
        assert store["tiny"].weights == "untrained"
        assert set(store.numbers("utterances/shard")) == set(range(5))


def test_frames_are_those_of_codec_and_alignment(options, tiny_corpus):
    path = build_store(plan_build(options())).path
    with Store(path) as store:
        frames = store["tiny"]
        codec = tiny_codec.load(
            tiny_codec.Checkpoint(path.with_name("store.h5.weights") / "tiny.npz", "untrained"), "cpu"
        )
        names, vocabulary = store.strings("utterances/id"), store.strings("vocab/phonemes")
        for place in (0, 11, 23):
            start, stop = frames.offsets[place : place + 2]
            audio, _ = soundfile.read(next(tiny_corpus.librispeech_root.rglob(f"{names[place]}.flac")), dtype="float32")
            from featstore.audio import resample

            samples = resample(audio, 16_000, 8_000)
            np.testing.assert_array_equal(frames.codes(start, stop), codec.encode(samples))
            alignment = read_alignment(next(tiny_corpus.alignments_root.rglob(f"{names[place]}.TextGrid")))
            expected = token_phonemes(alignment, int(stop - start), 160, 8_000)
            assert [vocabulary[index] for index in frames.labels("phoneme", start, stop)] == expected.tolist()
            f0 = frames.labels("f0", start, stop)
            assert 0.1 < np.isfinite(f0).mean() < 0.9
            assert 60 <= np.nanmin(f0) <= np.nanmax(f0) <= 500


@pytest.mark.parametrize("changes", [{"embeddings": "factored"}, {"compression": "gzip"}, {"shard_utterances": 100}])
def test_digest_is_independent_of_how_it_is_built(options, tmp_path, changes):
    reference = build_store(plan_build(options())).path
    other = build_store(plan_build(options(output=tmp_path / "other" / "store.h5", **changes))).path
    assert digest_of(other) == digest_of(reference)


def test_third_party_slices_merge_to_the_whole(options, tmp_path):
    whole = build_store(plan_build(options())).path
    parts = []
    for index in (3, 1, 2):
        plan = plan_build(options(output=tmp_path / "array" / "store.h5", shard=(index, 3)))
        result = build_store(plan)
        assert result.path is None
        assert "merge-stores" in result_text(plan, result)
        parts.append(result.shard_path)
        again = build_store(plan)
        assert (again.n_built, again.n_reused) == (0, 1)
    merge_stores(parts, tmp_path / "array" / "store.h5")
    assert digest_of(tmp_path / "array" / "store.h5") == digest_of(whole)
    with Store(tmp_path / "array" / "store.h5") as store:
        assert store["tiny"].layout == "dense"


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("after", [1, 7, 12, 23])
def test_interrupted_build_resumes(options, tmp_path, after):
    reference = digest_of(build_store(plan_build(options())).path)
    plan = plan_build(options(output=tmp_path / "again" / "store.h5"))

    def stop(done, total, what, note=""):
        if what == "encode" and done >= after:
            raise Interrupted

    with pytest.raises(Interrupted):
        build_store(plan, stop)
    assert not plan.options.output.exists()
    assert not list(plan.options.output.parent.rglob("*.partial"))
    result = build_store(plan)
    assert result.n_reused == after // 5
    assert result.n_built == 5 - after // 5
    assert digest_of(result.path) == reference


def test_finished_build_is_found(options):
    build_store(plan_build(options()))
    result = build_store(plan_build(options()))
    assert (result.n_built, result.n_reused) == (0, 5)


def test_other_options_on_finished_work_are_refused(options, monkeypatch):
    plan = plan_build(options())

    def failing(*args, **kwargs):
        raise Interrupted

    monkeypatch.setattr(build_module, "merge_stores", failing)
    with pytest.raises(Interrupted):
        build_store(plan)
    with pytest.raises(StoreError, match="f0 'yin' there, 'pyin' now"):
        build_store(plan_build(options(f0="pyin")))
    monkeypatch.undo()
    build_store(plan)
    with pytest.raises(StoreError, match=r"max_utterances 0 there, 9 now.*choose another --output"):
        build_store(plan_build(options(max_utterances=9)))
    with pytest.raises(StoreError, match="a store with another layout stands there"):
        build_store(plan_build(options(embeddings="factored")))


def test_another_split_beside_a_store_is_refused_with_advice_that_works(options):
    first = plan_build(options())
    build_store(first)
    before = first.split_path.read_bytes(), first.options.output.read_bytes()
    advice = f"remove {first.options.output} and use --force-resplit, or choose another output folder"
    with pytest.raises(CorpusError, match=re.escape(f"eval_frac 0.25, asked is 0.5; {advice}")):
        plan_build(options(eval_frac=0.5))
    with pytest.raises(StoreError, match=r"eval_frac 0\.25 there, 0\.5 now.*remove what is there"):
        build_store(plan_build(options(eval_frac=0.5, force_resplit=True)))
    assert (first.split_path.read_bytes(), first.options.output.read_bytes()) == before
    first.options.output.unlink()
    path = build_store(plan_build(options(eval_frac=0.5, force_resplit=True))).path
    with Store(path) as store:
        assert store.numbers("utterances/split").sum() == 12
    assert plan_build(options(eval_frac=0.5)).split == plan_build(options(eval_frac=0.5, force_resplit=True)).split


@pytest.mark.parametrize("shard", [None, (1, 4)])
def test_another_split_beside_shards_is_refused_before_it_is_written(options, monkeypatch, shard):
    def failing(*args, **kwargs):
        raise Interrupted

    plan = plan_build(options(shard=shard))
    with monkeypatch.context() as patch, contextlib.suppress(Interrupted):
        patch.setattr(build_module, "merge_stores", failing)
        build_store(plan)
    before = plan.split_path.read_bytes()
    with pytest.raises(CorpusError, match=re.escape(f"remove {plan.shards_folder} and use --force-resplit")):
        plan_build(options(shard=shard, eval_frac=0.5))
    with pytest.raises(StoreError, match=r"eval_frac 0\.25 there, 0\.5 now"):
        build_store(plan_build(options(shard=shard, eval_frac=0.5, force_resplit=True)))
    assert plan.split_path.read_bytes() == before
    shutil.rmtree(plan.shards_folder)
    assert build_store(plan_build(options(shard=shard, eval_frac=0.5, force_resplit=True))).n_reused == 0


def test_damaged_shard_is_built_again(options):
    plan = plan_build(options(shard=(1, 4)))
    path = build_store(plan).shard_path
    path.write_bytes(path.read_bytes()[:5000])
    assert build_store(plan).n_built == 1
    verify_store(path, full=True)


@pytest.fixture
def own_corpus(tmp_path):
    return make_tiny_corpus(tmp_path / "own", n_speakers=2, n_utterances=4)


def own(options, corpus, **changes):
    return options(librispeech_root=corpus.librispeech_root, alignments_root=corpus.alignments_root, **changes)


def spoil_audio(write):
    return lambda audio, textgrid: write(audio)


def spoil_textgrid(text):
    return lambda audio, textgrid: textgrid.write_text(text)


SPOILT = {
    "truncated FLAC": (spoil_audio(lambda path: path.write_bytes(path.read_bytes()[:3000])), "0000.flac"),
    "empty FLAC": (spoil_audio(lambda path: path.write_bytes(b"")), "do not decode"),
    "text for audio": (spoil_audio(lambda path: path.write_text("hello")), "do not decode"),
    "silence": (spoil_audio(lambda path: soundfile.write(path, np.zeros(20_000), 16_000)), "every sample is zero"),
    "very short": (spoil_audio(lambda path: soundfile.write(path, np.ones(160) / 2, 16_000)), "0.010 s"),
    "no TextGrid": (lambda audio, textgrid: textgrid.unlink(), "expected 101-7-0000.TextGrid"),
    "empty TextGrid": (spoil_textgrid(""), "TextGrid"),
    "no phones tier": (spoil_textgrid(textgrid_text([(0.0, 1.0, "AA1")], tier="words")), "phones"),
    "too long TextGrid": (spoil_textgrid(textgrid_text([(0.0, 60.0, "AA1")])), "TextGrid|alignment"),
    "latin-1 TextGrid": (
        lambda audio, textgrid: textgrid.write_bytes(textgrid_text([(0.0, 1.0, "é")]).encode("latin-1")),
        "TextGrid",
    ),
    "misplaced": (lambda audio, textgrid: shutil.move(audio, audio.with_name("101-9-0000.flac")), "expected at"),
}


@pytest.mark.parametrize("spoil", SPOILT)
def test_one_bad_utterance_is_skipped_and_listed(options, own_corpus, spoil):
    damage, message = SPOILT[spoil]
    damage(
        next(own_corpus.librispeech_root.rglob("101-7-0000.flac")),
        next(own_corpus.alignments_root.rglob("101-7-0000.TextGrid")),
    )
    result = build_store(plan_build(own(options, own_corpus)))
    verify_store(result.path, full=True)
    ((name, reason),) = result.skipped.items()
    assert name in ("101-7-0000", "101-9-0000")
    assert "\n" not in reason
    assert re.search(message, reason), reason
    with Store(result.path) as store:
        assert store.n_utterances == 7
        assert store.strings("skipped/id") == [name]


@pytest.mark.parametrize(("rate_hz", "n_channels"), [(44_100, 2), (8_000, 1), (48_000, 1)])
def test_any_rate_and_channel_count_is_brought_to_the_codec(options, own_corpus, rate_hz, n_channels):
    path = next(own_corpus.librispeech_root.rglob("101-7-0000.flac"))
    from featstore.audio import read_audio, resample

    samples = resample(read_audio(path).samples, 16_000, rate_hz)
    soundfile.write(path, np.repeat(samples[:, None], n_channels, axis=1), rate_hz)
    result = build_store(plan_build(own(options, own_corpus)))
    assert not result.skipped
    with Store(result.path) as store:
        assert store.numbers("utterances/sample_rate_hz")[0] == rate_hz
        assert store["tiny"].offsets[1] == -(-len(samples) * 8_000 // rate_hz // 160)


@pytest.fixture
def spoilt(options, own_corpus, tmp_path):
    """Spoil the audio of one utterance and the alignment of another; what repairs each, and the undamaged digest."""
    result = build_store(plan_build(own(options, own_corpus, output=tmp_path / "clean" / "store.h5")))
    shutil.copytree(tmp_path / "clean" / "store.h5.weights", tmp_path / "out" / "store.h5.weights")
    audio = next(own_corpus.librispeech_root.rglob("101-7-0000.flac"))
    textgrid = next(own_corpus.alignments_root.rglob("101-7-0001.TextGrid"))
    repairs = [lambda data=path.read_bytes(), path=path: path.write_bytes(data) for path in (audio, textgrid)]
    audio.write_bytes(b"")
    textgrid.write_text("no grid")
    return repairs, digest_of(result.path)


@pytest.mark.parametrize("shard", [(1, 2), None])
def test_repaired_utterances_are_told_and_taken_up_on_request(options, own_corpus, spoilt, caplog, shard, tmp_path):
    (repair_audio, repair_textgrid), clean = spoilt

    def build(**changes):
        return build_store(plan_build(own(options, own_corpus, **{"shard": shard} | changes)))

    assert len(build().skipped) == 2
    repair_audio()
    again = build()
    assert (again.n_built, len(again.skipped)) == (0, 2)
    assert "1 utterance that could not be used may be by now (101-7-0000): files are others" in caplog.text
    again = build(retry_skipped=True)
    assert (again.n_built, list(again.skipped)) == (1, ["101-7-0001"])
    repair_textgrid()
    again = build(retry_skipped=True)
    assert (again.n_built, again.skipped) == (1, {})
    path = again.path
    if path is None:
        path = tmp_path / "merged.h5"
        merge_stores([again.shard_path, build(shard=(2, 2)).shard_path], path)
    else:
        assert not plan_build(own(options, own_corpus)).shards_folder.exists()
    verify_store(path, full=True)
    assert digest_of(path) == clean


def test_changed_inputs_of_a_finished_store_are_refused_by_name(options, own_corpus):
    path = build_store(plan_build(own(options, own_corpus))).path
    before = path.read_bytes()
    audio = next(own_corpus.librispeech_root.rglob("101-7-0003.flac"))
    shutil.copy(next(own_corpus.librispeech_root.rglob("101-7-0001.flac")), audio)
    with pytest.raises(StoreError, match=r"other input files: 1 utterance changed \(101-7-0003\)"):
        build_store(plan_build(own(options, own_corpus)))
    assert path.read_bytes() == before


def test_changed_inputs_of_a_finished_shard_are_refused_by_name(options, own_corpus):
    plan = plan_build(own(options, own_corpus, shard=(1, 2)))
    build_store(plan)
    next(own_corpus.alignments_root.rglob("101-7-0002.TextGrid")).write_text("another")
    with pytest.raises(StoreError, match=r"other input files: 1 utterance changed \(101-7-0002\).*remove .*shard-0"):
        build_store(plan_build(own(options, own_corpus, shard=(1, 2))))


def test_a_damaged_shard_is_built_again(options, own_corpus, caplog):
    plan = plan_build(own(options, own_corpus, shard=(1, 2)))
    path = build_store(plan).shard_path
    digest, data = digest_of(path), bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    again = build_store(plan_build(own(options, own_corpus, shard=(1, 2))))
    assert again.n_built == 1
    assert "this shard is built again" in caplog.text
    assert digest_of(path) == digest


def test_shards_go_only_after_the_merged_store_is_verified(options, monkeypatch):
    plan = plan_build(options())

    def damaged(path, *arguments, **more):
        raise StoreError(f"{path}: damaged on its way to the disk")

    with monkeypatch.context() as patch:
        patch.setattr(build_module, "verify_store", damaged)
        with pytest.raises(StoreError, match="damaged on its way"):
            build_store(plan)
    assert not plan.options.output.exists()
    assert len(list(plan.shards_folder.glob("shard-*.h5"))) == 5
    again = build_store(plan_build(options()))
    assert (again.n_built, again.n_reused) == (0, 5)
    assert not plan.shards_folder.exists()


def test_a_retry_replaces_the_store_only_once_the_new_one_is_verified(options, own_corpus, spoilt, monkeypatch):
    (repair_audio, _), _ = spoilt
    path = build_store(plan_build(own(options, own_corpus))).path
    before = path.read_bytes()
    repair_audio()

    def damaged(path, *arguments, **more):
        raise StoreError(f"{path}: damaged on its way to the disk")

    with monkeypatch.context() as patch:
        patch.setattr(build_module, "verify_store", damaged)
        with pytest.raises(StoreError, match="damaged on its way"):
            build_store(plan_build(own(options, own_corpus, retry_skipped=True)))
    assert path.read_bytes() == before
    again = build_store(plan_build(own(options, own_corpus, retry_skipped=True)))
    assert again.n_built == 0, "the utterance that was taken up is encoded already"
    assert list(again.skipped) == ["101-7-0001"]
    verify_store(path, full=True)


def test_a_retry_that_fails_again_tells_the_reason_of_today(options, own_corpus, spoilt):
    (_repair_audio, repair_textgrid), _ = spoilt
    path = build_store(plan_build(own(options, own_corpus))).path
    before = path.read_bytes()
    repair_textgrid()
    next(own_corpus.librispeech_root.rglob("101-7-0001.flac")).write_bytes(b"no audio")
    again = build_store(plan_build(own(options, own_corpus, retry_skipped=True)))
    assert "101-7-0001.flac" in again.skipped["101-7-0001"]
    assert path.read_bytes() == before


def test_what_a_build_did_not_make_is_never_removed(options):
    """Shards of another build, and the parts of a virtual store, stand in the same folder."""
    others = [build_store(plan_build(options(shard=(index, 2), max_utterances=6))).shard_path for index in (1,)]
    kept = [path.read_bytes() for path in others]
    plan = plan_build(options())
    build_store(plan)
    assert [path.read_bytes() for path in others] == kept
    build_store(plan_build(options()))
    assert [path.read_bytes() for path in others] == kept
    assert list(plan.shards_folder.iterdir()) == others


def test_the_parts_of_a_virtual_store_are_kept_by_a_later_build(options):
    parts = [build_store(plan_build(options(shard=(index, 2), embeddings="factored"))).shard_path for index in (1, 2)]
    output = options().output
    merge_into(output, parts, virtual=True)
    again = build_store(plan_build(options(embeddings="factored")))
    assert again.n_built == 0
    verify_store(output, full=True)


def test_a_second_builder_is_told_who_builds(options):
    plan = plan_build(options())
    with (
        hold_lock(plan.options.output),
        pytest.raises(StoreError, match=rf"is being written by process {os.getpid()} on"),
    ):
        build_store(plan)
    one, other = (plan_build(options(shard=(index, 2))) for index in (1, 2))
    with hold_lock(plan.options.output, shared=True), hold_lock(one.shard_path(0)):
        with pytest.raises(StoreError, match="shard-00001-of-00002.h5: is being written by"):
            build_store(one)
        build_store(other)  # another slice is another output
        with pytest.raises(StoreError, match="store.h5: is being written by"):
            build_store(plan)
    build_store(plan)
    assert not list(plan.options.output.parent.rglob("*.lock"))


def test_no_usable_utterance_is_an_error(options, own_corpus):
    for path in own_corpus.alignments_root.rglob("*.TextGrid"):
        path.write_text("no grid")
    plan = plan_build(own(options, own_corpus))
    with pytest.raises(StoreError, match="none of 8 utterances can be used; the first: "):
        build_store(plan)
    assert not plan.options.output.exists()
    assert sorted(path.name for path in plan.options.output.parent.iterdir()) == ["split.json", "store.h5.weights"]


def test_untrained_weights_are_made_once(options, monkeypatch):
    plan = plan_build(options())
    build_store(plan)
    made = []
    real = tiny_codec.make_untrained
    family = tiny_codec.FAMILY
    from dataclasses import replace

    from featstore.codecs.registry import register_codec

    register_codec(replace(family, make_untrained=lambda *args: made.append(1) or real(*args)))
    build_store(plan)
    assert made == []
    (plan.weights_folder / "tiny.npz").write_bytes(b"damaged")
    build_store(plan)
    assert made == [1]


def test_checkpoint_of_a_user(options, tmp_path):
    first = build_store(plan_build(options())).path
    weights = {tiny_codec.NAME: WeightsRequest("checkpoint", first.with_name("store.h5.weights") / "tiny.npz")}
    second = build_store(plan_build(options(output=tmp_path / "b" / "b.h5", weights=weights))).path
    with Store(first) as a, Store(second) as b:
        assert (a["tiny"].weights, b["tiny"].weights) == ("untrained", "checkpoint")
        assert a["tiny"].weights_sha256 == b["tiny"].weights_sha256
        np.testing.assert_array_equal(a["tiny"].codes(0, 500), b["tiny"].codes(0, 500))


def test_parse_weights(tiny):
    codecs = ["encodec", "tiny"]
    kinds = {name: request.kind for name, request in parse_weights(codecs, [], {}).items()}
    assert kinds == {"encodec": "pretrained", "tiny": "pretrained"}
    mixed = parse_weights(
        codecs, ["tiny=a/b.npz", "untrained"], {"encodec": ("e.th", None), "speechtokenizer": (None, None)}
    )
    assert (mixed["encodec"].kind, mixed["encodec"].path) == ("checkpoint", "e.th")
    assert (mixed["tiny"].kind, str(mixed["tiny"].path)) == ("checkpoint", "a/b.npz")
    with pytest.raises(UnknownNameError, match="expected pretrained, untrained or NAME="):
        parse_weights(codecs, ["trained"], {})
    with pytest.raises(UnknownNameError, match="unknown codec 'dac'"):
        parse_weights(codecs, ["dac=untrained"], {})
    with pytest.raises(WeightsError, match="configuration without weights"):
        parse_weights(["speechtokenizer"], [], {"speechtokenizer": (None, "config.json")})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"f0": "dio"}, "yin"),
        ({"weights": {}}, "no codec was asked for"),
        ({"weights": {"dac": WeightsRequest("pretrained")}}, "unknown codec 'dac'"),
        ({"eval_frac": 1.0}, "--eval-frac"),
        ({"shard": (4, 3)}, "--shard 4/3"),
        ({"weights": {"tiny": WeightsRequest("checkpoint", "absent.npz")}}, "found no file"),
    ],
)
def test_wrong_options(options, changes, message):
    if "weights" in changes:
        from pathlib import Path

        changes["weights"] = {
            name: WeightsRequest(request.kind, request.path and Path(request.path))
            for name, request in changes["weights"].items()
        }
    with pytest.raises(FeatstoreError, match=message):
        build_store(plan_build(options(**changes)))


def test_output_that_is_a_folder(options, tmp_path):
    with pytest.raises(StoreError, match="found a folder"):
        plan_build(options(output=tmp_path))


def test_too_small_a_disk_names_the_flag_that_fits(options, monkeypatch):
    from collections import namedtuple

    from featstore import preflight

    usage = namedtuple("usage", "free")
    plan = plan_build(options())
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda path: usage(plan.sizes.bytes_needed("factored") + 10))
    with pytest.raises(StoreError, match="use --embeddings factored, which needs"):
        plan_build(options())
    plan_build(options(embeddings="factored"))
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda path: usage(10))
    with pytest.raises(StoreError, match="10 B are free; free some space"):
        plan_build(options())


def test_split_is_reused_and_subset_does_not_change_it(options):
    first = plan_build(options())
    build_store(first)
    small = plan_build(options(max_utterances=6, output=first.options.output.with_name("small.h5")))
    assert small.split == first.split
    assert len(small.utterances) == 6
    with pytest.raises(FeatstoreError, match="--force-resplit"):
        plan_build(options(seed=1))
    resplit = plan_build(options(seed=1, force_resplit=True, output=first.options.output.with_name("other.h5")))
    assert resplit.split != first.split


def test_what_was_merged_but_not_verified_is_merged_anew(options, monkeypatch):
    """Whatever state a kill left it in: a whole file, a damaged one, half a one; and its room is counted as free."""
    plan = plan_build(options())

    def killed(*arguments, **more):
        raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(build_module, "verify_store", killed)
        with pytest.raises(Interrupted):
            build_store(plan)
    staged = plan.staged_path
    data = bytearray(staged.read_bytes())
    data[len(data) // 2] ^= 1
    staged.write_bytes(data)
    staged.with_name(f".{staged.name}.elsewhere-1.partial").write_bytes(b"half")
    assert plan_build(options()).work_left.bytes_to_be_freed == len(data) + 4
    result = build_store(plan_build(options()))
    assert (result.n_built, result.n_reused) == (0, 5)
    verify_store(result.path, full=True)
    names = sorted(path.name for path in result.path.parent.iterdir())
    assert names == ["split.json", "store.h5", "store.h5.weights"]


def test_a_retry_that_was_killed_after_its_end_leaves_nothing(options, own_corpus, spoilt, monkeypatch):
    (repair_audio, repair_textgrid), _ = spoilt
    build_store(plan_build(own(options, own_corpus)))
    repair_audio()

    def killed(plan, paths):
        raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(build_module, "_remove_shards", killed)
        with pytest.raises(Interrupted):
            build_store(plan_build(own(options, own_corpus, retry_skipped=True)))
    plan = plan_build(own(options, own_corpus))
    assert list(plan.shards_folder.iterdir())
    assert list(build_store(plan).skipped) == ["101-7-0001"]
    assert not plan.shards_folder.exists()
    repair_textgrid()
    assert build_store(plan_build(own(options, own_corpus, retry_skipped=True))).skipped == {}
