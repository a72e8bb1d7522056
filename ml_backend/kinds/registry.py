"""Kinds by name: a new kind is a new file and one line here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ml_backend.errors import BadInput
from ml_backend.kinds.base import Kind, ProjectKind
from ml_backend.kinds.boxes import BOXES
from ml_backend.kinds.classes import CLASSES
from ml_backend.kinds.instances import INSTANCES
from ml_backend.kinds.segmentation import COMPONENTS, SEGMENTATION
from ml_backend.kinds.weak import WEAK

__all__ = ["KINDS", "Wanted", "get_kind"]

KINDS: Final[Mapping[Kind, ProjectKind]] = {
    kind.name: kind for kind in (INSTANCES, BOXES, SEGMENTATION, COMPONENTS, CLASSES, WEAK)
}


def get_kind(name: str) -> ProjectKind:
    """The kind of that name. Raises BadInput for an unknown one."""
    for kind in KINDS.values():
        if kind.name == name:
            return kind
    raise BadInput(f"there is no kind {name!r}", field="kind", hint=f"One of {', '.join(KINDS)}")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Labels of one kind that a project wants; ``exclusive``: a picture has one of them only."""

    kind: Kind
    labels: tuple[str, ...]
    exclusive: bool = False

    @property
    def is_of(self) -> ProjectKind:
        """The kind as an object."""
        return KINDS[self.kind]

    @property
    def sought(self) -> frozenset[str]:
        """Labels that people may tag a picture with, while their places in it are wanted."""
        is_sought = self.is_of.tagged and self.is_of.unit != "picture"
        return frozenset(self.labels if is_sought else ())
