"""Learners by name: a new learner is a new file and one line here."""

from __future__ import annotations

from importlib import import_module

from ml_backend.errors import BadInput
from ml_backend.learners.base import Learner

__all__ = ["LEARNERS", "get_learner"]

LEARNERS: dict[str, str] = {
    "maskrcnn": "ml_backend.learners.maskrcnn.learner:MaskRcnn",
    "detectron2": "ml_backend.learners.detectron2.learner:Detectron2",
}


def get_learner(name: str) -> Learner:
    """The learner of that name, imported now. Raises BadInput for a name nobody registered."""
    target = LEARNERS.get(name)
    if target is None:
        raise BadInput(f"no learner is called {name!r}", hint=f"Choose one of: {', '.join(sorted(LEARNERS))}")
    module, _, attribute = target.partition(":")
    learner: Learner = getattr(import_module(module), attribute)()
    return learner
