"""Damaged or unusual stores through ``probe``: one clear line, or a record with its reason; never a wrong number."""

import json
import shutil

import h5py
import numpy as np
import pytest

from tests.support.command_line import run, run_well, tree
from tests.support.stores import PHONEMES, StoreRecipe, edited, write_store

RECIPE = StoreRecipe(codecs=("alpha",))
CODEC = "codecs/alpha"


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """A sound store in either layout. Tests must not change them."""
    folder = tmp_path_factory.mktemp("sound")
    return {layout: write_store(folder / f"{layout}.h5", RECIPE, layout=layout) for layout in ("factored", "dense")}


@pytest.fixture
def spoilt(stores, tmp_path):
    """Return a function that copies the sound store of a layout and changes the copy."""

    def spoil(change, layout="factored"):
        path = tmp_path / "a.h5"
        shutil.copy(stores[layout], path)
        with edited(path) as file:
            change(file)
        return path

    return spoil


def probe(path, output, *options):
    return run("probe", path, "--output", output, "--layer", 2, *options)


def records(path, output, *options):
    found = json.loads(run_well("probe", path, "--output", output, "--layer", 2, "--json", *options).stdout)
    return {record["task"]: record for record in found}


def put(path, place, value):
    def change(file):
        file[path][place] = value

    return change


def replace(path, values):
    def change(file):
        changed = values(file[path][()])
        del file[path]
        file[path] = changed

    return change


WAYS = {
    "codeword": ("--backend", "exact"),
    "cumulative": ("--representation", "cumulative"),
    "concat": ("--representation", "concat"),
    "dense rows": ("--backend", "sklearn", "--rows", "dense"),
}
VALUES = {
    "code": (put(f"{CODEC}/codes", (1, 3), 16), f":/{CODEC}/codes: expected values from 0 to 15, found 0 to 16"),
    "code of an evaluation frame": (
        put(f"{CODEC}/codes", (1, -1), 65535),
        f":/{CODEC}/codes: expected values from 0 to 15, found 0 to 65535",
    ),
    "phoneme": (
        put(f"{CODEC}/labels/phoneme", 3, 99),
        f":/{CODEC}/labels/phoneme: expected values from 0 to {len(PHONEMES) - 1}, found 0 to 99",
    ),
    "speaker": (
        put(f"{CODEC}/labels/speaker", 3, -1),
        f":/{CODEC}/labels/speaker: expected values from 0 to 2, found -1 to 2",
    ),
    "speakers that are not their utterances'": (
        replace(f"{CODEC}/labels/speaker", lambda labels: np.roll(labels, 1)),
        f":/{CODEC}/labels/speaker: expected 0 in frame 0, the speaker of its utterance in /utterances/speaker, found ",
    ),
    "infinite pitch": (put(f"{CODEC}/labels/f0", 3, np.inf), f":/{CODEC}/labels/f0: expected positive Hz or NaN"),
    "negative pitch": (put(f"{CODEC}/labels/f0", 3, -5), f":/{CODEC}/labels/f0: expected positive Hz or NaN"),
    "NaN codeword": (
        put(f"{CODEC}/codebooks", (0, 3, 2), np.nan),
        f": /{CODEC}/codebooks: expected finite values, found nan in layer 1, code 3",
    ),
    "infinite codeword": (
        put(f"{CODEC}/codebooks", (1, 15, 0), -np.inf),
        f": /{CODEC}/codebooks: expected finite values, found -inf in layer 2, code 15",
    ),
    "split": (
        put("utterances/split", 2, 7),
        ": /utterances/split: expected values from 0 to 1, found 0 to 7",
    ),
    "negative split": (
        put("utterances/split", 2, -1),
        ": /utterances/split: expected values from 0 to 1, found -1 to 1",
    ),
    "speaker of an utterance": (
        put("utterances/speaker", 0, 50),
        ": /utterances/speaker: expected values from 0 to 2, found 0 to 50",
    ),
    "offsets that fall": (put(f"{CODEC}/offsets", 3, 1), f": /{CODEC}/offsets: expected to rise from 0 to "),
    "offsets that begin late": (put(f"{CODEC}/offsets", 0, 1), f": /{CODEC}/offsets: expected to rise from 0 to "),
    "offsets that end early": (put(f"{CODEC}/offsets", -1, 5), f": /{CODEC}/offsets: expected to rise from 0 to "),
}


