"""What one instance of a project is called in sentences for people: mask, box or class."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from ml_backend.kinds.registry import Wanted

__all__ = ["by_hand", "noun_of", "plural", "plural_noun"]

_NOUNS: Final = {"mask": "mask", "box": "box", "picture": "class"}
"""by unit of a kind"""


def noun_of(wanted: Iterable[Wanted]) -> str:
    """What an instance is called in a project that wants this; mask where its labels are of several kinds."""
    units = {target.is_of.unit for target in wanted}
    return _NOUNS[units.pop()] if len(units) == 1 else "mask"


def plural_noun(word: str) -> str:
    """``masks``, ``boxes``, ``classes``."""
    return word + ("es" if word.endswith(("x", "s")) else "s")


def by_hand(noun: str) -> str:
    """What a person does to make one: ``drawing``, or ``naming`` a class."""
    return "naming" if noun == "class" else "drawing"


def plural(count: int, word: str) -> str:
    """``1 mask``, ``2 masks``, ``3 boxes``."""
    return f"{count:,} {word if count == 1 else plural_noun(word)}"
