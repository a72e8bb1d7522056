"""Regions whose label is said by a Labels tag: two results of one id, a shape and its label.

Everywhere else a region is one result with its label in it. So what people and the editor send is *joined*
before it is read, and what we send is *parted* after it was written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from ml_backend.label_studio.label_config import ControlTag, LabelConfig
from ml_backend.label_studio.targets import LABELS

__all__ = ["is_label", "joined", "label_result"]

_EMPTY: Final[Mapping[str, Any]] = {"rle": [0], "imageDataURL": "", "points": []}
"""Label Studio refuses the label of a shape unless its value has the fields of the shape. The editor reads a
shape from the shape's own result, so the mask need not be sent twice."""


def joined(result: Sequence[Mapping[str, Any]], config: LabelConfig) -> list[tuple[int, Mapping[str, Any]]]:
    """Place and item of every result; shapes of tags without labels have the label that was said of them.

    A shape that nobody labelled gets the label of the project if there is only one. A shape with its label in
    it (``brushlabels`` of a Brush tag) is read too: scripts send it, and so were annotations made before the
    labels got a row of their own.
    """
    said: dict[tuple[object, str], Sequence[Any]] = {}
    for item in result:
        value = item.get("value")
        if is_label(item, config) and isinstance(value, Mapping) and value.get(LABELS):
            said.setdefault((item["from_name"], str(item.get("id", ""))), value[LABELS])
    found: list[tuple[int, Mapping[str, Any]]] = []
    for index, item in enumerate(result):
        name, value = item.get("from_name"), item.get("value")
        control = config.control(name) if isinstance(name, str) else None
        if control is not None and control.label_tag and isinstance(value, Mapping):
            whole = f"{control.type}labels"
            if item.get("type") == whole and value.get(whole):
                rest = {key: field for key, field in value.items() if key != whole}
                value = {**rest, LABELS: value[whole]}
                item = {**item, "type": control.type}
            only = control.labels if len(control.labels) == 1 else ()
            key = (control.label_tag, str(item.get("id", "")))
            labels = said.get(key, value.get(LABELS) or only)
            item = {**item, "value": {**value, LABELS: labels}}
        found.append((index, item))
    return found


def is_label(item: Mapping[str, Any], config: LabelConfig) -> bool:
    """Whether a result is the label of another one: its tag is a Labels tag."""
    name = item.get("from_name")
    control = config.control(name) if isinstance(name, str) else None
    return control is not None and control.type == LABELS and item.get("type") == LABELS


def label_result(item: Mapping[str, Any], control: ControlTag, label: str) -> dict[str, Any]:
    """The result that says the label of the shape in ``item``, which was written to ``control``."""
    value = {key: _EMPTY.get(key, field) for key, field in item["value"].items() if key != LABELS}
    return {
        **{key: field for key, field in item.items() if key != "meta"},
        "type": LABELS,
        "from_name": control.label_tag,
        "value": {**value, LABELS: [label]},
    }
