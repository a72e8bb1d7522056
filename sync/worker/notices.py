"""Notices: which projects somebody did something in, by the files that webhooks and commands touch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ml_backend.artifacts.inbox import last_notice

__all__ = ["Notices"]


class Notices:
    """What one worker has seen of the notices below ``data_dir``.

    A notice is new when the time of its file changed, whatever the clocks of the machines say. Those that lay
    there at the first question are not: a worker that starts has looks that are due anyway.
    """

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._seen: dict[int, float | None] = {}

    def is_there(self, projects: Iterable[int]) -> bool:
        """Whether ``new`` would name any of these projects."""
        return any(self._seen.get(each, at) != at for each, at in self._times(projects))

    def new(self, projects: Iterable[int]) -> list[int]:
        """Those of the projects that were marked since the last call."""
        found = [(each, at) for each, at in self._times(projects) if self._seen.setdefault(each, at) != at]
        self._seen.update(found)
        return [each for each, _ in found]

    def _times(self, projects: Iterable[int]) -> Iterable[tuple[int, float | None]]:
        return ((each, last_notice(self._data_dir, each)) for each in projects)
