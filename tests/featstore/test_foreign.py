"""Files from strangers: each way out of a file, or into all memory, is refused in words; honest stores pass."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import zlib
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np
import pytest

from featstore import foreign, foreign_child
from featstore.errors import StoreError
from featstore.foreign import check_foreign, find_outside
from featstore.structure import check_structure
from schemas.errors import SchemaError
from tests.support.stores import StoreRecipe, write_store

RECIPE = StoreRecipe(codecs=("alpha",))
CODEC = "codecs/alpha"
N_UTTERANCES = RECIPE.n_utterances


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """A sound store of each layout and compression. Tests must not change them."""
    folder = tmp_path_factory.mktemp("sound")
    return {
        (layout, compression): write_store(folder / f"{layout}-{compression}.h5", RECIPE, layout, compression)
        for layout in ("factored", "dense")
        for compression in ("zstd", "gzip", "none")
    }


@pytest.fixture
def spoilt(stores, tmp_path):
    """Return a function that copies a sound store and changes the copy."""

    def spoil(change, layout="dense", compression="zstd"):
        path = tmp_path / "a.h5"
        shutil.copy(stores[layout, compression], path)
        with h5py.File(path, "r+") as file:
            change(file)
        return path

    return spoil


def outside(path):
    with h5py.File(path, "r") as file:
        return find_outside(file, path)


def refusal(path):
    with pytest.raises(StoreError) as caught:
        check_foreign(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    assert "Traceback" not in text
    return text


def replaced(path, **options):
    """Return a change that makes a dataset anew, by default with its values."""

    def change(file):
        values = file[path][()]
        del file[path]
        file.create_dataset(path, **({"data": values} | options if "shape" not in options else options))

    return change


def put_chunk(path, data, mask=0):
    """Return a change that puts bytes of one's own in place of a dataset's first chunk."""
    return lambda file: file[path].id.write_direct_chunk((0,) * file[path].ndim, data, mask)


def virtual(path, source, inner=None, parts=None, length=None):
    """Return a change that puts a virtual dataset in place of another."""

    def change(file):
        shape, dtype = file[path].shape, file[path].dtype
        del file[path]
        layout = h5py.VirtualLayout(shape, dtype)
        layout[..., :length] = h5py.VirtualSource(source, inner or path, shape)[..., :length]
        file.create_virtual_dataset(path, layout)
        if parts is not None:
            file["parts/path"] = np.array([part.encode() for part in parts])

    return change


def zstd_frame(n_bytes):
    """Return a Zstandard frame that states a size of `n_bytes` in 8 bytes and holds one block of one byte."""
    return bytes.fromhex("28b52ffde0") + n_bytes.to_bytes(8, "little") + bytes.fromhex("09000061")


@pytest.mark.parametrize("compression", ["zstd", "gzip", "none"])
@pytest.mark.parametrize("layout", ["factored", "dense"])
def test_sound_stores_pass(stores, layout, compression):
    path = stores[layout, compression]
    assert outside(path) == []
    check_foreign(path)


def test_sound_stores_with_large_chunks_and_without_frames_pass(tmp_path):
    many = StoreRecipe(n_utterances=400, frames_per_utterance=(300, 400), dim=8, skipped={"x-1": "grüße"})
    for path in (
        write_store(tmp_path / "many.h5", many, "dense"),
        write_store(tmp_path / "none.h5", RECIPE, "dense", only=[]),
    ):
        assert outside(path) == []
        check_foreign(path)


@pytest.mark.parametrize("kind", ["none", "user block"])
def test_files_with_and_without_a_user_block_pass(stores, tmp_path, kind):
    """Copied object by object, as other programs write: HDF5's own defaults, addresses that begin elsewhere."""
    path = tmp_path / "copy.h5"
    with (
        h5py.File(path, "w", userblock_size=512 if kind == "user block" else 0) as to,
        h5py.File(stores["dense", "gzip"], "r") as file,
    ):
        for name in file:
            file.copy(name, to)
        for name in file.attrs:
            to.attrs.create(name, file.attrs[name], dtype=file.attrs.get_id(name).dtype)
    assert outside(path) == []
    check_foreign(path)


