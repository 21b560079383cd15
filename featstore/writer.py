"""Write a store of format 1.0, once: under a temporary name, synced, then renamed.

`StoreWriter` is used both for shards and for merged stores. Frames are appended in the order of the utterance table and
written in blocks aligned to the chunks, so that no chunk is compressed twice.
"""

import json
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import h5py
import hdf5plugin
import numpy as np
from numpy.typing import NDArray

from featstore import trust
from featstore.atomic import write_once
from featstore.digest import combined_digest, utterance_digests, wrong_shards
from featstore.errors import StoreError
from featstore.guarded_file import GuardedFile, open_guarded
from featstore.header import SHARD_OPTIONAL, CodecHeader, ShardRow, SkippedRow, StoreHeader, UtteranceRow
from featstore.parts import PartRow
from featstore.reading import BLOCK_FRAMES
from featstore.seal import SEAL_BYTES, write_seal
from featstore.stopping import check_stopped, signals_held
from featstore.store import Store
from featstore.virtual import SHOWN, VirtualFrames
from schemas.store import STORE_FORMAT, STORE_FORMAT_VERSION, store_spec

Layout = Literal["dense", "factored"]
Compression = Literal["zstd", "gzip", "none"]
# Build options that change how a store is written but not what it says.
LAYOUT_OPTIONS = ("embeddings", "compression")
_TABLE_CHUNK_BYTES = 1 << 20
_CHUNK_BYTES = 4 << 20  # an embedding chunk: half of HDF5 2.0's chunk cache
# Numbers of a row in a chunk of embeddings. Zstandard looks back over 2 MB, which are 512 rows of 1024 numbers, fewer
# than a codebook has, but 4096 pieces of 128: rows of 1024 in such pieces take a fifth of the bytes.
_NUMBERS_OF_CHUNK = 128


@dataclass
class _Pending:
    """Frames appended but not yet written."""

    written: int = 0
    n: int = 0
    written_latents: int = 0
    codes: list[NDArray[np.uint16]] = field(default_factory=list)
    phoneme: list[NDArray[np.uint16]] = field(default_factory=list)
    f0: list[NDArray[np.float32]] = field(default_factory=list)


