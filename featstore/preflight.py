"""Is there room for a build: space, files, memory and rights, looked at before the first second of encoding.

What is on disk already is not counted again: shards that stand in their folder, and a result that stands whole. And
what to say when a disk fills up all the same, in the middle (`space_error`).
"""

import errno
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from featstore.errors import StoreError
from featstore.header import StoreHeader
from featstore.memory import available_bytes
from featstore.sizes import SizeEstimate, estimate_merged, in_bytes
from featstore.wording import counted

# Files besides the shards: the store, the split, each codec's weights, configuration and note, locks, temporary ones.
_FILES_BESIDES = 12
# Of a frame in memory besides what is stored of it: its phone as a string of four characters or so, and indices.
_BYTES_OF_A_FRAME_IN_MEMORY = 40
# Copies of a shard's latents at the peak, of both processes together: while a shard is handed to the one that writes,
# it is there as encoded, as sent, as received and as unpacked, and that process holds the shard before until then.
# 6.0 times their bytes were seen with shards of 98 MB; without worker processes it is about once.
_COPIES_OF_LATENTS = 6

# Memory, as seen with untrained networks (which are as large as trained ones) on one thread, each in a process of its
# own, and both in one. EnCodec: 702 MB loaded; at its peak 839 MB on 5 s, 1308 MB on 35 s, 1912 MB on 70 s of audio.
# SpeechTokenizer: 1296 MB loaded, 1778 MB at the peak of loading, 2105 MB on 35 s, 2897 MB on 70 s. Both: 1517 MB
# loaded, 2559 MB at the peak on 35 s; 540 MB of it are Python, torch and torchaudio. That is 17 and 23 MB a second of
# audio alone, and 20 and 30 in one heap, which one codec leaves in pieces for the other; the estimate is 2570 MB.
_BYTES_OF_PROCESS = 540_000_000


@dataclass(frozen=True)
class _Network:
    """Bytes of memory of a codec's network: loaded, while it is being loaded besides, and for a second of audio."""

    loaded: int
    loading: int
    a_second: int


# On a GPU the last of the three lies there; hosts of GPUs have that much. What is not listed (the acoustic baseline
# takes 1 MB a second) counts as nothing: a guess is no reason to refuse a build.
_NETWORKS = {
    "encodec": _Network(170_000_000, 60_000_000, 20_000_000),
    "speechtokenizer": _Network(810_000_000, 480_000_000, 30_000_000),
}


@dataclass(frozen=True)
class WorkLeft:
    """What a build still has to write.

    Attributes
    ----------
    output : Path
        The store; shards stand beside it.
    layout : str
        "dense" or "factored", of the result.
    sizes : SizeEstimate
        Of the whole build.
    n_utterances : int
        Of the whole build.
    slices : sequence of int
        Utterances of each slice whose shard is still to be built.
    has_merge : bool
        Whether the shards are then merged into the result; not with ``--shard``.
    bytes_to_be_freed : int
        Of leftovers that are removed before they could be in the way.
    batch_s : float
        Seconds of audio that the CPU encodes together.
    """

    output: Path
    layout: str
    sizes: SizeEstimate
    n_utterances: int
    slices: Sequence[int]
    has_merge: bool
    bytes_to_be_freed: int = 0
    batch_s: float = 0.0

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to write."""
        return not self.slices and not self.has_merge

    @property
    def bytes_shards(self) -> int:
        """Bytes of the shards that are still to be built."""
        return self.sizes.bytes_of_shards(len(self.slices), sum(self.slices) / max(1, self.n_utterances))

    def bytes_on_disk(self, layout: str | None = None, compression: str | None = None) -> int:
        """Return the bytes of all that is still to be written, in another layout or compression where one is given."""
        return self.bytes_shards + self.bytes_result(layout, compression)

    def bytes_result(self, layout: str | None = None, compression: str | None = None) -> int:
        """Return the bytes of the merged store; 0 where none is made."""
        return self.sizes.bytes_of(layout or self.layout, compression) if self.has_merge else 0

    @property
    def bytes_largest_file(self) -> int:
        """Bytes of the largest file that is still to be written."""
        shares = (n / max(1, self.n_utterances) for n in self.slices)
        return max([self.bytes_result(), *(self.sizes.bytes_of_shards(1, share) for share in shares)])

    @property
    def n_files(self) -> int:
        """Files that are still to be made, at most."""
        return 0 if self.is_done else len(self.slices) + _FILES_BESIDES

    @property
    def bytes_of_memory(self) -> int:
        """Bytes of memory at the peak: the networks, the longest recording in one of them, a shard's frames."""
        if not self.slices:
            return 0  # merging takes tens of megabytes, whatever the size
        networks = [_NETWORKS[name] for name in self.sizes.n_frames if name in _NETWORKS]
        loaded = sum(network.loaded for network in networks)
        encoded_s = max(self.sizes.longest_s, self.batch_s)
        peak = max((max(n.loading, int(n.a_second * encoded_s)) for n in networks), default=0)
        return _BYTES_OF_PROCESS + loaded + peak + self.bytes_of_frames_in_memory

    @property
    def bytes_of_frames_in_memory(self) -> int:
        """Bytes of the frames of the largest shard, which are held until it is written."""
        in_memory = self.sizes.bytes_frames + _BYTES_OF_A_FRAME_IN_MEMORY * sum(self.sizes.n_frames.values())
        in_memory += _COPIES_OF_LATENTS * self.sizes.bytes_latents
        return int(in_memory * max(self.slices, default=0) / max(1, self.n_utterances))