def test_what_the_format_does_not_know_is_let_be(spoilt):
    def add(file):
        file.attrs["note"] = "of variable length, as h5py writes by default"
        file["notes/text"] = "the same"
        file[f"{CODEC}/extra"] = np.zeros(3, [("a", "f4"), ("b", "i4")])
        file.create_dataset("notes/lzf", data=np.arange(100), compression="lzf")

    path = spoilt(add)
    assert outside(path) == []
    check_foreign(path)


def cycle(file):
    file[f"{CODEC}/labels/up"] = file["codecs"]


def many_groups(file):
    for index in range(20_000):
        file.create_group(f"g{index}")


def deep_groups(file):
    file.create_group("/".join("d" * 20))


def named_type(file):
    file["type"] = np.dtype("f4")


def external_storage(file):
    shape = file[f"{CODEC}/codes"].shape
    del file[f"{CODEC}/codes"]
    file.create_dataset(f"{CODEC}/codes", shape, "u2", external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])


def soft_link(file):
    del file["vocab/phonemes"]
    file["vocab/phonemes"] = h5py.SoftLink("/utterances/id")


def external_link(file):
    del file[f"{CODEC}/codes"]
    file[f"{CODEC}/codes"] = h5py.ExternalLink("other.h5", "/x")


def virtual_pattern(file):
    """As many files as there are: HDF5 counts up until one is absent."""
    del file[f"{CODEC}/codes"]
    space = h5py.h5s.create_simple((3, 10), (3, h5py.h5s.UNLIMITED))
    space.select_hyperslab((0, 0), (1, h5py.h5s.UNLIMITED), (3, 10), (3, 10))
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_virtual(space, b"b%b.h5", b"/codecs/alpha/codes", h5py.h5s.create_simple((3, 10)))
    h5py.h5d.create(file[CODEC].id, b"codes", h5py.h5t.NATIVE_UINT16, space, plist)
    file["parts/path"] = np.array([b"b%b.h5"])


def unknown_filter(file):
    values = file["utterances/split"][()]
    del file["utterances/split"]
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((len(values),))
    plist.set_filter(32_999, h5py.h5z.FLAG_OPTIONAL, ())
    space = h5py.h5s.create_simple((len(values),))
    made = h5py.h5d.create(file["utterances"].id, b"split", h5py.h5t.NATIVE_INT8, space, plist)
    made.write_direct_chunk((0,), values.tobytes())


def variable_attribute(file):
    file[CODEC].attrs["weights"] = "untrained"


def much_in_attributes(file):
    for index in range(400):
        file[CODEC].attrs[f"a{index}"] = np.zeros(60_000, "u1")


def many_attributes(file):
    for index in range(1001):
        file.attrs[f"a{index}"] = index


def odd_codec_name(file):
    file.move(CODEC, "codecs/..\x1b[31m")


