"""Devices: which one, one gate per device with clicks first, out of memory, and the allocator's settings."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from ml_backend.errors import ModelError

__all__ = [
    "BACKGROUND",
    "CLICK",
    "TUNED",
    "TUNED_MALLOC",
    "DeviceGate",
    "Ticket",
    "gate_for",
    "is_out_of_memory",
    "resolve_device",
]

TUNED_MALLOC = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "20000000000",
    "MALLOC_TOP_PAD_": "268435456",
}
"""Environment of glibc that keeps big activation buffers instead of returning them to the kernel after every
forward pass: about 2x on image encoders on a CPU, exact, at the price of retained memory. Must be set before
the process starts: it is read by the C library once."""

TUNED = {**TUNED_MALLOC, "MALLOC_ARENA_MAX": "1", "OMP_WAIT_POLICY": "PASSIVE"}
"""Environment of a server of clicks: the allocator with one arena, as what one thread of the server has given
back is of no use to another's arena (encoding in a server: 2x); and torch's threads that sleep while they
wait for each other. By default they spin, which on a machine that also trains or serves others makes a
decoder about 4x slower (two cores, load 7).
"""

CLICK = 0
BACKGROUND = 10


def resolve_device(name: str) -> str:
    """``auto`` → ``cuda`` where there is one, else ``cpu``; anything else is checked and passed through."""
    if name == "cpu":
        return name
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ModelError(
            f"unknown device {name!r}", field="device", hint="Use auto, cpu, cuda or cuda:1"
        ) from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ModelError(
            "no CUDA device can be used here", field="device", hint="Set GROUNDSWELL_DEVICE=auto or cpu"
        )
    return name


def is_out_of_memory(error: BaseException) -> bool:
    """True for the errors by which torch, onnxruntime and Python say that memory ran out."""
    if isinstance(error, MemoryError):
        return True
    text = str(error).lower()
    return type(error).__name__ == "OutOfMemoryError" or (
        isinstance(error, RuntimeError)
        and ("out of memory" in text or "failed to allocate" in text or "not enough memory" in text)
    )


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
