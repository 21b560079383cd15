"""Bad input: one clear line and exit code 1, or a skipped utterance, or a record that says why there is no answer."""

import json
import re
import shutil

import h5py
import numpy as np
import pytest
import soundfile

from tests.support.command_line import corpus_options, run, run_process, run_well, tree
from tests.support.corpus import RATE_HZ, TinyCorpus, make_tiny_corpus, textgrid_text, write_utterance
from tests.support.stores import edited


@pytest.fixture
def corpus(tmp_path):
    """A corpus to spoil: 2 speakers x 3 utterances."""
    return make_tiny_corpus(tmp_path / "corpus", n_speakers=2, n_utterances=3)


@pytest.fixture
def output(tmp_path):
    """Where a command that fails must leave nothing."""
    return tmp_path / "made" / "result"


def nothing_at(output):
    return not output.parent.exists() or tree(output.parent) == {}


def build(corpus, output, *options, codec="melrvq"):
    return run("build-store", *corpus_options(corpus), "--codec", codec, "--output", output, *options)


@pytest.mark.parametrize("option", ["--batch-seconds", "--eval-frac", "--tol"])
def test_nan_is_no_number_of_a_range(corpus, output, option):
    command = ["probe", output] if option == "--tol" else ["build-store", *corpus_options(corpus)]
    wrong = run(*command, "--output", output, option, "nan").usage_error
    assert wrong == f"Invalid value for '{option}': nan is not a number"
    assert nothing_at(output)


# The corpus as a whole


def test_missing_roots(corpus, output, tmp_path):
    absent = tmp_path / "absent"
    for changed, option in (
        (TinyCorpus(absent, corpus.alignments_root, 0), "--librispeech-root"),
        (TinyCorpus(corpus.librispeech_root, absent, 0), "--alignments-root"),
    ):
        error = build(changed, output).error
        assert error.startswith(f"{absent}: expected")
        assert option in error
    assert nothing_at(output)


def test_wrong_split_names_those_there(corpus, output):
    error = build(corpus, output, "--split", "dev-clean").error
    assert "expected the split dev-clean, found train-clean-100; check --split" in error
    assert nothing_at(output)


def test_no_flac(corpus, output):
    for path in corpus.librispeech_root.rglob("*.flac"):
        path.rename(path.with_suffix(".wav"))
    assert "*.flac below it, found no FLAC file" in build(corpus, output).error
    assert nothing_at(output)


def test_no_textgrid_at_all(corpus, output):
    shutil.rmtree(corpus.alignments_root / corpus.split)
    assert "found no TextGrid for any of 6 utterances; expected for example" in build(corpus, output).error
    assert nothing_at(output)


def test_duplicate_utterance_ids(corpus, output):
    path = next(corpus.librispeech_root.rglob("101-7-0000.flac"))
    (path.parents[1] / "8").mkdir()
    shutil.copy(path, path.parents[1] / "8" / path.name)
    error = build(corpus, output).error
    assert error.startswith("utterance id 101-7-0000 stands twice: ")
    assert error.endswith("remove one")
    assert nothing_at(output)


def test_no_utterance_can_be_used(corpus, output, melrvq_weights):
    for path in corpus.librispeech_root.rglob("*.flac"):
        path.write_bytes(b"")
    ended = build(corpus, output, "--weights", f"melrvq={melrvq_weights}")
    assert ended.error.startswith("none of 6 utterances can be used; the first: 101-7-0000.flac: ")
    assert not output.exists()


# Options and weights


