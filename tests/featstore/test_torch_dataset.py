import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from featstore import torch_dataset
from featstore.errors import StoreError, UnknownNameError
from featstore.export import export_store
from featstore.reading import frames_of
from featstore.store import Store
from featstore.torch_dataset import FrameBatches, Utterances, join_utterances
from tests.support.stores import StoreRecipe, write_store

# Python 3.12 on warns of any fork in a process that has threads, as torch's do
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
WORKERS = [(0, None), (2, "fork")]
LABELS = ("phoneme", "speaker", "f0")


@pytest.fixture(scope="module", params=["dense", "factored"])
def path(request, tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("torch") / "store.h5", layout=request.param)


def load(dataset, n_workers, start, **options):
    options.setdefault("batch_size", None)
    return list(DataLoader(dataset, num_workers=n_workers, multiprocessing_context=start, **options))


def check_item(item, frames, chosen, layers):
    assert item["embeddings"].dtype == torch.float32
    for place, layer in enumerate(layers):
        assert item["embeddings"][place].numpy().tobytes() == frames.layer(layer)[:][chosen].tobytes()
    for name in LABELS:
        found = item[name]
        assert found.dtype == (torch.float32 if name == "f0" else torch.int64)
        np.testing.assert_array_equal(found.numpy(), frames.labels(name, 0, frames.n_frames)[chosen])


@pytest.mark.parametrize("hold", [True, False])
@pytest.mark.parametrize(("n_workers", "start"), WORKERS)
def test_utterances_are_those_of_the_store(path, n_workers, start, hold):
    dataset = Utterances(path, "alpha", layers=(3, 1), labels=LABELS, split="train", hold=hold)
    with dataset, Store(path) as store:
        frames, ids = store["alpha"], store.strings("utterances/id")
        chosen = [ids[place] for place in np.flatnonzero(store.numbers("utterances/split") == 0)]
        dataset[0]  # open here too before the workers start
        items = load(dataset, n_workers, start)
        assert [item["id"] for item in items] == chosen
        for item in items:
            check_item(item, frames, frames.utterance_span(item["id"]), (3, 1))


