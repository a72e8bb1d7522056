"""Settings that follow from the kinds of labels, unless somebody set them."""

from __future__ import annotations

from collections.abc import Sequence

from clustering.costs import DRAWN_MASK_S
from ml_backend.kinds.registry import Wanted
from sync.settings import Settings

__all__ = ["kind_settings"]

_DRAWN = "drawn_mask_s"
_POLICIES = ("certified", "auto")
"""names of the policy that weighs questions against drawing"""


def kind_settings(settings: Settings, wanted: Sequence[Wanted]) -> Settings:
    """The settings, with the time that drawing takes as the certified policy weighs it against questions.

    A question pays while it may spare the drawing of a mask. A box or a class is spared much sooner by doing
    it. With several kinds the quickest counts: no question is asked then that costs more than it spares.
    """
    drawn = min(target.is_of.drawn_s for target in wanted)
    is_set = _DRAWN in settings.policy_options or drawn == DRAWN_MASK_S
    if is_set or settings.policy not in _POLICIES:
        return settings
    return settings.model_copy(update={"policy_options": {**settings.policy_options, _DRAWN: drawn}})
