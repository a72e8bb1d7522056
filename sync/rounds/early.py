"""Early rounds: people see the first predictions soon, while the whole training goes on.

The first training of a project takes minutes. So its first round trains for a short time only (setting
``early_s``). If the version it gives finds anything on the test split, it is published, and its predictions
are pushed, but not clustered and not reviewed. The next look starts a round of its own that trains as long as
a first training does, from these weights. A training that ends within the short time is no early one.

Which round is early follows from what it left behind, so a kill anywhere changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ml_backend.errors import ModelError
from ml_backend.learners.base import Evaluation
from sync.settings import Settings
from sync.store.tables import RoundRecord

__all__ = ["OfNoUse", "check_use", "early_fields", "given_up", "infer_limit_s", "is_early"]

_LEAST = 0.005
"""of the headline metric on the test split: what rounds to at least one hundredth"""


class OfNoUse(ModelError):
    """An early version finds nothing: it is not published, the whole training goes on without it."""


def early_fields(settings: Settings, last: RoundRecord | None, headlines: Sequence[str]) -> dict[str, Any]:
    """What the snapshot of the next round says about being early; empty when it is not to be.

    ``last``: the round before; ``headlines``: the metrics that tell whether the version is of use.
    """
    return {} if last is not None or not settings.early_s else {"early": [settings.early_s, *headlines]}


def check_use(snapshot: Mapping[str, Any], evaluation: Evaluation) -> None:
    """Raise OfNoUse unless an early version found something on the test split."""
    headlines = [str(name) for name in snapshot["early"][1:]]
    values = {  # the second and later targets of a config have their kind in front
        name: value[0]
        for name, value in evaluation.metrics.items()
        if any(name == wanted or name.endswith(f" {wanted}") for wanted in headlines)
    }
    if not any(value > _LEAST for value in values.values()):
        found = ", ".join(f"{name} is {value:.3f}" for name, value in values.items())
        raise OfNoUse(
            f"the early version is of no use yet: {found or f'{headlines[0]} could not be measured'} "
            f"on {evaluation.n_images} test images"
        )


def is_early(record: RoundRecord) -> bool:
    """Whether a round gave an early version, or was to give one and did not: a whole training is due."""
    return bool(record.figures.get("train", {}).get("early", False))


def given_up(record: RoundRecord) -> bool:
    """Whether an early round gave no version."""
    return bool(record.figures.get("train", {}).get("given_up", False))


def infer_limit_s(settings: Settings, record: RoundRecord) -> float | None:
    """Seconds that inference may take: with an early version half of ``early_s``, then people see what there
    is and the whole training starts."""
    return settings.early_s / 2 if is_early(record) else None
