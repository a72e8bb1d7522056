"""Jobs in this process, one input after the other."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import Any

from sync.executor.base import I, Job, Node, O, S

__all__ = ["LocalExecutor"]


class LocalExecutor:
    """See ``sync.executor.base.Executor``. What tasks keep in memory is dropped with the job."""

    name = "local"

    @property
    def ships(self) -> bool:
        return False

    @property
    def elsewhere(self) -> bool:
        return False

    def device(self, wanted: str) -> str:
        return wanted

    def map(
        self,
        job: Job[S, I, O],
        inputs: Iterable[I],
        *,
        check: Callable[[], None] = lambda: None,
        said: Callable[[str], None] = lambda line: None,
    ) -> Generator[O]:
        kept: dict[str, Any] = {}
        node = Node(job.folders, kept)
        for item in inputs:
            check()
            yield job.function(job.shared, item, node)

    def close(self) -> None:
        return
