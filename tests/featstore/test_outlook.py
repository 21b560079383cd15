"""A dry run says what the build then does: build, find the store finished, or refuse, in the same words."""

import contextlib
import re
import shutil

import pytest

from featstore import build as build_module
from featstore.build import build_store
from featstore.codecs.choose import WeightsRequest
from featstore.errors import StoreError
from featstore.outlook import plan_text
from featstore.plan import plan_build
from tests.support import tiny_codec
from tests.support.builds import tiny_build
from tests.support.command_line import corpus_options, run_well, tree
from tests.support.corpus import make_tiny_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_tiny_corpus(tmp_path_factory.mktemp("corpus"), n_speakers=2, n_utterances=3)


@pytest.fixture
def options(tiny, corpus, tmp_path):
    def make(**changes):
        return tiny_build(corpus, **{"output": tmp_path / "out" / "store.h5", "shard_utterances": 2} | changes)

    return make


def outlook(options):
    """The lines of a dry run by name; it leaves everything as it was."""
    folder = options.output.parent
    before = tree(folder)
    text = plan_text(plan_build(options))
    assert tree(folder) == before
    return {line[:15].strip(): line[16:] for line in text.splitlines()}


def refusal(options):
    with pytest.raises(StoreError) as caught:
        build_store(plan_build(options))
    return str(caught.value)


def test_a_first_build(options):
    lines = outlook(options())
    assert lines["would build"] == f"{options().output} (dense, zstd)"
    assert lines["from"].startswith("6 of 6 utterances of train-clean-100")
    assert lines["size"].startswith("dense about ")
    assert outlook(options(embeddings="factored"))["size"].startswith("factored about ")
    assert re.fullmatch(r"about [\d.]+ kB needed, [\d.]+ .?B free", lines["space"])
    assert re.fullmatch(r"up to 15 needed, ([\d,]+ free|no limit known)", lines["files"])
    assert re.fullmatch(r"about 54\d\.\d MB needed, ([\d.]+ .?B free|what is free is not known)", lines["memory"])
    assert lines["shards"] == f"3 in {options().output}.shards"
    assert lines["weights"] == "tiny fitted to this corpus"
    assert lines["split"] == f"{options().output.with_name('split.json')} (to be written)"


def test_a_build_with_latents(options):
    lines = outlook(options(store_latents=True))
    assert lines["would build"] == f"{options().output} (dense with latents, zstd)"
    assert re.search(r"of shards until they are merged; [\d.]+ kB of each are latents$", lines["size"])
    assert "latents" not in outlook(options())["size"]
    part = outlook(options(store_latents=True, shard=(2, 3)))["would build"]
    assert "(factored with latents until it is merged), slice 2 of 3" in part


def test_a_finished_store(options):
    build_store(plan_build(options()))
    lines = outlook(options())
    assert lines["nothing to do"] == f"{options().output} is already built from these inputs"
    assert lines["split"].endswith("(reused)")
    assert not {"size", "space", "files", "memory", "shards", "weights"} & set(lines)
    assert build_store(plan_build(options())).n_built == 0
    assert outlook(options(force_resplit=True))["split"].endswith("(made anew)")


@pytest.mark.parametrize(
    "changes",
    [
        {"f0": "pyin"},
        {"max_utterances": 4},
        {"embeddings": "factored"},
        {"store_latents": True},
        {"eval_frac": 0.5, "force_resplit": True},
        {"weights": {tiny_codec.NAME: WeightsRequest("checkpoint", "the store's own")}},
    ],
)
def test_a_store_of_other_options(options, changes):
    path = build_store(plan_build(options())).path
    if "weights" in changes:
        changes = {
            "weights": {tiny_codec.NAME: WeightsRequest("checkpoint", path.parent / "store.h5.weights/tiny.npz")}
        }
    assert outlook(options(**changes))["would refuse"] == refusal(options(**changes))


