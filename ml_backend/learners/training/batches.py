"""Batches by step, drawn here or by worker processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

__all__ = ["Batches", "Samples", "to_device"]

T = TypeVar("T")
S_co = TypeVar("S_co", covariant=True)


class Samples(Protocol[S_co]):
    """Samples by index. The same index always gives the same sample, so that a resumed run repeats none."""

    def __getitem__(self, index: int) -> S_co: ...

    def __len__(self) -> int: ...


class Batches(Generic[T]):
    """``batches(step)``: the list of samples ``step · batch`` to ``(step + 1) · batch - 1``.

    With ``workers`` > 0 that many processes prepare them ahead, in the order of the steps; a step out of
    order starts them anew. The samples must then be picklable.
    """

    def __init__(self, samples: Samples[T], batch: int, *, workers: int = 0) -> None:
        self._samples = samples
        self._batch = batch
        self._workers = workers
        self._next = -1
        self._ahead: Iterator[list[T]] = iter(())

    def __call__(self, step: int) -> list[T]:
        first = step * self._batch
        if not self._workers:
            return [self._samples[first + i] for i in range(self._batch)]
        if step != self._next:
            self._ahead = self._start(first)
        self._next = step + 1
        return next(self._ahead)

    def _start(self, first: int) -> Iterator[list[T]]:
        dataset: Dataset[T] = self._samples  # type: ignore[assignment]
        loader: DataLoader[T] = DataLoader(
            dataset,
            batch_size=self._batch,
            sampler=range(first, len(self._samples)),
            num_workers=self._workers,
            collate_fn=list,
            pin_memory=torch.cuda.is_available(),
        )
        return iter(loader)


def to_device(value: Any, device: torch.device) -> Any:
    """All tensors in lists, tuples and dicts, moved to the device; other values as they are."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, dict):
        return {key: to_device(each, device) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(to_device(each, device) for each in value)
    return value
