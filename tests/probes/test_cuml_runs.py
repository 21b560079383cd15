"""Runs with --backend cuml on a stand-in for it: records, what is said on stderr, and failures half-way."""

import re

import pytest

from probes.backends.cuml import CumlBackend
from probes.errors import BackendError
from probes.options import ProbeOptions
from probes.records import read_records
from probes.runner import run_probes
from tests.probes.cuml_stand_in import OutOfMemoryError, failing, stand_in
from tests.support.command_line import run, run_well
from tests.support.stores import StoreRecipe, write_store

RECIPE = StoreRecipe(n_utterances=24, codecs=("alpha",))


@pytest.fixture(scope="module")
def store_path(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("store") / "store.h5", RECIPE)


@pytest.fixture(scope="module")
def exact(store_path, tmp_path_factory):
    return run_probes([store_path], tmp_path_factory.mktemp("exact"), ProbeOptions(layers=[1, 2]))


@pytest.fixture
def given(monkeypatch):
    """Put a stand-in in the place of cuML."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def give(**library):
        modules = stand_in(**library)
        monkeypatch.setattr(CumlBackend, "__init__", lambda self: setattr(self, "_import", modules))

    return give


def probes(store_path, output, **options):
    return run_probes([store_path], output, ProbeOptions(**{"backend": "cuml", "layers": [1, 2]} | options))


def warnings(caplog):
    return [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]


@pytest.mark.parametrize("honours", [True, False])
def test_records_of_both_kinds_of_cuml(store_path, exact, tmp_path, given, caplog, honours):
    given(honours=honours)
    for record, ours in zip(probes(store_path, tmp_path), exact, strict=True):
        assert (record["backend_asked"], record["backend_used"], record["fallback_reason"]) == ("cuml", "cuml", None)
        assert (record["outcome"], record["device"], record["rows"]) == ("converged", "Stand-in GPU", "collapsed")
        is_design = not honours and record["task"] != "pitch"
        assert record["design"] == ("apportioned" if is_design else "weighted")
        assert record["design_rows"] == record["design_rows_asked"] >= (1 << 18 if is_design else 2)
        assert record["design_note"] is None
        assert record["objective"] == pytest.approx(ours["objective"], rel=1e-4)
        if record["task"] != "pitch":
            error = record["objective"] - ours["objective"]
            assert error - 1e-12 <= record["gap_bound"] <= error + 2e-6 * ours["objective"]
            assert record["gap_estimate"] <= record["gap_bound"]
    assert warnings(caplog) == []
    assert all(record["design"] is None for record in exact)


def test_a_smaller_design_is_said_once_and_recorded(store_path, exact, tmp_path, given, caplog):
    given(capacity=int(((1 << 29) + 10_000_000) / 0.9))
    found = probes(store_path, tmp_path, tasks=["phoneme"])
    assert all(1000 < r["design_rows"] < r["design_rows_asked"] == 1 << 18 for r in found)
    assert all("need about" in r["design_note"] for r in found)
    (line,) = warnings(caplog)
    assert re.fullmatch(
        r"codeword phoneme probe of alpha, layer 1: 262,144 rows of \d+ numbers need about .* of device memory, "
        r"10\.0 MB can be taken; fitted on [\d,]+ apportioned rows in place of 262,144",
        line,
    )


def test_balanced_frames_say_why_they_are_no_frames(store_path, tmp_path, given, caplog):
    given()
    found = probes(store_path, tmp_path, rows="dense")
    assert [r["design"] for r in found if r["task"] != "pitch"] == ["apportioned"] * 4
    assert {r["design"] for r in found if r["task"] == "pitch"} == {"frames"}
    assert {r["design_rows"] for r in found if r["design"] == "frames"} == {found[2]["n_train"]}
    (line,) = warnings(caplog)
    assert "cuML ignores class weights in multinomial fits (rapidsai/cuml issue 7298)" in line


def test_out_of_device_memory_in_a_fit_is_scikit_learn_s_fit(store_path, exact, tmp_path, given, caplog):
    """Other probes are tried on the device: they may be smaller."""
    tries = []

    def during_fit():
        tries.append(1)
        if len(tries) == 4:
            raise OutOfMemoryError("Out of memory allocating 1 byte")

    given(during_fit=during_fit)
    found = probes(store_path, tmp_path)
    assert [r["backend_used"] for r in found] == ["cuml"] * 3 + ["sklearn"] + ["cuml"] * 2
    assert {r["backend_asked"] for r in found} == {"cuml"}
    for record, ours in zip(found, exact, strict=True):
        assert record["objective"] == pytest.approx(ours["objective"], rel=1e-4)
    assert "too little free memory" in found[3]["fallback_reason"]
    assert (found[3]["device"], found[3]["design"]) == ("cpu", None)
    assert "scikit-learn" in found[3]["versions"]
    (line,) = warnings(caplog)
    assert "Out of memory allocating 1 byte" in line
    assert line.endswith("falling back to sklearn on the CPU")


def test_a_device_that_dies_half_way_is_asked_no_more(store_path, tmp_path, given, caplog):
    tries = []

    def during_fit():
        tries.append(1)
        if len(tries) > 2:
            raise RuntimeError("CUDA error encountered: cudaErrorIllegalAddress")

    given(during_fit=during_fit)
    found = probes(store_path, tmp_path)
    assert [r["backend_used"] for r in found] == ["cuml"] * 2 + ["sklearn"] * 4
    assert all("cudaErrorIllegalAddress" in r["fallback_reason"] for r in found[2:])
    assert all(r["outcome"] == "converged" for r in found)
    assert len(tries) == 3
    (line,) = warnings(caplog)
    assert "cudaErrorIllegalAddress" in line
    given()  # well again: what another backend fitted in its place is no longer final
    assert [r["backend_used"] for r in probes(store_path, tmp_path, require_gpu=True)] == ["cuml"] * 6
    assert len(read_records(tmp_path)) == 6 + 4
    assert [r["backend_used"] for r in probes(store_path, tmp_path)] == ["cuml"] * 6
    assert len(read_records(tmp_path)) == 6 + 4


def test_a_device_that_does_not_tell_its_memory(store_path, tmp_path, given, monkeypatch, caplog):
    modules = stand_in()

    def broken():
        raise RuntimeError("cudaErrorUnknown: unknown error")

    modules("cupy").cuda.runtime.memGetInfo = broken
    monkeypatch.setattr(CumlBackend, "__init__", lambda self: setattr(self, "_import", modules))
    assert {r["backend_used"] for r in probes(store_path, tmp_path)} == {"sklearn"}
    assert len(warnings(caplog)) == 1


@pytest.mark.parametrize("error", [MemoryError("std::bad_alloc"), RuntimeError("cudaErrorIllegalAddress")])
def test_require_gpu_keeps_what_is_done_and_refuses_the_rest(store_path, tmp_path, given, error):
    given(during_fit=failing(error, after=2))
    with pytest.raises(BackendError, match="--require-gpu: cuml cannot fit the codeword pitch probe of alpha, layer 1"):
        probes(store_path, tmp_path, require_gpu=True)
    assert [r["backend_used"] for r in read_records(tmp_path)] == ["cuml"] * 2


def test_require_gpu_refuses_a_device_too_small(store_path, tmp_path, given):
    given(capacity=1 << 20)
    ended = run("probe", store_path, "--output", tmp_path, "--backend", "cuml", "--require-gpu", "--layer", "1")
    assert ended.error.startswith("--require-gpu: cuml cannot fit the codeword phoneme probe of alpha, layer 1: ")
    assert "0 B can be taken" in ended.error


def test_the_command_line_says_it_in_one_line(store_path, tmp_path, given):
    given(during_fit=failing(RuntimeError("cudaErrorIllegalAddress: first\nsecond"), after=1))
    options = ["--backend", "cuml", "--layer", "1", "--quiet"]
    ended = run_well("probe", store_path, "--output", tmp_path, *options)
    assert ended.stderr.splitlines() == [
        "codeword speaker probe of alpha, layer 1: cuml cannot fit it (the GPU or cuML failed during a fit "
        "(RuntimeError: cudaErrorIllegalAddress: first)); falling back to sklearn on the CPU"
    ]
    assert "cuml was asked, sklearn used: the GPU or cuML failed" in ended.stdout


def test_the_table_tells_of_rows_that_are_no_frames(store_path, tmp_path, given):
    given()
    ended = run_well("probe", store_path, "--output", tmp_path, "--backend", "cuml", "--layer", "1", "--rows", "dense")
    assert "cuml was given apportioned rows: cuML ignores class weights in multinomial fits" in ended.stdout
