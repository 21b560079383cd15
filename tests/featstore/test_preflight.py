"""Room for a build: what is needed is near what is then taken, and too little is refused with what would help."""

import errno
import os
import re
import resource
import shutil
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from featstore import build as build_module
from featstore import preflight
from featstore.build import build_store
from featstore.errors import StoreError
from featstore.plan import plan_build
from featstore.preflight import WorkLeft, check_room, check_space_to_merge, space_error
from featstore.sizes import SizeEstimate
from tests.support.builds import tiny_build
from tests.support.command_line import ROOT
from tests.support.corpus import make_tiny_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_tiny_corpus(tmp_path_factory.mktemp("corpus"), n_speakers=2, n_utterances=3)


@pytest.fixture
def options(tiny, corpus, tmp_path):
    def make(**changes):
        return tiny_build(corpus, **{"output": tmp_path / "out" / "store.h5", "shard_utterances": 2} | changes)

    return make


@pytest.fixture
def room(monkeypatch):
    """Plenty of everything; a test takes away what it is about."""
    found = SimpleNamespace(n_bytes=10**15, n_files=10**9, memory=10**12, file_size=None)
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda path: SimpleNamespace(free=found.n_bytes))
    monkeypatch.setattr(preflight, "free_files", lambda output: found.n_files)
    monkeypatch.setattr(preflight, "available_bytes", lambda: found.memory)
    monkeypatch.setattr(preflight, "file_size_limit_bytes", lambda: found.file_size)
    return found


def sizes_of(**changes):
    """The sizes of LibriSpeech train-clean-100 for both neural codecs, near enough."""
    values = {
        "duration_s": 361_000.0,
        "longest_s": 25.0,
        "n_frames": {"encodec": 27_100_000, "speechtokenizer": 18_100_000},
        "bytes_frames": 1_200_000_000,
        "bytes_codebooks": 38_000_000,
        "bytes_embeddings": 700_000_000_000,
        "n_shards": 892,
        "compression": "zstd",
    }
    return SizeEstimate(**values | changes)


def work(tmp_path, **changes):
    values = {
        "output": tmp_path / "store.h5",
        "layout": "dense",
        "sizes": sizes_of(),
        "n_utterances": 28_544,
        "slices": [32] * 892,
        "has_merge": True,
    }
    return WorkLeft(**values | changes)


def refusal(work):
    with pytest.raises(StoreError) as caught:
        check_room(work)
    message = str(caught.value)
    assert "\n" not in message
    return message


# what is needed


@pytest.mark.parametrize("store_latents", [False, True])
@pytest.mark.parametrize("layout", ["dense", "factored"])
def test_what_is_needed_is_near_what_is_taken(options, monkeypatch, layout, store_latents):
    plan = plan_build(options(embeddings=layout, store_latents=store_latents))
    needed = plan.work_left
    taken = []

    def measured(parts, output, *more, **named):
        taken.append(sum(path.stat().st_size for path in parts))
        merge(parts, output, *more, **named)
        taken.append(output.stat().st_size)

    merge = build_module.merge_stores
    monkeypatch.setattr(build_module, "merge_stores", measured)
    build_store(plan)
    assert 0.6 * needed.bytes_shards < taken[0] <= needed.bytes_shards
    assert 0.5 * needed.bytes_result() < taken[1] <= needed.bytes_result()
    assert len(list(plan.options.output.parent.rglob("*"))) <= needed.n_files


def test_every_shard_holds_the_codebooks():
    sizes = sizes_of()
    assert sizes.bytes_shards > 892 * 38_000_000
    assert sizes.bytes_of_shards(1, 32 / 28_544) < 41_000_000
    assert sizes.bytes_needed("factored") == sizes.bytes_shards + sizes.bytes_factored