VARIABLE = h5py.string_dtype()
HOSTILE = {
    "soft link": (soft_link, "/vocab/phonemes: expected a group or dataset of this file, found a soft link"),
    "external link": (
        external_link,
        f"/{CODEC}/codes: expected a group or dataset of this file, found an external link",
    ),
    "group cycle": (cycle, "expected one name for each object, found /"),
    "20,000 groups": (many_groups, "/: expected at most 10,000 links in the file, found more"),
    "deep groups": (deep_groups, f"/{'/'.join('d' * 17)}: expected at most 16 groups within each other, found more"),
    "named datatype": (named_type, "/type: expected a group or dataset, found a named datatype"),
    "long name": (lambda file: file.create_group("n" * 2000), ": expected a name of at most 1024 bytes, found 2,000"),
    "codec name": (odd_codec_name, "/codecs/..\\x1b[31m: expected a codec's name of at most 64 letters"),
    "external storage": (external_storage, f"/{CODEC}/codes: expected its data in this file, found them in another"),
    "virtual elsewhere": (
        virtual(f"{CODEC}/codebooks", "b.h5", parts=["b.h5"]),
        f"/{CODEC}/codebooks: expected its data in this file, found a virtual dataset over others",
    ),
    "virtual, no parts": (
        virtual(f"{CODEC}/codes", "/etc/passwd"),
        f"/{CODEC}/codes: expected the files of a virtual dataset in /parts/path, found no such table",
    ),
    "virtual, absolute": (
        virtual(f"{CODEC}/codes", "/etc/passwd", parts=["/etc/passwd"]),
        "/parts/path: expected a file in or below the store's folder, found '/etc/passwd'",
    ),
    "virtual, above": (
        virtual(f"{CODEC}/codes", "x/../../b.h5", parts=["x/../../b.h5"]),
        "/parts/path: expected a file in or below the store's folder, found 'x/../../b.h5'",
    ),
    "virtual, pattern": (
        virtual_pattern,
        "/parts/path: expected a file name without '%'",
    ),
    "virtual, itself": (
        virtual(f"{CODEC}/codes", "a.h5", parts=["a.h5"]),
        "/parts/path: expected files other than the store itself, found 'a.h5'",
    ),
    "virtual, not listed": (
        virtual(f"{CODEC}/codes", "/etc/passwd", parts=["b.h5"]),
        f"/{CODEC}/codes: expected data from the files in /parts/path, found '/etc/passwd'",
    ),
    "virtual, of itself by a point": (
        virtual(f"{CODEC}/codes", ".", parts=["b.h5"]),
        f"/{CODEC}/codes: expected data from the files in /parts/path, found '.'",
    ),
    "unknown filter": (unknown_filter, "/utterances/split: expected no filters but deflate, shuffle, fletcher32, Zst"),
    "filter of hdf5plugin": (
        replaced(f"{CODEC}/codes", **hdf5plugin.Blosc()),
        f"/{CODEC}/codes: expected no filters but deflate, shuffle, fletcher32, Zstandard, found number 32001",
    ),
    "shape without chunks": (
        replaced(f"{CODEC}/codes", shape=(3, 1 << 30), dtype="u2", chunks=(1, 1 << 20)),
        f"/{CODEC}/codes: expected 3,072 chunks for shape (3, 1073741824), found 0 stored",
    ),
    "shape of too many chunks": (
        replaced(f"{CODEC}/codes", shape=(3, 1 << 39), dtype="u2", chunks=(1, 1 << 10)),
        f"/{CODEC}/codes: expected at most ",
    ),
    "shape without data": (
        replaced(f"{CODEC}/codes", shape=(3, 1 << 30), dtype="u2"),
        f"/{CODEC}/codes: expected 6,442,450,944 bytes in the file, found 0",
    ),
    "huge chunk": (
        replaced(f"{CODEC}/codes", shape=(3, 1 << 28), dtype="u2", chunks=(1, 1 << 28)),
        f"/{CODEC}/codes: expected chunks of at most 67,108,864 bytes, found 536,870,912",
    ),
    "huge strings": (
        replaced("vocab/speakers", shape=(3,), dtype="S1000000", chunks=(1,)),
        "/vocab/speakers: expected strings of at most 1,024 bytes, found a length of 1,000,000",
    ),
    "variable-length strings": (
        replaced("utterances/id", shape=(N_UTTERANCES,), dtype=VARIABLE),
        "/utterances/id: expected string of fixed size, found strings of variable length",
    ),
    "references": (
        replaced("utterances/speaker", shape=(N_UTTERANCES,), dtype=h5py.ref_dtype),
        "/utterances/speaker: expected int32 of fixed size, found references",
    ),
    "compound type": (
        replaced("utterances/speaker", shape=(N_UTTERANCES,), dtype=[("a", "i4"), ("b", "i4")]),
        "/utterances/speaker: expected int32 of fixed size, found a compound type",
    ),
    "variable-length attribute": (
        variable_attribute,
        f"/{CODEC}@weights: expected a number or a string of fixed length, found strings of variable length",
    ),
    "many attributes": (many_attributes, "/: expected at most 1,000 attributes, found "),
    "much in attributes": (much_in_attributes, f"/{CODEC}: expected at most 16,777,216 bytes of attributes, found 24,"),
    "bomb of a table": (
        replaced("utterances/n_samples", shape=(100 << 27,), dtype="i8", chunks=(1 << 20,), compression="gzip"),
        "/: expected at most 1,073,741,824 bytes in all tables and codebooks, found 107,374,",
    ),
    "too many utterances": (
        replaced("utterances/split", shape=(1 << 25,), dtype="i1", chunks=(1 << 20,)),
        "/utterances/split: expected n_utterances of at most 16,777,216, found 33,554,432",
    ),
    "too many layers": (
        replaced(f"{CODEC}/codes", shape=(2000, 4), dtype="u2"),
        f"/{CODEC}/codes: expected n_layers of at most 1,024, found 2,000",
    ),
    "empty dataspace": (
        lambda file: [file["utterances"].__delitem__("split"), file["utterances"].create_dataset("split", dtype="i1")],
        "/utterances/split: expected an array, found an empty dataspace",
    ),
    "zstd chunk that grows": (
        put_chunk(f"{CODEC}/labels/f0", zstd_frame(1 << 36) + b"sums"),
        " bytes, found a larger one at byte ",
    ),
    "zstd chunk that shrinks": (
        put_chunk(f"{CODEC}/labels/f0", zstd_frame(1) + b"sums"),
        " bytes, found a smaller one",
    ),
    "zstd chunk of rubbish": (put_chunk(f"{CODEC}/labels/f0", b"rubbish" * 9), " bytes, found a damaged one at byte "),
    "stored chunk that is short": (put_chunk(f"{CODEC}/labels/f0", b"1234", mask=7), "found a smaller one at byte "),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_are_refused_in_words(spoilt, kind):
    change, message = HOSTILE[kind]
    found = outside(spoilt(change))
    assert message in "; ".join(found)
    assert all(text.isprintable() for text in found)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (zlib.compress(bytes(1 << 24)), "a larger one"),
        (zlib.compress(b"short"), "a smaller one"),
        (zlib.compress(bytes(300))[:-5], "a damaged one"),
        (b"rubbish", "a damaged one"),
    ],
)
def test_gzip_chunks_of_another_size_are_refused(spoilt, data, found):
    path = spoilt(put_chunk(f"{CODEC}/labels/f0", data + b"sums"), compression="gzip")
    assert f"found {found} at byte" in outside(path)[0]


