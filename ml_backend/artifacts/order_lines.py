"""One line in words: why a task has its place in the order."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from ml_backend.artifacts.task_orders import OrderedTask, TaskOrder

__all__ = ["line_of", "why"]

_WORDS: Final[Mapping[str, str]] = {
    "entropy": "classes uncertain",
    "margin": "classes close to each other",
    "quality": "masks or classes uncertain",
    "placement": "outlines uncertain",
    "mask_entropy": "outlines blurred",
    "tta": "another result on the mirrored picture",
}
_SURE: Final = 0.15
_LOUD: Final = 2
_RARE: Final = 0.8
_COMMON: Final = 0.5


def line_of(order: TaskOrder, task_id: int) -> str:
    """``why`` of a task, empty when the order does not hold it."""
    entry = order.entry(task_id)
    return "" if entry is None else why(entry, order.about)


def why(entry: OrderedTask, about: Mapping[str, Any]) -> str:
    """The line. It says nothing that changes while other tasks get finished, so it can be stored."""
    method = str(about.get("method", "ours"))
    if entry.explored and method == "typical":
        return "Drawn at random: the model is tested on pictures like this."
    if method == "typical":
        return "Typical of many pictures: a good one to begin with."
    if method == "random":
        return "In random order."
    if method == "sequential":
        return "In the order of the tasks."
    if entry.explored:
        return f"Drawn at random (chance {entry.inclusion:.2g}): keeps estimates of the whole project honest."
    if method == "max_probability":
        return f"The model finds something with probability {entry.doubt:.2f}: the surest come first."
    parts = [_doubt(entry, about, method)]
    if method == "ours":
        if math.isfinite(entry.gain):
            stands = "it stands for many pictures" if entry.gain > 0.3 else "it stands for few others"
            parts.append(f"{stands}, most like task {entry.similar}" if entry.similar >= 0 else stands)
        if entry.need >= _RARE and float(about["rule"]["balance"]) > 0 and len(about["labelled"]) > 1:
            parts.append("it seems to show classes with few labels")
        elif entry.need < _COMMON:
            parts.append("its classes have many labels already")
    return "; ".join(parts) + "."


def _doubt(entry: OrderedTask, about: Mapping[str, Any], method: str) -> str:
    """How much is in doubt, and which doubts are the largest."""
    used = about["scorer"]["names"]
    loud = sorted((n for n in used if entry.doubts.get(n, 0.0) >= _SURE), key=lambda n: -entry.doubts[n])[
        :_LOUD
    ]
    reasons = ", ".join(f"{_WORDS.get(name, name)} {entry.doubts[name]:.2f}" for name in loud)
    if method == "ours":
        head = f"About {entry.doubt:.0%} of what is shown may be wrong"
        if not about["scorer"]["fitted_on"]:
            head = f"Doubt {entry.doubt:.2f} of 1"
    else:
        head = f"Doubt {entry.doubt:.2f} of 1 ({method})"
    return f"{head} ({reasons})" if reasons and method == "ours" else head
