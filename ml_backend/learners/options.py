"""Options put over the defaults of a training: one check for all kinds of training, without torch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from ml_backend.errors import BadInput

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["preset_of", "with_options"]

_CONTINUED = "continue_iterations"

S = TypeVar("S", bound="DataclassInstance")
T = TypeVar("T")


def preset_of(presets: Mapping[str, T], name: str) -> T:
    """The settings of a preset. Raises BadInput with the field ``preset``."""
    if name not in presets:
        raise BadInput(
            f"no preset is called {name!r}", field="preset", hint=f"Choose one of: {', '.join(presets)}"
        )
    return presets[name]


def with_options(
    base: S,
    options: Mapping[str, Any],
    *,
    choices: Mapping[str, Collection[str]] | None = None,
    positive: Collection[str] = (),
) -> S:
    """The settings ``base``, a dataclass of numbers and strings, with ``options`` put over it.

    Values may be strings ("9" for 9), as a command line gives them. ``choices`` lists the allowed values of
    fields that have few, ``positive`` the numbers that must be more than 0; all others must be 0 or more.
    ``continue_iterations`` is at most ``iterations`` where only these are given.
    Raises BadInput with the field ``options.<name>``.
    """
    kinds = {field.name: type(getattr(base, field.name)) for field in dataclasses.fields(base)}
    chosen: dict[str, Any] = {}
    for name, value in options.items():
        where = f"options.{name}"
        if name not in kinds:
            raise BadInput("there is no such option", field=where, hint=f"Known: {', '.join(sorted(kinds))}")
        chosen[name] = _converted(value, kinds[name], where)
        allowed = (choices or {}).get(name)
        if allowed is not None and chosen[name] not in allowed:
            raise BadInput(f"{value!r} is none of {', '.join(allowed)}", field=where)
    if "iterations" in chosen and _CONTINUED in kinds and _CONTINUED not in chosen:
        # who asks for a short training means the later ones, too
        chosen[_CONTINUED] = min(getattr(base, _CONTINUED), chosen["iterations"])
    settings = dataclasses.replace(base, **chosen)
    for name, kind in kinds.items():
        number = getattr(settings, name)
        if kind is not str and (number < 0 or (number == 0 and name in positive)):
            wanted = "more than 0" if name in positive else "0 or more"
            raise BadInput(f"must be {wanted}, got {number}", field=f"options.{name}")
    return settings


def _converted(value: Any, kind: type, where: str) -> Any:
    """``value`` as an int, float or str; nothing is rounded."""
    try:
        if isinstance(value, bool) or (kind is int and isinstance(value, float) and not value.is_integer()):
            raise ValueError
        converted = kind(value)
        if kind is float and not math.isfinite(converted):
            raise ValueError
    except (TypeError, ValueError, OverflowError) as error:
        raise BadInput(f"{value!r} is not a {kind.__name__}", field=where) from error
    return converted
