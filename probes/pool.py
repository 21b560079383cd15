"""Worker processes for probes: fits are small matrix products that gain little from a second BLAS thread."""

from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Self

from featstore.pool import Call, answer_call
from featstore.pool import Pool as WorkerPool
from probes.errors import ProbeError

__all__ = ["Call", "InProcess", "Pool"]


class InProcess:
    """The same interface in this process: one object answers the calls in order, and is closed at the end."""

    n_workers = 1

    def __init__(self, make: Callable[[], Any]) -> None:
        self._answerer = make()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._answerer.close()

    def run(self, calls: Iterable[Call]) -> Iterator[tuple[int, Any]]:
        """Yield (index of the call, answer).

        Raises
        ------
        RvqprobeError, OSError
            What a call raised; ProbeError when memory was too small for it.
        """
        for index, call in enumerate(calls):
            try:
                answer = answer_call(self._answerer, call)
            except MemoryError as error:
                raise _out_of_memory(str(error), "fewer --layer at a time or on a machine with more") from error
            yield index, answer


class Pool(WorkerPool):
    """Processes whose death or lack of memory ends the work: finished probes are on the disk."""

    def _died(self, exit_code: int | None, is_late: bool) -> tuple[Any, Exception | None]:
        return None, ProbeError(
            f"a worker process ended with exit code {exit_code}, perhaps for lack of memory; finished "
            "probes are kept: run the same command again, with --workers 1 to need less"
        )

    def _out_of_memory(self, why: str) -> Exception:
        return _out_of_memory(why, "--workers 1 or on a machine with more")


def _out_of_memory(why: str, advice: str) -> ProbeError:
    found = f" ({why})" if why else ""
    return ProbeError(f"out of memory{found}; finished probes are kept: run the same command again, with {advice}")
