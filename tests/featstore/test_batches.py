"""Builds in batches and in other precisions: one digest whatever the workers, and what the store says of it."""

import json

import numpy as np
import pytest

from featstore.build import build_store
from featstore.codecs import precision as precision_module
from featstore.codecs.precision import check_precision
from featstore.describe import _encoding_lines, _json_object, describe, describe_text
from featstore.errors import FeatstoreError, StoreError
from featstore.export import export_store
from featstore.header import read_shards
from featstore.merge import merge_stores
from featstore.outlook import plan_text
from featstore.plan import plan_build
from featstore.store import Store
from featstore.verify import verify_store
from tests.support import batch_codec, tiny_codec
from tests.support.batch_codec import BatchTiny
from tests.support.builds import tiny_build
from tests.support.command_line import corpus_options, run, run_well


@pytest.fixture
def options(tiny_corpus, tmp_path):
    batch_codec.register()

    def make(name="out", **changes):
        return tiny_build(tiny_corpus, tmp_path / name / "store.h5", **{"batch_s": 5.0} | changes)

    yield make
    tiny_codec.register()


def build(options):
    return build_store(plan_build(options)).path


def digest_of(path):
    with Store(path) as store:
        return store.content_digest


def encodings_of(path):
    with Store(path) as store:
        return [json.loads(row.encoding) for row in read_shards(store)]


def test_batches_do_not_depend_on_the_number_of_workers(options, monkeypatch):
    """Even where being in another batch changes the codes, which the stand-in exaggerates."""
    one_at_a_time = digest_of(build(options("single", batch_s=0.0)))
    assert digest_of(build(options("exact"))) == one_at_a_time
    monkeypatch.setattr(BatchTiny, "rounds", True)
    several = {"shard_utterances": 12}  # of which ten are a window
    found = {digest_of(build(options(f"workers-{n}", workers=n, **several))) for n in (0, 2)}
    # as beside a GPU: in a thread, while the next window is taken
    monkeypatch.setattr("featstore.build.describe_device", lambda device: "gpu:0, a stand-in")
    found.add(digest_of(build(options("thread", workers=1, **several))))
    assert len(found) == 1
    assert found != {one_at_a_time}


class Interrupted(Exception):
    pass


def test_an_interrupted_build_in_batches_resumes_to_the_same_codes(options, monkeypatch):
    monkeypatch.setattr(BatchTiny, "rounds", True)
    reference = digest_of(build(options("whole")))

    def stop(done, total, what, note=""):
        if what == "encode" and done >= 12:
            raise Interrupted

    plan = plan_build(options("again"))
    with pytest.raises(Interrupted):
        build_store(plan, stop)
    result = build_store(plan)
    assert result.n_reused == 3, "the window of the twelfth ends with its shard"
    assert digest_of(result.path) == reference


def test_a_store_says_how_it_was_batched_and_is_silent_of_the_usual(options, tmp_path):
    path = build(options())
    assert encodings_of(path) == [{"batch_s": 5.0}] * 5
    with Store(path) as store:
        assert describe(store)["encodings"] == [{"n_shards": 5, "batch_s": 5.0}]
        assert "  encoded         in float32, 5 s of audio together" in describe_text(store).splitlines()
        assert "batch_s" not in store.json_attribute("build_options")
    verify_store(path, full=True)
    export_store(path, tmp_path / "copy.zarr")
    assert encodings_of(tmp_path / "copy.zarr") == encodings_of(path)
    usual = build(options("usual", batch_s=None))
    with Store(usual) as store:
        assert not store.has("shards/encoding")
        assert "encoded  " not in describe_text(store)
    assert encodings_of(usual) == [{}] * 5


def test_shards_encoded_in_different_batches_are_of_one_build(options):
    """As shards are that were encoded with other threads, or on another device."""
    parts = []
    for index, batch_s in ((1, 0.0), (2, 5.0)):
        parts.append(build_store(plan_build(options(shard=(index, 2), batch_s=batch_s))).shard_path)
    merged = parts[0].with_name("merged.h5")
    merge_stores(parts, merged)
    assert encodings_of(merged) == [{}, {"batch_s": 5.0}]
    with Store(merged) as store:
        assert "in float32, 5 s of audio together (1 shard)" in describe_text(store)
    assert build_store(plan_build(options(shard=(2, 2), batch_s=0.0))).n_reused == 1


def test_what_does_not_fit_is_skipped_and_taken_up_where_it_does(options, monkeypatch):
    whole = digest_of(build(options("whole")))
    monkeypatch.setattr(BatchTiny, "most_s", 2.2)
    result = build_store(plan_build(options()))
    assert 0 < len(result.skipped) < 12
    assert all("too little memory" in reason and "--retry-skipped" in reason for reason in result.skipped.values())
    monkeypatch.setattr(BatchTiny, "most_s", float("inf"))
    again = build_store(plan_build(options(retry_skipped=True, batch_s=0.0)))
    assert again.skipped == {}
    assert digest_of(again.path) == whole


def test_a_device_that_fills_up_in_the_middle_keeps_the_shards_before(options, monkeypatch):
    plan = plan_build(options())

    def fill(done, total, what, note=""):
        if what == "encode" and done >= 10:
            monkeypatch.setattr(BatchTiny, "most_s", 0.1)

    with pytest.raises(StoreError, match="something else fills it; finished shards are kept"):
        build_store(plan, fill)
    monkeypatch.setattr(BatchTiny, "most_s", float("inf"))
    result = build_store(plan)
    assert result.n_reused >= 2
    assert result.skipped == {}