@pytest.mark.parametrize("way", ["codeword", "concat"])
@pytest.mark.parametrize("kind", VALUES)
def test_values_out_of_range(spoilt, tmp_path, kind, way):
    change, message = VALUES[kind]
    path = spoilt(change)
    error = probe(path, tmp_path / "out", *WAYS[way]).error
    assert error.startswith(f"{path}{message}")
    assert error.endswith(("rebuild it", "rebuild the store"))
    assert "probes" not in tree(tmp_path / "out")


FORMS = {
    "codes as floats": (
        replace(f"{CODEC}/codes", lambda codes: codes.astype("f4")),
        f"/{CODEC}/codes: expected dtype uint16, found float32",
    ),
    "signed codes": (
        replace(f"{CODEC}/codes", lambda codes: codes.astype("i2")),
        f"/{CODEC}/codes: expected dtype uint16, found int16",
    ),
    "codes of too few layers": (
        replace(f"{CODEC}/codes", lambda codes: codes[:2]),
        f"/{CODEC}/codes: expected n_layers = 3, found shape (2, ",
    ),
    "codes of one layer": (
        replace(f"{CODEC}/codes", lambda codes: codes[0]),
        f"/{CODEC}/codes: expected shape (n_layers, n_frames), found (",
    ),
    "codes that end early": (
        replace(f"{CODEC}/codes", lambda codes: codes[:, :-5]),
        f"/{CODEC}/labels/phoneme: expected n_frames = ",
    ),
    "no codes": (lambda file: file[CODEC].__delitem__("codes"), f"/{CODEC}/codes: expected a dataset, found none"),
}


@pytest.mark.parametrize("kind", FORMS)
def test_datasets_of_another_form(spoilt, tmp_path, kind):
    change, message = FORMS[kind]
    path = spoilt(change)
    error = probe(path, tmp_path / "out").error
    assert error.startswith(f"{path}: {message}")
    assert error.endswith("rebuild the store")
    assert not (tmp_path / "out").exists()


def test_advice_is_given_however_much_is_wrong(spoilt, tmp_path):
    def spoil(file):
        for name in ("codes", "codebooks", "offsets", "labels/phoneme", "labels/speaker", "labels/f0"):
            del file[f"{CODEC}/{name}"]

    error = probe(spoilt(spoil, "dense"), tmp_path / "out").error
    assert " more); embeddings without codes (alpha) cannot be probed" in error


@pytest.mark.parametrize("backend", ["exact", "sklearn"])
@pytest.mark.parametrize("lost", [["codes"], ["codes", "codebooks"]])
def test_embeddings_alone_are_refused_with_what_to_do(spoilt, tmp_path, backend, lost):
    path = spoilt(lambda file: [file[CODEC].__delitem__(name) for name in lost], "dense")
    error = probe(path, tmp_path / "out", "--backend", backend).error
    assert error.startswith(f"{path}: /{CODEC}/codes: expected a dataset, found none")
    assert "embeddings without codes (alpha) cannot be probed by any backend: fit them with scikit-learn" in error
    assert "schemas/store-1.0.md" in error


def test_embeddings_of_another_program_are_no_store(tmp_path):
    path = tmp_path / "embeddings.h5"
    with h5py.File(path, "w") as file:
        file["layer_1"] = np.zeros((10, 4), np.float32)
    error = probe(path, tmp_path / "out").error
    assert error.startswith(f"{path}: not an rvqprobe store: the file names no format")
    assert error.endswith("build one with build-store")


@pytest.mark.parametrize("value", [np.nan, 7.0])
def test_dense_rows_that_are_no_codewords(spoilt, stores, tmp_path, value):
    path = spoilt(put(f"{CODEC}/embeddings", (1, 5, 2), value), "dense")
    error = probe(path, tmp_path / "dense", "--backend", "sklearn", "--rows", "dense").error
    assert error.startswith(
        f"{path}:/{CODEC}/embeddings: expected codebook[code] of layer 2, found another row in frame 5"
    )
    assert "use --rows collapsed" in error
    # What reads codes alone is right all the same.
    sound, found = (records(store, tmp_path / store.stem) for store in (stores["dense"], path))
    assert {task: record["objective"] for task, record in found.items()} == {
        task: record["objective"] for task, record in sound.items()
    }


