"""A store of what is made slowly and used once per pass of a training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from ml_backend.caches import ByteCache

__all__ = ["HasBytes", "Kept"]


class HasBytes(Protocol):
    """An array, or a value made of arrays."""

    @property
    def nbytes(self) -> int:
        """Memory of the arrays."""
        ...


T = TypeVar("T", bound=HasBytes)


class Kept(Generic[T]):
    """Values by index, each made once as long as ``max_bytes`` suffice.

    A full store drops nothing: each value is used once per pass, so the one used longest ago would be needed
    again first. It may travel to other processes, and is empty there.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._values: ByteCache[int, T] = ByteCache(max_bytes, lambda value: value.nbytes)

    def get(self, index: int, make: Callable[[int], T]) -> T:
        """The value of an index, made if it is not kept."""
        found = self._values.get(index)
        if found is None:
            found = make(index)
            if self._values.nbytes + found.nbytes <= self._max_bytes:
                self._values.put(index, found)
        return found

    def keys(self) -> list[int]:
        """What is kept."""
        return self._values.keys()

    @property
    def nbytes(self) -> int:
        """Bytes held now."""
        return self._values.nbytes

    def __reduce__(self) -> tuple[type[Kept[T]], tuple[int]]:
        return Kept, (self._max_bytes,)  # a lock cannot travel
