"""How a run shares the cores."""

from pathlib import Path
from types import SimpleNamespace

from probes.cores import longest_first
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
