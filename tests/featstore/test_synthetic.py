"""The synthetic corpus: its truth is exact, its layout is LibriSpeech's, its phones and speakers can be learnt."""

import json
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
import textgrid

from featstore.corpora import synthetic
from featstore.corpora.librispeech import scan_librispeech
from featstore.corpora.synthetic import CorpusPaths, make_corpus, utterance_id
from featstore.corpora.synthetic_filter import glottal_response, overlap_add, source_spectra
from featstore.corpora.synthetic_lexicon import LEXICON, UTTERANCES_PER_CYCLE, fold_stress, stress_of
from featstore.corpora.synthetic_phones import PHONES
from featstore.corpora.synthetic_speech import GRID_SAMPLES, SILENCES, SyntheticUtterance, synthesise_utterance
from featstore.corpora.synthetic_voice import Speaker, draw_session, draw_speaker, pulse_train
from featstore.errors import CorpusError

ARPABET_39 = frozenset(
    "AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K L M N NG OW OY P R S SH T TH UH UW V W Y Z ZH".split()  # noqa: SIM905
)
VOICELESS = frozenset({"P", "T", "K", "F", "TH", "S", "SH", "CH", "HH"})


@cache
def utterance(speaker_index: int, utterance_index: int) -> SyntheticUtterance:
    return synthesise_utterance(speaker_index, utterance_index)


@cache
def few() -> tuple[SyntheticUtterance, ...]:
    return tuple(utterance(speaker, index) for speaker in range(6) for index in range(2))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CorpusPaths]:
    out = tmp_path_factory.mktemp("synthetic") / "corpus"
    return out, make_corpus(out, n_speakers=2, n_utterances=3, seed=5, write_truth=True)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# One utterance


def test_same_arguments_give_the_same_bits_and_others_do_not() -> None:
    first, again = synthesise_utterance(3, 7, seed=11), synthesise_utterance(3, 7, seed=11)
    assert first.samples.tobytes() == again.samples.tobytes()
    assert first.f0_hz.tobytes() == again.f0_hz.tobytes()
    assert (first.phones, first.words, first.transcript) == (again.phones, again.words, again.transcript)
    for other in (synthesise_utterance(4, 7, 11), synthesise_utterance(3, 8, 11), synthesise_utterance(3, 7, 12)):
        assert other.samples.tobytes() != first.samples.tobytes()


def test_arrays_have_the_promised_types_and_range() -> None:
    for one in few():
        assert one.samples.dtype == np.float32
        assert one.f0_hz.dtype == np.float32
        assert one.sample_rate_hz == 16_000
        assert one.samples.shape == one.f0_hz.shape
        assert np.isfinite(one.samples).all()
        assert 0.29 < np.abs(one.samples).max() < 0.71
        assert abs(one.samples.mean()) < 1e-3


def test_phones_and_words_cover_the_utterance_without_gaps_on_the_grid() -> None:
    for one in few():
        for tier in (one.phones, one.words):
            assert tier[0].start_sample == 0
            assert tier[-1].end_sample == one.samples.size
            assert all(left.end_sample == right.start_sample for left, right in pairwise(tier))
            assert all(position % GRID_SAMPLES == 0 for _, *times in tier for position in times)
            assert all(end - start >= 3 * GRID_SAMPLES for _, start, end in one.phones)
        assert one.phones[0].label == "sil"
        assert one.phones[-1].label == "sp"


def test_words_hold_their_pronunciations_and_the_transcript_their_spelling() -> None:
    for one in few():
        spoken = [word for word in one.words if word.label]
        for word in spoken:
            inside = [p.label for p in one.phones if word.start_sample <= p.start_sample < word.end_sample]
            assert tuple(inside) == LEXICON[word.label]
        for pause in (word for word in one.words if not word.label):
            assert [p.label in SILENCES for p in one.phones if p[1:] == pause[1:]] == [True]
        assert one.transcript == " ".join(word.label for word in spoken).upper()


def test_lexicon_is_arpabet_with_a_stress_mark_on_vowels_only() -> None:
    labels = {label for phones in LEXICON.values() for label in phones}
    assert {fold_stress(label) for label in labels} == ARPABET_39 == set(PHONES)
    assert {stress_of(label) for label in labels} == {None, 0, 1, 2}
    for label in labels:
        assert (PHONES[fold_stress(label)].kind == "vowel") == (stress_of(label) is not None), label