def test_zstd_sizes_of_all_forms_are_read():
    for n_bytes in (1, 255, 256, 65_791, 65_792, 1 << 20):
        with h5py.File("x", "w", driver="core", backing_store=False) as file:
            made = file.create_dataset("x", (n_bytes,), "u1", chunks=(n_bytes,), **hdf5plugin.Zstd())
            made[...] = 1
            raw = made.id.read_direct_chunk((0,))[1]
        assert foreign_child._zstd_content_bytes(raw[:18]) == n_bytes
    assert foreign_child._zstd_content_bytes(zstd_frame(1 << 40)) == 1 << 40
    assert foreign_child._zstd_content_bytes(b"\x28\xb5\x2f\xfd\xe0") is None


@pytest.mark.parametrize(
    "kind", ["external link", "group cycle", "virtual, no parts", "filter of hdf5plugin", "codec name"]
)
def test_the_separate_process_refuses_too(spoilt, kind):
    change, message = HOSTILE[kind]
    text = refusal(spoilt(change))
    assert message in text
    assert text.endswith("get a whole copy; rebuild the store")


def make_virtual(stores, folder, change=lambda file: None):
    """Return a store whose codes and embeddings lie in ``parts/b.h5``, after `change` to that part."""
    (folder / "parts").mkdir()
    shutil.copy(stores["dense", "zstd"], folder / "parts" / "b.h5")
    with h5py.File(folder / "parts" / "b.h5", "r+") as part:
        change(part)
    path = folder / "a.h5"
    shutil.copy(stores["dense", "zstd"], path)
    with h5py.File(path, "r+") as file:
        virtual(f"{CODEC}/codes", "parts/b.h5", parts=["parts/b.h5"])(file)
        virtual(f"{CODEC}/embeddings", "parts/b.h5")(file)
        for name, value in (("n_bytes", np.int64([1])), ("sha256", [b"a"]), ("content_digest", [b"b"])):
            file[f"parts/{name}"] = np.array(value)
    return path


