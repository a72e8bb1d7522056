"""What a worker prints: on a terminal a progress line per project; in a log a line per tenth of a step."""

from __future__ import annotations

import sys
import threading
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from sync.rounds.remaining_time import Remaining

__all__ = ["WorkerConsole"]


class WorkerConsole:
    """Shows ``report(project, step, share, text)``; use as a context manager."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._console = Console(stderr=True)
        self._live = self._console.is_terminal and not quiet
        self._progress = Progress(
            TextColumn("project {task.fields[project]}"),
            TextColumn("{task.fields[step]:<8}"),
            BarColumn(bar_width=24),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=self._console,
            transient=True,
        )
        self._lock = threading.Lock()  # looks and trainings report side by side
        self._tasks: dict[tuple[int, bool], TaskID] = {}
        self._last: dict[tuple[int, str], str] = {}
        self._tenth: dict[tuple[int, str], int] = {}
        self._remaining: dict[tuple[int, str], Remaining] = {}

    def say(self, line: str) -> None:
        """Print one line that stays, above the progress lines."""
        if not self._quiet:
            self._console.print(line, highlight=False, markup=False)

    def report(self, project: int, step: str, share: float, text: str) -> None:
        """Progress of a step; a finished step leaves a line when it says something new.

        Training has a progress line of its own while it goes on.
        """
        if not self._quiet:
            with self._lock:
                self._report(project, step, share, text)

    def _report(self, project: int, step: str, share: float, text: str) -> None:
        left = self._remaining.setdefault((project, step), Remaining()).text(share)
        if share >= 1.0:
            del self._remaining[project, step]  # the next time it begins anew
        if self._live:
            line = (project, step == "train")
            if line not in self._tasks:
                self._tasks[line] = self._progress.add_task("", total=1.0, project=project, step="", left="")
            self._progress.update(
                self._tasks[line], completed=share, description=text[:80], step=step, left=left
            )
            if step == "train" and share >= 1.0:
                self._progress.remove_task(self._tasks.pop(line))
        elif share < 1.0 and int(share * 10) != self._tenth.get((project, step), -1):
            # `groundswell demo` and `up` show the last line of this log while people wait
            self._tenth[project, step] = int(share * 10)
            self.say(f"project {project}  {step:<8} {share:4.0%} {text}" + (f" ({left})" if left else ""))
            sys.stderr.flush()
        if share >= 1.0 and self._last.get((project, step)) != text:
            self._last[project, step] = text
            self.say(f"project {project}  {step:<8} {text}")
            sys.stderr.flush()

    def __enter__(self) -> WorkerConsole:
        if self._live:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._progress.stop()