def test_a_store_of_a_given_checkpoint(options, tmp_path):
    first = build_store(plan_build(options(output=tmp_path / "first" / "store.h5"))).path
    checkpoint = shutil.copy(first.parent / "store.h5.weights/tiny.npz", tmp_path / "own.npz")
    given = options(weights={tiny_codec.NAME: WeightsRequest("checkpoint", checkpoint)})
    assert outlook(given)["weights"] == f"tiny {checkpoint}"
    build_store(plan_build(given))
    assert "nothing to do" in outlook(given)
    other = build_store(plan_build(options(output=tmp_path / "other" / "store.h5", seed=7))).path
    shutil.copy(other.parent / "store.h5.weights/tiny.npz", checkpoint)
    said = outlook(given)["would refuse"]
    assert said.split("; ")[1:] == refusal(given).split("; ")[1:]
    assert "was built with other options (weights" in said


def test_what_is_no_store(options):
    options().output.parent.mkdir()
    options().output.write_text("mine")
    assert outlook(options())["would refuse"] == refusal(options())


def test_changed_inputs(options, corpus, tmp_path):
    own = shutil.copytree(corpus.librispeech_root, tmp_path / "own")
    build_store(plan_build(options(librispeech_root=own)))
    (first, second, *_) = sorted(own.rglob("*.flac"))
    shutil.copy(first, second)
    assert outlook(options(librispeech_root=own))["would refuse"] == refusal(options(librispeech_root=own))


def test_shards_of_an_interrupted_build(options, monkeypatch):
    def failing(*args, **kwargs):
        raise InterruptedError

    with monkeypatch.context() as patch, contextlib.suppress(InterruptedError):
        patch.setattr(build_module, "merge_stores", failing)
        build_store(plan_build(options()))
    lines = outlook(options())
    assert lines["shards"].endswith(".shards; 3 there, kept where options and inputs are the same")
    assert lines["memory"].startswith("about 0 B needed, ")  # only the merge is left
    assert outlook(options(f0="pyin"))["would refuse"] == refusal(options(f0="pyin"))
    damaged = plan_build(options()).shard_path(0)
    damaged.write_bytes(b"")
    assert "would build" in outlook(options())
    assert build_store(plan_build(options())).n_built == 1


def test_one_slice_of_a_job_array(options):
    plan = plan_build(options(shard=(2, 3)))
    target = plan.shard_path(1)
    lines = outlook(options(shard=(2, 3)))
    assert lines["would build"] == f"{target} (factored until it is merged), slice 2 of 3 of {options().output}"
    build_store(plan)
    said = f"{target} is already built from these inputs, slice 2 of 3 of {options().output}"
    assert outlook(options(shard=(2, 3)))["nothing to do"] == said
    assert "would build" in outlook(options(shard=(1, 3)))
    target.write_bytes(b"damaged")
    assert "would build" in outlook(options(shard=(2, 3)))


def test_missing_weights_are_named_by_a_dry_run(corpus, tmp_path):
    arguments = [*corpus_options(corpus), "--output", tmp_path / "s.h5", "--dry-run"]
    (line,) = [x for x in run_well("build-store", *arguments).stdout.splitlines() if x.startswith("weights")]
    assert line.startswith("weights         encodec pretrained; MISSING: speechtokenizer: download")
    assert "--st-ckpt SpeechTokenizer.pt" in line


def test_skipped_utterances_to_retry(options, corpus, tmp_path):
    own = tmp_path / "own"
    shutil.copytree(corpus.librispeech_root.parent, own)
    textgrid = next((own / corpus.alignments_root.name).rglob("*.TextGrid"))
    textgrid.write_text("no grid")
    roots = {
        "librispeech_root": own / corpus.librispeech_root.name,
        "alignments_root": own / corpus.alignments_root.name,
    }
    build_store(plan_build(options(**roots)))
    assert "nothing to do" in outlook(options(**roots))
    retried = outlook(options(**roots, retry_skipped=True))["would retry"]
    assert retried.startswith("1 skipped utterance of ")
    assert f"({textgrid.stem}, ...)" in retried
