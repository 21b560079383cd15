"""How a run shares the cores."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from featstore.errors import FeatstoreError
from probes import cores
from probes.cores import bytes_of_fit, longest_first, share_cores
from probes.options import ProbeOptions
from probes.prober import Job

STORE = Path("store.h5")


def test_tasks_end_one_after_the_other_and_long_fits_begin_first():
    stores = {STORE: {"narrow": SimpleNamespace(dim=128), "wide": SimpleNamespace(dim=1024)}}
    todo = [
        Job(STORE, codec, layer, task, f"{codec}-{layer}-{task}")
        for codec in ("narrow", "wide")
        for layer in (1, 2)
        for task in ("phoneme", "speaker", "pitch")
    ]
    ordered = longest_first(todo, stores)
    places = [("wide", 2), ("wide", 1), ("narrow", 2), ("narrow", 1)]
    assert [(job.task, job.codec, job.layer) for job in ordered] == [
        (task, *place) for task in ("pitch", "speaker", "phoneme") for place in places
    ]
    assert sorted(job.key for job in ordered) == sorted(job.key for job in todo)


VOCABULARIES = {"vocab/phonemes": range(71), "vocab/speakers": range(251)}
WIDE = SimpleNamespace(
    dim=1024, n_codewords=1024, n_frames=16_000_000, store=SimpleNamespace(strings=lambda name: VOCABULARIES[name])
)


def job(task="phoneme", layer=8):
    return Job(STORE, "wide", layer, task, f"{layer}-{task}")


def shared(monkeypatch, n_jobs=24, n_cores=8, backend="exact", free=1 << 60, **options):
    """What `share_cores` makes of `n_jobs` concat probes."""
    monkeypatch.setattr(cores, "_n_cores", lambda: n_cores)
    monkeypatch.setattr(cores, "available_bytes", lambda: free)
    asked = ProbeOptions(**{"representation": "concat", "n_workers": None} | options)
    return share_cores([job()] * n_jobs, {STORE: {"wide": WIDE}}, asked, backend)


def test_processes_come_first_and_threads_take_the_cores_they_leave(monkeypatch):
    assert shared(monkeypatch) == (8, 1)
    assert shared(monkeypatch, n_jobs=3) == (3, 2)
    assert shared(monkeypatch, n_jobs=1) == (1, 8)
    assert shared(monkeypatch, backend="sklearn") == (1, 1)


def test_what_was_asked_for_is_kept_and_bounds_the_cores(monkeypatch):
    assert shared(monkeypatch, n_workers=3) == (3, 1)
    assert shared(monkeypatch, n_workers=3, n_threads=4) == (3, 4)
    assert shared(monkeypatch, n_workers=30) == (24, 1)
    assert shared(monkeypatch, n_threads=4) == (2, 4)
    assert shared(monkeypatch, n_threads=3) == (2, 3)
    assert shared(monkeypatch, n_threads=20) == (1, 20)
    assert shared(monkeypatch, n_threads=2, max_train_frames=100) == (1, 2)  # too little work for processes


def test_a_gpu_is_left_to_one_process_and_has_to_be_there(monkeypatch):
    asked = []
    monkeypatch.setattr(cores, "torch_device", asked.append)
    assert shared(monkeypatch, device="cuda:1") == (1, 1)
    assert shared(monkeypatch, device="cuda:1", n_workers=2) == (2, 1)
    assert asked == ["cuda:1"] * 2
    assert shared(monkeypatch, device="cpu") == (8, 1)
    assert len(asked) == 2
    monkeypatch.undo()
    with pytest.raises(FeatstoreError, match="--device cuda:99"):
        shared(monkeypatch, device="cuda:99")


def test_processes_are_as_many_as_their_fits_have_room(monkeypatch):
    needed = bytes_of_fit(job(), {STORE: {"wide": WIDE}}, ProbeOptions(representation="concat"))
    assert shared(monkeypatch, free=6 * needed) == (3, 2)
    assert shared(monkeypatch, free=needed) == (1, 8)


@pytest.mark.parametrize(
    ("representation", "task", "peak_mb"),
    # What fits of 200,000 frames of 8 layers of 1024 codewords of 1024 numbers were seen to take.
    [("concat", "phoneme", 1060), ("concat", "pitch", 1134), ("cumulative", "phoneme", 275)],
)
def test_the_memory_of_a_fit_holds_its_blocks_moments_and_tables(representation, task, peak_mb):
    options = ProbeOptions(representation=representation, max_train_frames=200_000)
    estimate = bytes_of_fit(job(task), {STORE: {"wide": WIDE}}, options) / 1e6
    assert peak_mb < estimate < 2.5 * peak_mb
    more = ProbeOptions(representation=representation, max_train_frames=1_200_000)
    assert bytes_of_fit(job(task), {STORE: {"wide": WIDE}}, more) / 1e6 == pytest.approx(estimate + 40.0)


def test_few_layers_of_narrow_codewords_take_little():
    narrow = SimpleNamespace(dim=128, n_codewords=1024, n_frames=100_000, store=WIDE.store)
    options = ProbeOptions(representation="concat")
    assert bytes_of_fit(job("phoneme", 2), {STORE: {"wide": narrow}}, options) < 50e6