def test_a_resumed_build_needs_what_is_not_there_yet(options, monkeypatch):
    class Interrupted(Exception):
        pass

    def stop(done, total, what, note=""):
        if done == 4:
            raise Interrupted

    plan = plan_build(options())
    before = plan.work_left
    with pytest.raises(Interrupted):
        build_store(plan, stop)
    left = plan_build(options()).work_left
    there = [plan.shard_path(index).exists() for index in range(3)]
    assert there in ([True, True, False], [True, False, False])
    assert len(left.slices) == there.count(False)
    assert left.bytes_shards == pytest.approx(before.bytes_shards * there.count(False) / 3, rel=0.01)
    assert left.bytes_result() == before.bytes_result()
    build_store(plan)
    done = plan_build(options()).work_left
    assert done.is_done
    assert (done.bytes_on_disk(), done.n_files, done.bytes_of_memory) == (0, 0, 0)


def test_shards_that_only_wait_for_the_merge_need_no_network(tmp_path, room):
    left = work(tmp_path, slices=[])
    room.memory = 10**8
    room.n_bytes = left.sizes.bytes_dense
    check_room(left)
    room.n_bytes -= 1
    assert "merging needs about 141.2 GB, 141.2 GB are free; use --embeddings factored" in refusal(left)


def test_one_slice_of_a_job_array_needs_its_own_bytes(options, room):
    whole, part = plan_build(options()), plan_build(options(shard=(2, 3)))
    assert part.work_left.slices == [2]
    assert not part.work_left.has_merge
    assert part.work_left.bytes_on_disk() == pytest.approx(whole.work_left.bytes_shards / 3, rel=0.01)
    room.n_bytes = part.work_left.bytes_on_disk()
    plan_build(options(shard=(2, 3)))
    room.n_bytes -= 1
    with pytest.raises(StoreError, match=r"the slice needs about .*; free some space or choose another --output$"):
        plan_build(options(shard=(2, 3)))


def test_a_finished_store_on_a_full_disk_is_no_reason_to_refuse(options, room):
    build_store(plan_build(options()))
    room.n_bytes = room.n_files = room.memory = 0
    assert build_store(plan_build(options())).n_built == 0
    with pytest.raises(StoreError, match="needs about"):
        plan_build(options(retry_skipped=True))


def test_the_longest_recording_is_found_among_the_largest_files(tmp_path, options):
    import numpy as np
    import soundfile

    own = make_tiny_corpus(tmp_path / "own", n_speakers=2, n_utterances=150)
    path = sorted(own.librispeech_root.rglob("*.flac"))[-1]
    noise = np.random.default_rng(0).standard_normal(16_000 * 40) * 0.1
    soundfile.write(path, noise, 16_000)
    plan = plan_build(options(librispeech_root=own.librispeech_root, alignments_root=own.alignments_root))
    assert plan.sizes.longest_s == pytest.approx(40.0)


# what is refused


def test_enough_of_everything(tmp_path, room):
    check_room(work(tmp_path))


@pytest.mark.parametrize(
    ("compression", "n_bytes", "ways"),
    [
        ("gzip", 180 * 10**9, "use --compression zstd, which needs .* or --embeddings factored, which needs 36.4 GB$"),
        ("zstd", 100 * 10**9, "use --embeddings factored, which needs 36.4 GB$"),
        ("none", 100 * 10**9, "use --embeddings factored, which needs 36.4 GB$"),
        ("zstd", 30 * 10**9, "free some space or choose another --output$"),
    ],
)
def test_too_small_a_disk_names_the_flags_that_fit(tmp_path, room, compression, n_bytes, ways):
    room.n_bytes = n_bytes
    message = refusal(work(tmp_path, sizes=sizes_of(compression=compression)))
    assert re.search(rf"store.h5: the build needs about .* GB, {n_bytes / 1e9:.1f} GB are free; {ways}", message)


def test_too_few_inodes(tmp_path, room):
    room.n_files = 500
    message = refusal(work(tmp_path))
    assert "makes up to 904 files, the file system has inodes for 500 more; remove files there or" in message
    room.n_files = None
    check_room(work(tmp_path))


def test_a_file_system_without_an_inode_limit_is_told_by_its_zero(tmp_path, monkeypatch):
    assert preflight.free_files(tmp_path / "store.h5") is None or preflight.free_files(tmp_path / "store.h5") > 0
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_files=0, f_favail=0))
    assert preflight.free_files(tmp_path / "store.h5") is None
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_files=10, f_favail=3))
    assert preflight.free_files(tmp_path / "store.h5") == 3


