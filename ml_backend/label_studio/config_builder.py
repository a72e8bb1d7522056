"""Write the XML of label configs: labelling projects and the two review forms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final
from xml.etree import ElementTree as ET

from ml_backend.errors import BadLabelConfig
from ml_backend.kinds.base import Kind
from ml_backend.kinds.registry import KINDS
from ml_backend.label_studio.label_config import KIND_OF_CLASS, VERDICTS, Output
from ml_backend.label_studio.why_line import WHY

__all__ = ["build_label_config", "build_review_config", "build_sheet_config"]

_TAG_OF_OUTPUT: Final[dict[str, str]] = {
    "bitmask": "Bitmask",
    "brush": "Brush",
    "polygon": "Polygon",
    "rectangle": "Rectangle",
}
"""Tags without labels; those with labels end in ``Labels``."""
_COLOURS: Final = (
    "#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#f032e6", "#9a6324",
    "#808000", "#000075", "#469990", "#d4a017", "#800000", "#2f4f4f", "#ff4500", "#5f9ea0",
)  # fmt: skip
# Several rows offer the same labels, so each has a caption. The rows are compact: the picture must fit
# the window.
_CAPTIONS: Final[dict[str, str]] = {
    "class": "Shows", "click": "Click", "frame": "Box", "mask": "Draw", "box": "Draw",
}  # fmt: skip
_ROW: Final = "display:flex;align-items:center;gap:12px;margin:-8px 0"
_CAPTION: Final = "margin:0;width:3.5em;font-weight:400;opacity:0.7"
_WHY_CLASS: Final = "groundswell-why"
_SHEET_CLASS: Final = "groundswell-sheet"
_SHEET_STYLE: Final = " ".join(
    f".{_SHEET_CLASS} {rule}"
    for rule in (
        ".lsf-choices{display:flex;flex-wrap:wrap;align-content:flex-start;gap:6px;margin:8px 0 0;padding:0}",
        f".lsf-choice,.{_SHEET_CLASS} .lsf-choice__item{{margin:0;padding:0;min-height:0;height:auto}}",
        ".ant-checkbox-wrapper{position:relative;display:block;margin:0;padding:0;cursor:pointer}",
        ".ant-checkbox-wrapper span{display:block;padding:0!important;margin:0;line-height:0}",
        ".ant-checkbox-wrapper::after{display:none}",
        ".ant-checkbox-wrapper img{display:block}",
        # the tick lies on its card and is as large as a finger needs
        ".ant-checkbox{position:absolute;left:4px;top:4px;z-index:1}",
        ".ant-checkbox-inner{width:32px;height:32px;border:2px solid #555;border-radius:6px}",
        ".ant-checkbox-inner::after{width:11px;height:20px;left:8px;border-width:0 4px 4px 0}",
        ".lsf-hint{position:absolute;right:4px;top:4px;padding:2px 5px;border-radius:4px;"
        "background:rgba(0,0,0,.6);color:#fff;font-size:13px;line-height:1.2}",
        ".ant-checkbox-wrapper:has(input:checked) img{box-shadow:inset 0 0 0 4px #d1242f;"
        "outline:4px solid #d1242f;outline-offset:-4px;opacity:.6}",
    )
)
"""Label Studio puts a small tick below each card. A laptop's window then has no room for the last cards."""
_ABOVE_PX: Final = {True: 175, False: 280}
"""height of the window that the picture does not get: with one row of labels, and with three"""
_WHY_PX, _TAGS_PX = 40, 54


def build_label_config(
    labels: Sequence[str],
    *,
    output: Output = "brush",
    kind: Kind = "instances",
    colours: Sequence[str] = (),
    image_key: str = "image",
    clicks: bool = True,
    multiple: bool = False,
    why: bool = False,
    one_row: bool = False,
) -> str:
    """Label config for a project of ``kind`` whose masks go to ``output``, with smart prompts in front.

    ``one_row``: all labels stand in one row, and the tools have none of their own. New projects have that: a
    number key chooses a label whatever the tool, and a label stays chosen after a mask. Otherwise each tool
    has a row of labels of its own, as in older projects. There a number key changes the tool too.

    ``colours`` are CSS colours per label (a distinct palette by default); ``multiple`` lets people pick
    several classes of a picture; ``why`` shows people why a task comes now. Raises BadLabelConfig on no
    labels, doubled labels and an unknown output or kind.
    """
    names = _check_labels(labels)
    if output not in _TAG_OF_OUTPUT:
        raise BadLabelConfig(
            f"unknown output {output!r}", field="output", hint=f"One of {', '.join(_TAG_OF_OUTPUT)}"
        )
    if kind not in KINDS:
        raise BadLabelConfig(f"unknown kind {kind!r}", field="kind", hint=f"One of {', '.join(KINDS)}")
    wanted = KINDS[kind]
    shades = [colours[i] if i < len(colours) else _COLOURS[i % len(_COLOURS)] for i in range(len(names))]
    mark = next((m for m, k in KIND_OF_CLASS.items() if k == kind), "")
    view = ET.Element("View", {"className": mark} if mark else {})
    if wanted.tagged:  # objects of several labels may be in one picture
        place = view if wanted.unit == "picture" else _row(view, "class")  # beside other rows it has a name
        _choices(place, names, single=wanted.unit == "picture" and not multiple)
    if wanted.unit != "picture":
        kind_output: Output = "rectangle" if wanted.unit == "box" else output
        own = [] if one_row else list(zip(names, shades, strict=True))
        if one_row:
            _labels(ET.SubElement(view, "Labels", {"name": "label", "toName": "image"}), names, shades)
        if clicks:
            for tag, name in (("KeyPoint", "click"), ("Rectangle", "frame")):
                _tool(view, tag, name, {"smart": "true", "smartOnly": "true"}, own)
        extra = {"smart": "false"}
        if kind_output == "polygon":
            extra |= {"strokeWidth": "2", "pointSize": "small", "opacity": "0.4"}
        _tool(view, _TAG_OF_OUTPUT[kind_output], wanted.unit, extra, own)
    if why:
        _why(view)
    tags_above = wanted.tagged and wanted.unit != "picture"
    above_px = _ABOVE_PX[one_row and wanted.unit != "picture"]
    _image(view, image_key, above_px=above_px + why * _WHY_PX + tags_above * _TAGS_PX)
    return _to_text(view)