@pytest.mark.parametrize("way", WAYS)
def test_no_evaluation_utterance(spoilt, tmp_path, way):
    found = records(spoilt(put("utterances/split", slice(None), 0)), tmp_path / "out", *WAYS[way])
    assert {record["outcome"] for record in found.values()} == {"not_applicable"}
    for task in ("phoneme", "speaker"):
        assert found[task]["reason"].startswith(f"{task}: the store has no evaluation frame; build it with")
        assert found[task]["accuracy"] is None
    assert found["pitch"]["reason"] == "pitch needs voiced frames, found none in evaluation"


@pytest.mark.parametrize("way", WAYS)
def test_no_frame_at_all(spoilt, tmp_path, way):
    def empty(file):
        for name in ("codes", "labels/phoneme", "labels/speaker", "labels/f0"):
            values = file[f"{CODEC}/{name}"][..., :0]
            del file[f"{CODEC}/{name}"]
            file[f"{CODEC}/{name}"] = values
        file[f"{CODEC}/offsets"][...] = 0

    found = records(spoilt(empty), tmp_path / "out", *WAYS[way])
    assert {record["outcome"] for record in found.values()} == {"not_applicable"}
    assert found["phoneme"]["reason"] == "phoneme needs at least two classes in training, found 0 (none)"


@pytest.mark.parametrize("way", WAYS)
def test_no_training_utterance(spoilt, tmp_path, way):
    found = records(spoilt(put("utterances/split", slice(None), 1)), tmp_path / "out", *WAYS[way])
    assert {record["outcome"] for record in found.values()} == {"not_applicable"}
    assert found["speaker"]["reason"] == "speaker needs at least two classes in training, found 0 (none)"
    assert found["pitch"]["reason"] == "pitch needs voiced frames, found none in training"


@pytest.mark.parametrize("way", WAYS)
def test_evaluation_of_silence_only_when_silence_is_dropped(spoilt, tmp_path, way):
    def silence(file):
        offsets, split = file[f"{CODEC}/offsets"][()], file["utterances/split"][()]
        for utterance in np.flatnonzero(split == 1):
            place = slice(offsets[utterance], offsets[utterance + 1])
            file[f"{CODEC}/labels/phoneme"][place] = PHONEMES.index("sil")

    path = spoilt(silence)
    dropped = records(path, tmp_path / "dropped", "--drop-silence", *WAYS[way])["phoneme"]
    assert (dropped["outcome"], dropped["accuracy"]) == ("not_applicable", None)
    assert dropped["reason"].startswith("phoneme: ")
    kept = records(path, tmp_path / "kept", *WAYS[way])["phoneme"]
    assert (kept["outcome"], kept["n_classes_scored"]) == ("converged", 1)


@pytest.mark.parametrize("way", WAYS)
def test_a_class_with_one_training_frame(spoilt, tmp_path, way):
    rare = PHONEMES.index("spn")

    def thin(file):
        labels = file[f"{CODEC}/labels/phoneme"]
        values = labels[()]
        offsets, split = file[f"{CODEC}/offsets"][()], file["utterances/split"][()]
        part = np.repeat(split, np.diff(offsets))
        values[np.flatnonzero((values == rare) & (part == 0))[1:]] = PHONEMES.index("S")
        labels[...] = values

    path = spoilt(thin)
    found = records(path, tmp_path / "out", *WAYS[way])["phoneme"]
    full = records(spoilt(lambda file: None), tmp_path / "full", *WAYS[way])["phoneme"]
    assert (found["outcome"], found["n_classes"]) == ("converged", full["n_classes"])
    assert found["n_unseen"] == 0
    assert np.isfinite(found["objective"])
    assert found["objective"] != pytest.approx(full["objective"], rel=1e-3)


def test_a_class_that_training_lacks_is_left_out_and_counted(spoilt, tmp_path):
    rare = PHONEMES.index("spn")

    def take_out(file):
        labels = file[f"{CODEC}/labels/phoneme"]
        values = labels[()]
        part = np.repeat(file["utterances/split"][()], np.diff(file[f"{CODEC}/offsets"][()]))
        take_out.n_held_out = int(((values == rare) & (part == 1)).sum())
        values[(values == rare) & (part == 0)] = PHONEMES.index("S")
        labels[...] = values

    path = spoilt(take_out)
    assert take_out.n_held_out > 0
    for way, options in WAYS.items():
        found = records(path, tmp_path / way, *options)["phoneme"]
        assert (found["outcome"], found["n_unseen"]) == ("converged", take_out.n_held_out)
