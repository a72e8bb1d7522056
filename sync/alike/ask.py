"""What somebody asks for, checked once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from ml_backend.errors import BadInput
from ml_backend.label_studio.label_config import LabelConfig
from ml_backend.learners.weak.sources import SOURCES
from sync.settings import Settings

__all__ = ["MOST", "Ask", "checked"]

MOST: Final = 1000
_MOST_PICTURES: Final = 1000


@dataclass(frozen=True, slots=True)
class Ask:
    """``labels``: of which labels masks are wanted, none: of all that somebody drew.

    ``most`` masks of each label, at most ``per_picture`` of one label on a picture (0: a fifth of ``most``,
    at least 3). ``pictures``: unfinished ones that are looked at. ``tasks``: finished tasks whose masks are
    the examples, none: all. ``source``: where proposals come from. ``concepts``: folder of
    a SAM 3 that looks for the labels as well; empty: none.
    """

    labels: tuple[str, ...] = ()
    most: int = 50
    per_picture: int = 0
    pictures: int = 200
    tasks: tuple[int, ...] = ()
    source: str = "classical"
    concepts: str = ""

    @property
    def share(self) -> int:
        """Masks of a label on one picture."""
        return self.per_picture or max(3, self.most // 5)


def checked(ask: Ask, config: LabelConfig, settings: Settings) -> Ask:
    """The ask with its labels filled in. Raises BadInput naming what is wrong: ``k``, ``per_picture``,
    ``pictures``, ``label`` or ``source``."""
    for name, value, low, high in (
        ("k", ask.most, 1, MOST),
        ("per_picture", ask.per_picture, 0, MOST),
        ("pictures", ask.pictures, 1, _MOST_PICTURES),
    ):
        if not low <= value <= high:
            raise BadInput(f"must be {low} to {high}, got {value}", field=name)
    possible = [label for label in config.labels if _has_objects(config, label)]
    unknown = [label for label in ask.labels if label not in config.labels]
    if unknown:
        raise BadInput(
            f"the project has no label {unknown[0]!r}",
            field="label",
            hint=f"Its labels: {', '.join(config.labels)}",
        )
    hint = "Similar masks are offered for labels of single objects (masks or boxes)"
    whole = [label for label in ask.labels if label not in possible]
    if whole:
        kind = config.kind_of(whole[0]).name
        raise BadInput(f"label {whole[0]!r} is of kind {kind}, not of objects", field="label", hint=hint)
    if not possible:
        raise BadInput("no label of the project is of single objects", field="project", hint=hint)
    if ask.source not in SOURCES:
        raise BadInput(
            f"there is no source of proposals {ask.source!r}",
            field="source",
            hint=f"One of: {', '.join(SOURCES)}",
        )
    labels = tuple(dict.fromkeys(ask.labels)) or tuple(possible)
    return replace(ask, labels=labels, tasks=tuple(sorted(set(ask.tasks))))


def _has_objects(config: LabelConfig, label: str) -> bool:
    kind = config.kind_of(label)
    return kind.unit != "picture" and not kind.one_per_label
