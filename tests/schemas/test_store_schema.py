"""The store format: the two texts of one specification, and what the check of a store's contents finds."""

import copy
import re
from dataclasses import dataclass, field
from importlib.resources import files

import pytest

from schemas.errors import SchemaError
from schemas.store import (
    STORE_FORMAT,
    STORE_FORMAT_VERSION,
    Contents,
    check_contents,
    check_store_version,
    store_spec,
)

N_UTTERANCES, N_FRAMES, N_LAYERS, N_CODEWORDS, DIM = 3, 50, 4, 16, 6


def prose(name="store-1.0.md"):
    return files("schemas").joinpath(name).read_text(encoding="utf-8")


def rows_of_tables(text):
    """Return the cells of every table row of a Markdown text, heads and rules left out."""
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in text.splitlines() if "|" in line]
    return [row for row in rows if row and row[0].startswith("`")]


def names_in(cell):
    return re.findall(r"`([^`]+)`", cell)


def section(title):
    return prose().split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_specification_loads():
    spec = store_spec()
    assert spec.dataset("embeddings").shape == ("n_layers", "n_frames", "dim")
    assert spec.dataset("utterances/id").dtype == "string"
    for item in (*spec.root_attributes, *spec.codec_attributes, *spec.datasets, *spec.codec_datasets):
        assert item.description, item
    with pytest.raises(AttributeError):
        spec.datasets = ()  # shared by everyone: nobody may change it


def test_every_symbol_of_a_shape_is_a_dimension_with_a_meaning():
    spec = store_spec()
    symbols = {symbol.partition(" + ")[0] for item in spec.datasets + spec.codec_datasets for symbol in item.shape}
    assert symbols == set(spec.dimensions)


@pytest.mark.parametrize("kind", ["root_attributes", "datasets", "codec_attributes", "codec_datasets"])
def test_paths_and_names_are_unique(kind):
    names = [getattr(item, "path", None) or item.name for item in getattr(store_spec(), kind)]
    assert len(names) == len(set(names)) > 0


@pytest.mark.parametrize(
    ("title", "kinds"),
    [
        ("The root", ["root_attributes"]),
        ("Utterances", ["datasets"]),
        ("Codecs", ["codec_attributes", "codec_datasets"]),
    ],
)
def test_prose_and_specification_name_the_same_things(title, kinds):
    in_prose = [name for row in rows_of_tables(section(title)) for name in names_in(row[0])]
    specified = [getattr(item, "path", None) or item.name for kind in kinds for item in getattr(store_spec(), kind)]
    assert sorted(in_prose) == sorted(specified)


def test_prose_and_specification_give_the_same_dtypes_and_shapes():
    spec, seen = store_spec(), 0
    datasets = {item.path: item for item in spec.datasets + spec.codec_datasets}
    for row in rows_of_tables(section("Utterances")) + rows_of_tables(section("Codecs")):
        paths = [name for name in names_in(row[0]) if name in datasets]
        dtypes = row[1].split(", ") if paths else []
        for path, dtype in zip(paths, dtypes * len(paths) if len(dtypes) == 1 else dtypes, strict=True):
            assert datasets[path].dtype == dtype, path
            seen += 1
        if len(row) == 4:
            assert ", ".join(datasets[paths[0]].shape) == row[2], paths
    assert seen == len(datasets)


def test_prose_lists_the_allowed_values():
    for item in store_spec().codec_attributes:
        if item.values:
            (row,) = [row for row in rows_of_tables(section("Codecs")) if item.name in names_in(row[0])]
            assert set(item.values) <= set(names_in(row[1])), item.name


def test_prose_has_the_version_in_its_table():
    assert f"# Store format {STORE_FORMAT_VERSION}\n" in prose()
    assert f"| {STORE_FORMAT_VERSION} | rvqprobe" in prose()


@dataclass
class Description:
    """A store as a validator describes it; tests change one thing in it."""

    root: dict = field(default_factory=dict)
    datasets: dict = field(default_factory=dict)
    codec: dict = field(default_factory=dict)
    codec_datasets: dict = field(default_factory=dict)

    def problems(self):
        return check_contents(
            Contents(self.root, self.datasets), {"encodec": Contents(self.codec, self.codec_datasets)}
        )


