"""Figures drawn ahead are those of all records together, and what drawing raises comes out."""

import pytest

from probes.figures import write_figures
from probes.figures_ahead import FiguresAhead
from probes.options import ProbeOptions
from probes.runner import run_probes
from schemas.errors import RvqprobeError
from tests.support.stores import StoreRecipe, write_store


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    store = write_store(folder / "store.h5", StoreRecipe(), "factored")
    done = []
    records = run_probes(
        [store], folder, ProbeOptions(layers=[1, 2]), task_done=lambda task, found: done.append((task, found))
    )
    return records, done


def test_each_task_ends_once_with_its_records_in_order(results):
    records, done = results
    assert sorted(task for task, _ in done) == sorted({record["task"] for record in records})
    for task, found in done:
        assert found == [record for record in records if record["task"] == task]


def test_nothing_ends_where_all_was_found(tmp_path):
    store = write_store(tmp_path / "store.h5", StoreRecipe(), "factored")
    options = ProbeOptions(layers=[1], tasks=["pitch"])
    first = run_probes([store], tmp_path / "out", options)
    done = []
    assert run_probes([store], tmp_path / "out", options, task_done=lambda *found: done.append(found)) == first
    assert not done


@pytest.mark.parametrize("n_ahead", [0, 2, 3])
def test_figures_are_those_of_all_records(results, tmp_path, n_ahead):
    records, done = results
    expected = write_figures(records, tmp_path / "together")
    with FiguresAhead(tmp_path / "ahead") as drawing:
        for task, found in done[:n_ahead]:
            drawing.begin(task, found)
        found = drawing.finish(records)
    assert [path.name for path in found] == [path.name for path in expected]
    assert [path.read_bytes() for path in found] == [path.read_bytes() for path in expected]


def test_what_drawing_raises_comes_out(results, tmp_path):
    records, _ = results
    (tmp_path / "figures").write_text("a file where the folder should be")
    with pytest.raises((OSError, RvqprobeError)), FiguresAhead(tmp_path / "figures") as drawing:
        drawing.finish(records)
