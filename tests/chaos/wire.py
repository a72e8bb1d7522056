"""A port that leads to another one, and what can go wrong on the way.

The wire knows nothing of HTTP but this: an answer ends when the server has been silent for a moment. So it
can let a request through, wait until the server has done the work, and lose the answer, or a part of it.
"""

from __future__ import annotations

import select
import socket
import socketserver
import threading
from contextlib import suppress
from typing import Any, Literal

__all__ = ["Fault", "Wire"]

Fault = Literal["cut", "lose", "slow"]
"""``cut``: the answer ends in its middle; ``lose``: it never comes, although the work was done; ``slow``: it
comes in pieces with pauses"""

_SILENCE_S = 0.15
_PAUSE_S = 0.05


class Wire(socketserver.ThreadingTCPServer):
    """A port on this machine that leads to ``target``; ``next_fault`` is done to the next answer."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target
        self.is_cut = False
        self.done: list[Fault] = []
        self._next: Fault | None = None
        self._lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), _Line)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def harm(self, fault: Fault) -> None:
        """Do this to the next answer that comes along."""
        with self._lock:
            self._next = fault

    def take(self) -> Fault | None:
        """The fault that waits, if one does; it is nobody else's then."""
        with self._lock:
            fault, self._next = self._next, None
            if fault is not None:
                self.done.append(fault)
            return fault

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A line that breaks is what this is for."""


class _Line(socketserver.BaseRequestHandler):
    server: Wire

    def handle(self) -> None:
        if self.server.is_cut:
            return
        try:
            there = socket.create_connection(self.server.target, timeout=30)
        except OSError:
            return  # nobody is at the other end: the caller sees its connection close
        with there:
            there.settimeout(None)
            back = threading.Thread(target=self._answers, args=(there,), daemon=True)
            back.start()
            _pump(self.request, there, self.server)
            back.join(timeout=30)

    def _answers(self, there: socket.socket) -> None:
        """Carry what the server says, and do the faults."""
        with suppress(OSError):
            while (data := there.recv(65536)) and not self.server.is_cut:
                fault = self.server.take()
                if fault in ("cut", "lose"):
                    whole = data + _rest(there)
                    if fault == "cut":
                        self.request.sendall(whole[: len(whole) // 2])
                    break
                if fault == "slow":
                    for start in range(0, len(data), max(1, len(data) // 10)):
                        threading.Event().wait(_PAUSE_S)
                        self.request.sendall(data[start : start + max(1, len(data) // 10)])
                    continue
                self.request.sendall(data)
        _close(there, self.request)


def _rest(there: socket.socket) -> bytes:
    """What the server still says, until it is silent."""
    found = b""
    while select.select([there], [], [], _SILENCE_S)[0]:
        data = there.recv(65536)
        if not data:
            break
        found += data
    return found


def _pump(source: socket.socket, target: socket.socket, wire: Wire) -> None:
    with suppress(OSError):  # the other side hung up
        while (data := source.recv(65536)) and not wire.is_cut:
            target.sendall(data)
    _close(source, target)


def _close(*ends: socket.socket) -> None:
    for end in ends:
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
