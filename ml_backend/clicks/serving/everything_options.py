"""Options of the learner ``everything``, checked; no picture library and no model is loaded for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Final

from ml_backend.clicks.everything_settings import EverythingSettings
from ml_backend.clicks.serving.segmenter_table import SEGMENTERS
from ml_backend.errors import BadInput
from ml_backend.learners.options import with_options

__all__ = ["EverythingOptions", "everything_options", "label_for"]

_DEFAULTS: Final = EverythingSettings()


@dataclasses.dataclass(frozen=True, slots=True)
class EverythingOptions:
    """Options of the learner.

    Attributes
    ----------
    label : that all masks get; needed where the project has several
    segmenter : that finds them; empty: the one of the settings
    most : masks of a picture
    min_trust : masks below are left out; trust is expected IoU times stability
    """

    label: str = ""
    segmenter: str = ""
    most: int = _DEFAULTS.most
    min_trust: float = _DEFAULTS.min_trust


def everything_options(options: Mapping[str, Any]) -> EverythingOptions:
    """The options, checked. Raises BadInput naming the one that is wrong."""
    found = with_options(EverythingOptions(), options, positive=("most",))
    if found.min_trust > 1:
        raise BadInput("must be at most 1", field="options.min_trust")
    names = [name for name, entry in SEGMENTERS.items() if not entry.needs_project]
    if found.segmenter and found.segmenter not in names:
        raise BadInput(
            f"there is no segmenter {found.segmenter!r}",
            field="options.segmenter",
            hint=f"One of: {', '.join(names)}",
        )
    return found


def label_for(options: Mapping[str, Any], labels: Sequence[str]) -> str:
    """The label that the masks get. Raises BadInput where the project does not have it, or has several and
    none is named: nobody can submit a mask whose label is a guess.
    """
    chosen = everything_options(options).label
    if not chosen and len(labels) == 1:
        return labels[0]
    if chosen not in labels:
        raise BadInput(
            f"the project has no label {chosen!r}" if chosen else "which label do the masks get?",
            field="options.label",
            hint=f"One of: {', '.join(labels)}; what a mask shows is not known before the first training",
        )
    return chosen
