"""A small internet: names whose addresses may change with every question, and servers at any address.

Only the outermost calls are replaced, ``socket.getaddrinfo`` and ``socket.create_connection``. So the checks
of addresses run as they are, and a test sees which addresses were really called.
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest

Answer = Callable[["Asked"], Iterable[bytes]]
"""Gives the raw bytes of an answer, piece by piece."""


@dataclass(frozen=True)
class Asked:
    """A request that reached a server."""

    host: str
    path: str
    headers: dict[str, str]


def reply(status: int = 200, body: bytes = b"", **headers: str) -> Answer:
    """An answer with its length; ``content_type`` and the like become headers."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in named.items())
    head = f"HTTP/1.1 {status} X\r\n{lines}content-length: {len(body)}\r\n\r\n"
    return lambda _: [head.encode() + body]


@dataclass
class SmallInternet:
    """``names`` holds the answers to the questions for a name, in turn; the last one stays."""

    names: dict[str, list[list[str]]]
    servers: dict[tuple[str, int], dict[str, Answer]]
    questions: list[str] = field(default_factory=list)
    calls: list[tuple[str, int]] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)

    @property
    def paths(self) -> list[str]:
        return [f"{one.host}{one.path}" for one in self.asked]


@contextmanager
def small_internet(
    patch: pytest.MonkeyPatch,
    *,
    names: dict[str, list[list[str]]],
    servers: dict[tuple[str, int], dict[str, Answer]],
    tls: ssl.SSLContext | None = None,
) -> Iterator[SmallInternet]:
    """Replace this process's internet while the block runs."""
    net = SmallInternet(names, servers)
    real_names, real_connection = socket.getaddrinfo, socket.create_connection
    done = threading.Event()

    def getaddrinfo(host: Any, port: Any, *args: Any, **options: Any) -> Any:
        if host not in net.names:
            if not _is_address(host):
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            return real_names(host, port, *args, **options)
        net.questions.append(host)
        turns = net.names[host]
        found = turns.pop(0) if len(turns) > 1 else turns[0]
        return [
            (socket.AF_INET6 if ":" in a else socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, port))
            for a in found
        ]

    def create_connection(address: tuple[str, int], timeout: Any = None, **options: Any) -> socket.socket:
        net.calls.append(address)
        if address not in net.servers:
            raise ConnectionRefusedError(111, "Connection refused")
        with socket.create_server(("127.0.0.1", 0)) as listener:
            ours = real_connection(listener.getsockname(), timeout)
            theirs, _ = listener.accept()
        threading.Thread(target=_serve, args=(theirs, net, address, done, tls), daemon=True).start()
        return ours

    patch.setattr(socket, "getaddrinfo", getaddrinfo)
    patch.setattr(socket, "create_connection", create_connection)
    try:
        yield net
    finally:
        done.set()
        patch.undo()


def _is_address(host: Any) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        with suppress(OSError):
            socket.inet_pton(family, str(host))
            return True
    return False


def _serve(
    theirs: socket.socket,
    net: SmallInternet,
    at: tuple[str, int],
    done: threading.Event,
    tls: ssl.SSLContext | None,
) -> None:
    """Answer one request after the other until the client leaves."""
    with suppress(OSError), theirs if tls is None else tls.wrap_socket(theirs, server_side=True) as theirs:
        while (asked := _read(theirs)) is not None:
            net.asked.append(asked)
            routes = net.servers[at]
            answer = routes.get(asked.path.split("?")[0], reply(404))
            for piece in answer(asked):
                if done.is_set():
                    return
                theirs.sendall(piece)


def _read(theirs: socket.socket) -> Asked | None:
    data = b""
    while b"\r\n\r\n" not in data:
        part = theirs.recv(65536)
        if not part:
            return None
        data += part
    first, *lines = data.split(b"\r\n\r\n")[0].decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Asked(headers["host"], first.split(" ")[1], headers)
