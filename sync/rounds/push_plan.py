"""Which predictions have to be sent: a comparison of what Label Studio holds with what it should show.

A prediction is known by the digest of what it shows. What was sent is noted in files, see ``pushed_notes``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from ml_backend.artifacts.other_class import OTHER_CLASS
from ml_backend.artifacts.pool_index import PoolIndex
from ml_backend.artifacts.pool_tables import task_of_key
from ml_backend.artifacts.verdicts import Verdict

__all__ = ["PushPlan", "Shown", "plan_push", "shown_by_task"]

_FEW = 3
_FEW_SHARE = 0.1
"""Up to so many changed predictions are replaced one by one; more are sent in bulk as a new set, since
replacing takes two requests each."""


@dataclass(frozen=True, slots=True)
class Shown:
    """Digests of what one prediction shows: ``masks`` without the bounds on purity, ``bounds`` of these.

    Each answer moves the bounds of a whole cluster. While review goes on, moved bounds alone are no reason to
    send the cluster's masks again.
    """

    masks: str
    bounds: str = ""

    def is_as(self, other: Shown, *, with_bounds: bool) -> bool:
        """Whether both show the same; ``with_bounds`` compares the bounds too."""
        return self == other if with_bounds else self.masks == other.masks


@dataclass(frozen=True, slots=True)
class PushPlan:
    """What to send: predictions to add in bulk, and those to replace one by one, by task, ascending.

    ``version`` is the prediction version that is shown in the end.
    """

    version: str
    add: tuple[int, ...] = ()
    replace: tuple[int, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether nothing is to be sent."""
        return not self.add and not self.replace


def plan_push(
    wanted: Mapping[int, Shown],
    held: Mapping[str, Mapping[int, Shown]],
    *,
    shown: str,
    fresh: str,
    with_bounds: bool,
) -> PushPlan:
    """What to send so that every task of ``wanted`` has a prediction that shows what it should.

    Parameters
    ----------
    wanted : what each task should show
    held : what Label Studio holds, by prediction version and task
    shown : the version that is shown now; empty when none of this round is
    fresh : name for a whole new set, used when there is none or when many predictions changed
    with_bounds : whether changed bounds on the purity of a cluster count as a change
    """

    def missing(version: str) -> tuple[int, ...]:
        return tuple(sorted(set(wanted) - set(held.get(version, {}))))

    def changed(version: str) -> tuple[int, ...]:
        there = held.get(version, {})
        return tuple(
            sorted(
                task
                for task, show in wanted.items()
                if task in there and not show.is_as(there[task], with_bounds=with_bounds)
            )
        )

    if shown:
        different = changed(shown)
        if len(different) <= max(_FEW, int(_FEW_SHARE * len(wanted))):
            return PushPlan(shown, missing(shown), different)
    return PushPlan(fresh, missing(fresh), changed(fresh))


def shown_by_task(
    tasks: Sequence[int],
    index: PoolIndex,
    verdicts: Mapping[str, Verdict],
    *,
    setting: str,
    round_number: int,
    absent: Mapping[int, Collection[str]] = MappingProxyType({}),
) -> dict[int, Shown]:
    """What the prediction of each task should show, as digests of everything it is made from.

    ``setting`` stands for what all predictions share: model version, label config, smallest score. ``absent``
    are labels that are not shown on a task, because somebody said that they are not there. The part of the
    pool that holds a task changes when its image was looked at again.
    """
    decided: dict[int, tuple[list[str], list[str]]] = {}
    for key in sorted(verdicts):
        verdict = verdicts[key]
        masks, bounds = decided.setdefault(task_of_key(key), ([], []))
        other = " other" if verdict.test == OTHER_CLASS else ""
        masks.append(f"{key} {verdict.verdict} {verdict.verified} {verdict.cluster}{other}")
        if verdict.verdict > 0:
            bounds.append(repr(sorted(verdict.provenance(round_number).items())))
    found = {}
    for task in tasks:
        entry = index.entry(task)
        masks, bounds = decided.get(task, ([], []))
        masks = [*masks, *(f"no {label}" for label in sorted(absent.get(task, ())))]
        found[task] = Shown(
            _digest(setting, "" if entry is None else entry.part, *masks), _digest(*bounds) if bounds else ""
        )
    return found


def _digest(*texts: str) -> str:
    return hashlib.blake2b("\n".join(texts).encode(), digest_size=8).hexdigest()
