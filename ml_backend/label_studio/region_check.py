"""Find regions that Label Studio would drop or show wrongly, before they are pushed.

Label Studio drops invalid rows of a bulk import without an error. In addition to what the SDK checks, this
module checks sizes, coordinates and the headers of masks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ml_backend.errors import GroundswellError
from ml_backend.label_studio.codecs.choices import check_choices
from ml_backend.label_studio.label_config import ControlTag, LabelConfig
from ml_backend.label_studio.label_rows import is_label, joined
from ml_backend.label_studio.region_reader import read_region
from ml_backend.label_studio.regions import CODECS, label_of, value_of
from ml_backend.label_studio.why_line import without_why

__all__ = ["validate_result"]


def validate_result(
    result: Sequence[Mapping[str, Any]],
    config: LabelConfig,
    score: float | None = None,
    *,
    deep: bool = False,
) -> list[str]:
    """One line per problem, each with the path of its field; empty when there is none.

    ``deep`` decodes the masks too. That costs about a hundred times as much and is for results that other
    programs wrote.
    """
    problems: list[str] = []
    if score is not None and not (isinstance(score, int | float) and 0 <= score <= 1):
        problems.append(f"score: {score!r} is outside 0..1")
    seen: set[str] = set()
    for index, item in joined(without_why(result), config):
        where = f"result[{index}]"
        control = config.control(str(item.get("from_name")))
        if control is None:
            problems.append(f"{where}.from_name: {item.get('from_name')!r} is no tag of the label config")
            continue
        if item.get("type") != control.type:
            problems.append(
                f"{where}.type: {item.get('type')!r}, tag {control.name!r} needs {control.type!r}"
            )
            continue
        if item.get("to_name") != control.to_name:
            problems.append(f"{where}.to_name: {item.get('to_name')!r}, expected {control.to_name!r}")
        found = item.get("score")
        if found is not None and not (isinstance(found, int | float) and 0 <= found <= 1):
            problems.append(f"{where}.score: {found!r} is outside 0..1")
        if control.type == "choices":
            if problem := check_choices(item.get("value", {}), control.labels):
                problems.append(f"{where}.value.choices: {problem}")
            continue
        if is_label(item, config):
            continue
        identity = str(item.get("id", ""))
        if not identity or identity in seen:
            problems.append(f"{where}.id: {identity!r} is " + ("there twice" if identity else "missing"))
        seen.add(identity)
        if problem := _problem_of_region(item, control, deep=deep):
            problems.append(f"{where}.{problem}")
    return problems


def _problem_of_region(item: Mapping[str, Any], control: ControlTag, *, deep: bool) -> str:
    width, height = item.get("original_width"), item.get("original_height")
    if not (isinstance(width, int) and isinstance(height, int) and width > 0 and height > 0):
        return f"original_width: {width!r} × {height!r} is no image size"
    codec = CODECS.get(control.type)
    if codec is None:
        return f"type: {control.type} is not an output tag"
    try:
        value = value_of(item)
        label_of(value, control)
        codec.check(value, (height, width))
        if deep:
            read_region(item, control, (height, width), "")
    except GroundswellError as error:
        return str(error)
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        return f"value: unreadable ({error})"
    return ""
