"""Mask sources by name: a new one is a new file and one line here. Imported when asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from ml_backend.errors import BadInput

if TYPE_CHECKING:
    from ml_backend.learners.weak.proposals import MaskSource

__all__ = ["SOURCES", "get_source"]

SOURCES: dict[str, str] = {
    "classical": "ml_backend.learners.weak.proposals:ClassicalMasks",
    "segmenter": "ml_backend.clicks.serving.automatic_masks:from_settings",
}


def get_source(name: str, most: int) -> MaskSource:
    """The mask source of that name, for ``most`` proposals a picture. Raises BadInput for an unknown one."""
    target = SOURCES.get(name)
    if target is None:
        raise BadInput(
            f"there is no source of proposals {name!r}",
            field="options.proposals",
            hint=f"One of: {', '.join(SOURCES)}",
        )
    module, _, attribute = target.partition(":")
    source: MaskSource = getattr(import_module(module), attribute)(most)
    return source
