"""Which learner trains, with which options: what the settings say, else what suits the kinds of labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ml_backend.errors import BadInput
from ml_backend.kinds.registry import KINDS, Wanted
from ml_backend.learners.registry import LEARNERS
from sync.settings import Settings

__all__ = ["AUTO", "ChosenLearner", "choose_learner"]

AUTO = "auto"


@dataclass(frozen=True, slots=True)
class ChosenLearner:
    """A learner and the options of its trainings."""

    name: str
    options: dict[str, Any]


def choose_learner(wanted: Sequence[Wanted], settings: Settings) -> ChosenLearner:
    """The learner of a project that wants these labels.

    Learner, options and iterations of the settings are for the first kind; the others take their default.
    Raises BadInput when the learner of the settings is one for other kinds.
    """
    options = dict(settings.learner_options)
    if settings.iterations is not None:
        options["iterations"] = settings.iterations
    first = _learner_of(wanted[0], settings.learner)
    for name, value in wanted[0].is_of.learner_options.items():
        if options.setdefault(name, value) != value:
            raise BadInput(
                f"is {value!r} for kind {wanted[0].kind}, not {options[name]!r}", field=f"options.{name}"
            )
    if len(wanted) == 1:
        return ChosenLearner(first, options)
    parts = [
        {
            "kind": target.kind,
            "learner": first if i == 0 else target.is_of.learners[0],
            "labels": list(target.labels),
            "exclusive": target.exclusive,
            "options": options if i == 0 else dict(target.is_of.learner_options),
        }
        for i, target in enumerate(wanted)
    ]
    return ChosenLearner("several", {"parts": parts})


def _learner_of(target: Wanted, name: str) -> str:
    kind = target.is_of
    if name == AUTO:
        return kind.learners[0]
    others = {learner for other in KINDS.values() for learner in other.learners} - set(kind.learners)
    if name in others or name not in LEARNERS:
        raise BadInput(
            f"{name!r} does not learn {kind.name} ({kind.wants})"
            if name in others
            else f"no learner {name!r}",
            field="learner",
            hint=f"Choose {AUTO} or one of: {', '.join(kind.learners)}",
        )
    return name