@pytest.mark.parametrize(
    ("options", "codec", "message"),
    [
        (
            ["--weights", "melrvq=absent.npz"],
            "melrvq",
            "absent.npz: expected melrvq's checkpoint, found no file; check --weights melrvq=absent.npz",
        ),
        (
            ["--encodec-ckpt", "absent.th"],
            "encodec",
            "absent.th: expected encodec's checkpoint, found no file; check --encodec-ckpt",
        ),
        (["--st-ckpt", "absent.pt"], "speechtokenizer", "checkpoint, found no file; check --st-ckpt"),
        (["--st-ckpt", __file__], "speechtokenizer", "speechtokenizer needs its config.json as well; add --st-config"),
        (
            ["--st-ckpt", __file__, "--st-config", "absent.json"],
            "speechtokenizer",
            "absent.json: expected speechtokenizer's configuration, found no file; check --st-config",
        ),
        ([], "speechtokenizer", "--st-ckpt SpeechTokenizer.pt --st-config config.json, or ask for --weights untrained"),
        (
            ["--st-config", "config.json"],
            "speechtokenizer",
            "config.json: a configuration without weights for speechtokenizer; add --st-ckpt FILE",
        ),
        (["--device", "cuda:99"], "melrvq", "--device cuda:99: torch"),
    ],
)
def test_wrong_options(corpus, output, options, codec, message):
    assert message in build(corpus, output, *options, codec=codec).error
    assert nothing_at(output)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "speechtokenizer: download SpeechTokenizer.pt and config.json from"),
        (["--st-ckpt", "absent.pt", "--st-config", "config.json"], "absent.pt: expected speechtokenizer's checkpoint"),
    ],
)
def test_missing_weights_are_told_before_another_codec_downloads(corpus, output, monkeypatch, options, message):
    downloads = []
    monkeypatch.setattr("featstore.codecs.weights.fetch", lambda url, *rest: downloads.append(url))
    both = ["--codec", "encodec", "--codec", "speechtokenizer"]
    ended = run("build-store", *corpus_options(corpus), *both, "--output", output, *options)
    assert message in ended.error
    assert "--st-ckpt" in ended.error
    assert downloads == []
    assert nothing_at(output)


@pytest.mark.parametrize(
    ("options", "codec", "message"),
    [
        ([], "dac", "unknown codec 'dac': expected one of encodec, speechtokenizer, melrvq"),
        (["--weights", "best"], "melrvq", "--weights best: expected pretrained, untrained or NAME="),
        (["--weights", "dac=untrained"], "melrvq", "unknown codec 'dac'; known are encodec, speechtokenizer, melrvq"),
        (["--weights", "encodec=untrained"], "melrvq", "not among the codecs of this build (melrvq); add --codec enc"),
        (["--device", "tpu"], "melrvq", "'--device': 'tpu': expected auto, cpu, cuda, cuda:N or mps"),
        (["--device", "cuda:"], "melrvq", "'--device': 'cuda:': expected auto, cpu, cuda, cuda:N or mps"),
    ],
)
def test_names_that_are_not_known_are_wrong_usage(corpus, output, options, codec, message):
    for dry_run in ([], ["--dry-run"]):
        ended = build(corpus, output, *options, *dry_run, codec=codec)
        assert message in ended.usage_error
        assert ended.stderr.startswith("Usage: main build-store [OPTIONS]")
    assert nothing_at(output)


def test_checkpoints_that_do_not_match(corpus, output, tmp_path):
    import torch

    text = tmp_path / "notes.txt"
    text.write_text("hello")
    other = tmp_path / "other.npz"
    np.savez(other, codebooks=np.zeros((2, 3), np.float32))
    network = tmp_path / "other.th"
    torch.save({"encoder.weight": torch.zeros(3)}, network)
    for codec, path, message in (
        ("melrvq", text, "expected a melrvq checkpoint"),
        ("melrvq", other, "expected a melrvq checkpoint"),
        ("encodec", text, "is no PyTorch checkpoint but a file that begins with b'hello'"),
        ("encodec", network, "weights of another model"),
    ):
        error = build(corpus, output, "--weights", f"{codec}={path}", codec=codec).error
        assert error.startswith(f"{path}: ")
        assert message in error
    assert nothing_at(output)


def test_an_output_that_is_a_folder_or_lies_below_a_file(corpus, output, melrvq_weights, tmp_path):
    weights = ("--weights", f"melrvq={melrvq_weights}")
    assert "expected a file name for --output, found a folder" in build(corpus, tmp_path, *weights).error
    (tmp_path / "file").write_text("mine")
    assert "expected a folder for s.h5, found a file" in build(corpus, tmp_path / "file" / "s.h5", *weights).error
    assert (tmp_path / "file").read_text() == "mine"