def test_a_virtual_store_over_its_parts_passes(stores, tmp_path):
    path = make_virtual(stores, tmp_path)
    assert outside(path) == []
    check_foreign(path)


def test_a_part_that_is_missing_is_the_readers_to_tell(stores, tmp_path):
    path = make_virtual(stores, tmp_path)
    (tmp_path / "parts" / "b.h5").unlink()
    assert outside(path) == []


def part_that_is_virtual(file):
    virtual(f"{CODEC}/codes", "/etc/passwd")(file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (part_that_is_virtual, "found a virtual dataset over others"),
        (external_storage, "found them in another (external storage)"),
        (external_link, "found an external link"),
    ],
)
def test_the_parts_of_a_virtual_store_are_held_to_the_rules(stores, tmp_path, change, message):
    found = outside(make_virtual(stores, tmp_path, change))
    assert found
    assert found[0].startswith("part parts/b.h5: /codecs/alpha/codes: ")
    assert message in found[0]


def test_virtual_data_of_another_dataset_or_with_gaps_are_refused(spoilt, stores):
    path = spoilt(virtual(f"{CODEC}/codes", "b.h5", f"{CODEC}/labels/f0", parts=["b.h5"]))
    shutil.copy(stores["dense", "zstd"], path.with_name("b.h5"))
    assert "expected data from the same dataset of its parts, found 'codecs/alpha/labels/f0'" in outside(path)[0]
    path = spoilt(virtual(f"{CODEC}/codes", "b.h5", parts=["b.h5"], length=7))
    assert f"/{CODEC}/codes: expected parts with " in outside(path)[0]
    assert outside(path)[0].endswith(" numbers, found 21")


def test_a_part_may_not_be_a_link_to_elsewhere(spoilt, stores, tmp_path_factory):
    path = spoilt(virtual(f"{CODEC}/codes", "b.h5", parts=["b.h5"]))
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "b.h5"
    shutil.copy(stores["dense", "zstd"], elsewhere)
    path.with_name("b.h5").symlink_to(elsewhere)
    assert "found 'b.h5', a link to elsewhere" in outside(path)[0]


def test_parts_that_are_no_list_of_names(spoilt):
    def change(file):
        virtual(f"{CODEC}/codes", "b.h5")(file)
        file["parts/path"] = np.zeros((3, 1000), "S4")

    expected = f"/{CODEC}/codes: expected the files of a virtual dataset in /parts/path, found no such table"
    assert outside(spoilt(change)) == [expected]


def test_an_attribute_of_any_length_makes_a_short_line(spoilt):
    def change(file):
        file[CODEC].attrs["weights"] = np.bytes_(b"\n" * 60_000)

    text = refusal(spoilt(change))
    assert f": /{CODEC}/@weights: expected one of pretrained, checkpoint, untrained, found " in text
    assert len(text) < 20_000


def test_a_link_among_the_codecs_counts_as_nothing(spoilt):
    """The structure's own check, on a file that has not passed the rules."""
    path = spoilt(lambda file: file["codecs"].__setitem__("beta", h5py.ExternalLink("/etc/passwd", "/")))
    with h5py.File(path) as file, pytest.raises(StoreError, match="/codecs/beta: expected a group, found a link"):
        check_structure(file, path)
    path = spoilt(soft_link)
    with h5py.File(path) as file, pytest.raises(StoreError, match="/vocab/phonemes: expected a dataset, found none"):
        check_structure(file, path)


TEXTS = {
    "NUL within": (b"s0\0x", "expected text, found a NUL within a string"),
    "no UTF-8": (b"s0\xff\x1b[31m", "expected UTF-8, found b's0\\xff\\x1b[31m'"),
}