@pytest.mark.parametrize("speaker_index", [0, 1, 23])
def test_thirteen_utterances_of_one_speaker_say_all_39_phones(speaker_index: int) -> None:
    phones = {
        fold_stress(phone.label)
        for index in range(UTTERANCES_PER_CYCLE)
        for phone in synthesise_utterance(speaker_index, index, seed=3).phones
    }
    assert phones - SILENCES == ARPABET_39


def test_the_size_of_the_demo_says_all_39_phones_in_three_to_four_seconds() -> None:
    many = [utterance(speaker, index) for speaker in range(8) for index in range(10)]
    assert {fold_stress(phone.label) for one in many for phone in one.phones} - SILENCES == ARPABET_39
    seconds = [one.samples.size / 16_000 for one in many]
    assert 3.0 <= np.mean(seconds) <= 4.0
    assert min(seconds) > 2.0
    assert max(seconds) < 5.5


# F0 and voicing


def test_f0_truth_agrees_with_praat() -> None:
    parselmouth = pytest.importorskip("parselmouth", reason="needs the extra 'praat'")
    n_both = n_gross = n_truth = n_same_voicing = n_frames = 0
    for one in few():
        sound = parselmouth.Sound(one.samples.astype(np.float64), sampling_frequency=one.sample_rate_hz)
        pitch = sound.to_pitch_ac(time_step=0.01, pitch_floor=60.0, pitch_ceiling=500.0)
        praat = pitch.selected_array["frequency"]
        truth = one.f0_hz[np.round(pitch.xs() * one.sample_rate_hz).astype(int)]
        both = (praat > 0) & ~np.isnan(truth)
        n_both += np.count_nonzero(both)
        n_gross += np.count_nonzero(np.abs(praat[both] / truth[both] - 1) > 0.2)
        n_truth += np.count_nonzero(~np.isnan(truth))
        n_same_voicing += np.count_nonzero((praat > 0) == ~np.isnan(truth))
        n_frames += len(praat)
    assert n_gross < 0.03 * n_both
    assert n_both > 0.9 * n_truth
    assert n_same_voicing > 0.93 * n_frames


def test_f0_truth_is_the_period_of_the_waveform() -> None:
    """Without any pitch library: in a vowel's middle the waveform repeats after one true period, not after 0.7."""
    for one in few():
        for phone in (p for p in one.phones if stress_of(p.label) == 1):
            middle = (phone.start_sample + phone.end_sample) // 2
            period = round(16_000 / float(one.f0_hz[middle]))
            here = one.samples[middle - period : middle + period]
            assert _correlation(here, one.samples[middle : middle + 2 * period]) > 0.8
            shift = round(0.7 * period)
            assert _correlation(here, one.samples[middle - period + shift : middle + period + shift]) < 0.8


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1])


def test_no_voicing_in_silence_or_voiceless_phones_and_much_in_vowels() -> None:
    n_voiced = n_vowel = 0
    for one in few():
        for label, start, end in one.phones:
            voiced = ~np.isnan(one.f0_hz[start:end])
            if label in SILENCES or label in VOICELESS:
                assert not voiced.any(), label
            if stress_of(label) is not None:
                n_voiced += np.count_nonzero(voiced)
                n_vowel += end - start
    assert n_voiced > 0.85 * n_vowel


def test_voicing_starts_inside_the_phone_not_at_its_label() -> None:
    """Truth follows the source's amplitude: after a voiceless phone the vowel's first milliseconds are unvoiced."""
    onsets = [
        np.flatnonzero(~np.isnan(one.f0_hz[right.start_sample : right.end_sample]))[0]
        for one in few()
        for left, right in pairwise(one.phones)
        if left.label in VOICELESS and stress_of(right.label) is not None
    ]
    assert len(onsets) > 10
    assert min(onsets) > 0
    assert max(onsets) < 0.015 * 16_000


