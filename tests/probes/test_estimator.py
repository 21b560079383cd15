import json
import subprocess
import sys

import numpy as np
import pytest
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from probes.errors import ProbeFileError
from probes.estimator import FittedProbe, load_probe, read_probe, save_probe


def make_probe(n_classes=4, dim=6, names=True, seed=0):
    rng = np.random.default_rng(seed)
    classes = np.array([f"AA{k}" for k in range(n_classes)]) if names else np.arange(n_classes) * 10
    coef, intercept = rng.standard_normal((n_classes, dim)), rng.standard_normal(n_classes)
    if n_classes == 1:
        coef, intercept = 0 * coef, 0 * intercept
    mean, scale = rng.standard_normal(dim), rng.uniform(0.1, 2, dim)
    return FittedProbe("logistic", coef, intercept, mean, scale, classes, {"layer": 3, "n_train": 100, "n_iter": 7})


@pytest.mark.parametrize("n_classes", [1, 2, 3, 7])
@pytest.mark.parametrize("names", [True, False])
def test_a_loaded_probe_predicts_as_ours(tmp_path, n_classes, names):
    probe = make_probe(n_classes, names=names)
    X = np.random.default_rng(1).standard_normal((50, 6))
    save_probe(tmp_path / "encodec-layer03", probe)
    loaded = load_probe(tmp_path / "encodec-layer03")
    np.testing.assert_array_equal(loaded.predict(X), probe.predict(X))
    np.testing.assert_allclose(loaded.predict_proba(X), probe.predict_proba(X), rtol=1e-10, atol=1e-14)
    np.testing.assert_array_equal(loaded[-1].classes_, probe.classes)
    assert loaded[-1].coef_.shape == ((1 if n_classes <= 2 else n_classes), 6)
    assert isinstance(loaded, Pipeline)
    check_is_fitted(loaded)


def test_a_loaded_regression_predicts_as_ours(tmp_path):
    rng = np.random.default_rng(0)
    probe = FittedProbe("linear", rng.standard_normal((1, 6)), np.array([120.0]), np.zeros(6), np.ones(6))
    X = rng.standard_normal((50, 6))
    save_probe(tmp_path / "pitch", probe)
    loaded = load_probe(tmp_path / "pitch.npz")
    np.testing.assert_allclose(loaded.predict(X), probe.predict(X), rtol=1e-12)
    assert loaded.predict(X).shape == (50,)


def test_every_name_of_the_pair_finds_it(tmp_path):
    probe = make_probe()
    description = save_probe(tmp_path / "deep" / "a.b", probe)
    assert description == tmp_path / "deep" / "a.b.json"
    for name in ("a.b", "a.b.json", "a.b.npz"):
        read = read_probe(tmp_path / "deep" / name)
        np.testing.assert_array_equal(read.coef, probe.coef)
        np.testing.assert_array_equal(read.classes, probe.classes)
        assert read.metadata == probe.metadata
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["a.b.json", "a.b.npz"]


def test_nothing_is_pickled(tmp_path):
    probe = make_probe()
    object.__setattr__(probe, "classes", np.array(["AA0", "B", "C", "sil"], dtype=object))
    save_probe(tmp_path / "p", probe)
    with np.load(tmp_path / "p.npz", allow_pickle=False) as arrays:
        assert arrays["classes"].dtype.kind == "U"
    assert b"pickle" not in (tmp_path / "p.npz").read_bytes()


def damage(tmp_path, how):
    save_probe(tmp_path / "p", make_probe())
    description = tmp_path / "p.json"
    header = json.loads(description.read_text())
    if how == "bytes":
        data = bytearray((tmp_path / "p.npz").read_bytes())
        data[-30] ^= 1
        (tmp_path / "p.npz").write_bytes(data)
    elif how == "other pair":
        save_probe(tmp_path / "q", make_probe(seed=1))
        (tmp_path / "q.npz").replace(tmp_path / "p.npz")
    elif how == "no arrays":
        (tmp_path / "p.npz").unlink()
    elif how == "no json":
        description.write_text("{")
    elif how == "kind":
        description.write_text(json.dumps(header | {"kind": "linear"}))
    elif how == "version":
        description.write_text(json.dumps(header | {"format_version": "2.0"}))
    elif how == "format":
        description.write_text(json.dumps({"format": "something else"}))
    elif how == "lacks":
        del header["arrays"]
        description.write_text(json.dumps(header))
    elif how == "absent":
        description.unlink()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("bytes", "SHA-256"),
        ("other pair", "SHA-256"),
        ("no arrays", "cannot be read"),
        ("no json", "cannot be read as JSON"),
        ("kind", "does not fit"),
        ("version", "format 2.0, this build reads 1.0"),
        ("format", "not a saved probe"),
        ("lacks", "lacks arrays"),
        ("absent", "no such probe"),
    ],
)
def test_a_damaged_probe_is_refused(tmp_path, how, message):
    damage(tmp_path, how)
    with pytest.raises(ProbeFileError, match=message):
        load_probe(tmp_path / "p")


def test_what_is_no_number_or_no_json_is_not_saved(tmp_path):
    probe = make_probe()
    probe.metadata["path"] = tmp_path
    with pytest.raises(ProbeFileError, match="no JSON"):
        save_probe(tmp_path / "p", probe)
    probe = make_probe()
    probe.coef[0, 0] = np.nan
    with pytest.raises(ProbeFileError, match="not finite"):
        save_probe(tmp_path / "p", probe)
    assert not list(tmp_path.iterdir())


def test_saving_needs_no_scikit_learn(tmp_path):
    script = f"""
import sys
from pathlib import Path
import numpy as np
from probes.estimator import FittedProbe, read_probe, save_probe
probe = FittedProbe("linear", np.ones((1, 2)), np.ones(1), np.zeros(2), np.ones(2))
save_probe(Path({str(tmp_path)!r}) / "p", probe)
assert read_probe(Path({str(tmp_path)!r}) / "p").predict(np.ones((1, 2)))[0] == 3
print("sklearn" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
