"""How a step says how far it is, and where it may be stopped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar, cast

from sync.store.lease import Lease

__all__ = ["Memo", "Progress", "Report", "remembered"]

T = TypeVar("T")

Report = Callable[[str, float, str], None]
"""Called with step, share done (0..1) and one line about it."""

Memo = dict[object, object]
"""Values a worker keeps between looks; their keys name all they depend on."""


def remembered(memo: Memo, name: object, state: object, make: Callable[[], T]) -> T:
    """What ``make`` gave for this state under this name; made again when the state is another one.

    ``state`` must hold all that ``make`` reads; take it before.
    """
    kept = memo.get(name)
    if isinstance(kept, tuple) and kept[0] == state:
        return cast(T, kept[1])
    made = make()
    memo[name] = (state, made)
    return made


def _silent(step: str, share: float, text: str) -> None:
    """Report nothing: for callers that do not show progress."""


def _go_on(place: str) -> None:
    """Stop nowhere."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of one look at a project.

    ``checkpoint`` is called at every boundary between and inside steps; it raises to stop there (a signal, a
    test).
    """

    report: Report = _silent
    checkpoint: Callable[[str], None] = _go_on
    lease: Lease | None = None

    def at(self, place: str) -> None:
        """Mark a boundary. Raises LeaseLost when the lease is gone, or what ``checkpoint`` raises."""
        if self.lease is not None:
            self.lease.check()
        self.checkpoint(place)
