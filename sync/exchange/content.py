"""What an export holds, before it has a format: pictures, their labels, and where each label comes from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ml_backend.errors import BadInput
from ml_backend.instances import Rle
from ml_backend.kinds.registry import Wanted

__all__ = ["EVERYTHING", "ORIGINS", "Choice", "Content", "Item", "LeftOut", "Shown", "origins_of"]

ORIGINS: Final = frozenset({"human", "verified", "propagated"})
_NAMES: Final[Mapping[str, str]] = {"drawn": "human", "verified": "verified", "propagated": "propagated"}


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A picture that is not in the export, and why."""

    task_id: int
    file_name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Item:
    """One label on one picture.

    Attributes
    ----------
    label : its name
    rle : its mask, None for a label of the whole picture
    origin : ``source`` (``human``, ``verified`` or ``propagated``) and what belongs to it
    box_xyxy : the box as drawn or found, in pixels
    rotated : x and y of the top left corner, width, height in pixels, and degrees clockwise about that
        corner, of a box that was drawn rotated
    """

    label: str
    rle: Rle | None
    origin: Mapping[str, Any]
    box_xyxy: Sequence[float] = ()
    rotated: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class Shown:
    """One picture: ``finished`` says that a person said all there is to say about it."""

    task_id: int
    file_name: str
    hw: tuple[int, int]
    address: str
    finished: bool
    items: Sequence[Item]


@dataclass(frozen=True, slots=True)
class Choice:
    """What of a project is exported.

    ``origins`` are ``human`` (drawn), ``verified`` and ``propagated``; ``round`` is the round whose accepted
    instances are taken, None for the newest reviewed one.
    """

    origins: frozenset[str] = ORIGINS
    round: int | None = None


EVERYTHING: Final = Choice()


@dataclass(frozen=True, slots=True)
class Content:
    """Everything to export.

    Attributes
    ----------
    wanted : the kinds with the labels that are exported
    pictures : read page by page while they are iterated over, which is done once
    left_out : pictures that cannot be exported; complete when all pictures were iterated over
    info : what holds for all of it: round, model version, decisions, promise
    names : file names of all pictures of the project by task, exported or not
    """

    wanted: Sequence[Wanted]
    pictures: Iterable[Shown]
    left_out: Sequence[LeftOut]
    info: Mapping[str, Any] = field(default_factory=dict)
    names: Mapping[int, str] = field(default_factory=dict)

    @property
    def labels(self) -> tuple[str, ...]:
        """All labels, in their order."""
        return tuple(label for target in self.wanted for label in target.labels)


def origins_of(names: Sequence[str]) -> frozenset[str]:
    """Origins by the names that people use: drawn, verified, propagated; none named: all. Raises BadInput."""
    for name in names:
        if name not in _NAMES:
            raise BadInput(f"{name!r} is no origin", field="origin", hint=f"One of {', '.join(_NAMES)}")
    return frozenset(_NAMES[name] for name in names) or ORIGINS