def sound_store(layout="dense"):
    n = N_UTTERANCES
    columns = {"utterances/id": "string", "utterances/speaker": "int32", "utterances/split": "int8"}
    columns |= {"utterances/n_samples": "int64", "utterances/sample_rate_hz": "int32"}
    columns |= {"utterances/sha256": "string", "utterances/shard": "int32", "utterances/alignment_sha256": "string"}
    tables = {f"skipped/{name}": 1 for name in ("id", "reason", "sha256", "alignment_sha256")}
    tables |= {"vocab/phonemes": 5, "vocab/speakers": 2}
    tables |= {
        f"shards/{name}": 2
        for name in ("host", "device", "started", "finished", "job_id", "content_digest", "seconds_by_stage")
    }
    texts = ("format", "format_version", "content_digest", "created", "producer")
    frames = {
        "offsets": ("int64", (n + 1,)),
        "codes": ("uint16", (N_LAYERS, N_FRAMES)),
        "codebooks": ("float32", (N_LAYERS, N_CODEWORDS, DIM)),
        "labels/phoneme": ("uint16", (N_FRAMES,)),
        "labels/speaker": ("int32", (N_FRAMES,)),
        "labels/f0": ("float32", (N_FRAMES,)),
    }
    if layout == "dense":
        frames["embeddings"] = ("float32", (N_LAYERS, N_FRAMES, DIM))
    return Description(
        root=dict.fromkeys(texts, "text")
        | {"complete": True}
        | dict.fromkeys(("producer_versions", "corpus", "build_options"), "{}"),
        datasets={path: (dtype, (n,)) for path, dtype in columns.items()}
        | {path: ("string", (size,)) for path, size in tables.items()},
        codec={
            "sample_rate_hz": 24_000,
            "hop_samples": 320,
            "frame_rate_hz": 75.0,
            "n_layers": N_LAYERS,
            "dim": DIM,
            "weights": "pretrained",
            "weights_sha256": "ab",
            "layout": layout,
        },
        codec_datasets=frames,
    )


@pytest.mark.parametrize("layout", ["dense", "factored"])
def test_a_sound_store_has_no_problems(layout):
    assert sound_store(layout).problems() == []


def test_every_required_attribute_and_dataset_is_missed():
    spec = store_spec()
    for group, items in (
        ("root", spec.root_attributes),
        ("codec", spec.codec_attributes),
        ("datasets", spec.datasets),
        ("codec_datasets", spec.codec_datasets),
    ):
        for item in items:
            name = getattr(item, "path", None) or item.name
            store = sound_store("factored")
            if not item.required:
                assert name not in getattr(store, group)
                continue
            del getattr(store, group)[name]
            (problem, *_) = store.problems()
            place = "/codecs/encodec/" if group.startswith("codec") else "/"
            assert problem.startswith(f"{place}{'' if hasattr(item, 'path') else '@'}{name}: expected"), problem
            assert problem.endswith("found none")


def test_optional_parts_are_checked_where_they_are():
    store = sound_store()
    store.datasets["parts/n_bytes"] = ("int32", (2,))
    store.codec_datasets["latents"] = ("float64", (N_FRAMES, DIM))
    assert store.problems() == [
        "/parts/n_bytes: expected dtype int64, found int32",
        "/codecs/encodec/latents: expected dtype float32, found float64",
    ]


def test_embeddings_are_required_in_the_dense_layout_only():
    store = sound_store("factored")
    assert store.problems() == []
    store.codec["layout"] = "dense"
    assert store.problems() == ["/codecs/encodec/embeddings: expected a dataset, found none"]


@pytest.mark.parametrize(
    ("group", "name", "value", "problem"),
    [
        ("root", "complete", "yes", "/@complete: expected bool, found 'yes'"),
        ("root", "complete", 1, "/@complete: expected bool, found 1"),
        ("root", "created", 2026, "/@created: expected string, found 2026"),
        ("root", "corpus", "no JSON", "/@corpus: expected json, found 'no JSON'"),
        ("root", "corpus", "[1]", "/@corpus: expected json, found '[1]'"),
        ("root", "corpus", 3, "/@corpus: expected json, found 3"),
        ("codec", "sample_rate_hz", 16e3, "/codecs/encodec/@sample_rate_hz: expected int, found 16000.0"),
        ("codec", "hop_samples", True, "/codecs/encodec/@hop_samples: expected int, found True"),
        ("codec", "frame_rate_hz", "75", "/codecs/encodec/@frame_rate_hz: expected float, found '75'"),
        ("codec", "n_layers", "four", "/codecs/encodec/@n_layers: expected int, found 'four'"),
        ("codec", "weights", "best", "expected one of pretrained, checkpoint, untrained, found 'best'"),
        ("codec", "weights", [1, 2], "/codecs/encodec/@weights: expected string, found [1, 2]"),
        ("codec", "layout", "sparse", "/codecs/encodec/@layout: expected one of dense, factored, found 'sparse'"),
    ],
)
def test_wrong_attributes_are_named(group, name, value, problem):
    store = sound_store("factored")
    getattr(store, group)[name] = value
    (found,) = store.problems()
    assert found.endswith(problem)