@pytest.mark.parametrize("hold", [True, False])
@pytest.mark.parametrize(("n_workers", "start"), WORKERS)
def test_batches_are_every_frame_of_the_split_once(path, n_workers, start, hold):
    dataset = FrameBatches(path, "beta", batch_size=100, labels=LABELS, split="eval", hold=hold)
    with Store(path) as store:
        frames = store["beta"]
        items = load(dataset, n_workers, start)
        for item in items:
            check_item(item, frames, item["frames"].numpy(), (1, 2, 3))
        met = np.concatenate([item["frames"].numpy() for item in items])
        assert len(items) == len(dataset) == -(-len(met) // 100)
        assert not (np.diff(met) > 0).all()
        np.testing.assert_array_equal(np.sort(met), frames_of(frames.of_split("eval")))


def test_spawned_workers_read_the_same(tmp_path):
    # one layout and one test: each worker takes seconds to import torch
    path = write_store(tmp_path / "a.h5")
    one = Utterances(path, "alpha", labels=LABELS, split="eval", hold=False)
    one[0]
    check_same(load(one, 1, "spawn"), [one[place] for place in range(len(one))])
    other = FrameBatches(path, "beta", batch_size=100, labels=LABELS)
    other.set_epoch(2)
    check_same(load(other, 2, "spawn"), [other[place] for place in range(len(other))])


def check_same(items, expected):
    assert len(items) == len(expected)
    for item, other in zip(items, expected, strict=True):
        assert list(item) == list(other)
        for name, value in item.items():
            same = value == other[name] if name == "id" else torch.equal(value.nan_to_num(), other[name].nan_to_num())
            assert same, name


@pytest.mark.parametrize("hold", [True, False])
def test_a_zarr_folder_is_read_by_forked_workers_too(tmp_path, hold):
    pytest.importorskip("zarr")
    path = write_store(tmp_path / "a.h5")
    export_store(path, tmp_path / "a.zarr")
    folder = Utterances(tmp_path / "a.zarr", "alpha", labels=LABELS, hold=hold)
    file = Utterances(path, "alpha", labels=LABELS, hold=hold)
    expected = [file[place] for place in range(len(file))]
    folder[0]  # starts what Zarr reads with, here too
    check_same(load(folder, 2, "fork", timeout=60), expected)
    check_same([folder[place] for place in range(len(folder))], expected)


def test_an_epoch_and_a_seed_fix_the_order(path):
    def order(epoch, seed=0, shuffle=True):
        with FrameBatches(path, "alpha", batch_size=64, seed=seed, shuffle=shuffle, layers=[1]) as dataset:
            dataset[0]
            dataset.set_epoch(epoch)
            return torch.cat([dataset[place]["frames"] for place in range(len(dataset))]).tolist()

    assert order(0) == order(0)
    assert len({tuple(order(*how)) for how in ((0,), (1,), (0, 1))}) == 3
    assert order(5, shuffle=False) == list(range(len(order(0))))


def test_workers_are_told_the_epoch(path):
    dataset = FrameBatches(path, "alpha", batch_size=500, layers=[1])
    dataset.set_epoch(3)
    assert load(dataset, 1, "fork")[0]["frames"].tolist() == dataset[0]["frames"].tolist()


def test_shuffled_and_joined_utterances(path):
    dataset = Utterances(path, "alpha", layers=[2], labels=("phoneme",))
    (joined, *_), alone = (
        load(dataset, 0, None, batch_size=5, collate_fn=join_utterances),
        [dataset[i] for i in range(5)],
    )
    assert joined["id"] == [item["id"] for item in alone]
    assert joined["n_frames"].tolist() == [len(item["phoneme"]) for item in alone]
    for mine, item in zip(joined["embeddings"].split(joined["n_frames"].tolist(), dim=1), alone, strict=True):
        assert torch.equal(mine, item["embeddings"])
    assert torch.equal(joined["phoneme"], torch.cat([item["phoneme"] for item in alone]))
    shuffled = load(dataset, 0, None, shuffle=True)
    assert sorted(item["id"] for item in shuffled) == [dataset[i]["id"] for i in range(len(dataset))]


def test_items_are_counted_as_in_a_list(path):
    dataset = Utterances(path, "alpha", layers=[1], labels=())
    assert dataset[-1]["id"] == dataset[len(dataset) - 1]["id"]
    assert len(list(dataset)) == len(dataset) == 12
    for index in (12, -13):
        with pytest.raises(IndexError, match=f"from 0 to 11, found {index}"):
            dataset[index]


def test_no_tensor_changes_what_is_held(path):
    dataset = Utterances(path, "alpha", layers=[1], labels=LABELS)
    before = dataset[0]
    for name in ("embeddings", *LABELS):
        dataset[0][name].zero_()
    after = dataset[0]
    assert all(torch.equal(before[name].nan_to_num(), after[name].nan_to_num()) for name in ("embeddings", *LABELS))


def test_a_pickle_carries_the_path_and_options_alone(path):
    for dataset in (Utterances(path, "alpha"), FrameBatches(path, "alpha", batch_size=10)):
        dataset[0]
        data = pickle.dumps(dataset)
        assert len(data) < 1000
        again = pickle.loads(data)
        assert again._store is None
        assert len(again) == len(dataset)
        assert torch.equal(again[1]["embeddings"], dataset[1]["embeddings"])


def test_a_store_opens_with_the_first_item_and_closes(path):
    dataset = Utterances(path, "alpha")
    assert dataset._store is None
    with dataset:
        dataset[0]
        store = dataset._store
        assert store._opened
    assert dataset._store is None
    assert not store._opened
    assert dataset[0]["id"]
    dataset.close()


def test_no_open_file_crosses_a_fork(path):
    dataset = Utterances(path, "alpha", labels=())
    expected, held = dataset[1]["embeddings"], dataset._codes[1]
    child = os.fork()
    if child == 0:
        status = 1
        try:
            closed = dataset._store is None
            same = torch.equal(dataset[1]["embeddings"], expected)
            # held codes are memory, and shared
            status = 0 if closed and same and dataset._codes[1] is held else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert dataset._store is None
    assert torch.equal(dataset[1]["embeddings"], expected)
    assert torch_dataset._READING.acquire(blocking=False)
    torch_dataset._READING.release()


def test_a_store_that_was_replaced_is_refused(tmp_path):
    path = write_store(tmp_path / "a.h5")
    dataset = Utterances(path, "alpha")
    path.unlink()
    write_store(path, StoreRecipe(seed=1))
    with pytest.raises(StoreError, match=r"a\.h5: expected the content that this dataset was made with \("):
        dataset[0]
    assert dataset._store is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"codec": "gamma"}, "no codec 'gamma'"),
        ({"layers": [0]}, "count from 1 to 3, asked was 0"),
        ({"labels": ["pitch"]}, "no track 'pitch'"),
        ({"split": "test"}, "no split 'test'"),
    ],
)
def test_what_is_not_there_is_refused_at_once(path, options, message):
    with pytest.raises(UnknownNameError, match=message):
        FrameBatches(path, **{"codec": "alpha", "batch_size": 10} | options)
    with pytest.raises(ValueError, match="batch_size from 1"):
        FrameBatches(path, "alpha", batch_size=0)


def test_reading_a_store_loads_no_torch():
    root = Path(__file__).resolve().parents[2]
    code = "import sys, featstore.store, featstore.reading\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)