def check_room(work: WorkLeft) -> None:
    """Refuse a build that has no room or no right to write, naming what would help; ask nothing where all is done.

    Raises
    ------
    StoreError
    """
    if work.is_done:
        return
    check_writable(work.output)
    _check_file_size(work)
    _check_space(work)
    _check_files(work)
    _check_memory(work)


def check_room_for(header: StoreHeader, layout: str, compression: str, output: Path) -> None:
    """Refuse to write a store that would not fit: `check_space_to_merge` for the store of a header.

    Raises
    ------
    StoreError
    """
    sizes = {codec.name: (sum(codec.n_frames), *codec.codebooks.shape[::2]) for codec in header.codecs}
    latents = sum(4 * sizes[codec.name][0] * sizes[codec.name][2] for codec in header.codecs if codec.has_latents)
    codebooks = sum(codec.codebooks.nbytes for codec in header.codecs)
    check_space_to_merge(sizes, codebooks, layout, compression, output, latents)


def check_space_to_merge(
    codecs: Mapping[str, tuple[int, int, int]],
    bytes_codebooks: int,
    layout: str,
    compression: str,
    output: Path,
    bytes_besides: int = 0,
) -> None:
    """Refuse a merge whose result would not fit beside its parts, naming the flag that would fit.

    Parameters
    ----------
    codecs : mapping of str to (n_frames, n_layers, dim)
        Of the result; by name.
    bytes_codebooks : int
        Of all codecs together, in the result.
    layout : {"dense", "factored"}
    compression : {"zstd", "gzip", "none"}
    output : Path
        The store to make.
    bytes_besides : int
        Of what else goes into it in either layout, such as latents.

    Raises
    ------
    StoreError
        Also when the output's folder cannot be written to, or files of that size are not allowed.
    """
    sizes = estimate_merged(list(codecs.values()), bytes_codebooks + bytes_besides, compression)
    work = WorkLeft(output, layout, sizes, n_utterances=0, slices=(), has_merge=True)
    check_writable(output)
    _check_file_size(work)
    _check_space(work)


def check_writable(output: Path) -> None:
    """Refuse an output whose folder cannot be made or written to.

    Raises
    ------
    StoreError
    """
    folder = existing_folder(output)
    if not folder.is_dir():
        raise StoreError(f"{folder}: expected a folder for {output.name}, found a file; choose another --output")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise StoreError(
            f"{folder}: expected a folder for {output.name}, found one without the right to write; "
            "change its rights or choose another --output"
        )


def existing_folder(output: Path) -> Path:
    """Return the nearest of the folders above `output` that is there: files and folders are going to be made in it."""
    return next(parent for parent in output.absolute().parents if os.path.exists(parent))  # also where one may not look


def free_bytes(output: Path) -> int:
    """Return the bytes that may still be written where `output` is going to lie."""
    return shutil.disk_usage(existing_folder(output)).free


def free_files(output: Path) -> int | None:
    """Return how many files may still be made where `output` is going to lie; None where there is no limit."""
    if not hasattr(os, "statvfs"):
        return None
    found = os.statvfs(existing_folder(output))
    return found.f_favail if found.f_files else None  # btrfs and others make inodes as they go, and say 0 of 0


def file_size_limit_bytes() -> int | None:
    """Return how large a file this process may write; None where there is no limit."""
    try:
        import resource
    except ImportError:
        return None  # no such limits on this system
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    return None if limit == resource.RLIM_INFINITY else limit