def test_a_store_of_other_options_is_not_overwritten(melrvq_store, tiny_corpus):
    before = melrvq_store.stat()
    error = build(tiny_corpus, melrvq_store, "--eval-frac", "0.25", "--f0", "pyin").error
    assert "f0 'yin' there, 'pyin' now" in error
    assert (melrvq_store.stat().st_ino, melrvq_store.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


# Stores that are none


def plain_hdf5(path, store):
    with h5py.File(path, "w") as file:
        file["x"] = [1, 2]


def damaged(change):
    def make(path, store):
        shutil.copy(store, path)
        with edited(path) as file:
            change(file)

    return make


def remove_attribute(file):
    del file["codecs/melrvq"].attrs["layout"]


def remove_labels(file):
    del file["codecs/melrvq/labels/f0"]


def replace_codec(file):
    file["codecs/other"] = [1, 2]


def spell_layers(file):
    file["codecs/melrvq"].attrs["n_layers"] = np.bytes_(b"eight")


def next_major(file):
    file.attrs["format_version"] = np.bytes_(b"2.0")


def other_format(file):
    file.attrs["format"] = np.bytes_(b"anndata")


def unfinished(file):
    file.attrs["complete"] = False


NO_STORES = {
    "plain HDF5": (plain_hdf5, "not an rvqprobe store: the file names no format"),
    "of another format": (damaged(other_format), "not an rvqprobe store: the file names the format 'anndata'"),
    "text": (lambda path, store: path.write_text("hello"), "expected a store (an HDF5 file)"),
    "empty file": (lambda path, store: path.write_bytes(b""), "expected a store (an HDF5 file)"),
    "folder": (lambda path, store: path.mkdir(), "expected a store, found a folder"),
    "missing": (lambda path, store: None, "expected a store, found no file; build one with build-store"),
    "truncated": (lambda path, store: path.write_bytes(store.read_bytes()[:200_000]), "truncated: expected"),
    "unfinished": (damaged(unfinished), "the store was never finished; build it again"),
    "of a later format": (damaged(next_major), "version 2.0 is not known to this build, which reads 1.x"),
    "without layout": (damaged(remove_attribute), "/codecs/melrvq/@layout: expected an attribute (string), found none"),
    "without f0": (damaged(remove_labels), "/codecs/melrvq/labels/f0: expected a dataset, found none"),
    "with a dataset for a codec": (damaged(replace_codec), "/codecs/other: expected a group, found a dataset"),
    "with layers in words": (damaged(spell_layers), "/codecs/melrvq/@n_layers: expected int, found 'eight'"),
}


@pytest.mark.parametrize("kind", NO_STORES)
def test_what_is_no_store(melrvq_store, output, tmp_path, kind):
    make, message = NO_STORES[kind]
    path = tmp_path / "a.h5"
    make(path, melrvq_store)
    for arguments in (
        ["inspect", path],
        ["verify", path, "--full"],
        ["probe", path, "--output", output],
        ["probe", melrvq_store, path, "--output", output],
        ["merge-stores", melrvq_store, path, "--output", output],
    ):
        error = run(*arguments).error
        assert error.startswith(f"{path}: ")
        assert message in error
        assert nothing_at(output)


def test_verify_full_finds_a_changed_code(melrvq_store, tmp_path):
    path = tmp_path / "a.h5"
    shutil.copy(melrvq_store, path)
    with edited(path) as file:
        codes = file["codecs/melrvq/codes"]
        codes[3, 17] = (codes[3, 17] + 1) % 1024
    run_well("verify", path)
    assert "layer 4 differs from codebook[code]" in run("verify", path, "--full").error


def test_probing_what_is_not_in_the_store(melrvq_store, output):
    ended = run("probe", melrvq_store, "--output", output, "--codec", "dac")
    assert "no codec 'dac' in the stores given; they have melrvq" in ended.usage_error
    ended = run("probe", melrvq_store, "--output", output, "--layer", 9)
    assert "layers count from 1 to 8, asked was 9" in ended.usage_error
    assert "give one store of each codec" in run("probe", melrvq_store, melrvq_store, "--output", output).error
    assert nothing_at(output)


def test_results_in_or_below_a_file(melrvq_store, tmp_path):
    (tmp_path / "file").write_text("mine")
    error = run("probe", melrvq_store, "--output", tmp_path / "file", "--layer", 1).error
    assert error == f"{tmp_path / 'file'}: expected a results folder, found a file; choose another --output"
    error = run("probe", melrvq_store, "--output", tmp_path / "file" / "below", "--layer", 1).error
    assert error.startswith(f"{tmp_path / 'file'}")
    assert "Not a directory" in error
    assert (tmp_path / "file").read_text() == "mine"


# Results folders


def test_reports_of_what_is_no_results_folder(tmp_path):
    for folder in (tmp_path, tmp_path / "absent"):
        assert run("report", folder).error.startswith(f"{folder / 'records.jsonl'}: no such file; expected a results")
    (tmp_path / "records.jsonl").write_text("")
    assert "found no record; run probe first" in run("report", tmp_path).error
    (tmp_path / "records.jsonl").write_text("{torn\n{}\n")
    assert "records.jsonl line 1: not JSON" in run("report", tmp_path).error
    (tmp_path / "records.jsonl").write_text('{"record_version": "2.0"}\n')
    assert "version 2.0 is not known to this build" in run("report", tmp_path).error
    assert [path.name for path in tmp_path.iterdir()] == ["records.jsonl"]


def test_a_corpus_folder_that_holds_something_else(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    before = tree(tmp_path)
    assert str(tmp_path) in run("make-corpus", tmp_path, "--speakers", 1, "--utterances", 1).error
    assert tree(tmp_path) == before


def test_one_line_in_a_process_of_its_own(tmp_path):
    ended = run_process("report", tmp_path / "absent")
    assert ended.stderr.count("\n") == 1
    assert ended.error


# One bad utterance among good ones


def flac(corpus, name):
    return next(corpus.librispeech_root.rglob(f"{name}.flac"))


def grid(corpus, name):
    return next(corpus.alignments_root.rglob(f"{name}.TextGrid"))


def tone(n_samples, rate_hz, n_channels=1):
    wave = 0.3 * np.sin(2 * np.pi * 150 * np.arange(n_samples) / rate_hz)
    return np.repeat(wave[:, None], n_channels, axis=1)


@pytest.fixture(scope="module")
def mixed(melrvq_weights, tmp_path_factory):
    """A store of a corpus in which most of one speaker's utterances are spoilt, and how building it ended."""
    folder = tmp_path_factory.mktemp("mixed")
    corpus = make_tiny_corpus(folder / "corpus", n_speakers=2, n_utterances=12)
    at = [f"101-7-{index:04d}" for index in range(12)]
    truncated = flac(corpus, at[0])
    truncated.write_bytes(truncated.read_bytes()[: truncated.stat().st_size // 2])
    flac(corpus, at[1]).write_bytes(b"")
    flac(corpus, at[2]).write_text("this is no audio")
    grid(corpus, at[3]).unlink()
    grid(corpus, at[4]).write_bytes(textgrid_text([(0.0, 1.0, "é")]).encode("latin-1"))
    grid(corpus, at[5]).write_text(textgrid_text([(0.0, 60.0, "AA1")]))
    soundfile.write(flac(corpus, at[6]), np.zeros(2 * RATE_HZ), RATE_HZ)
    soundfile.write(flac(corpus, at[7]), tone(160, RATE_HZ), RATE_HZ)
    soundfile.write(flac(corpus, at[8]), tone(3 * RATE_HZ, RATE_HZ, n_channels=2), RATE_HZ)
    soundfile.write(flac(corpus, at[9]), tone(3 * 44_100, 44_100), 44_100)
    for name in (at[7], at[8], at[9]):
        grid(corpus, name).write_text(textgrid_text([(0.0, 0.01 if name == at[7] else 3.0, "AA1")]))
    grid(corpus, at[10]).write_text(textgrid_text([(0.0, 1.0, "AA1")], tier="words"))
    output = folder / "store.h5"
    options = ["--codec", "melrvq", "--weights", f"melrvq={melrvq_weights}", "--eval-frac", "0.25"]
    ended = run_well("build-store", *corpus_options(corpus), "--output", output, *options)
    return output, ended


SKIPPED = {
    "101-7-0000": r"101-7-0000\.flac: .*(do not decode|truncated)",
    "101-7-0001": r"101-7-0001\.flac: expected an audio file, found 0 bytes that do not decode",
    "101-7-0002": r"101-7-0002\.flac: expected an audio file, found 16 bytes that do not decode",
    "101-7-0003": r"expected 101-7-0003\.TextGrid among the alignments, found none",
    "101-7-0004": r"101-7-0004\.TextGrid: the text is neither UTF-8 nor UTF-16 .*save it as UTF-8",
    "101-7-0005": r"the alignment ends at 60\.000 s but the audio at \d\.\d+ s",
    "101-7-0006": r"101-7-0006\.flac: every sample is zero",
    "101-7-0007": r"101-7-0007\.flac: expected at least 0\.1 s of audio, found 0\.010 s",
    "101-7-0010": r"101-7-0010\.TextGrid: expected one interval tier 'phones', found the tiers 'words'",
}


def test_bad_utterances_are_skipped_counted_and_listed(mixed):
    path, ended = mixed
    found = json.loads(run_well("inspect", path, "--json").stdout)
    assert (found["n_utterances"], found["n_skipped"], found["n_speakers"]) == (15, len(SKIPPED), 2)
    assert set(found["skipped"]) == set(SKIPPED)
    for name, reason in found["skipped"].items():
        assert re.search(SKIPPED[name], reason), reason
        assert "\n" not in reason
        assert f"skipped {name}: {reason}" in ended.stderr
    assert f"{len(SKIPPED)} utterances skipped" in ended.stderr
    assert f"skipped         {len(SKIPPED)} utterances:" in ended.stdout
    run_well("verify", path, "--full")


def test_the_store_itself_lists_what_was_skipped(mixed):
    with h5py.File(mixed[0], "r") as file:
        assert [name.decode() for name in file["skipped/id"][()]] == sorted(SKIPPED)
        assert all(len(reason) > 20 for reason in file["skipped/reason"][()])


def test_stereo_and_other_rates_are_brought_to_the_codec(mixed):
    with h5py.File(mixed[0], "r") as file:
        names = [name.decode() for name in file["utterances/id"][()]]
        offsets = file["codecs/melrvq/offsets"][()]
        for name, rate_hz in (("101-7-0008", RATE_HZ), ("101-7-0009", 44_100)):
            place = names.index(name)
            assert file["utterances/sample_rate_hz"][place] == rate_hz
            assert file["utterances/n_samples"][place] == 3 * rate_hz
            assert offsets[place + 1] - offsets[place] == 150
            f0_hz = file["codecs/melrvq/labels/f0"][offsets[place] : offsets[place + 1]]
            assert np.nanmedian(f0_hz) == pytest.approx(150, rel=0.02)


def test_skipped_utterances_are_shown_by_inspect(mixed):
    text = run_well("inspect", mixed[0]).stdout
    assert all(name in text for name in SKIPPED)


# Questions that cannot be asked


def outcomes(records):
    return {record["task"]: (record["outcome"], record["reason"]) for record in records}


def probes_of(corpus, weights, folder):
    options = ["--codec", "melrvq", "--weights", f"melrvq={weights}", "--eval-frac", "0.25", "--embeddings", "factored"]
    run_well("build-store", *corpus_options(corpus), "--output", folder / "s.h5", *options)
    ended = run_well("probe", folder / "s.h5", "--output", folder / "r", "--layer", 1, "--json")
    return outcomes(json.loads(ended.stdout))


def test_one_speaker_alone(melrvq_weights, tmp_path):
    corpus = make_tiny_corpus(tmp_path / "corpus", n_speakers=1, n_utterances=4)
    found = probes_of(corpus, melrvq_weights, tmp_path)
    assert found["speaker"] == (
        "not_applicable",
        "speaker needs at least two classes in training, found 1 (101)",
    )
    assert found["phoneme"] == found["pitch"] == ("converged", None)
    assert (tmp_path / "r" / "figures" / "speaker_probing.png").is_file()


def test_no_voiced_frame(melrvq_weights, tmp_path):
    rng = np.random.default_rng(0)
    for speaker in (101, 102):
        for index in range(4):
            name = f"{speaker}-7-{index:04d}"
            audio = write_utterance(tmp_path / "corpus", name, rng)
            soundfile.write(audio, 0.1 * rng.standard_normal(2 * RATE_HZ), RATE_HZ)
            corpus = TinyCorpus(tmp_path / "corpus" / "LibriSpeech", tmp_path / "corpus" / "alignments", 8)
            intervals = [(0.0, 0.7, "S"), (0.7, 1.3, "F"), (1.3, 2.0, "sil")]
            grid(corpus, name).write_text(textgrid_text(intervals))
    found = probes_of(corpus, melrvq_weights, tmp_path)
    assert found["pitch"] == ("not_applicable", "pitch needs voiced frames, found none in training")
    assert found["phoneme"] == found["speaker"] == ("converged", None)
