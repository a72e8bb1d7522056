"""Connections to the hosts of images: a name is resolved once, and the address that was checked is called.

A host that may be called by its name may still have an address inside our own network. Whoever rules its
DNS can even give a public address to a check and a private one to the connection a moment later ("DNS
rebinding"). So name, check and connection are one step here: ``connect_tcp`` asks for the addresses of a name
once, refuses all of them when one may not be called, and connects to one of those that it has seen.
Certificates are still checked against the name.

Every wait on a socket ends with the whole fetch (``ends_at``), however slowly the other side sends: a server
that drips one byte of its headers now and then holds nobody longer than that.

Proxies of the environment (``HTTP_PROXY``) are not used: a proxy would resolve the names again, by itself.
"""

from __future__ import annotations

import ipaddress
import math
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Final, TypeVar

import httpcore
import httpx

from ml_backend.tls import tls_context

__all__ = ["AddressRule", "PrivateAddress", "TooSlow", "ends_at", "guarded_client", "is_public"]

_END: Final[ContextVar[float]] = ContextVar("end of the fetch, as of time.monotonic", default=math.inf)
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
T = TypeVar("T")
Place = tuple[str, int]
"""Host in small letters, and port."""


class TooSlow(httpx.TimeoutException):
    """The whole fetch reached its end, although no single wait timed out."""


class PrivateAddress(Exception):
    """A name leads to an address that may not be called; ``address`` is the first one of that kind."""

    def __init__(self, host: str, address: str) -> None:
        super().__init__(f"{host} has the private address {address}")
        self.address = address


@contextmanager
def ends_at(end: float) -> Iterator[None]:
    """Within the block, waits on sockets of this thread end at ``end`` (as of time.monotonic)."""
    before = _END.set(end)
    try:
        yield
    finally:
        _END.reset(before)


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the public internet, whatever form it is hidden in."""
    found = ipaddress.ip_address(address.split("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour
        if inner is None and found in _NAT64:
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
        if found.is_site_local:
            return False
    return found.is_global and not (found.is_multicast or found.is_reserved or found.is_unspecified)


class AddressRule:
    """Which addresses a host may have.

    Parameters
    ----------
    studio : Label Studio, which may lie anywhere: the admin wrote its address down
    named : hosts that the admin allowed. They may lie in ``networks``; one that was named by its address may
        lie there
    networks : networks of one's own that named hosts may lie in

    Every other host must have public addresses only.
    """

    def __init__(self, studio: Place, named: Iterable[Place], networks: Iterable[Network]) -> None:
        self._studio = studio
        self._named = frozenset(named)
        self._networks = tuple(networks)

    def allows(self, host: str, port: int, address: str) -> bool:
        """Whether ``host`` may be called at ``address``."""
        place = (host.lower(), port)
        if place == self._studio or is_public(address):
            return True
        if place not in self._named:
            return False
        found = ipaddress.ip_address(address.split("%")[0])
        return host == address or any(found in network for network in self._networks)


def guarded_client(rule: AddressRule, timeout: httpx.Timeout) -> httpx.Client:
    """A client that keeps to ``rule``, follows no redirect, and sends no cookie that a host has set."""
    nobody = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
    return httpx.Client(transport=_Transport(rule), timeout=timeout, follow_redirects=False, cookies=nobody)


def addresses_of(host: str, port: int) -> list[str]:
    """All IP addresses of a name, in the order of the system. Raises httpcore.ConnectError."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise httpcore.ConnectError(f"the name {host} has no address") from error
    return list(dict.fromkeys(str(info[4][0]) for info in found))


class _Backend(httpcore.NetworkBackend):
    """Opens connections to addresses that the rule allows."""

    def __init__(self, rule: AddressRule) -> None:
        self._rule = rule
        self._plain = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        addresses = addresses_of(host, port)
        for address in addresses:
            if not self._rule.allows(host, port, address):
                raise PrivateAddress(host, address)
        failed: Exception = httpcore.ConnectError(f"the name {host} has no address")
        for address in addresses:
            try:
                opened = self._plain.connect_tcp(address, port, _left(timeout), local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failed = error
            else:
                return _Stream(opened)
        raise failed


class _Stream(httpcore.NetworkStream):
    """Another stream whose waits end with the fetch."""

    def __init__(self, plain: httpcore.NetworkStream) -> None:
        self._plain = plain

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return _within(timeout, lambda left: self._plain.read(max_bytes, left))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        _within(timeout, lambda left: self._plain.write(buffer, left))

    def close(self) -> None:
        self._plain.close()

    def start_tls(
        self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _Stream(
            _within(timeout, lambda left: self._plain.start_tls(ssl_context, server_hostname, left))
        )

    def get_extra_info(self, info: str) -> Any:
        return self._plain.get_extra_info(info)


def _left(timeout: float | None) -> float | None:
    """Seconds that one wait may take: ``timeout``, or what is left of the fetch. Raises TooSlow."""
    left = _END.get() - time.monotonic()
    if left <= 0:
        raise TooSlow("the fetch took too long")
    if math.isinf(left):
        return timeout
    return left if timeout is None else min(timeout, left)


def _within(timeout: float | None, wait: Callable[[float | None], T]) -> T:
    try:
        return wait(_left(timeout))
    except httpcore.TimeoutException:
        _left(timeout)  # it is the whole fetch that has ended, if it has
        raise


class _Transport(httpx.BaseTransport):
    """httpx over a pool of guarded connections."""

    def __init__(self, rule: AddressRule) -> None:
        self._pool = httpcore.ConnectionPool(
            ssl_context=tls_context(),
            max_connections=100,
            max_keepalive_connections=20,
            keepalive_expiry=5.0,
            network_backend=_Backend(rule),
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        assert isinstance(request.stream, httpx.SyncByteStream)
        inner = httpcore.Request(
            method=request.method,
            url=httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
            headers=request.headers.raw,
            content=request.stream,
            extensions=request.extensions,
        )
        with _as_httpx():
            reply = self._pool.handle_request(inner)
        assert isinstance(reply.stream, Iterable)
        return httpx.Response(reply.status, headers=reply.headers, stream=_Body(reply.stream))

    def close(self) -> None:
        self._pool.close()


class _Body(httpx.SyncByteStream):
    def __init__(self, parts: Iterable[bytes]) -> None:
        self._parts = parts

    def __iter__(self) -> Iterator[bytes]:
        with _as_httpx():
            yield from self._parts

    def close(self) -> None:
        if hasattr(self._parts, "close"):
            self._parts.close()


@contextmanager
def _as_httpx() -> Iterator[None]:
    """Errors of httpcore under the names that they have in httpx, which are the same."""
    try:
        yield
    except (
        httpcore.TimeoutException,
        httpcore.NetworkError,
        httpcore.ProtocolError,
        httpcore.ProxyError,
        httpcore.UnsupportedProtocol,
    ) as error:
        kind = getattr(httpx, type(error).__name__, httpx.TransportError)
        raise kind(str(error)) from error