def space_error(path: Path, error: OSError) -> StoreError | None:
    """Return what to raise instead of an error of writing `path` that means "no room"; None for any other error.

    The message tells what happened, how much is free now, and what to do; it fits builds and merges.
    """
    number = _errno_of(error)
    if number not in _HAPPENED:
        return None
    happened, way = _HAPPENED[number]
    return StoreError(
        f"{path}: {happened}{_free_now(path)}; finished shards are kept: {way} and run the same command again"
    )


_LESS = "(--embeddings factored needs far less than dense)"
_HAPPENED = {
    errno.ENOSPC: ("no space left on the device", f"free space on that file system {_LESS}"),
    errno.EDQUOT: ("disk quota exceeded", f"remove other files that count towards the quota {_LESS}"),
    errno.EFBIG: ("file size limit reached", f"raise the limit (ulimit -f unlimited) {_LESS}"),
    errno.EROFS: ("the file system is read-only", "make it writable again (an error of the device can be the cause)"),
    errno.EIO: ("input/output error of the device", "check the device and its file system"),
}


def _errno_of(error: OSError) -> int | None:
    """Return the error's number; HDF5 puts it into its message, and h5py not always into the exception."""
    if error.errno is not None:
        return error.errno
    found = re.search(r"errno = (\d+)", str(error))
    return int(found[1]) if found else None


def _free_now(path: Path) -> str:
    try:
        n_bytes, n_files = free_bytes(path), free_files(path)
    except OSError:
        return ""
    files = "" if n_files is None or n_files > _FILES_BESIDES else f" and room for {counted(n_files, 'more file')}"
    return f", {in_bytes(n_bytes)} are free there now{files}"


def _check_space(work: WorkLeft) -> None:
    free, needed = free_bytes(work.output) + work.bytes_to_be_freed, work.bytes_on_disk()
    if needed <= free:
        return
    ways = _smaller(work, work.bytes_on_disk, free)
    less = ", leave out --store-latents" if work.sizes.bytes_latents else ""
    way = f"use {' or '.join(ways)}" if ways else f"free some space{less} or choose another --output"
    raise StoreError(f"{work.output}: {_what(work)} needs about {in_bytes(needed)}, {in_bytes(free)} are free; {way}")


def _check_file_size(work: WorkLeft) -> None:
    limit, needed = file_size_limit_bytes(), work.bytes_largest_file
    if limit is None or needed <= limit:
        return
    ways = _smaller(work, work.bytes_result, limit)
    way = " or ".join(["raise it with ulimit -f unlimited", *(f"use {way}" for way in ways)])
    raise StoreError(
        f"{work.output}: {_what(work)} makes a file of about {in_bytes(needed)}, the limit for files of this process "
        f"is {in_bytes(limit)}; {way}"
    )


def _check_files(work: WorkLeft) -> None:
    free = free_files(work.output)
    if free is not None and free < work.n_files:
        raise StoreError(
            f"{work.output}: {_what(work)} makes up to {counted(work.n_files, 'file')}, the file system has inodes for "
            f"{free:,} more; remove files there or choose another --output"
        )


def _check_memory(work: WorkLeft) -> None:
    there, needed = available_bytes(), work.bytes_of_memory
    if there is None or needed <= there:
        return
    if work.bytes_of_frames_in_memory > needed // 2:
        less = " or leave out --store-latents" if work.sizes.bytes_latents else ""
        way = f"build smaller slices (--shard I/N with a larger N){less}"
    elif work.batch_s > work.sizes.longest_s:
        way = "use smaller --batch-seconds"
    else:
        way = "end other programs, use a machine or a batch job with more, or cut up long recordings"
    longest = f"the longest recording lasts {work.sizes.longest_s:.0f} s"
    if work.batch_s > work.sizes.longest_s:
        longest = f"{work.batch_s:g} s of audio in a batch"
    raise StoreError(
        f"{work.output}: encoding ({', '.join(work.sizes.n_frames)}; {longest}) needs about {in_bytes(needed)} of "
        f"memory, {in_bytes(there)} are free; {way}"
    )


def _smaller(work: WorkLeft, bytes_of: Callable[[str, str | None], int], room: int) -> list[str]:
    """Return the options with which the result would fit into the room, the nearest to what was asked for first."""
    if not work.has_merge or work.layout != "dense":
        return []
    packed, factored = bytes_of("dense", "zstd"), bytes_of("factored", None)
    ways = []
    if work.sizes.compression != "zstd" and packed <= room:
        ways.append(f"--compression zstd, which needs {in_bytes(packed)}")
    if factored <= room:
        ways.append(f"--embeddings factored, which needs {in_bytes(factored)}")
    return ways


def _what(work: WorkLeft) -> str:
    if not work.slices:
        return "merging"
    return "the build" if work.has_merge else "the slice"
