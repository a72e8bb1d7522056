"""The line that tells an annotator why this task comes now.

Task data can only be rewritten one request a task, and a tag that reads a field (``$why``) would oblige every
import to bring that field. A prediction may fill a TextArea tag for nothing. So the line is shown where the
label config has ``<TextArea name="why" toName="image" …/>``, as one more item of the prediction
(``build_label_config`` writes that tag for new projects). It comes
back with the annotation, where it is left out like everything that is no region of ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final
from xml.etree import ElementTree as ET

__all__ = ["WHY", "why_items", "without_why"]

WHY: Final = "why"
"""name of the TextArea"""


def why_items(config_xml: str, line: str) -> list[dict[str, Any]]:
    """The item that shows the line, in a list; empty when the config has no place for it."""
    shows = _shows(config_xml)
    if not shows or not line:
        return []
    return [
        {
            "id": "groundswellwhy",
            "type": "textarea",
            "from_name": WHY,
            "to_name": shows,
            "value": {"text": [line]},
        }
    ]


def without_why(result: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The items of a result but for the line."""
    return [item for item in result if not (item.get("from_name") == WHY and item.get("type") == "textarea")]


@lru_cache(maxsize=64)
def _shows(config_xml: str) -> str:
    """Name of the tag that the TextArea belongs to; empty without one."""
    try:
        root = ET.fromstring(config_xml)
    except ET.ParseError:
        return ""
    found = (tag.get("toName", "") for tag in root.iter() if tag.tag == "TextArea" and tag.get("name") == WHY)
    return next(found, "")
