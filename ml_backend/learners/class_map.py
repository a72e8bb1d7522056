"""A class map: what the labels of one model are called in a project; several may become one, some none.

As in active-learning-detect: named labels are renamed, those that are to be dropped are dropped, and all
others fall to a default. Here the default is the label itself where the project has it, and none otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ml_backend.errors import BadInput
from ml_backend.instances import Instances

__all__ = ["DROP", "ClassMap", "class_map"]

DROP = ""
"""The name that drops a label."""


@dataclass(frozen=True, slots=True)
class ClassMap:
    """What becomes of each label of a model.

    ``theirs`` are the model's labels; ``ours`` those of the project that can come out; ``to`` gives for each
    of theirs a place in ``ours``, -1 = dropped.
    """

    theirs: tuple[str, ...]
    ours: tuple[str, ...]
    to: tuple[int, ...]

    @property
    def changes_nothing(self) -> bool:
        """Whether every label is kept under its name."""
        named = zip(self.theirs, self.to, strict=True)
        return all(place >= 0 and self.ours[place] == name for name, place in named)

    def apply(self, found: Instances) -> Instances:
        """The instances under our labels, without those that are dropped."""
        to = np.array([*self.to, -1], np.int64)[found.label]
        kept = found.take(to >= 0)
        return Instances(
            to[to >= 0],
            kept.box_xyxy,
            kept.rle,
            kept.score,
            kept.quality,
            kept.embedding,
            kept.doubts,
            kept.feature,
        )


def class_map(
    theirs: Sequence[str],
    ours: Sequence[str] | None,
    named: Mapping[str, str],
    *,
    default: str | None = None,
) -> ClassMap:
    """The class map of a model with labels ``theirs`` for a project with labels ``ours``.

    ``named`` maps some of theirs to ours, or to ``DROP``. Labels that are not named go to ``default`` (one of
    ours, or ``DROP``); with None, to the label of the same name, or nowhere. With ``ours`` None
    every name that the map gives is one of ours. Raises BadInput for a name that
    neither side knows, and when nothing would be left.
    """
    if ours is None:
        given = (named.get(name, name if default is None else default) for name in theirs)
        ours = tuple(dict.fromkeys(label for label in given if label != DROP))
    for name, label in named.items():
        if name not in theirs:
            raise BadInput(
                f"the model has no label {name!r}", field="map", hint=f"It has {', '.join(theirs)}"
            )
        _check(label, ours)
    if default is not None:
        _check(default, ours)
    to = []
    for name in theirs:
        label = named.get(name, default if default is not None else name)
        to.append(list(ours).index(label) if label in ours else -1)
    if all(place < 0 for place in to):
        raise BadInput(
            f"none of the model's labels ({', '.join(theirs)}) is one of the project ({', '.join(ours)})",
            field="map",
            hint="Say what they are called there, e.g. --map cat=animal",
        )
    return ClassMap(tuple(theirs), tuple(ours), tuple(to))


def _check(label: str, ours: Sequence[str]) -> None:
    if label != DROP and label not in ours:
        raise BadInput(f"the project has no label {label!r}", field="map", hint=f"It has {', '.join(ours)}")