# Peaks seen on 35 s of audio, in bytes; see featstore/preflight.py.
@pytest.mark.parametrize(
    ("codecs", "seen"),
    [(["encodec"], 1.308e9), (["speechtokenizer"], 2.105e9), (["encodec", "speechtokenizer"], 2.559e9)],
)
def test_memory_is_estimated_at_what_was_seen_or_a_little_more(tmp_path, codecs, seen):
    sizes = sizes_of(longest_s=35.0, n_frames=dict.fromkeys(codecs, 0), bytes_frames=0)
    assert seen <= work(tmp_path, sizes=sizes).bytes_of_memory <= 1.2 * seen


def test_too_little_memory_for_the_longest_recording(tmp_path, room):
    room.memory = 2 * 10**9
    message = refusal(work(tmp_path))
    assert "encoding (encodec, speechtokenizer; the longest recording lasts 25 s) needs about 2.3 GB" in message
    assert "of memory, 2.0 GB are free; end other programs, use a machine or a batch job with more, or cut" in message
    check_room(work(tmp_path, sizes=sizes_of(n_frames={"encodec": 27_100_000})))
    room.memory = None  # a system that does not say
    check_room(work(tmp_path))


def test_too_little_memory_for_a_slice_of_half_the_corpus(tmp_path, room):
    room.memory = 2 * 10**9
    sizes = sizes_of(n_frames={"melrvq": 180_000_000}, longest_s=600.0)
    message = refusal(work(tmp_path, sizes=sizes, slices=[14_272], has_merge=False))
    assert message.endswith("are free; build smaller slices (--shard I/N with a larger N)")


def test_latents_are_counted_in_shards_result_and_memory(tmp_path):
    without, latents = work(tmp_path), 361_000 * (75 * 128 + 50 * 1024) * 4
    with_them = work(tmp_path, sizes=sizes_of(bytes_latents=latents))
    assert with_them.bytes_shards - without.bytes_shards == latents
    for layout in ("dense", "factored"):
        assert with_them.bytes_result(layout) - without.bytes_result(layout) == latents
    of_a_shard = latents * 32 / 28_544
    assert with_them.bytes_of_memory - without.bytes_of_memory == pytest.approx(6 * of_a_shard, abs=2)
    assert 0.5e9 < 6 * of_a_shard < 0.7e9


def test_latents_that_do_not_fit_may_be_left_out(tmp_path, room):
    sizes = sizes_of(bytes_latents=10**12)
    room.n_bytes = 10**11
    message = refusal(work(tmp_path, sizes=sizes))
    assert message.endswith("free some space, leave out --store-latents or choose another --output")
    room.n_bytes, room.memory = 10**15, 10**11
    message = refusal(work(tmp_path, sizes=sizes, slices=[14_272], has_merge=False))
    assert message.endswith("build smaller slices (--shard I/N with a larger N) or leave out --store-latents")


def test_a_limit_for_the_size_of_files(tmp_path, room):
    room.file_size = 2 * 10**9
    message = refusal(work(tmp_path))
    assert "makes a file of about 141.2 GB, the limit for files of this process is 2.0 GB; raise it with" in message
    assert message.endswith("ulimit -f unlimited or use --embeddings factored, which needs 1.2 GB")
    check_room(work(tmp_path, layout="factored"))
    room.file_size = 10**7
    assert refusal(work(tmp_path, layout="factored")).endswith("raise it with ulimit -f unlimited")


def test_the_limit_is_the_process_s_own():
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    assert preflight.file_size_limit_bytes() == (None if limit == resource.RLIM_INFINITY else limit)
    code = (
        "import resource; from featstore.preflight import file_size_limit_bytes as limit\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (12345, 12345)); print(limit())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "12345\n"


def test_a_folder_that_cannot_be_written_to(options, room, tmp_path, monkeypatch):
    target = tmp_path / "kept" / "deeper" / "store.h5"
    (tmp_path / "kept").mkdir()
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path / "kept" and real(path, mode))
    found = f"{tmp_path / 'kept'}: expected a folder for store.h5, found one without the right to write; change"
    with pytest.raises(StoreError, match=re.escape(found)):
        plan_build(options(output=target))
    assert not target.parent.exists()


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_the_right_to_write(tmp_path, room):
    (tmp_path / "kept").mkdir(mode=0o555)
    with pytest.raises(StoreError, match="found one without the right to write"):
        preflight.check_writable(tmp_path / "kept" / "store.h5")


