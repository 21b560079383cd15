"""Figures drawn while probes of other tasks are still being fitted: drawing is slow, and waits for one task alone."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from probes.figures import write_figures
from probes.tasks import TASKS, Task
from schemas.record import Record


class FiguresAhead:
    """Draws in one thread of its own, which alone uses Matplotlib meanwhile.

    Parameters
    ----------
    folder : Path
        Of the figures; created where absent.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._begun: dict[Task, Future[list[Path]]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(cancel_futures=True)

    def begin(self, task: Task, records: Sequence[Record]) -> None:
        """Begin to draw the figure of a task, from all of its records."""
        self._begun[task] = self._thread.submit(write_figures, list(records), self._folder)

    def finish(self, records: Sequence[Record]) -> list[Path]:
        """Draw what was not begun, and return what `probes.figures.write_figures` of all records returns.

        Raises
        ------
        OSError, RvqprobeError
            What drawing raised.
        """
        for task in TASKS:
            if task not in self._begun:
                self.begin(task, [record for record in records if record["task"] == task])
        return [path for task in TASKS for path in self._begun[task].result()]
