"""What a build says before it begins."""

import pytest

from featstore.codecs.choose import parse_weights
from featstore.errors import UnknownNameError
from featstore.outlook import plan_text
from featstore.plan import BuildOptions, evaluation_note, plan_build


def plan(corpus, tmp_path, **options):
    weights = parse_weights(["melrvq"], ["untrained"], {})
    roots = {"librispeech_root": corpus.librispeech_root, "alignments_root": corpus.alignments_root}
    return plan_build(BuildOptions(**roots, split=corpus.split, output=tmp_path / "s.h5", weights=weights, **options))


def test_a_subset_without_evaluation_is_told(tiny_corpus, tmp_path):
    few = plan(tiny_corpus, tmp_path, max_utterances=3, eval_frac=0.1)
    n_evaluated = len({u.speaker for u in few.utterances if few.split[u.id]})
    assert n_evaluated < 3
    assert f"evaluation utterances of {n_evaluated} of 3 speakers" in evaluation_note(few)
    assert evaluation_note(few) in plan_text(few)


def test_a_whole_corpus_needs_no_warning(tiny_corpus, tmp_path):
    whole = plan(tiny_corpus, tmp_path, eval_frac=0.25)
    assert evaluation_note(whole) is None
    assert "warning" not in plan_text(whole)


def test_weights_of_a_codec_that_is_not_built_are_refused():
    with pytest.raises(UnknownNameError, match="encodec is not among the codecs of this build"):
        parse_weights(["melrvq"], ["encodec=untrained"], {})


def test_a_large_corpus_gets_larger_shards_not_more(tiny_corpus, tmp_path, monkeypatch):
    monkeypatch.setattr("featstore.plan.MOST_SHARDS", 4)
    for n_utterances, n_shards in ((1, 4), (5, 4), (12, 2)):
        slices = plan(tiny_corpus, tmp_path, shard_utterances=n_utterances).slices
        assert len(slices) == n_shards
        assert sum(map(len, slices)) == tiny_corpus.n_utterances
    assert len(plan(tiny_corpus, tmp_path, shard=(1, 7)).slices) == 7
