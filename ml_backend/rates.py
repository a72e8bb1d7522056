"""How many requests somebody may make: one bucket of tokens per name, in this process.

A backend with several processes lets that many times more through.
"""

from __future__ import annotations

import ipaddress
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from ml_backend.errors import TooMany

__all__ = ["Rates", "network_of"]

_NAMES: Final = 10_000
_V6_NETWORK: Final = 64
"""bits of an IPv6 address that one customer of a network has for himself: all addresses below are theirs"""


class Rates:
    """Allows ``per_minute`` requests a minute for each name; a third of them may come at once."""

    def __init__(self, per_minute: int, *, now: Callable[[], float] = time.monotonic) -> None:
        self._per_s = per_minute / 60.0
        self._most = max(1.0, per_minute / 3.0)
        self._now = now
        self._lock = threading.Lock()
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def spend(self, name: str, tokens: float = 1.0) -> None:
        """Count a request. Raises TooMany, saying when the next one may come."""
        with self._lock:
            now = self._now()
            left = self._at(name, now)
            spent = left >= tokens
            self._left.pop(name, None)  # so that it comes last
            self._left[name] = (left - tokens if spent else left, now)
            while len(self._left) > _NAMES:  # the one that was quiet for longest
                self._left.popitem(last=False)
        if not spent:
            raise self._refusal(left, tokens)

    def check(self, name: str) -> None:
        """Raises TooMany when ``spend`` would; counts nothing."""
        with self._lock:
            left = self._at(name, self._now())
        if left < 1.0:
            raise self._refusal(left, 1.0)

    def _at(self, name: str, now: float) -> float:
        left, at = self._left.get(name, (self._most, now))
        return min(self._most, left + (now - at) * self._per_s)

    def _refusal(self, left: float, tokens: float) -> TooMany:
        return TooMany(
            "too many requests",
            retry_s=(tokens - left) / self._per_s,
            hint="Wait a little; nothing is lost until then",
        )


def network_of(address: str) -> str:
    """What counts as one address: of IPv6 the network that one customer has, of IPv4 the address itself."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((found, _V6_NETWORK), strict=False))
    return str(found)