def test_a_file_where_a_folder_should_be(options, room, tmp_path):
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(StoreError, match=r"notes: expected a folder for store.h5, found a file; choose another"):
        plan_build(options(output=tmp_path / "notes" / "deeper" / "store.h5"))


def test_a_merge_that_would_not_fit(tmp_path, room):
    codecs = {"encodec": (27_000_000, 8, 128), "speechtokenizer": (18_000_000, 8, 1024)}
    asked = {"bytes_codebooks": 38_000_000, "compression": "gzip", "output": tmp_path / "store.h5"}
    check_space_to_merge(codecs, layout="dense", **asked)
    room.n_bytes = 500 * 10**9
    with pytest.raises(StoreError) as caught:
        check_space_to_merge(codecs, layout="dense", **asked)
    assert re.search(
        r"store.h5: merging needs about 631.6 GB, 500.0 GB are free; use --compression zstd, which needs 141.3 GB or "
        r"--embeddings factored, which needs 1.2 GB$",
        str(caught.value),
    )
    check_space_to_merge(codecs, layout="factored", **asked)
    with pytest.raises(StoreError, match=r"500.0 GB are free; free some space or choose another --output$"):
        check_space_to_merge(codecs, layout="factored", bytes_besides=10**12, **asked)


# a disk that fills up in the middle


@pytest.mark.parametrize(
    ("number", "happened", "way"),
    [
        (errno.ENOSPC, "no space left on the device", "free space on that file system (--embeddings factored needs"),
        (errno.EDQUOT, "disk quota exceeded", "remove other files that count towards the quota"),
        (errno.EFBIG, "file size limit reached", "raise the limit (ulimit -f unlimited)"),
        (errno.EROFS, "the file system is read-only", "make it writable again"),
        (errno.EIO, "input/output error of the device", "check the device"),
    ],
)
def test_no_room_in_the_middle(tmp_path, room, number, happened, way):
    room.n_bytes = 12_300
    path = tmp_path / "store.h5.shards" / "shard-00001-of-00002.h5"
    said = str(space_error(path, OSError(number, os.strerror(number))))
    assert said.startswith(f"{path}: {happened}, 12.3 kB are free there now; finished shards are kept: {way}")
    assert said.endswith("and run the same command again")
    assert "\n" not in said


def test_what_hdf5_says_is_understood(tmp_path, room):
    room.n_files = 0
    said = space_error(
        tmp_path / "s.h5", OSError("Can't write data (file write failed: errno = 28, error message = 'x'")
    )
    assert "no space left on the device, 1000.0 TB are free there now and room for 0 more files; " in str(said)


@pytest.mark.parametrize("error", [OSError("Unable to open file"), OSError(errno.ENOENT, "not there")])
def test_other_errors_are_none_of_this(tmp_path, error):
    assert space_error(tmp_path / "s.h5", error) is None


def test_a_folder_that_is_gone_does_not_hide_the_error(tmp_path, monkeypatch):
    def gone(path):
        raise OSError(errno.EIO, "gone")

    monkeypatch.setattr(shutil, "disk_usage", gone)
    said = str(space_error(tmp_path / "s.h5", OSError(errno.EIO, "x")))
    assert "input/output error of the device; finished shards" in said


def test_work_is_told_from_work_done(tmp_path):
    assert not work(tmp_path).is_done
    assert work(tmp_path, slices=[], has_merge=False).is_done
    assert replace(work(tmp_path), slices=[]).bytes_largest_file == sizes_of().bytes_dense


def test_how_much_rows_shrink_depends_on_the_compression():
    sizes = sizes_of(bytes_embeddings=1_000_000_000)
    for compression, expected in (("zstd", 200_000_000), ("gzip", 900_000_000), ("none", 1_000_000_000)):
        assert sizes.bytes_of("dense", compression) - sizes.bytes_factored == expected
