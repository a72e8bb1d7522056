"""Choices: a list of the picked values, without a place in the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["check_choices", "read_choices"]


def read_choices(value: Mapping[str, Any]) -> tuple[str, ...]:
    """The picked values, in the order in which the editor wrote them."""
    return tuple(str(x) for x in value.get("choices") or ())


def check_choices(value: Mapping[str, Any], labels: Sequence[str]) -> str:
    """Why Label Studio would refuse it, or "". Without ``labels``, each task brings its own values."""
    picked = value.get("choices")
    if isinstance(picked, list) and not (labels and any(x not in labels for x in picked)):
        return ""
    return f"{picked!r} does not fit {list(labels)}"
