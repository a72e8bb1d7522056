"""A cache bounded by the bytes it holds, safe under threads: one class for all caches of the backend."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from cachetools import LRUCache

__all__ = ["ByteCache"]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class ByteCache(Generic[K, V]):
    """Keeps the values used last, ``max_bytes`` in all. A value larger than that is not kept.

    ``size_of`` gives the bytes of a value. It is asked once, when the value is put in, so values must not
    grow: replace them instead.
    """

    def __init__(self, max_bytes: int, size_of: Callable[[V], int]) -> None:
        self._size_of = size_of
        self._lock = threading.Lock()
        self._values: LRUCache[K, V] = LRUCache(max_bytes, getsizeof=size_of)

    def get(self, key: K) -> V | None:
        """The value of a key, None when it is not kept."""
        with self._lock:
            return self._values.get(key)

    def put(self, key: K, value: V) -> None:
        """Keep a value. The values used longest ago make room for it."""
        with self._lock:
            self._values.pop(key, None)
            if self._size_of(value) <= self._values.maxsize:
                self._values[key] = value

    def drop(self, key: K) -> None:
        """Forget a key; nothing happens when it is not kept."""
        with self._lock:
            self._values.pop(key, None)

    def keys(self) -> list[K]:
        """What is kept; does not count as a use."""
        with self._lock:
            return list(self._values)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._values.clear()

    def __contains__(self, key: K) -> bool:
        """Whether a key is kept; does not count as a use."""
        with self._lock:
            return key in self._values

    @property
    def nbytes(self) -> int:
        """Bytes held now."""
        with self._lock:
            return int(self._values.currsize)

    def __len__(self) -> int:
        with self._lock:
            return len(self._values)
