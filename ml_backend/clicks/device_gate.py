"""Taking turns on a device. There is one gate per device; clicks go before background work."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

__all__ = ["BACKGROUND", "CLICK", "DeviceGate", "Ticket", "gate_for"]

CLICK = 0
BACKGROUND = 10


@dataclass(eq=False)
class Ticket:
    """A place in the queue of a gate. Lower priority numbers go first; equal ones in order of arrival."""

    priority: int
    order: int = 0


@dataclass
class DeviceGate:
    """A mutex whose waiters are served by priority, so that a click overtakes every queued background
    encode.
    """

    _condition: threading.Condition = field(default_factory=threading.Condition)
    _waiting: list[Ticket] = field(default_factory=list)
    _busy: bool = False
    _count: int = 0

    @contextmanager
    def hold(self, ticket: Ticket) -> Iterator[None]:
        """Wait until it is this ticket's turn, then hold the device."""
        with self._condition:
            self._count += 1
            ticket.order = self._count
            self._waiting.append(ticket)
            try:
                while self._busy or min(self._waiting, key=lambda t: (t.priority, t.order)) is not ticket:
                    self._condition.wait()
            finally:
                self._waiting.remove(ticket)
            self._busy = True
        try:
            yield
        finally:
            with self._condition:
                self._busy = False
                self._condition.notify_all()

    def promote(self, ticket: Ticket, priority: int) -> None:
        """Move a waiting ticket forward: somebody now clicks on what was queued in the background."""
        with self._condition:
            if priority < ticket.priority:
                ticket.priority = priority
                self._condition.notify_all()


_gates: dict[str, DeviceGate] = {}
_gates_lock = threading.Lock()


def gate_for(device: str) -> DeviceGate:
    """The one gate of a device in this process; ``cuda`` and ``cuda:0`` share theirs."""
    key = "cuda:0" if device == "cuda" else device
    with _gates_lock:
        return _gates.setdefault(key, DeviceGate())