@pytest.mark.parametrize("kind", TEXTS)
def test_strings_that_are_no_text(spoilt, kind):
    value, message = TEXTS[kind]
    path = spoilt(replaced("vocab/speakers", data=np.array([value, b"s1", b"s2"])))
    assert f": /vocab/speakers: {message}" in refusal(path)


def test_odd_ids_are_data(spoilt):
    ids = np.array([f"../{chr(10)}/etc/ü{place:02d}".encode() for place in range(N_UTTERANCES)])
    check_foreign(spoilt(replaced("utterances/id", data=ids)))


def test_offsets_that_would_repeat_without_bound(spoilt):
    def change(file):
        file[f"{CODEC}/offsets"][1] = 1 << 60

    assert f": /{CODEC}/offsets: expected to rise from 0 to " in refusal(spoilt(change))


def test_files_of_another_kind_or_damaged(stores, tmp_path):
    path = tmp_path / "a.h5"
    data = stores["dense", "zstd"].read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert "the HDF5 file does not open" in refusal(path)
    path.write_bytes(np.random.default_rng(0).bytes(5000))
    assert "the HDF5 file does not open" in refusal(path)
    assert "the HDF5 file does not open" in refusal(tmp_path / "absent.h5")
    with h5py.File(path, "w") as file:
        file["layer_1"] = np.zeros(3)
    with pytest.raises(SchemaError, match="not an rvqprobe store: the file names no format"):
        check_foreign(path)


def outcome(path):
    try:
        check_foreign(path)
    except (StoreError, SchemaError) as error:
        return str(error)
    return ""


def test_flipped_bits_end_in_one_line_or_pass(stores, tmp_path):
    data, rng, path = stores["factored", "gzip"].read_bytes(), np.random.default_rng(1), tmp_path / "a.h5"
    for place in [*rng.integers(512, 2560, 6), *rng.integers(2560, len(data), 6)]:
        changed = bytearray(data)
        changed[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        text = outcome(path)
        assert text == "" or text.startswith(f"{path}: ")
        assert "\n" not in text


def test_structure_is_checked_in_the_separate_process(spoilt):
    text = refusal(spoilt(lambda file: file[CODEC].__delitem__("codes")))
    assert f": /{CODEC}/codes: expected a dataset, found none" in text


ENDINGS = {
    "crash": ("kill -SEGV $$", "reading it crashed (SIGSEGV) in a separate process"),
    "killed": ("kill -KILL $$", "reading it crashed (SIGKILL) in a separate process"),
    "processor time": ("kill -XCPU $$", "reading it took more than 3 s in a separate process"),
    "hang": ("sleep 60", "reading it took more than 3 s in a separate process"),
    "hang of a child": ("sleep 60 & exit 0", "reading it took more than 3 s in a separate process"),
    "failure": ("exit 3", "reading it ended without an answer (exit status 3) in a separate process"),
    "silence": ("exit 0", "reading it ended without an answer (exit status 0) in a separate process"),
    "rubbish": ("echo '[1]'", "reading it ended without an answer (exit status 0) in a separate process"),
    "babble": ("exec yes", "reading it crashed (SIGPIPE) in a separate process"),
}


@pytest.mark.parametrize("kind", ENDINGS)
def test_whatever_becomes_of_the_process_is_one_line(stores, monkeypatch, kind):
    command, message = ENDINGS[kind]
    monkeypatch.setattr(foreign, "_command", lambda path, limit_s: ["sh", "-c", command])
    monkeypatch.setattr(foreign, "_time_limit_s", lambda path: 3)
    path = stores["dense", "zstd"]
    assert refusal(path) == f"{path}: {message}, so it is damaged or hostile; get a whole copy or build it again"


def run_child(monkeypatch, code):
    """Let the separate process run `code` under its limits, with the answer to a file's check at the end."""
    command = foreign._command

    def changed(path, limit_s):
        arguments = command(path, limit_s)
        place = arguments.index("-c") + 1
        arguments[place] = arguments[place].replace("; main(", f"; {code}; main(")
        return arguments

    monkeypatch.setattr(foreign, "_command", changed)


def test_memory_is_bounded(stores, monkeypatch):
    run_child(
        monkeypatch,
        "import featstore.foreign_child as child; child.check_here = lambda path: child.np.ones(1 << 30, 'f8')",
    )
    assert "reading it took more than 3 GiB of memory in a separate process" in refusal(stores["dense", "zstd"])


def test_nothing_can_be_written(stores, monkeypatch, tmp_path):
    written = tmp_path / "written"
    write = f"lambda path: child.Path({str(written)!r}).write_text('x')"
    run_child(monkeypatch, f"import featstore.foreign_child as child; child.check_here = {write}")
    assert "it does not read (OSError: [Errno 27] File too large)" in refusal(stores["dense", "zstd"])
    assert not written.exists() or written.stat().st_size == 0


def test_no_start_of_a_process_is_one_line(stores, monkeypatch):
    monkeypatch.setattr(foreign, "_command", lambda path, limit_s: ["/nowhere/python"])
    assert "in a separate process, as a file from elsewhere needs, is not possible (No such" in refusal(
        stores["dense", "zstd"]
    )


def test_an_interrupt_ends_the_process(stores, monkeypatch, tmp_path):
    note = tmp_path / "pid"
    monkeypatch.setattr(foreign, "_command", lambda path, limit_s: ["sh", "-c", f"echo $$ > {note}; exec sleep 60"])
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 1)
    try:
        with pytest.raises(KeyboardInterrupt):
            check_foreign(stores["dense", "zstd"])
    finally:
        signal.signal(signal.SIGALRM, before)
    with pytest.raises(ProcessLookupError):
        os.kill(int(note.read_text()), 0)


