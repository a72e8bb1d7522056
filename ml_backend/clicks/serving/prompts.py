"""Turn Label Studio's interactive ``context`` into one typed Prompt.

This takes two steps, because the size of the image is known only after it was fetched. ``parse_context``
checks what was sent, in percent of the original image; ``to_prompt`` converts it to pixels. Between them,
``RecentBoxes`` joins a box and the points after it, which the editor sends in separate requests.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ml_backend.caches import ByteCache
from ml_backend.clicks.base import Prompt
from ml_backend.errors import BadPrompt

__all__ = ["PromptContext", "RecentBoxes", "parse_context", "person_of", "to_prompt"]

_LABEL_TYPE = "labels"
_POINT_TYPES = {"keypointlabels", "keypoint"}
_BOX_TYPES = {"rectanglelabels", "rectangle"}
_SMALLEST_BOX_PX = 1.0
_LABELLED_TYPES = {"keypointlabels", "rectanglelabels"}
_WHO = ("user_id", "annotation_id", "draft_id")
"""Fields of a context that identify a person, if the host sends them. An annotation or a draft belongs to one
person, so its id identifies that person too."""
_RECENT_BOXES = 4096


@dataclass(frozen=True, slots=True)
class PromptContext:
    """A checked prompt in percent of the image, before its size is known.

    Attributes
    ----------
    points : ((x %, y %, positive), …) in click order
    box : (x %, y %, width %, height %, rotation in degrees clockwise about the top-left corner) or None;
        of several boxes the last one
    label : class of the wanted mask; empty where the person chose none
    from_name, to_name : the control the annotator used and the image tag. Where a task shows several
        pictures, only the clicks on the one that was clicked last count.
    """

    points: tuple[tuple[float, float, bool], ...]
    box: tuple[float, float, float, float, float] | None
    label: str
    from_name: str
    to_name: str


def parse_context(context: object, *, labels: Sequence[str] = ()) -> PromptContext:
    """Check an interactive context.

    Parameters
    ----------
    context : ``params.context`` of a predict request
    labels : labels that the project knows; empty = any

    A point that does not say whether it is positive is left out: the editor sends those that came back with
    a draft like that, and most of them were corrections. Where labels stand in a row of their own, a point or
    box is two results of one id, and the second one says the label.

    Raises
    ------
    BadPrompt
        naming the field: no results, results of several labels, a kind that cannot be a prompt, a click
        outside the image, a box without area, a rotated view, an unknown label.
    """
    if not isinstance(context, Mapping):
        raise BadPrompt("expected an object", field="context", hint="Click with a smart tool selected")
    results = context.get("result")
    if not isinstance(results, Sequence) or isinstance(results, (str, bytes)) or not results:
        raise BadPrompt(
            "no clicks or boxes were sent",
            field="context.result",
            hint="Select a smart tool (key M) and click",
        )
    points: list[tuple[float, float, bool]] = []
    box: tuple[float, float, float, float, float] | None = None
    label = from_name = to_name = ""
    shown = results[-1].get("to_name") if isinstance(results[-1], Mapping) else None
    said = _said_labels(results)
    old = 0
    for index, item in enumerate(results):
        where = f"context.result[{index}]"
        if not isinstance(item, Mapping):
            raise BadPrompt("expected an object", field=where)
        if item.get("to_name") != shown:
            continue  # of a task with several pictures: this click was on another one
        value = item.get("value")
        if not isinstance(value, Mapping):
            raise BadPrompt("expected an object", field=f"{where}.value")
        if _number(item.get("image_rotation", 0), f"{where}.image_rotation") % 360 != 0:
            raise BadPrompt(
                "clicks on a rotated view cannot be placed on the image",
                field=f"{where}.image_rotation",
                hint="Rotate the image back, then click",
            )
        kind = str(item.get("type", ""))
        if kind == _LABEL_TYPE:
            continue
        if kind in _POINT_TYPES and "is_positive" not in item:
            old += 1
            continue
        this = _label({**value, **said.get(str(item.get("id", "")), {})}, kind, where, labels)
        if label and this != label:
            raise BadPrompt(
                f"one request holds prompts of {label!r} and {this!r}",
                field=f"{where}.value",
                hint="Accept or delete the first suggestion before clicking with another label",
            )
        label = this
        from_name, to_name = str(item.get("from_name", "")), str(item.get("to_name", ""))
        if kind in _POINT_TYPES:
            points.append(_point(item, value, where))
        elif kind in _BOX_TYPES:
            box = _box(value, where)
        else:
            raise BadPrompt(
                f"a region of type {kind!r} cannot be a prompt",
                field=f"{where}.type",
                hint="Use a smart point or box tool",
            )
    if not points and box is None:
        raise BadPrompt(
            f"{old} points of an earlier visit, and no new click",
            field="context.result",
            hint="Delete the points that are left on the picture, then click again",
        )
    return PromptContext(tuple(points), box, label, from_name, to_name)


def person_of(context: object) -> str:
    """A key for the person who sent the request; empty when the context does not say who it was.

    The editor of Label Studio 1.23 sends ``result`` alone, so there it is empty. Other hosts and versions may
    send more.
    """
    if not isinstance(context, Mapping):
        return ""
    sent = {name: context.get(name) for name in _WHO}
    said = {
        name: value
        for name, value in sent.items()
        if value and isinstance(value, (int, str)) and not isinstance(value, bool)
    }
    return repr(sorted(said.items())) if said else ""


class RecentBoxes:
    """The last box of each person, task, picture and label, for points that refine it.

    The editor sends points and boxes in separate requests. A background click alone selects nothing. So a
    series that *begins* with one refines the last box of the same person on the same task and label. If the
    person is not known, no box is remembered: it must never be used for another person's clicks.
    """

    def __init__(self, most: int = _RECENT_BOXES) -> None:
        self._boxes: ByteCache[Hashable, PromptContext] = ByteCache(most, lambda _: 1)

    def complete(self, prompts: PromptContext, sender: tuple[str, int, str]) -> PromptContext:
        """The prompts, with the remembered box where they need one.

        ``sender`` is (project key, task id, person); the person "" is unknown.
        """
        if not sender[2]:
            return prompts
        key = (*sender, prompts.to_name, prompts.label)
        if prompts.box is not None:
            self._boxes.put(key, prompts)
            return prompts
        if prompts.points and not prompts.points[0][2]:
            recent = self._boxes.get(key)
            if recent is not None:
                return replace(prompts, box=recent.box)
        return prompts


def to_prompt(context: PromptContext, hw: tuple[int, int]) -> Prompt:
    """Percent to pixels of the (H, W) image. BadPrompt when the box covers less than a pixel of it."""
    height, width = hw
    points = tuple(
        (min(x / 100 * width, width - 0.5), min(y / 100 * height, height - 0.5), positive)
        for x, y, positive in context.points
    )
    box = None
    if context.box is not None:
        box = _box_px(context.box, height=height, width=width)
    return Prompt(points, box, context.label)


def _number(value: object, field: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= sys.float_info.max:
        raise BadPrompt(f"expected a number, got {value!r:.60}", field=field)
    return float(value)


def _said_labels(results: Sequence[Any]) -> dict[str, Mapping[str, Any]]:
    """By id of a point or box: what its Labels tag says of it, as ``{"labels": [...]}``."""
    return {
        str(item.get("id", "")): {"labels": item["value"]["labels"]}
        for item in results
        if isinstance(item, Mapping)
        and item.get("type") == _LABEL_TYPE
        and isinstance(item.get("value"), Mapping)
        and item["value"].get("labels")
    }


def _label(value: Mapping[str, Any], kind: str, where: str, known: Sequence[str]) -> str:
    field = f"{where}.value.{kind or 'labels'}"
    names = value.get(kind) or value.get("labels")
    if not names and kind not in _LABELLED_TYPES:
        return ""  # the tool works without a label: the service finds out what was meant
    if not isinstance(names, Sequence) or isinstance(names, (str, bytes)) or not names:
        raise BadPrompt("the prompt has no label", field=field, hint="Select a label before clicking")
    if len(names) > 1:
        raise BadPrompt("the prompt has several labels", field=field, hint="Select one label")
    name = str(names[0])
    if known and name not in known:
        raise BadPrompt(f"unknown label {name!r}", field=field, hint=f"The project has: {', '.join(known)}")
    return name


def _point(item: Mapping[str, Any], value: Mapping[str, Any], where: str) -> tuple[float, float, bool]:
    x = _number(value.get("x"), f"{where}.value.x")
    y = _number(value.get("y"), f"{where}.value.y")
    for name, number in (("x", x), ("y", y)):
        if not 0 <= number <= 100:
            raise BadPrompt(
                f"the click lies outside the image ({name} = {number:g} %)",
                field=f"{where}.value.{name}",
                hint="Click inside the image",
            )
    positive = item["is_positive"]
    if not isinstance(positive, bool) and positive not in (0, 1):
        raise BadPrompt(f"expected true or false, got {positive!r:.60}", field=f"{where}.is_positive")
    return x, y, bool(positive)


def _box(value: Mapping[str, Any], where: str) -> tuple[float, float, float, float, float]:
    x, y, width, height = (
        _number(value.get(name), f"{where}.value.{name}") for name in ("x", "y", "width", "height")
    )
    rotation = _number(value.get("rotation") or 0, f"{where}.value.rotation")
    for name, size in (("width", width), ("height", height)):
        if size <= 0:
            raise BadPrompt(
                "the box has no area", field=f"{where}.value.{name}", hint="Drag the box around the object"
            )
    if rotation == 0 and (x >= 100 or y >= 100 or x + width <= 0 or y + height <= 0):
        raise BadPrompt(
            "the box lies outside the image", field=f"{where}.value", hint="Drag the box inside the image"
        )
    return x, y, width, height, rotation


def _box_px(
    box: tuple[float, float, float, float, float], *, height: int, width: int
) -> tuple[float, float, float, float]:
    x0, y0 = box[0] / 100 * width, box[1] / 100 * height
    w, h = box[2] / 100 * width, box[3] / 100 * height
    cos, sin = math.cos(math.radians(box[4])), math.sin(math.radians(box[4]))
    # Label Studio turns a rectangle about its top-left corner, in pixels. The prompt is its bounding box.
    xs = [x0 + dx * cos - dy * sin for dx, dy in ((0.0, 0.0), (w, 0.0), (w, h), (0.0, h))]
    ys = [y0 + dx * sin + dy * cos for dx, dy in ((0.0, 0.0), (w, 0.0), (w, h), (0.0, h))]
    left, right = max(0.0, min(xs)), min(float(width), max(xs))
    top, bottom = max(0.0, min(ys)), min(float(height), max(ys))
    if right - left < _SMALLEST_BOX_PX or bottom - top < _SMALLEST_BOX_PX:
        raise BadPrompt(
            "the box covers less than one pixel of the image",
            field="context.result",
            hint="Drag the box around the object",
        )
    return left, top, right, bottom
