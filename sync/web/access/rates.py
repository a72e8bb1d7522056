"""How many requests somebody may make: one bucket of tokens per name, in this process.

A backend with several processes lets that many times more through.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from sync.web.access.errors import TooMany

__all__ = ["Rates"]

_NAMES = 10_000


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
            left, at = self._left.pop(name, (self._most, now))
            left = min(self._most, left + (now - at) * self._per_s)
            spent = left >= tokens
            self._left[name] = (left - tokens if spent else left, now)
            while len(self._left) > _NAMES:  # the one that was quiet for longest
                self._left.popitem(last=False)
        if not spent:
            raise TooMany(
                "too many requests",
                retry_s=(tokens - left) / self._per_s,
                hint="Wait a little; your answers are kept until then",
            )
