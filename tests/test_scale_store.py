"""The synthetic store of true shape: its draws follow the distributions it states, its labels share one timeline."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import make_scale_store
from benchmarks.measure.scale_store import read_making, record_path
from benchmarks.scale import codecs, corpus, speech, voices
from benchmarks.scale.alias import N_CODEWORDS, AliasTables, make_alias
from featstore.errors import StoreError
from featstore.store import Store
from probes.tasks import phoneme_classes
from tests.support.stores import write_store


def implied(level, alias):
    """Return the weights that alias columns stand for."""
    weights = level.copy()
    for row, (own, other) in enumerate(zip(level, alias, strict=True)):
        np.add.at(weights[row], other, 1 - own)
    return weights


@pytest.mark.parametrize("seed", range(8))
def test_alias_columns_stand_for_the_weights(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 40))
    weights = np.exp(rng.uniform(0, 6) * rng.standard_normal((7, n)))
    weights[:, 1:][rng.random((7, n - 1)) < 0.3] = 0
    weights *= n / weights.sum(axis=1, keepdims=True)
    level, alias = make_alias(weights)
    np.testing.assert_allclose(implied(level, alias), weights, rtol=0, atol=1e-12 * n)
    assert not level[weights == 0].any()
    assert (weights[np.arange(7)[:, None], alias] > 0).all()


def test_alias_columns_of_even_and_of_certain_codes():
    weights = np.vstack([np.ones(6), 6 * np.eye(6)[2], np.repeat([0.0, 2.0], 3)])
    np.testing.assert_array_equal(implied(*make_alias(weights)), weights)


def test_codes_are_drawn_as_often_as_stated():
    rng = np.random.default_rng(5)
    probability = np.exp(1.5 * rng.standard_normal((3, N_CODEWORDS)))
    probability[:, ::7] = 0
    probability[2] = np.eye(N_CODEWORDS)[1023]
    probability /= probability.sum(axis=1, keepdims=True)
    rows = np.repeat(np.arange(3, dtype=np.int32), 300_000)
    drawn = AliasTables(probability).draw(rng, rows).reshape(3, -1)
    for row in range(3):
        expected = 300_000 * probability[row]
        counts = np.bincount(drawn[row], minlength=N_CODEWORDS)
        assert not counts[expected == 0].any()
        used = expected > 0
        chi2, freedom = ((counts - expected)[used] ** 2 / expected[used]).sum(), used.sum() - 1
        assert abs(chi2 - freedom) <= 4.5 * np.sqrt(2 * freedom)


def test_durations_are_those_of_librispeech():
    durations = voices.draw_durations_s(np.random.default_rng(0), 28_539, 12.69)
    assert durations.mean() == pytest.approx(12.69, rel=2e-3)
    assert 0.55 < ((durations > 11) & (durations < 17)).mean() < 0.85
    assert 0.05 < (durations < 6).mean() < 0.2
    assert 20 < durations.max() <= 24.5
    assert durations.min() >= 1.4


def test_the_corpus_is_in_id_order_and_every_speaker_trains_and_is_numbered_as_in_the_store():
    made = corpus.make_corpus(700, 30, 12.69, seed=3)
    ids, names = [row.id for row in made.rows], sorted({row.speaker for row in made.rows})
    assert ids == sorted(set(ids))
    assert [names[place] for place in made.speaker_of] == [row.speaker for row in made.rows]
    is_eval = np.array([row.split for row in made.rows])
    assert set(made.speaker_of[is_eval == 0]) == set(range(30))
    assert 0.08 < is_eval.mean() < 0.12


@pytest.mark.parametrize(("n_utterances", "n_speakers", "seed"), [(9, 5, 0), (4, 0, 0), (0, 1, 0), (10, 2, -1)])
def test_what_cannot_be_drawn_is_refused(n_utterances, n_speakers, seed):
    with pytest.raises(ValueError, match="expected"):
        corpus.make_corpus(n_utterances, n_speakers, 12.69, seed)


def test_labels_fold_to_the_71_classes_of_the_study():
    labels = speech.label_model()
    assert len(labels.names) == 73
    assert len(phoneme_classes(labels.names).names) == 71
    assert labels.shares.sum() == pytest.approx(1)


@pytest.fixture(scope="module")
def timeline():
    n_steps = np.array([900, 141, 2000, 1700])
    return speech.draw_timeline(
        np.random.default_rng(1), speech.label_model(), n_steps, np.log([110.0, 210.0, 110.0, 210.0])
    )


def test_silence_has_no_pitch_and_speakers_have_their_own(timeline):
    labels = speech.label_model()
    is_silent = np.isin(timeline.phoneme, [labels.names.index(name) for name in speech.SILENT_LABELS])
    voiced = np.isfinite(timeline.f0_hz)
    assert not voiced[is_silent].any()
    assert 0.5 < voiced.mean() < 0.8
    low, high = (timeline.f0_hz[timeline.offsets[u] : timeline.offsets[u + 1]] for u in (2, 3))
    assert np.nanmedian(high) > 1.5 * np.nanmedian(low)
    assert timeline.f0_hz[voiced].min() >= 60


@pytest.mark.parametrize(("sample_rate_hz", "hop_samples"), [(24_000, 320), (16_000, 320)])
def test_both_clocks_read_the_same_timeline(timeline, sample_rate_hz, hop_samples):
    n_tokens = -(-np.diff(timeline.offsets) * sample_rate_hz // (100 * hop_samples))
    phoneme, f0_hz = speech.at_token_centres(timeline, n_tokens, sample_rate_hz, hop_samples)
    expected = []
    for u, n in enumerate(n_tokens):
        centre_s = (np.arange(n) + 0.5) * hop_samples / sample_rate_hz
        step = np.minimum(np.floor(centre_s * 100 + 1e-9).astype(int), np.diff(timeline.offsets)[u] - 1)
        expected.append(timeline.offsets[u] + step)
    expected = np.concatenate(expected)
    np.testing.assert_array_equal(phoneme, timeline.phoneme[expected])
    np.testing.assert_array_equal(f0_hz, timeline.f0_hz[expected])


@pytest.mark.parametrize("dim", [16, 128])
def test_codebooks_have_the_stated_conditions_and_unequal_norms(dim):
    codebooks = codecs.make_codebooks(np.random.default_rng(2), dim)
    np.testing.assert_allclose(codecs.condition_numbers(codebooks), codecs.CONDITIONS, rtol=2e-2)
    norms = np.linalg.norm(codebooks, axis=2)
    assert (norms.std(axis=1) > 0.2 * norms.mean(axis=1)).all()
    assert (np.diff(np.sqrt((norms**2).mean(axis=1))) < 0).all()


@pytest.fixture
def thin_codecs(monkeypatch):
    for name, shape in codecs.SHAPES.items():
        monkeypatch.setitem(codecs.SHAPES, name, replace(shape, dim=16))


def write(path, seed):
    return make_scale_store.write_scale_store(path, corpus.make_corpus(70, 5, 12.69, seed), seed, "clean100")


@pytest.mark.usefixtures("thin_codecs")
def test_equal_seeds_give_equal_content(tmp_path):
    first, again, other = (write(tmp_path / f"{place}.h5", seed) for place, seed in enumerate((4, 4, 5)))
    assert first["content_digest"] == again["content_digest"] != other["content_digest"]


def information_bits(codes, labels):
    table = np.zeros((N_CODEWORDS, int(labels.max()) + 1))
    np.add.at(table, (codes, labels), 1)
    share = table / table.sum()
    independent = share.sum(axis=1, keepdims=True) * share.sum(axis=0)
    return (share[share > 0] * np.log2(share[share > 0] / independent[share > 0])).sum()


@pytest.mark.usefixtures("thin_codecs")
def test_codes_tell_labels_and_deep_layers_tell_less(tmp_path):
    write(tmp_path / "store.h5", 0)
    with Store(tmp_path / "store.h5") as store:
        for name in store.codec_names:
            frames = store[name]
            codes = frames.codes(0, frames.n_frames)
            columns = {
                "phoneme": frames.labels("phoneme", 0, frames.n_frames),
                "speaker": frames.labels("speaker", 0, frames.n_frames),
                "pitch": codecs.pitch_bin(frames.labels("f0", 0, frames.n_frames)),
            }
            for of_label in columns.values():
                shuffled = np.random.default_rng(0).permutation(of_label)
                told = [information_bits(codes[layer], of_label) for layer in (1, 7)]  # layers 2 and 8
                assert told[0] > told[1] > information_bits(codes[7], shuffled)


def test_perplexity_is_the_number_of_evenly_used_codes():
    counts = np.array([[5, 5, 5, 5, 0], [9, 0, 0, 0, 0]])
    np.testing.assert_allclose(make_scale_store.perplexity(counts), [4, 1])


def test_nothing_but_an_earlier_synthetic_store_is_written_over(tmp_path):
    make_scale_store.check_output(tmp_path / "absent.h5")
    (tmp_path / "notes.h5").write_text("no store")
    with pytest.raises(StoreError):
        make_scale_store.check_output(tmp_path / "notes.h5")
    with pytest.raises(ValueError, match="not synthetic; choose another --output"):
        make_scale_store.check_output(write_store(tmp_path / "real.h5"))


@pytest.mark.usefixtures("thin_codecs")
def test_an_earlier_synthetic_store_is_written_over(tmp_path):
    write(tmp_path / "store.h5", 0)
    make_scale_store.check_output(tmp_path / "store.h5")


@pytest.mark.usefixtures("thin_codecs")
def test_making_four_times_the_store_takes_no_more_memory(tmp_path):
    """One block of utterances is held at a time: keeping all frames would make the ratio 1.6."""
    peaks = []
    for n_utterances in (128, 512):
        made = corpus.make_corpus(n_utterances, 5, 12.69, 0)
        tracemalloc.start()
        make_scale_store.write_scale_store(tmp_path / "store.h5", made, 0, "clean100")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.25 * peaks[0]


def test_the_record_beside_a_store_is_read_only_where_it_is_of_that_content(tmp_path):
    store, record = tmp_path / "store.h5", tmp_path / "store.json"
    assert record_path(store) == record
    assert read_making(store, "ab") is None
    record.write_text('{"shape": "clean100", "content_digest": "ab"}')
    assert read_making(store, "ab") == {"shape": "clean100", "content_digest": "ab"}
    assert read_making(store, "cd") is None
    make_scale_store.check_output(store)  # an earlier record is written over
    for other in ("no JSON", "[]", "{}", "3"):
        record.write_text(other)
        assert read_making(store, "ab") is None
        with pytest.raises(ValueError, match="something else than the record of such a store; choose another --output"):
            make_scale_store.check_output(store)
    with pytest.raises(ValueError, match="name is that of the record"):
        make_scale_store.check_output(record)
