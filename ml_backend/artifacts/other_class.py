"""A no to one of two classes that exclude each other is a yes to the other.

The worker marks such verdicts when the answers about the picture are settled. What is shown and exported
then has the other class, as one that people verified. Certificates do not know of it: they are about the
class that people were asked about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from ml_backend.artifacts.pool_tables import PoolTable
from ml_backend.artifacts.verdicts import Verdict
from ml_backend.kinds.registry import Wanted

__all__ = ["OTHER_CLASS", "other_classes", "with_other_classes"]

OTHER_CLASS: Final = "verdict: the other class"
"""``Verdict.test`` of a rejected class whose picture is of the other one."""


def other_classes(wanted: Sequence[Wanted]) -> dict[str, str]:
    """Class -> the other one, for pairs of classes of which a picture has exactly one."""
    pairs = [
        target.labels
        for target in wanted
        if target.exclusive and target.is_of.unit == "picture" and len(target.labels) == 2
    ]
    return {label: other for one, two in pairs for label, other in ((one, two), (two, one))}


def with_other_classes(
    table: PoolTable, verdicts: Mapping[str, Verdict], wanted: Sequence[Wanted]
) -> tuple[PoolTable, dict[str, Verdict]]:
    """The table with the other class where a class was rejected for it, and the new verdicts by key.

    The score becomes that of the other class. Where a picture has a row of the other class already, nothing
    is changed: it has a verdict of its own.
    """
    other = other_classes(wanted)
    changed: dict[str, Verdict] = {}
    if not other:
        return table, changed
    label, score = table.label.copy(), table.score.copy()
    there = set(zip(table.task_id.tolist(), table.label.tolist(), strict=True))
    for row, key in enumerate(table.key.tolist()):
        said = verdicts.get(key)
        new = other.get(str(table.label[row]))
        if said is None or new is None or said.test != OTHER_CLASS or (int(table.task_id[row]), new) in there:
            continue
        label[row], score[row] = new, np.float32(1.0) - score[row]
        changed[key] = replace(said, label=new, verdict=1, verified=True)
    return (replace(table, label=label, score=score) if changed else table), changed