class StoreWriter:
    """Context manager that makes a store at `path`; on leaving without an error the store is whole and in place.

    Parameters
    ----------
    path : Path
    header : StoreHeader
        Utterances sorted by id, phonemes sorted.
    layout : {"dense", "factored"}
    compression : {"zstd", "gzip", "none"}
    shown : VirtualFrames or None
        Frames of other stores that this one shows; labels alone are then written.
    expected_digest : str
        Content digest that the store has to have; empty where it is not known. Another one leaves nothing.
    """

    def __init__(
        self,
        path: Path,
        header: StoreHeader,
        layout: Layout = "dense",
        compression: Compression = "zstd",
        shown: VirtualFrames | None = None,
        expected_digest: str = "",
    ) -> None:
        self._expected_digest = expected_digest
        self.path, self.header, self.layout, self.compression, self._shown = path, header, layout, compression, shown
        self._codecs = {codec.name: codec for codec in header.codecs}
        self._pending = {codec.name: _Pending() for codec in header.codecs}
        self._stack = ExitStack()

    def __enter__(self) -> "StoreWriter":
        with ExitStack() as stack:
            self._temporary = stack.enter_context(write_once(self.path))
            self._guarded = stack.enter_context(closing(GuardedFile(self._temporary)))
            options = {"libver": ("v110", "v110"), "userblock_size": SEAL_BYTES}
            with signals_held():  # as around everything that has HDF5 write: see `signals_held`
                self._file = open_guarded(self._guarded, "w", **options)
                stack.callback(self._close)
                self._write_header()
            self._guarded.check()
            self._stack = stack.pop_all()
        return self

    def _close(self) -> None:
        with signals_held():
            self._file.close()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._stack.__exit__(kind, value, trace)  # write_once removes the temporary file
            return
        with self._stack:
            self._finish()
        trust.remember(self.path, trust.identity_of(self.path))

    def append(
        self, codec: str, codes: NDArray[np.uint16], phoneme: NDArray[np.uint16], f0: NDArray[np.float32]
    ) -> None:
        """Append frames, utterance after utterance in the table's order.

        Parameters
        ----------
        codec : str
        codes : uint16 array of shape (n_layers, n)
        phoneme : uint16 array of shape (n,)
            Index into ``header.phonemes``.
        f0 : float32 array of shape (n,)
            Hz, NaN where unvoiced.
        """
        pending = self._pending[codec]
        pending.codes.append(codes)
        pending.phoneme.append(phoneme)
        pending.f0.append(f0)
        pending.n += codes.shape[1]
        if pending.n >= BLOCK_FRAMES:
            self._flush(codec, pending.n // BLOCK_FRAMES * BLOCK_FRAMES)

    def append_latents(self, codec: str, latents: NDArray[np.float32]) -> None:
        """Append the encoder's output of frames, utterance after utterance: float32 (n, dim), written at once.

        They are a hundred times as large as what `append` takes, so none wait for a block to be full.
        """
        pending, dataset = self._pending[codec], self._file["codecs"][codec]["latents"]
        first = pending.written_latents
        with signals_held():
            dataset[first : first + len(latents)] = latents
        pending.written_latents += len(latents)
        self._guarded.check()

    def _flush(self, codec: str, n: int) -> None:
        pending, group = self._pending[codec], self._file["codecs"][codec]
        codes, phoneme = np.concatenate(pending.codes, axis=1), np.concatenate(pending.phoneme)
        f0 = np.concatenate(pending.f0)
        start, stop = pending.written, pending.written + n
        with signals_held():
            if self._shown is None:
                group["codes"][:, start:stop] = codes[:, :n]
            group["labels/phoneme"][start:stop] = phoneme[:n]
            group["labels/f0"][start:stop] = f0[:n]
        if self.layout == "dense" and self._shown is None:
            self._expand(group["embeddings"], self._codecs[codec].codebooks, codes[:, :n], start)
        pending.codes, pending.phoneme, pending.f0 = [codes[:, n:]], [phoneme[n:]], [f0[n:]]
        pending.written, pending.n = stop, pending.n - n
        self._guarded.check()

    @staticmethod
    def _expand(dataset: Any, codebooks: NDArray[np.float32], codes: NDArray[np.uint16], start: int) -> None:
        rows = dataset.chunks[1] if dataset.chunks else BLOCK_FRAMES
        for layer, codebook in enumerate(codebooks):
            for first in range(0, codes.shape[1], rows):
                piece = codebook[codes[layer, first : first + rows]]
                with signals_held():
                    dataset[layer, start + first : start + first + len(piece)] = piece

    def _finish(self) -> None:
        for name, codec in self._codecs.items():
            pending = self._pending[name]
            if pending.n:
                self._flush(name, pending.n)
            if pending.written != sum(codec.n_frames):
                raise StoreError(f"{self.path}: {name} got {pending.written} frames, expected {sum(codec.n_frames)}")
            if codec.has_latents and self._shown is None and pending.written_latents != pending.written:
                raise StoreError(
                    f"{self.path}: {name} got latents of {pending.written_latents} frames, expected {pending.written}"
                )
        with signals_held():
            _set_attribute(self._file, "complete", True)
            _set_attribute(self._file, "created", datetime.now(UTC).isoformat(timespec="seconds"))
            _set_attribute(self._file, "content_digest", "")
            self._file.close()
        self._guarded.check()
        with Store.of_own(self._temporary) as written:
            digest = self._check_written(written)
        with signals_held(), open_guarded(self._guarded, "r+") as file:
            _set_attribute(file, "content_digest", digest)
        self._guarded.check()
        check_stopped()
        write_seal(self._temporary)

    def _check_written(self, written: Store) -> str:
        """Return the content digest of what was written, once every shard in it says what it said before."""
        digests = utterance_digests(written)
        wrong = wrong_shards(written, digests)
        if wrong:
            raise StoreError(
                f"{self.path}: a part has changed while it was copied, or is not what its own digest says (shard "
                f"{wrong[0]}, made on {self.header.shards[wrong[0]].host}); check the parts with verify --full"
            )
        digest = combined_digest(written, digests)
        if self._expected_digest not in ("", digest):
            raise StoreError(
                f"{self.path}: its content has the digest {digest}, expected {self._expected_digest}: what was copied "
                "has changed meanwhile, or is not what it claims; check it with verify --full"
            )
        return digest

    def _write_header(self) -> None:
        file, header = self._file, self.header
        from featstore import __version__

        _set_attribute(file, "format", STORE_FORMAT)
        _set_attribute(file, "format_version", STORE_FORMAT_VERSION)
        _set_attribute(file, "complete", False)
        _set_attribute(file, "producer", f"rvqprobe {__version__}")
        for name, value in header.attributes.items():
            _set_attribute(file, name, json.dumps(value, sort_keys=True))
        speakers = sorted({row.speaker for row in header.utterances})
        place = {speaker: index for index, speaker in enumerate(speakers)}
        columns: dict[str, Sequence[Any]] = {"skipped/id": list(header.skipped)}
        tables: tuple[tuple[str, Any, Sequence[Any]], ...] = (
            ("utterances", UtteranceRow, header.utterances),
            ("skipped", SkippedRow, list(header.skipped.values())),
            ("shards", ShardRow, header.shards),
            *([("parts", PartRow, header.parts)] if header.parts else []),
        )
        for group, kind, rows in tables:
            for name in kind.__dataclass_fields__:
                columns[f"{group}/{name}"] = [getattr(row, name) for row in rows]
        for name in SHARD_OPTIONAL:
            if all(getattr(row, name) == getattr(ShardRow, name) for row in header.shards):
                del columns[f"shards/{name}"]
        columns["utterances/speaker"] = [place[row.speaker] for row in header.utterances]
        columns |= {"vocab/phonemes": list(header.phonemes), "vocab/speakers": speakers}
        for path, values in columns.items():
            _write_column(file, path, values)
        file.require_group("codecs")
        speaker_of = np.asarray(columns["utterances/speaker"], dtype=np.int32)
        for codec in header.codecs:
            self._write_codec_header(codec, speaker_of)

    def _write_codec_header(self, codec: CodecHeader, speaker_of: NDArray[np.int32]) -> None:
        group = self._file.create_group(f"codecs/{codec.name}")
        n_layers, _, dim = codec.codebooks.shape
        rate = codec.sample_rate_hz / codec.hop_samples
        for name, value in {
            "sample_rate_hz": codec.sample_rate_hz,
            "hop_samples": codec.hop_samples,
            "frame_rate_hz": rate,
            "n_layers": n_layers,
            "dim": dim,
            "weights": codec.weights,
            "weights_sha256": codec.weights_sha256,
            "layout": self.layout,
        }.items():
            _set_attribute(group, name, value)
        offsets = np.concatenate([[0], np.cumsum(codec.n_frames)]).astype(np.int64)
        _write_table(group, "offsets", offsets)
        _write_table(group, "codebooks", codec.codebooks)
        n_frames = int(offsets[-1])
        self._create(group, "codes", (n_layers, n_frames), (1, BLOCK_FRAMES))
        for name in ("phoneme", "speaker", "f0"):
            self._create(group, f"labels/{name}", (n_frames,), (BLOCK_FRAMES,))
        for first in range(0, n_frames, BLOCK_FRAMES):
            last = min(first + BLOCK_FRAMES, n_frames)
            owner = np.searchsorted(offsets, np.arange(first, last), side="right") - 1
            group["labels/speaker"][first:last] = speaker_of[owner]
        if self.layout == "dense":
            self._create(group, "embeddings", (n_layers, n_frames, dim), (1, *embedding_chunk(dim)))
        if codec.has_latents:
            self._create(group, "latents", (n_frames, dim), (rows_of_chunk(dim), dim))

    def _create(self, group: Any, path: str, shape: tuple[int, ...], chunks: tuple[int, ...]) -> None:
        dtype = store_spec().dataset(path).dtype
        if 0 in shape:
            group.create_dataset(path, shape, dtype)
            return
        if self._shown is not None and path in SHOWN:
            codec = group.name.rsplit("/", 1)[-1]
            group.create_virtual_dataset(path, self._shown.layout(codec, path, shape))
            return
        # codes use 10 of 16 bits and labels repeat: byte shuffling helps them, and would destroy the repeating rows
        shuffle = path != "embeddings" and self.compression != "none"
        filters: dict[str, Any] = {"shuffle": shuffle, "fletcher32": True}
        if self.compression == "zstd":
            filters |= hdf5plugin.Zstd(clevel=3)
        elif self.compression == "gzip":
            filters["compression"] = "gzip"
        chunks = tuple(min(chunk, size) for chunk, size in zip(chunks, shape, strict=True))
        group.create_dataset(path, shape, dtype, chunks=chunks, **filters)


@dataclass(frozen=True)
class ShardFrames:
    """A shard in memory: its header, and (codec, codes, phoneme, f0, latents) of each utterance and codec.

    They are what `StoreWriter.append` and `append_latents` take; latents are None where the header has none.
    """

    header: StoreHeader
    frames: Sequence[
        tuple[str, NDArray[np.uint16], NDArray[np.uint16], NDArray[np.float32], NDArray[np.float32] | None]
    ]


def write_shard(path: Path, shard: ShardFrames) -> None:
    """Write a shard as a factored store, which appears when it is whole."""
    with StoreWriter(path, shard.header, layout="factored") as writer:
        for name, codes, phoneme, f0_hz, latents in shard.frames:
            writer.append(name, codes, phoneme, f0_hz)
            if latents is not None:
                writer.append_latents(name, latents)


def embedding_chunk(dim: int) -> tuple[int, int]:
    """Return how many rows a chunk of embeddings holds, and how many numbers of each."""
    numbers = min(dim, _NUMBERS_OF_CHUNK)
    return rows_of_chunk(numbers), numbers


def rows_of_chunk(dim: int) -> int:
    """Return how many rows of `dim` float32 numbers a chunk holds."""
    return min(1 << max(0, (_CHUNK_BYTES // (4 * dim)).bit_length() - 1), BLOCK_FRAMES)


def _set_attribute(item: Any, name: str, value: Any) -> None:
    if isinstance(value, str):
        data = value.encode("utf-8")
        # fixed length: a variable-length string lies in a heap that carries no checksum
        item.attrs.create(name, np.bytes_(data), dtype=h5py.string_dtype("utf-8", max(1, len(data))))
    else:
        item.attrs[name] = value


def _write_column(file: Any, path: str, values: Sequence[Any]) -> None:
    dtype = store_spec().dataset(path).dtype
    if dtype != "string":
        _write_table(file, path, np.asarray(values, dtype=dtype))
        return
    data = [str(value).encode("utf-8") for value in values]
    length = max([1, *map(len, data)])
    _write_table(file, path, np.asarray(data, dtype=h5py.string_dtype("utf-8", length)))


def _write_table(group: Any, path: str, data: NDArray[Any]) -> None:
    """Write a small dataset in chunks, for their checksums: HDF5 has none for contiguous data."""
    if not data.size:
        group.create_dataset(path, data=data)
        return
    bytes_of_row = data.nbytes // len(data)
    rows = min(len(data), max(1, _TABLE_CHUNK_BYTES // bytes_of_row))
    group.create_dataset(path, data=data, chunks=(rows, *data.shape[1:]), fletcher32=True)