def test_silence_is_quiet_and_speech_is_not() -> None:
    for one in few():
        lead = one.samples[: one.phones[0].end_sample - 400]
        vowels = np.concatenate([one.samples[p.start_sample : p.end_sample] for p in one.phones if p.label[-1] == "1"])
        assert 0 < np.std(lead) < 0.01 * np.std(vowels)


def test_f0_stays_within_the_range_of_the_f0_labels() -> None:
    f0_hz = np.concatenate([utterance(speaker, 0).f0_hz for speaker in range(40)])
    assert np.nanmin(f0_hz) > 60
    assert np.nanmax(f0_hz) < 500


# Signal processing


def test_pulse_train_equals_the_sum_of_its_harmonics() -> None:
    f0_hz = np.linspace(110.0, 131.0, 4000)
    phase = 2 * np.pi * (np.cumsum(f0_hz) / 16_000 + 0.25)
    numbers = np.arange(1, 70)[:, None]
    amplitudes = np.clip(7_400 / f0_hz - numbers + 1, 0, 1)
    expected = (amplitudes * np.cos(numbers * phase)).sum(axis=0) / np.sqrt(7_400 / f0_hz / 2)
    np.testing.assert_allclose(pulse_train(f0_hz, 0.25), expected, atol=1e-7)


def test_pulse_train_is_finite_where_a_pulse_falls_on_a_sample() -> None:
    assert pulse_train(np.full(400, 100.0), 0.0)[159] == pytest.approx(np.sqrt(2 * 74), rel=1e-6)


def test_frames_add_up_to_the_source() -> None:
    source = np.random.default_rng(0).standard_normal(160 * 37)
    np.testing.assert_allclose(overlap_add(source_spectra(source), source.size), source, atol=1e-12)


