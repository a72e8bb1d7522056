"""Which tasks a model version still has to look at, and when an image that failed is tried again."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

__all__ = ["LookedAt", "next_try", "tasks_left"]

_WAITS_S = (60.0, 300.0, 1800.0, 3 * 3600.0, 12 * 3600.0)
"""Seconds before the next tries of an image that could not be fetched; then the next version tries it."""


@dataclass(frozen=True, slots=True)
class LookedAt:
    """What a model version looked at for one task; see ``InferenceRecord``."""

    image: str
    tries: int = 0
    retry_at: datetime | None = None


def tasks_left(
    images: Mapping[int, str],
    done: Collection[int],
    failed: Collection[int],
    looked_at: Mapping[int, LookedAt],
    now: datetime,
) -> list[int]:
    """Tasks to look at, in order of id.

    Parameters
    ----------
    images : address of the image of every unfinished task
    done : tasks that the version's pool holds
    failed : those of them whose image could not be read
    looked_at : what the version looked at, where it is known (not after a rebuild)
    """
    left = []
    for task, image in images.items():
        known = looked_at.get(task)
        if (
            task not in done
            or (known is None and task in failed)
            or (known is not None and known.image != image)
            or (known is not None and known.retry_at is not None and known.retry_at <= now)
        ):
            left.append(task)
    return sorted(left)


def next_try(tries: int, now: datetime) -> datetime | None:
    """When to try again to fetch an image, after ``tries`` failures in a row; None: never again."""
    return now + timedelta(seconds=_WAITS_S[tries - 1]) if 1 <= tries <= len(_WAITS_S) else None