def build_review_config(
    labels: Sequence[str] = (), *, image_key: str = "image", header_key: str = "question"
) -> str:
    """Config of the single review form: a crop, the question above it, and one key: y, n or u.

    ``labels`` is accepted for symmetry and not needed: the question's text comes with each task.
    """
    view = ET.Element("View", {"className": "groundswell-review"})
    ET.SubElement(view, "Header", {"name": "question", "value": f"${header_key}", "size": "4"})
    _image(view, image_key)
    answer = ET.SubElement(
        view,
        "Choices",
        {"name": "verdict", "toName": "image", "choice": "single-radio", "showInline": "true"},
    )
    for value, key in zip(VERDICTS, "ynu", strict=True):
        ET.SubElement(answer, "Choice", {"value": value, "hotkey": key})
    return _to_text(view)


def build_sheet_config(*, cards_key: str = "cards", header_key: str = "question") -> str:
    """Config of the contact sheet: pictures with automatic hotkeys 1, 2, …; people tick the wrong ones.

    Task data: ``question`` (text) and ``cards``, a list of ``{"value": key, "html": "<img src=…>"}``. The
    result is ``{"type": "choices", "from_name": "wrong", "value": {"choices": [keys]}}``. Nothing is ticked
    when all are right, so an answer is not required.
    """
    view = ET.Element("View", {"className": _SHEET_CLASS})
    ET.SubElement(view, "Style").text = _SHEET_STYLE
    ET.SubElement(view, "Text", {"name": "question", "value": f"${header_key}"})
    ET.SubElement(
        view,
        "Choices",
        {
            "name": "wrong",
            "toName": "question",
            "choice": "multiple",
            "value": f"${cards_key}",
            "layout": "inline",
        },
    )
    return _to_text(view)


def _check_labels(labels: Sequence[str]) -> list[str]:
    names = [str(x).strip() for x in labels]
    if not names or not all(names):
        raise BadLabelConfig("at least one label with a name is needed", field="labels")
    if len(set(names)) != len(names):
        raise BadLabelConfig(
            f"label {next(x for x in names if names.count(x) > 1)!r} is given twice", field="labels"
        )
    return names


def _choices(view: ET.Element, names: Sequence[str], *, single: bool) -> None:
    tag = ET.SubElement(
        view,
        "Choices",
        {
            "name": "class",
            "toName": "image",
            "choice": "single" if single else "multiple",
            "showInline": "true",
        },
    )
    for name in names:
        ET.SubElement(tag, "Choice", {"value": name})


def _row(view: ET.Element, name: str) -> ET.Element:
    """A row with the caption of the tag ``name``, which goes into it."""
    row = ET.SubElement(view, "View", {"style": _ROW})
    ET.SubElement(row, "Header", {"value": _CAPTIONS[name], "size": "5", "style": _CAPTION})
    return row


def _labels(row: ET.Element, labels: Sequence[str], colours: Sequence[str]) -> None:
    only = {"selected": "true"} if len(labels) == 1 and row.tag == "Labels" else {}
    for label, colour in zip(labels, colours, strict=True):
        ET.SubElement(row, "Label", {"value": label, "background": colour, **only})


def _tool(
    view: ET.Element, tag: str, name: str, extra: Mapping[str, str], own: Sequence[tuple[str, str]]
) -> None:
    """A tool, with a row of its own labels and their colours if it has any."""
    if not own:
        ET.SubElement(view, tag, {"name": name, "toName": "image", **extra})
        return
    element = ET.SubElement(_row(view, name), f"{tag}Labels", {"name": name, "toName": "image", **extra})
    _labels(element, [label for label, _ in own], [colour for _, colour in own])


def _why(view: ET.Element) -> None:
    """A place for the line of ``why_line``, without the box to write in and the button to delete."""
    ET.SubElement(view, "Style").text = f".{_WHY_CLASS} form,.{_WHY_CLASS} button{{display:none}}"
    row = ET.SubElement(view, "View", {"className": _WHY_CLASS, "style": "opacity:0.7;margin:-8px 0"})
    ET.SubElement(
        row, "TextArea", {"name": WHY, "toName": "image", "editable": "false", "maxSubmissions": "1"}
    )


def _image(view: ET.Element, key: str, *, above_px: int = _ABOVE_PX[False]) -> None:
    ET.SubElement(
        view,
        "Image",
        {
            "name": "image",
            "value": f"${key}",
            "zoom": "true",
            "height": f"calc(100vh - {above_px}px)",
            "brightnessControl": "true",
            "contrastControl": "true",
        },
    )


def _to_text(view: ET.Element) -> str:
    ET.indent(view)
    return ET.tostring(view, encoding="unicode")
