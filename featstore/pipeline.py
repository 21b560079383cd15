"""Reading and labelling ahead of the encoder, and writing behind it, each in processes of their own.

Audio, alignments and F0 cost a hundredth to a tenth of what a codec costs on a CPU, and more than it costs on a GPU. So
`n_workers` processes prepare utterances while this one encodes, and one more writes the shard before. Each worker holds
one utterance ready, which bounds the memory; results are put where they belong, so that a store does not depend on how
many there are.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from featstore.corpora.base import Utterance
from featstore.errors import StoreError
from featstore.extract import CodecClock, PreparedUtterance, prepare_utterance
from featstore.header import InputHashes
from featstore.pool import OneCallAhead, Pool
from featstore.stopwatch import Stopwatch
from featstore.writer import ShardFrames, write_shard

# An hour of audio takes pyin two minutes; only a file system that hangs takes longer.
PREPARE_TIMEOUT_S = 600.0


class Pipeline:
    """Context manager around a build: prepares utterances ahead, writes shards behind.

    Parameters
    ----------
    clocks : sequence of CodecClock
    f0_method : str
    n_workers : int
        Processes that prepare; 0 does everything in this process, one after the other.
    """

    def __init__(self, clocks: Sequence[CodecClock], f0_method: str, n_workers: int) -> None:
        self.n_workers = n_workers
        self.stopwatch = Stopwatch()
        self._make = partial(_Preparer, list(clocks), f0_method)
        self._stack = ExitStack()
        self._preparing: _Preparing | None = None
        self._writing: OneCallAhead | None = None

    def __enter__(self) -> Self:
        if self.n_workers:
            with ExitStack() as stack:
                self._preparing = stack.enter_context(_Preparing(self._make, self.n_workers))
                self._writing = OneCallAhead(stack.enter_context(_Writing(_Writer, 1)))
                self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def prepare(self, utterances: Sequence[Utterance]) -> Iterator[tuple[int, PreparedUtterance]]:
        """Yield (place, prepared utterance) of each, nearly in order: as soon as it is ready."""
        answers = self._answers(utterances)
        while True:
            with self.stopwatch("wait for input"):
                answer = next(answers, None)
            if answer is None:
                return
            yield answer

    def write(self, path: Path, shard: ShardFrames) -> None:
        """Write a shard, or hand it to the process that does when it has written the one before.

        Raises
        ------
        StoreError, OSError
            What went wrong with this one or the one before.
        """
        with self.stopwatch("wait for disk"):
            if self._writing is None:
                write_shard(path, shard)
            else:
                self._writing.begin(("write", (path, shard)))

    def finish(self) -> None:
        """Wait until the last shard is on the disk; raises what went wrong with it."""
        with self.stopwatch("wait for disk"):
            if self._writing is not None:
                self._writing.finish()

    def _answers(self, utterances: Sequence[Utterance]) -> Iterator[tuple[int, PreparedUtterance]]:
        if self._preparing is None:
            preparer = self._make()
            yield from ((place, preparer.prepare(utterance)) for place, utterance in enumerate(utterances))
            return
        for place, answer in self._preparing.run(("prepare", (utterance,)) for utterance in utterances):
            if isinstance(answer, _Lost):
                answer = answer.as_prepared(utterances[place])
            yield place, answer


@dataclass(frozen=True)
class _Lost:
    """An utterance whose preparation killed two workers, or took too long twice."""

    exit_code: int | None
    is_late: bool

    def as_prepared(self, utterance: Utterance) -> PreparedUtterance:
        happened = (
            f"reading it took longer than {PREPARE_TIMEOUT_S:.0f} s, twice (a file system that hangs?)"
            if self.is_late
            else f"the process that read it ended twice (exit code {self.exit_code}; too little memory?)"
        )
        # no hashes: nothing is known of its files, so they count as repaired when they are looked at again
        return PreparedUtterance(
            utterance, InputHashes(), f"{utterance.id}: {happened}; use --retry-skipped to try again"
        )


class _Preparing(Pool):
    def __init__(self, make: Callable[[], Any], n_workers: int) -> None:
        super().__init__(make, n_workers, n_retries=1, timeout_s=PREPARE_TIMEOUT_S)

    def _died(self, exit_code: int | None, is_late: bool) -> tuple[Any, Exception | None]:
        return _Lost(exit_code, is_late), None

    def _out_of_memory(self, why: str) -> Exception:
        return StoreError(f"out of memory ({why}); finished shards are kept: use fewer --workers and run it again")


class _Writing(Pool):
    def _died(self, exit_code: int | None, is_late: bool) -> tuple[Any, Exception | None]:
        return None, StoreError(
            f"the process that writes ended with exit code {exit_code}, perhaps for lack of memory; finished shards "
            "are kept: run the same command again"
        )

    def _out_of_memory(self, why: str) -> Exception:
        return StoreError(f"out of memory while writing ({why}); finished shards are kept: run the same command again")


class _Preparer:
    """What a worker prepares utterances with."""

    def __init__(self, clocks: Sequence[CodecClock], f0_method: str) -> None:
        self._clocks, self._f0_method = clocks, f0_method

    def prepare(self, utterance: Utterance) -> PreparedUtterance:
        return prepare_utterance(utterance, self._clocks, self._f0_method)


class _Writer:
    """What the writing process writes shards with."""

    def write(self, path: Path, shard: ShardFrames) -> None:
        write_shard(path, shard)
