"""Encoding in batches: the codes of one at a time, who goes together, and what happens when a device is full."""

import threading

import numpy as np
import pytest

from featstore.batches import BATCH_S, choose_batch_s, make_batches, windows
from featstore.codecs.base import BatchCodec, PrecisionCodec
from featstore.corpora.base import Utterance
from featstore.encode import Encoder
from featstore.errors import DeviceMemoryError, StoreError, UtteranceError
from featstore.extract import FrameLabels, PreparedUtterance
from featstore.header import InputHashes
from tests.support.batch_codec import BatchTiny
from tests.support.codec_contract import tones
from tests.support.tiny_codec import DIM, HOP_SAMPLES, N_CODEWORDS, N_LAYERS, SAMPLE_RATE_HZ, TinyCodec


def codebooks():
    return np.random.default_rng(3).normal(-4, 3, (N_LAYERS, N_CODEWORDS, DIM)).astype(np.float32)


@pytest.fixture
def codec():
    return BatchTiny(codebooks(), "untrained", "00" * 32)


def prepared(length_s, seed=0, problem=""):
    samples = tones(int(length_s * SAMPLE_RATE_HZ), SAMPLE_RATE_HZ, seed)
    n_frames = -(-samples.size // HOP_SAMPLES)
    labels = FrameLabels(np.full(n_frames, "AH0"), np.full(n_frames, 100, np.float32))
    utterance = Utterance(f"1-2-{seed:04}", "1", "a.flac", "a.TextGrid")
    if problem:
        return PreparedUtterance(utterance, InputHashes("a", "b"), problem)
    return PreparedUtterance(
        utterance, InputHashes("a", "b"), "", samples.size, SAMPLE_RATE_HZ, {SAMPLE_RATE_HZ: samples}, {"tiny": labels}
    )


def some(*lengths_s):
    return [prepared(length_s, seed) for seed, length_s in enumerate(lengths_s)]


def encoded_alone(items):
    codec = TinyCodec(codebooks(), "untrained", "00" * 32)
    return [codec.encode(item.samples[SAMPLE_RATE_HZ]) for item in items]


def codes_of(outcomes):
    return [outcome.codecs["tiny"].codes for outcome in outcomes]


def seconds_of(batches):
    return [[size / SAMPLE_RATE_HZ for size in batch] for batch in batches]


def test_the_stand_in_is_what_a_codec_with_batches_is(codec):
    assert isinstance(codec, BatchCodec)
    assert isinstance(codec, PrecisionCodec)
    assert not isinstance(TinyCodec(codebooks(), "untrained", ""), BatchCodec)


@pytest.mark.parametrize("mixes_lengths", [True, False])
def test_batches_hold_everyone_once_within_the_limit(mixes_lengths):
    rng = np.random.default_rng(0)
    lengths = {place: int(n) for place, n in enumerate(rng.integers(1, 60, 300))}
    lengths[7] = 500
    batches = list(make_batches(lengths, 200, mixes_lengths))
    assert sorted(place for batch in batches for place in batch) == list(range(300))
    for batch in batches:
        sizes = [lengths[place] for place in batch]
        assert len(batch) == 1 or max(sizes) * len(batch) <= 200
        assert mixes_lengths or len(set(sizes)) == 1
    assert [7] in batches
    assert len(batches) < (100 if mixes_lengths else 160)
    assert list(make_batches(dict(reversed(lengths.items())), 200, mixes_lengths)) == batches


def test_windows_are_the_same_in_whatever_order_utterances_come():
    items = list(enumerate(some(*[2.0] * 9, 5.0, 1.0, 1.0)))
    shard_of = [0] * 5 + [1] * 7
    expected = [[0, 1], [2, 3], [4], [5, 6], [7, 8], [9], [10, 11]]  # 4 s at least, or a shard's end
    shuffled = [items[place] for place in np.random.default_rng(1).permutation(12)]
    for order in (items, items[::-1], shuffled):
        found = list(windows(order, shard_of, 1.0))
        assert [[place for place, _ in window] for window in found] == expected
    assert [[place for place, _ in window] for window in windows(items[::-1], shard_of, 0)] == [
        [place] for place in range(11, -1, -1)
    ], "one at a time, as they come"


def test_batched_codes_are_those_of_one_at_a_time_in_the_order_given(codec):
    items = some(2.0, 0.5, 1.7, 0.01, 2.0, 3.1)
    found = Encoder({"tiny": codec}, batch_s=4.0).encode(items)
    assert [len(batch) for batch in codec.batches] == [2, 2], "the longest goes alone"
    for codes, expected in zip(codes_of(found), encoded_alone(items), strict=True):
        np.testing.assert_array_equal(codes, expected)
    assert [outcome.utterance for outcome in found] == [item.utterance for item in items]


def test_one_bad_utterance_costs_its_batch_nothing(codec):
    items = some(1.0, 1.1, 1.2)
    items[1].samples[SAMPLE_RATE_HZ][5] = np.nan
    items.insert(2, prepared(1.0, 9, problem="no alignment"))
    found = Encoder({"tiny": codec}, batch_s=10.0).encode(items)
    assert [isinstance(outcome, UtteranceError) for outcome in found] == [False, True, True, False]
    assert "finite" in str(found[1])
    assert str(found[2]) == "no alignment"
    np.testing.assert_array_equal(found[3].codecs["tiny"].codes, encoded_alone(items[3:])[0])


def test_a_device_that_is_full_gets_smaller_batches_and_loses_no_utterance(codec, monkeypatch, caplog):
    monkeypatch.setattr(BatchTiny, "most_s", 5.0)
    items = some(*[1.0] * 13)
    encoder = Encoder({"tiny": codec}, batch_s=16.0)
    with caplog.at_level("WARNING"):
        found = encoder.encode(items)
    for codes, expected in zip(codes_of(found), encoded_alone(items), strict=True):
        np.testing.assert_array_equal(codes, expected)
    assert all(sum(batch) <= 5.0 for batch in seconds_of(codec.batches))
    assert [record.message for record in caplog.records] == [
        "note: tiny: gpu:0: too little memory (allocation failed); batches have at most 6.5 s of audio from now on",
        "note: tiny: gpu:0: too little memory (allocation failed); batches have at most 3 s of audio from now on",
    ]
    codec.batches.clear()
    encoder.encode(items)
    assert max(map(sum, seconds_of(codec.batches))) == 3.0, "what it has learnt it keeps"
    assert len(caplog.records) == 2


@pytest.mark.parametrize("batch_s", [0.0, 8.0])
def test_an_utterance_too_long_for_the_device_is_skipped_for_that_reason(codec, monkeypatch, batch_s):
    monkeypatch.setattr(BatchTiny, "most_s", 4.0)
    items = some(6.0, 1.0, 2.0, 7.0)
    found = Encoder({"tiny": codec}, batch_s=batch_s).encode(items)
    assert [isinstance(outcome, UtteranceError) for outcome in found] == [True, False, False, True]
    assert isinstance(found[0].__cause__, DeviceMemoryError)
    assert str(found[3]) == (
        "tiny: gpu:0: too little memory (allocation failed), on 7 s of audio; --retry-skipped takes it up, where "
        "there is more memory"
    )


@pytest.mark.parametrize("batch_s", [0.0, 8.0])
def test_a_device_that_somebody_else_fills_ends_the_build_and_skips_nobody(codec, monkeypatch, batch_s):
    encoder = Encoder({"tiny": codec}, batch_s=batch_s)
    encoder.encode(some(2.0, 2.0))
    monkeypatch.setattr(BatchTiny, "most_s", 1.0)
    with pytest.raises(StoreError, match=r"2 s of audio, where \d s fitted before: something else fills it; finished"):
        encoder.encode(some(2.0, 2.0))


def test_a_device_that_was_full_from_the_beginning_is_told(codec, monkeypatch):
    monkeypatch.setattr(BatchTiny, "most_s", 0.5)
    with pytest.raises(StoreError, match=r"on 1 s of audio: something else fills it; .* --device cpu"):
        Encoder({"tiny": codec}).encode(some(6.0))


def test_latents_are_taken_one_utterance_at_a_time(codec):
    found = Encoder({"tiny": codec}, with_latents=True, batch_s=10.0).encode(some(1.0, 1.0))
    assert codec.batches == []
    assert found[0].codecs["tiny"].latents.shape == (50, DIM)


class Waiting(BatchTiny):
    """Waits, in its first batch, until the second window has been asked for."""

    asked = threading.Event()

    def encode_batch(self, samples):
        assert Waiting.asked.wait(20), "the next window was not taken meanwhile"
        return super().encode_batch(samples)


def test_the_next_window_is_taken_while_one_is_encoded(monkeypatch):
    monkeypatch.setattr(Waiting, "asked", threading.Event())
    items = some(1.0, 1.1, 1.2, 1.3)

    def given():
        yield [(0, items[0]), (1, items[1])]
        Waiting.asked.set()
        yield [(2, items[2]), (3, items[3])]

    encoder = Encoder({"tiny": Waiting(codebooks(), "untrained", "")}, batch_s=10.0)
    found = [(window, outcomes()) for window, outcomes in encoder.run(given(), is_ahead=True)]
    assert [place for window, _ in found for place, _ in window] == [0, 1, 2, 3]
    for codes, expected in zip(
        codes_of(item for _, outcomes in found for item in outcomes), encoded_alone(items), strict=True
    ):
        np.testing.assert_array_equal(codes, expected)


@pytest.mark.parametrize("is_ahead", [True, False])
def test_what_is_ready_when_the_workers_fail_is_encoded_before_that_is_raised(codec, is_ahead):
    def given():
        yield [(0, prepared(1.0))]
        yield [(1, prepared(1.0, 1))]
        raise StoreError("worker processes keep ending")

    found = []
    with pytest.raises(StoreError, match="keep ending"):
        found.extend(outcomes() for _, outcomes in Encoder({"tiny": codec}, batch_s=2.0).run(given(), is_ahead))
    assert len(found) == 2


class Counting(BatchTiny):
    """Lets its first batch be waited for, and ends it when told to."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.is_encoding, self.may_end = threading.Event(), threading.Event()

    def encode_batch(self, samples):
        self.is_encoding.set()
        assert self.may_end.wait(20)
        return super().encode_batch(samples)


def test_the_thread_ends_after_the_batch_under_way():
    codec = Counting(codebooks(), "untrained", "")
    window = list(enumerate(some(*[1.0] * 8)))
    running = Encoder({"tiny": codec}, batch_s=2.0).run(iter([window, window]), is_ahead=True)
    next(running)
    assert codec.is_encoding.wait(20)
    threading.Timer(0.2, codec.may_end.set).start()
    running.close()
    assert len(codec.batches) == 1


@pytest.mark.parametrize("is_ahead", [True, False])
def test_what_goes_wrong_while_encoding_is_raised_where_it_is_waited_for(codec, monkeypatch, is_ahead):
    monkeypatch.setattr(BatchTiny, "most_s", 0.0)
    n_threads = threading.active_count()
    given = ([(place, item)] for place, item in enumerate(some(1.0, 1.0, 1.0)))
    running = Encoder({"tiny": codec}, batch_s=10.0).run(given, is_ahead)
    _, outcomes = next(running)
    with pytest.raises(StoreError, match="something else fills it"):
        outcomes()
    running.close()
    assert threading.active_count() == n_threads


def test_batches_are_for_devices_beside_the_cpu_unless_asked(codec):
    plain = TinyCodec(codebooks(), "untrained", "")
    assert choose_batch_s(None, {"tiny": codec}, "cpu") == 0
    assert choose_batch_s(None, {"tiny": codec}, "cuda:1") == choose_batch_s(None, {"tiny": codec}, "mps") == BATCH_S
    assert choose_batch_s(30.0, {"tiny": codec}, "cpu") == 30.0
    assert choose_batch_s(0.0, {"tiny": codec}, "cuda") == 0
    assert choose_batch_s(None, {"tiny": plain}, "cuda") == 0