def test_a_whole_number_is_a_valid_float():
    store = sound_store()
    store.codec["frame_rate_hz"] = 75
    assert store.problems() == []


@pytest.mark.parametrize(
    ("path", "found", "problem"),
    [
        ("codes", ("int64", (N_LAYERS, N_FRAMES)), "codes: expected dtype uint16, found int64"),
        ("labels/f0", ("float64", (N_FRAMES,)), "labels/f0: expected dtype float32, found float64"),
        ("codes", ("uint16", (N_FRAMES,)), "codes: expected shape (n_layers, n_frames), found (50,)"),
        ("offsets", ("int64", (N_UTTERANCES,)), "offsets: expected n_utterances + 1 = 4, found shape (3,)"),
        ("codes", ("uint16", (5, N_FRAMES)), "codes: expected n_layers = 4, found shape (5, 50)"),
        ("labels/f0", ("float32", (51,)), "labels/f0: expected n_frames = 50, found shape (51,)"),
        ("embeddings", ("float32", (N_LAYERS, N_FRAMES, 7)), "embeddings: expected dim = 6, found shape (4, 50, 7)"),
    ],
)
def test_wrong_datasets_of_a_codec_are_named(path, found, problem):
    store = sound_store()
    store.codec_datasets[path] = found
    assert store.problems() == [f"/codecs/encodec/{problem}"]


def test_tables_of_unequal_length_are_named():
    store = sound_store()
    store.datasets["utterances/split"] = ("int8", (N_UTTERANCES + 1,))
    assert store.problems() == ["/utterances/split: expected n_utterances = 3, found shape (4,)"]


def test_codecs_have_their_own_sizes_but_share_the_utterances():
    one, other = sound_store(), sound_store("factored")
    other.codec |= {"n_layers": 2, "dim": 9}
    other.codec_datasets |= {
        "codes": ("uint16", (2, 70)),
        "codebooks": ("float32", (2, 32, 9)),
        **{
            f"labels/{name}": (other.codec_datasets[f"labels/{name}"][0], (70,))
            for name in ("phoneme", "speaker", "f0")
        },
    }

    def problems():
        return check_contents(
            Contents(one.root, one.datasets),
            {"a": Contents(one.codec, one.codec_datasets), "b": Contents(other.codec, other.codec_datasets)},
        )

    assert problems() == []
    other.codec_datasets["offsets"] = ("int64", (N_UTTERANCES + 2,))
    assert problems() == ["/codecs/b/offsets: expected n_utterances + 1 = 4, found shape (5,)"]


def test_several_problems_are_all_reported():
    store = sound_store()
    del store.root["created"], store.codec["dim"]
    store.codec_datasets["codes"] = ("int16", (N_LAYERS, N_FRAMES))
    assert len(store.problems()) == 3


def test_what_the_format_does_not_know_is_accepted():
    store = sound_store()
    before = copy.deepcopy(store)
    store.root["colour"] = "blue"
    store.codec["notes"] = 7
    store.datasets["utterances/text"] = ("string", (99,))
    store.codec_datasets["labels/emotion"] = ("complex128", (1, 2, 3))
    assert store != before
    assert store.problems() == []


def test_versions_of_stores():
    check_store_version(STORE_FORMAT, "1.0", "a.h5")
    check_store_version(STORE_FORMAT, "1.7", "a.h5")
    with pytest.raises(SchemaError, match=r"a\.h5: format_version: version 2\.0 is not known"):
        check_store_version(STORE_FORMAT, "2.0", "a.h5")
    with pytest.raises(SchemaError, match=r"a\.h5: format_version: expected a version such as '1\.0', found None"):
        check_store_version(STORE_FORMAT, None, "a.h5")


@pytest.mark.parametrize("format_name", [None, "anndata", 1, b"rvqprobe-store"])
def test_a_file_of_another_format_is_refused_by_name(format_name):
    with pytest.raises(SchemaError, match=r"a\.h5: not an rvqprobe store: the file names .*'rvqprobe-store'") as caught:
        check_store_version(format_name, "1.0", "a.h5")
    assert ("no format" if format_name is None else repr(format_name)) in str(caught.value)
