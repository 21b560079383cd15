"""The prose of the saved-probe format against what is written."""

import hashlib
import json
import re
from importlib.resources import files

import numpy as np
import pytest

from probes.estimator import FORMAT, FORMAT_VERSION, FittedProbe, load_probe, read_probe, save_probe


def prose():
    return files("schemas").joinpath(f"probe-{FORMAT_VERSION}.md").read_text(encoding="utf-8")


def table(heading):
    """The names in the first column of a section's table, with the other cells."""
    section = prose().split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:3] == "| `"]
    return {name: cells[1:] for cells in rows for name in re.findall(r"`([^`]+)`", cells[0])}


def promised_metadata():
    sentence = re.search(r"`probe` writes into `metadata` at least (.*?)\(of the store", prose())[1]
    return set(re.findall(r"`([^`]+)`", sentence))


def saved(folder, kind):
    rng = np.random.default_rng(0)
    n_outputs = 3 if kind == "logistic" else 1
    classes = np.array(["AA1", "S", "sil"]) if kind == "logistic" else None
    arrays = rng.standard_normal((n_outputs, 5)), rng.standard_normal(n_outputs), np.zeros(5), np.full(5, 2.0)
    description = save_probe(folder / kind, FittedProbe(kind, *arrays, classes, {"layer": 3}))
    with np.load(description.with_suffix(".npz"), allow_pickle=False) as stored:
        return json.loads(description.read_text()), dict(stored)


def test_arrays_have_the_names_dtypes_and_shapes_of_the_prose(tmp_path):
    specified, (_, arrays) = table("The arrays"), saved(tmp_path, "logistic")
    assert set(specified) == set(arrays)
    sizes = {"n_classes": 3, "dim": 5}
    for name, (dtype, shape, _) in specified.items():
        assert arrays[name].shape == tuple(sizes[symbol] for symbol in shape.split(", ")), name
        assert arrays[name].dtype.kind == "U" if name == "classes" else str(arrays[name].dtype) == dtype, name
    assert set(saved(tmp_path, "linear")[1]) == set(specified) - {"classes"}


@pytest.mark.parametrize("kind", ["logistic", "linear"])
def test_the_description_has_the_entries_of_the_prose(tmp_path, kind):
    specified, (header, _) = table("The description"), saved(tmp_path, kind)
    assert set(specified) == set(header)
    assert header["kind"] == kind
    assert f"`{kind}`" in specified["kind"][0]
    assert (header["format"], header["format_version"]) == (FORMAT, FORMAT_VERSION)
    assert f"`{FORMAT}`" in specified["format"][0]
    assert f"`{FORMAT_VERSION}`" in specified["format_version"][0]
    assert header["arrays_sha256"] == hashlib.sha256((tmp_path / header["arrays"]).read_bytes()).hexdigest()


@pytest.mark.parametrize("kind", ["logistic", "linear"])
def test_the_formula_of_the_prose_gives_the_predictions(tmp_path, kind):
    header, arrays = saved(tmp_path, kind)
    x = np.random.default_rng(1).standard_normal((20, 5))
    formula = re.search(r"^    scores = (.*)$", prose(), flags=re.MULTILINE)[1]
    scores = eval(formula, {}, arrays | {"x": x})
    np.testing.assert_array_equal(scores, read_probe(tmp_path / kind).scores(x))
    expected = arrays["classes"][scores.argmax(axis=1)] if header["kind"] == "logistic" else scores[:, 0]
    predicted = load_probe(tmp_path / kind).predict(x)
    assert np.array_equal(predicted, expected) if kind == "logistic" else np.allclose(predicted, expected, rtol=1e-12)


def test_probes_of_a_run_say_what_the_prose_promises(exact_probing):
    folder, _ = exact_probing
    records = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    assert len(promised_metadata()) == 17
    for record in records[:3]:
        probe = read_probe(folder / record["probe_file"])
        assert promised_metadata() <= set(probe.metadata)
        assert all(record[name] == value for name, value in probe.metadata.items())