def test_the_command_line_takes_both_and_inspect_shows_them(options, tiny_corpus, tmp_path):
    arguments = [*corpus_options(tiny_corpus), "--codec", "tiny", "--weights", "untrained", "--device", "cpu"]
    path = tmp_path / "cli.h5"
    run_well("build-store", *arguments, "--batch-seconds", "7.5", "--precision", "bf16", "--output", path)
    shown = json.loads(run_well("inspect", path, "--json").stdout)["encodings"]
    assert [(way["batch_s"], way["precision"], list(way["changed_codes"])) for way in shown] == [
        (7.5, "bf16", ["tiny"])
    ]
    assert "in bf16, 7.5 s of audio together" in run_well("inspect", path).stdout
    for wrong in (("--batch-seconds", "-1"), ("--batch-seconds", "1801"), ("--precision", "fp8")):
        assert wrong[0] in run("build-store", *arguments, *wrong, "--output", path).usage_error


def test_what_a_stranger_says_of_encoding_is_shown_only_where_it_makes_sense():
    for text in ("", "{", "[1]", "3", "[" * 100_000, "1" * 5_000):
        assert _json_object(text) == {}
    ways = [
        {"n_shards": 1, "batch_s": "many", "precision": ["x"], "changed_codes": {"tiny": ["all"]}},
        {"n_shards": 1, "batch_s": 10**400, "changed_codes": 5},
        {"n_shards": 1},
    ]
    assert _encoding_lines(ways) == [
        "  encoded         in ['x'] (1 shard)",
        "  encoded         in float32 (1 shard)",
    ]


def test_latents_and_batches_are_not_asked_together(options):
    with pytest.raises(StoreError, match="--batch-seconds with --store-latents: latents are taken one"):
        plan_build(options(store_latents=True))
    plan_build(options(store_latents=True, batch_s=None))


def test_memory_is_looked_at_for_what_a_cpu_encodes_together(options):
    for device, expected in (("cpu", 600.0), ("auto", 600.0), ("cuda:1", 0.0), ("mps", 0.0)):
        assert plan_build(options(batch_s=600.0, device=device)).work_left.batch_s == expected


@pytest.fixture
def bf16_store(options):
    return build(options("bf16", batch_s=None, precision="bf16"))


def test_another_precision_is_recorded_with_the_codes_it_changed(bf16_store, options, caplog):
    # the stand-in changes every fourth code of layer 2
    expected = {"precision": "bf16", "changed_codes": {"tiny": [0.0, pytest.approx(0.25, abs=0.01), 0.0]}}
    assert encodings_of(bf16_store) == [expected] * 5
    with Store(bf16_store) as store:
        assert store.json_attribute("build_options")["precision"] == "bf16"
        assert describe(store)["encodings"] == [{"n_shards": 5, **expected}]
        assert "  encoded         in bf16\n" in describe_text(store)
        assert "tiny: bf16 changes 0, 25" in describe_text(store)
    verify_store(bf16_store, full=True)
    exact = build(options("exact", batch_s=None))
    assert digest_of(exact) != digest_of(bf16_store)
    with Store(exact) as store, Store(bf16_store) as other:
        assert "precision" not in store.json_attribute("build_options")
        n_frames = store["tiny"].n_frames
        changed = (store["tiny"].codes(0, n_frames) != other["tiny"].codes(0, n_frames)).mean(axis=1)
    np.testing.assert_allclose(changed, [0, 0.25, 0], atol=0.01)


def test_nothing_of_another_precision_is_resumed_or_merged(bf16_store, options, tmp_path):
    with pytest.raises(StoreError, match="other options .precision 'bf16' there, 'float32' now."):
        build(options("bf16", batch_s=None))
    assert "would refuse" in plan_text(plan_build(options("bf16", batch_s=None)))
    assert "in bf16" in plan_text(plan_build(options("new", precision="bf16")))
    exact = build(options("exact", batch_s=None))
    for parts in ([exact, bf16_store], [bf16_store, exact]):
        with pytest.raises(
            StoreError, match=r"was encoded in \w+, .* in \w+; build one of them again with the other's"
        ):
            merge_stores(parts, tmp_path / "merged.h5")
    assert not (tmp_path / "merged.h5").exists()
    merge_stores([bf16_store, bf16_store], tmp_path / "same.h5")


def test_a_precision_that_cannot_be_is_one_clear_line(options, tiny_corpus, monkeypatch, tmp_path):
    with pytest.raises(FeatstoreError, match="tf32: expected --device cuda with a GPU that has TF32, found cpu; leave"):
        build(options(precision="tf32", device="cpu"))
    ended = run(
        "build-store",
        *corpus_options(tiny_corpus),
        *("--codec", "melrvq", "--precision", "bf16", "--device", "cpu", "--output", tmp_path / "m.h5"),
    )
    assert ended.exit_code == 1
    assert ended.stderr.splitlines()[-1] == (
        "Error: --precision bf16: no codec of this build has a network; leave --precision out"
    )

    def encode(self, samples):
        if self.precision != "float32":
            raise RuntimeError("not implemented for 'BFloat16'\nmore of it")
        return tiny_codec.TinyCodec.encode(self, samples)

    monkeypatch.setattr(BatchTiny, "encode", encode)
    with pytest.raises(
        FeatstoreError, match="tiny does not run in it here .RuntimeError: not implemented for 'BFloat16'.;"
    ):
        build(options(precision="bf16"))


def test_a_gpu_older_than_tensor_cores_is_told(monkeypatch):
    import torch

    monkeypatch.setattr(precision_module, "torch_device", lambda name: torch.device("cuda:0"))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Quadro RTX 4000")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    for precision in ("tf32", "bf16"):
        with pytest.raises(FeatstoreError, match=r"capability 8\.0 or newer, found Quadro RTX 4000 with 7\.5; leave"):
            check_precision(precision, "cuda")
    check_precision("float32", "cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    check_precision("tf32", "cuda")