def test_tilt_takes_its_decibels_off_at_3_khz() -> None:
    def tilted(tilt_db: float) -> Speaker:
        return Speaker(0, "F", 1.0, (1.0,) * 5, 1.0, 200.0, 3.0, tilt_db, -40.0, 1.0)

    def slope_db(tilt_db: float) -> float:
        response = np.abs(glottal_response(tilted(tilt_db)))
        return float(20 * np.log10(response[3_000 * 1024 // 16_000] / response[1]))  # bin 1: as near 0 Hz as there is

    assert slope_db(0) - slope_db(12) == pytest.approx(12, abs=0.1)


# Speakers and sessions


def test_forty_speakers_differ() -> None:
    speakers = [draw_speaker(0, index) for index in range(48)]
    assert [speaker.sex for speaker in speakers[:4]] == ["F", "M", "F", "M"]
    traits = np.array([(s.tract_scale, *s.formant_factors, np.log(s.f0_mean_hz), s.tilt_db / 16) for s in speakers])
    distances = np.linalg.norm(traits[:, None] - traits[None], axis=-1) + np.eye(len(traits))
    assert distances.min() > 0.02
    assert draw_speaker(1, 0) != speakers[0] == draw_speaker(0, 0)


def test_women_have_shorter_tracts_and_higher_f0() -> None:
    women, men = ([draw_speaker(0, index) for index in range(sex, 40, 2)] for sex in (0, 1))
    assert min(s.f0_mean_hz for s in women) > max(s.f0_mean_hz for s in men)
    assert np.mean([s.tract_scale for s in women]) > 1.1 * np.mean([s.tract_scale for s in men])


def test_the_two_chapters_of_a_speaker_are_two_sessions() -> None:
    assert draw_session(0, 0, 0) != draw_session(0, 0, 1)
    peaks = [float(np.abs(utterance(0, index).samples).max()) for index in range(4)]
    assert peaks[0] == pytest.approx(peaks[2])
    assert peaks[1] == pytest.approx(peaks[3])
    assert peaks[0] != pytest.approx(peaks[1])


# Learnability


def _log_bands(one: SyntheticUtterance) -> tuple[np.ndarray, list[str]]:
    """Log energies of 32 bands (linear below 1 kHz, logarithmic above) every 10 ms, and the phone of each frame."""
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(one.samples, 120), 400)[::GRID_SAMPLES]
    power = np.abs(np.fft.rfft(frames * np.hanning(400), 512)) ** 2
    edges = np.unique(np.r_[np.arange(1, 33, 3), np.geomspace(33, 257, 23).astype(int)])
    bands = np.log(np.add.reduceat(power, edges[:-1], axis=1) + 1e-7)
    labels = [fold_stress(p.label) for p in one.phones for _ in range((p.end_sample - p.start_sample) // GRID_SAMPLES)]
    assert len(bands) == len(labels)
    return bands, labels


def test_phones_and_speakers_are_learnable_by_a_linear_probe() -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def collect(indices: range) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        parts = [(speaker, *_log_bands(utterance(speaker, index))) for speaker in range(4) for index in indices]
        speakers = np.concatenate([np.full(len(labels), speaker) for speaker, _, labels in parts])
        phones = np.concatenate([labels for _, _, labels in parts])
        spoken = ~np.isin(phones, list(SILENCES))
        return np.concatenate([bands for _, bands, _ in parts])[spoken], phones[spoken], speakers[spoken]

    X, phones, speakers = collect(range(7))
    X_new, new_phones, new_speakers = collect(range(7, 10))

    def score(y: np.ndarray, y_new: np.ndarray) -> float:
        probe = make_pipeline(StandardScaler(), LogisticRegression(tol=3e-3, max_iter=500))
        return float(probe.fit(X, y).score(X_new, y_new))

    assert score(phones, new_phones) > 0.65  # the most frequent phone has less than 0.1
    assert score(speakers, new_speakers) > 0.5  # chance is 0.25
    shuffled = np.random.default_rng(0).permutation(phones)
    assert score(shuffled, new_phones) < 0.15


# The corpus on disk


def test_layout_is_librispeechs(corpus: tuple[Path, CorpusPaths]) -> None:
    out, paths = corpus
    scan = scan_librispeech(paths.librispeech_root, paths.alignments_root, "train-clean-100")
    assert scan.irregular == []
    assert [one.id for one in scan.utterances] == [
        "9001-900000-0000", "9001-900000-0001", "9001-900001-0000",
        "9002-900002-0000", "9002-900002-0001", "9002-900003-0000",
    ]  # fmt: skip
    assert all(one.alignment_path is not None for one in scan.utterances)
    speakers = [
        line.split("|") for line in (out / "LibriSpeech/SPEAKERS.TXT").read_text().splitlines() if line[0] != ";"
    ]
    assert [(row[0].strip(), row[1].strip()) for row in speakers] == [("9001", "F"), ("9002", "M")]
    assert all("synthetic" in row[4] for row in speakers)
    assert not list(out.rglob("*.partial"))
    assert sorted(entry.name for entry in out.iterdir()) == ["LibriSpeech", "alignments", "corpus.json", "truth"]


def test_files_hold_the_utterance(corpus: tuple[Path, CorpusPaths]) -> None:
    out, paths = corpus
    for speaker_index, utterance_index in ((0, 0), (1, 2)):
        one = synthesise_utterance(speaker_index, utterance_index, seed=5)
        name = utterance_id(speaker_index, utterance_index)
        speaker, chapter, _ = name.split("-")
        folder = paths.librispeech_root / "train-clean-100" / speaker / chapter
        info = soundfile.info(folder / f"{name}.flac")
        assert (info.format, info.subtype, info.samplerate, info.channels) == ("FLAC", "PCM_16", 16_000, 1)
        samples, _ = soundfile.read(folder / f"{name}.flac", dtype="float32")
        np.testing.assert_allclose(samples, one.samples, atol=2**-15)
        assert f"{name} {one.transcript}" in (folder / f"{speaker}-{chapter}.trans.txt").read_text().splitlines()
        with np.load(out / "truth" / f"{name}.npz") as truth:
            assert truth["f0_hz"].dtype == np.float32
            np.testing.assert_array_equal(truth["f0_hz"], one.f0_hz)


def test_textgrid_is_read_by_the_package_and_exact(corpus: tuple[Path, CorpusPaths]) -> None:
    _, paths = corpus
    path = paths.alignments_root / "train-clean-100/9002/900003/9002-900003-0000.TextGrid"
    one = synthesise_utterance(1, 1, seed=5)
    grid = textgrid.TextGrid.fromFile(str(path))
    assert [tier.name for tier in grid.tiers] == ["words", "phones"]
    for tier, intervals in zip(grid.tiers, (one.words, one.phones), strict=True):
        assert [(i.mark, i.minTime, i.maxTime) for i in tier.intervals] == [
            (label, start / 16_000, end / 16_000) for label, start, end in intervals
        ]
    assert grid.maxTime == one.samples.size / 16_000


def test_files_do_not_depend_on_how_many_there_are(corpus: tuple[Path, CorpusPaths], tmp_path: Path) -> None:
    make_corpus(tmp_path / "small", n_speakers=1, n_utterances=2, seed=5)
    big = tree(corpus[0])
    small = tree(tmp_path / "small")
    shared = [name for name in small if name.endswith((".flac", ".TextGrid"))]
    assert len(shared) == 4
    assert all(small[name] == big[name] for name in shared)
    assert not any(name.startswith("truth") for name in small)


def test_a_finished_corpus_is_left_alone(corpus: tuple[Path, CorpusPaths], monkeypatch: pytest.MonkeyPatch) -> None:
    out, paths = corpus

    def fail(*_: object) -> None:
        raise AssertionError("nothing should be synthesised again")

    monkeypatch.setattr(synthetic, "synthesise_utterance", fail)
    assert make_corpus(out, n_speakers=2, n_utterances=3, seed=5, write_truth=True) == paths


def test_an_interrupted_run_is_taken_up_and_ends_in_the_same_bytes(
    corpus: tuple[Path, CorpusPaths], tmp_path: Path
) -> None:
    def interrupt(n_done: int, n_all: int) -> None:
        assert n_all == 6
        if n_done == 2:
            raise KeyboardInterrupt

    out = tmp_path / "corpus"
    with pytest.raises(KeyboardInterrupt):
        make_corpus(out, 2, 3, seed=5, write_truth=True, progress=interrupt)
    assert not (out / "corpus.json").exists()
    with pytest.raises(CorpusError, match=r"seed 5 \(now 6\)"):
        make_corpus(out, 2, 3, seed=6, write_truth=True)
    calls: list[tuple[int, int]] = []
    make_corpus(out, 2, 3, seed=5, write_truth=True, progress=lambda *call: calls.append(call))
    assert calls == [(n, 6) for n in range(1, 7)]
    # npz archives carry no time of their own, so even they are equal
    assert tree(out) == tree(corpus[0])


def test_other_arguments_are_refused_by_name(corpus: tuple[Path, CorpusPaths]) -> None:
    with pytest.raises(CorpusError, match=r"n_speakers 2 \(now 4\), write_truth True \(now False\)"):
        make_corpus(corpus[0], n_speakers=4, n_utterances=3, seed=5)


def test_a_folder_with_other_files_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(CorpusError, match=r"thesis\.tex.*choose another place"):
        make_corpus(tmp_path, 1, 1)
    assert tree(tmp_path) == {"thesis.tex": b"mine"}


def test_a_foreign_corpus_json_is_refused(tmp_path: Path) -> None:
    for content in ("not json", "[]", json.dumps({"arguments": [1]}), json.dumps({"name": "other"})):
        (tmp_path / "corpus.json").write_text(content)
        with pytest.raises(CorpusError, match=r"corpus\.json"):
            make_corpus(tmp_path, 1, 1)


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CorpusError, match="expected a folder"):
        make_corpus(tmp_path / "file", 1, 1)
    with pytest.raises(CorpusError, match="cannot write the corpus"):
        make_corpus(tmp_path / "file" / "below", 1, 1)


@pytest.mark.parametrize(
    ("arguments", "flag"),
    [
        ({"n_speakers": 0}, "--speakers"),
        ({"n_speakers": 50_001}, "--speakers"),
        ({"n_utterances": 0}, "--utterances"),
        ({"n_utterances": 20_001}, "--utterances"),
        ({"seed": -1}, "--seed"),
        ({"split": "../elsewhere"}, "--split"),
        ({"split": ""}, "--split"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict, flag: str, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=flag):
        make_corpus(tmp_path / "corpus", **arguments)
    assert not (tmp_path / "corpus").exists()
