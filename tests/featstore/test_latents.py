"""``build-store --store-latents``: the encoder's output in shards, merged stores and retries, and a probe of it."""

import contextlib
import dataclasses

import numpy as np
import pytest
import soundfile

from featstore import build as build_module
from featstore.audio import resample
from featstore.build import build_store
from featstore.codecs import registry
from featstore.codecs.base import Checkpoint
from featstore.codecs.choose import WeightsRequest
from featstore.errors import StoreError
from featstore.merge import merge_stores
from featstore.outlook import plan_text
from featstore.plan import plan_build
from featstore.store import Store
from featstore.verify import verify_store
from tests.support import tiny_codec
from tests.support.builds import tiny_build
from tests.support.command_line import corpus_options, run, run_well
from tests.support.corpus import make_tiny_corpus
from tests.support.stores import edited


@pytest.fixture
def options(tiny, tiny_corpus, tmp_path):
    def make(**changes):
        return tiny_build(tiny_corpus, **{"output": tmp_path / "out" / "store.h5", "store_latents": True} | changes)

    return make


def digest_of(path):
    with Store(path) as store:
        return store.content_digest


def latents_of(path):
    with Store(path) as store:
        frames = store["tiny"]
        return frames.latents(0, frames.n_frames)


def check_against_the_encoder(path, librispeech_root, weights_path):
    """Every utterance's latents are, bit for bit, what the codec's encoder makes of its audio."""
    codec = tiny_codec.load(Checkpoint(weights_path, "untrained"), "cpu")
    with Store(path) as store:
        frames = store["tiny"]
        for place, name in enumerate(store.strings("utterances/id")):
            audio, _ = soundfile.read(next(librispeech_root.rglob(f"{name}.flac")), dtype="float32")
            codes, latents = codec.encode_with_latents(resample(audio, 16_000, 8_000))
            span = frames.offsets[place : place + 2]
            np.testing.assert_array_equal(frames.latents(*span), latents)
            np.testing.assert_array_equal(frames.codes(*span), codes)


@pytest.mark.parametrize("changes", [{"workers": 0}, {"workers": 2, "embeddings": "factored", "compression": "none"}])
def test_a_store_holds_what_the_encoder_gave_and_the_same_digest(options, tiny_corpus, tmp_path, changes):
    result = build_store(plan_build(options(**changes)))
    verify_store(result.path, full=True)
    check_against_the_encoder(
        result.path, tiny_corpus.librispeech_root, result.path.with_name("store.h5.weights") / "tiny.npz"
    )
    without = build_store(plan_build(options(output=tmp_path / "without" / "store.h5", store_latents=False))).path
    assert digest_of(without) == digest_of(result.path)
    with Store(result.path) as store, Store(without) as other:
        assert store.json_attribute("build_options")["store_latents"] is True
        assert "store_latents" not in other.json_attribute("build_options")
        assert not other["tiny"].has_latents


def test_slices_merge_to_the_whole(options, tmp_path):
    whole = build_store(plan_build(options())).path
    plans = [plan_build(options(output=tmp_path / "array" / "store.h5", shard=(index, 3))) for index in (3, 1, 2)]
    parts = [build_store(plan).shard_path for plan in plans]
    merged = tmp_path / "array" / "store.h5"
    merge_stores(parts, merged)
    verify_store(merged, full=True, against=parts)
    np.testing.assert_array_equal(latents_of(merged), latents_of(whole))


@pytest.mark.parametrize("first", [True, False])
def test_another_setting_is_refused_with_what_differs(options, monkeypatch, first):
    """On a finished store, and on the shards of a build that has not ended."""
    difference = rf"\(store_latents {first} there, {not first} now\)"

    def stop(*args, **kwargs):
        raise InterruptedError

    with monkeypatch.context() as patch, contextlib.suppress(InterruptedError):
        patch.setattr(build_module, "merge_stores", stop)
        build_store(plan_build(options(store_latents=first)))
    assert not options().output.exists()
    other = options(store_latents=not first)
    for _ in range(2):
        with pytest.raises(StoreError, match=difference) as caught:
            build_store(plan_build(other))
        assert str(caught.value) in plan_text(plan_build(other))
        result = build_store(plan_build(options(store_latents=first)))
        assert result.n_built == 0
    verify_store(result.path, full=True)


