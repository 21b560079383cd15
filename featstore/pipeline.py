"""Reading and labelling ahead of the encoder, and writing behind it, each in processes of their own.

Audio, alignments and F0 cost a hundredth to a tenth of what a codec costs on a CPU, and more than it costs on a GPU. So
`n_workers` processes prepare utterances while this one encodes, and one more writes the shard before. Each worker holds
one utterance ready, and none goes far ahead of the slowest, which bounds the memory; results are put where they belong,
so that a store does not depend on how many there are.
"""

import logging
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
# Utterances prepared after one that is not ready yet: 30 minutes of LibriSpeech, 0.3 GB for both codecs of the study.
_MOST_AHEAD = 128
# What an encoded shard may take to be written when the build ends early; after a signal the process has to be gone
# within ten seconds (`featstore.stopping.GRACE_S`).
_LAST_WRITE_S, _LAST_WRITE_AFTER_SIGNAL_S = 120.0, 4.0

LOG = logging.getLogger(__name__)


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
        self._handed: tuple[Path, ShardFrames] | None = None

    def __enter__(self) -> Self:
        if self.n_workers:
            with ExitStack() as stack:
                self._preparing = stack.enter_context(_Preparing(self._make, self.n_workers))
                self._writing = OneCallAhead(stack.enter_context(_Writing(_Writer, 1, is_finishing=True)))
                self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writing is not None and kind is not None:  # a shard that is encoded should be kept
            is_signal = issubclass(kind, KeyboardInterrupt)
            self._writing.let_finish(_LAST_WRITE_AFTER_SIGNAL_S if is_signal else _LAST_WRITE_S)
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

    def check(self) -> None:
        """Raise what went wrong with the shard that is being written, as soon as that is known."""
        if self._writing is not None:
            self._settled(self._writing.check)

    def write(self, path: Path, shard: ShardFrames, *, is_last: bool = False) -> None:
        """Write a shard, or hand it to the process that does when it has written the one before.

        The last one is written here: there is nothing to do meanwhile, and handing it over would copy it.

        Raises
        ------
        StoreError, OSError
            What went wrong with this one or the one before.
        """
        with self.stopwatch("wait for disk"):
            self._finish()
            if self._writing is None or is_last:
                write_shard(path, shard)
            else:
                self._handed = path, shard
                self._writing.begin(("write", (path, shard)))

    def finish(self) -> None:
        """Wait until the last shard is on the disk; raises what went wrong with it."""
        with self.stopwatch("wait for disk"):
            self._finish()

    def _finish(self) -> None:
        if self._writing is not None:
            self._settled(self._writing.finish)

    def _settled(self, look: Callable[[], None]) -> None:
        """Look at the process that writes; what it did not live to write is written here."""
        try:
            look()
        except _WriterDiedError as error:
            LOG.warning("warning: %s; shards are written by this one from now on", error)
            assert self._handed is not None
            self._writing = None  # and so are the others
            write_shard(*self._handed)

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


class _WriterDiedError(StoreError):
    """The writing process has ended before its shard was on the disk."""


class _Preparing(Pool):
    def __init__(self, make: Callable[[], Any], n_workers: int) -> None:
        super().__init__(make, n_workers, n_retries=1, timeout_s=PREPARE_TIMEOUT_S, most_ahead=_MOST_AHEAD)
        self._n_lost_in_a_row = 0

    def _answered(self) -> None:
        self._n_lost_in_a_row = 0

    def _died(self, exit_code: int | None, is_late: bool) -> tuple[Any, Exception | None]:
        self._n_lost_in_a_row += 1
        if self._n_lost_in_a_row > 1:  # it is not the utterances: good ones must not be skipped for it
            return None, StoreError(
                f"worker processes keep {'hanging' if is_late else f'ending (exit code {exit_code})'}, perhaps for "
                "lack of memory; finished shards are kept: run the same command again, with fewer --workers or 0"
            )
        return _Lost(exit_code, is_late), None

    def _out_of_memory(self, why: str) -> Exception:
        return StoreError(f"out of memory ({why}); finished shards are kept: use fewer --workers and run it again")


class _Writing(Pool):
    def _died(self, exit_code: int | None, is_late: bool) -> tuple[Any, Exception | None]:
        return None, _WriterDiedError(f"the process that writes ended with exit code {exit_code}")

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
