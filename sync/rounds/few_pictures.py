"""When a figure was measured on too few test pictures to say anything."""

from __future__ import annotations

from typing import Final

__all__ = ["FEW_PICTURES", "few_pictures_text"]

FEW_PICTURES: Final = 10
"""Below so many test pictures one picture alone moves AP by a tenth and more."""


def few_pictures_text(pictures: int) -> str:
    """What to say beside a figure of the test split; empty when there are enough pictures."""
    return "" if pictures >= FEW_PICTURES else f"too few pictures (n={pictures}) to tell"