def test_a_retry_brings_the_latents_of_what_it_takes_up(options, tmp_path):
    own = make_tiny_corpus(tmp_path / "own", n_speakers=2, n_utterances=4)
    roots = {"librispeech_root": own.librispeech_root, "alignments_root": own.alignments_root}
    audio = next(own.librispeech_root.rglob("101-7-0001.flac"))
    data = audio.read_bytes()
    weights = tmp_path / "tiny.npz"
    samples, _ = soundfile.read(audio, dtype="float32")
    tiny_codec.make_untrained([resample(samples, 16_000, 8_000)], 0, tmp_path)
    # one utterance a shard: that of the spoilt one has latents of no frame
    given = roots | {"weights": {tiny_codec.NAME: WeightsRequest("checkpoint", weights)}, "shard_utterances": 1}
    clean = build_store(plan_build(options(output=tmp_path / "clean" / "store.h5", **given))).path
    audio.write_bytes(b"")
    assert list(build_store(plan_build(options(**given))).skipped) == ["101-7-0001"]
    audio.write_bytes(data)
    again = build_store(plan_build(options(**given, retry_skipped=True)))
    assert (again.n_built, again.skipped) == (1, {})
    verify_store(again.path, full=True)
    check_against_the_encoder(again.path, own.librispeech_root, weights)
    assert digest_of(again.path) == digest_of(clean)
    np.testing.assert_array_equal(latents_of(again.path), latents_of(clean))


def test_latents_that_no_build_put_there_are_not_lost_in_a_retry(options, tmp_path):
    own = make_tiny_corpus(tmp_path / "own", n_speakers=2, n_utterances=4)
    textgrid = next(own.alignments_root.rglob("101-7-0001.TextGrid"))
    text = textgrid.read_text()
    textgrid.write_text("no grid")
    given = {
        "librispeech_root": own.librispeech_root,
        "alignments_root": own.alignments_root,
        "store_latents": False,
        "retry_skipped": True,
    }
    path = build_store(plan_build(options(**given))).path
    with edited(path) as file:
        group = file["codecs/tiny"]
        group["latents"] = np.zeros((group["codes"].shape[1], tiny_codec.DIM), "f4")
    textgrid.write_text(text)
    with pytest.raises(StoreError, match=r"expected no latents \(--store-latents\), found some, which a retry cannot"):
        build_store(plan_build(options(**given)))


def test_a_codec_without_latents_is_refused_before_anything_is_written(options, monkeypatch, tmp_path):
    mute = dataclasses.replace(tiny_codec.FAMILY, has_latents=False)
    monkeypatch.setitem(registry._registered, tiny_codec.NAME, mute)
    with pytest.raises(StoreError, match=r"--store-latents: expected codecs .*, found tiny, which does not; leave"):
        plan_build(options())
    assert not (tmp_path / "out").exists()
    assert build_store(plan_build(options(store_latents=False))).skipped == {}


def test_an_utterance_of_which_the_encoder_makes_no_numbers_is_skipped(options, monkeypatch):
    """Else the merged store would be refused when it is verified, after everything has been encoded."""
    original = tiny_codec.TinyCodec.encode_with_latents
    n_calls = []

    def one_is_bad(self, samples):
        codes, latents = original(self, samples)
        n_calls.append(1)
        return codes, latents if len(n_calls) != 3 else np.full_like(latents, np.nan)

    monkeypatch.setattr(tiny_codec.TinyCodec, "encode_with_latents", one_is_bad)
    result = build_store(plan_build(options(workers=0)))
    (reason,) = result.skipped.values()
    assert reason == "tiny: expected a finite encoder's output, found NaN or infinity"
    verify_store(result.path, full=True)


def test_shards_stay_small_since_latents_are_held_in_memory(options, monkeypatch):
    monkeypatch.setattr("featstore.plan.MOST_SHARDS", 2)
    assert len(plan_build(options(store_latents=False)).slices) == 2
    assert len(plan_build(options()).slices) == 5
    assert len(plan_build(options(shard=(1, 3))).slices) == 3


def test_the_command_line_builds_probes_and_verifies(tiny_corpus, melrvq_weights, melrvq_store, tmp_path):
    path = tmp_path / "store.h5"
    codec = ["--codec", "melrvq", "--weights", f"melrvq={melrvq_weights}", "--eval-frac", "0.25"]
    run_well("build-store", *corpus_options(tiny_corpus), *codec, "--store-latents", "--output", path)
    with Store(path) as store, Store(melrvq_store) as other:
        found, known = store["melrvq"], other["melrvq"]
        np.testing.assert_array_equal(found.codes(0, found.n_frames), known.codes(0, known.n_frames))
        assert found.latents(0, found.n_frames).shape == (known.n_frames, 80)
    assert "with latents" in run_well("inspect", path).stdout
    assert "every byte checked" in run_well("verify", path, "--full").stdout
    asked = ["--representation", "latent", "--task", "phoneme", "--max-train-frames", "400", "--max-iter", "50"]
    said = run_well("probe", path, "--output", tmp_path / "results", *asked).stdout
    assert "latent" in said
    assert (tmp_path / "results" / "records.jsonl").read_text().count('"representation": "latent"') == 1


def test_a_study_of_latents_that_are_not_stored_is_refused_at_once(tiny_corpus, tmp_path):
    out = tmp_path / "out"
    ended = run("study", *corpus_options(tiny_corpus), "--output", out, "--representation", "latent")
    assert ended.usage_error.startswith("--representation latent needs --store-latents: ")
    assert not out.exists()
