"""What the rows of a project's rounds say: how far each is, which one is exported, which are old."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sync.store.tables import RoundRecord

__all__ = ["STEPS", "OldRounds", "has_finished", "old_rounds", "reviewed_round"]

STEPS: Final = ("start", "train", "infer", "cluster", "review", "push")


def has_finished(record: RoundRecord, step: str) -> bool:
    """Whether the round has finished this step."""
    return STEPS.index(record.step) >= STEPS.index(step)


def reviewed_round(rounds: Sequence[RoundRecord]) -> RoundRecord | None:
    """The round whose accepted masks are exported: the newest whose review is done.

    While no review is done: the newest that has accepted masks, else the newest whose review has begun. A
    round that is still training or asking its first questions never hides masks that an earlier round
    accepted.
    """
    begun = [record for record in rounds if has_finished(record, "review")]
    done = [record for record in begun if record.review_done]
    accepting = [record for record in begun if record.figures.get("review", {}).get("accepted")]
    return max(done or accepting or begun, key=lambda record: record.number, default=None)


@dataclass(frozen=True, slots=True)
class OldRounds:
    """Numbers of rounds that are not in use any more, newest first: those that keep their large files, and
    those that do not need to."""

    kept: tuple[int, ...]
    to_drop: tuple[int, ...]


def old_rounds(rounds: Sequence[RoundRecord], keep: int | None) -> OldRounds:
    """Which rounds are old, when ``keep`` of the old ones keep their files (None: all)."""
    pushed = max((record.number for record in rounds if record.pushed), default=0)
    exported = reviewed_round(rounds)
    first = 0 if exported is None else min(pushed, exported.number)
    old = sorted((record.number for record in rounds if record.number < first), reverse=True)
    cut = len(old) if keep is None else keep
    return OldRounds(tuple(old[:cut]), tuple(old[cut:]))
