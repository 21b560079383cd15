"""Stores of every format version are kept, and read equal for ever (tests/data/stores/v<version>/)."""

import json
import shutil
from pathlib import Path

import pytest

from featstore.store import Store
from featstore.verify import verify_store
from schemas.store import STORE_FORMAT_VERSION
from tests.support.kept_store import content_of, make

KEPT = Path(__file__).parents[1] / "data" / "stores"
STORES = sorted(path for path in KEPT.glob("v*/*.h5"))


def test_the_version_written_today_is_among_them():
    assert {path.parent.name for path in STORES} >= {f"v{STORE_FORMAT_VERSION}"}
    assert len(STORES) >= 4


@pytest.mark.parametrize("path", STORES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_kept_store_reads_as_it_did(path, tmp_path):
    shutil.copytree(path.parent, tmp_path / "kept")
    copy = tmp_path / "kept" / path.name
    assert verify_store(copy, full=True) == []
    assert content_of(copy) == json.loads(path.with_suffix(".json").read_text())


def test_the_writer_of_today_writes_what_is_kept(tmp_path):
    """Any change in what a writer writes is a new version; dates and the producer's version are not of the format."""
    make(tmp_path / "now")
    for path in sorted((tmp_path / "now").glob("*.json")):
        kept = json.loads((KEPT / f"v{STORE_FORMAT_VERSION}" / path.name).read_text())
        made = json.loads(path.read_text())
        for said in (kept, made):
            for name in ("created", "producer"):
                said["attributes"].pop(name)
        assert made == kept, path.name
        with (
            Store(path.with_suffix(".h5")) as now,
            Store(KEPT / f"v{STORE_FORMAT_VERSION}" / f"{path.stem}.h5") as then,
        ):
            assert names_in(now) == names_in(then)


def names_in(store):
    found = []
    store._file.visititems(lambda name, item: found.append((name, str(getattr(item, "dtype", "")), sorted(item.attrs))))
    return found