def test_elsewhere_with_a_bare_environment_and_odd_modules(stores, tmp_path, monkeypatch):
    """The current folder holds modules that must not be taken for the real ones."""
    for name in ("h5py", "numpy", "json", "featstore"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(7)")
    path = tmp_path / "übung.h5"
    shutil.copy(stores["dense", "zstd"], path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    check_foreign(Path("übung.h5"))


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_plugins_of_the_environment_are_not_loaded(spoilt, tmp_path, monkeypatch):
    folder = tmp_path / "plugins"
    folder.mkdir()
    (folder / "evil.c").write_text(
        "#include <fcntl.h>\n__attribute__((constructor)) static void run(void)\n"
        f'{{ open("{tmp_path}/loaded", O_CREAT | O_WRONLY, 0666); }}\n'
        "int H5PLget_plugin_type(void) { return 0; }\nvoid *H5PLget_plugin_info(void) { return 0; }\n"
    )
    build = ["cc", "-shared", "-fPIC", "-o", str(folder / "libevil.so"), str(folder / "evil.c")]
    subprocess.run(build, check=True)
    path = spoilt(unknown_filter)
    monkeypatch.setenv("HDF5_PLUGIN_PATH", str(folder))
    read = f"import h5py; h5py.File({str(path)!r})['utterances/split'][()]"
    subprocess.run([sys.executable, "-c", read], check=False, stderr=subprocess.DEVNULL)
    assert (tmp_path / "loaded").exists()  # so it does go off
    (tmp_path / "loaded").unlink()
    assert "found number 32999" in refusal(path)
    # Nor where the rules are left out.
    run_child(
        monkeypatch,
        "import featstore.foreign_child as child; child.find_outside = lambda file, path: []",
    )
    with pytest.raises(StoreError):
        check_foreign(path)
    assert not (tmp_path / "loaded").exists()


def test_limits_are_those_of_the_process_alone(stores):
    kinds = (resource.RLIMIT_AS, resource.RLIMIT_FSIZE, resource.RLIMIT_CPU, resource.RLIMIT_NPROC)
    before = [resource.getrlimit(kind) for kind in kinds]
    check_foreign(stores["dense", "zstd"])
    assert [resource.getrlimit(kind) for kind in kinds] == before
