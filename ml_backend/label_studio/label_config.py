"""Label configs: Label Studio's XML, parsed once into frozen types.

Facts about Label Studio 1.23.2 (from the source of its editor, and tried on a server):

* Every control tag is one of the smart tools unless it says ``smart="false"``. ``smartOnly="true"`` hides the
  ordinary tool. So prompts are ``smart="true" smartOnly="true"`` and outputs ``smart="false"``.
* ``BitmaskLabels`` exists. Its result is ``{"type": "bitmasklabels", "value": {"imageDataURL":
  "data:image/png;base64,…", "bitmasklabels": ["Cat"]}}``; the PNG has the natural size of the image and its
  alpha channel is the mask. The editor accepts any PNG with alpha and writes back black on transparent.
* A ``<Label alias="cat" value="Cat"/>`` is stored in results under its alias.
* The kind of a project follows from its tags. Three kinds have the same tags as others; a class on the outer
  ``View`` tells them apart: ``groundswell-segmentation`` (one mask per class), ``groundswell-components``
  (the same, judged part by part) and ``groundswell-weak``.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from ml_backend.caches import ByteCache
from ml_backend.errors import BadLabelConfig
from ml_backend.kinds.base import Kind, ProjectKind
from ml_backend.kinds.registry import Wanted
from ml_backend.label_studio.targets import ControlTag, Target, find_targets

__all__ = ["KIND_OF_CLASS", "VERDICTS", "ControlTag", "LabelConfig", "Output", "parse_label_config"]

Output = Literal["bitmask", "brush", "polygon", "rectangle"]

VERDICTS: Final[tuple[str, str, str]] = ("yes", "no", "unsure")
"""Values of the review question, in the order of their hotkeys y, n, u."""

_OUTPUT_TAGS: Final[dict[str, Output]] = {
    "bitmasklabels": "bitmask",
    "brushlabels": "brush",
    "polygonlabels": "polygon",
    "rectanglelabels": "rectangle",
}
_LABEL_TAGS: Final = frozenset({*_OUTPUT_TAGS, "keypointlabels", "ellipselabels"})
_PROMPT_TAGS: Final = frozenset({"keypointlabels", "rectanglelabels"})
KIND_OF_CLASS: Final[Mapping[str, Kind]] = {
    "groundswell-segmentation": "segmentation",
    "groundswell-components": "components",
    "groundswell-weak": "weak",
}
"""Kinds with the same tags as others are marked by a class on the outer ``View``."""

_MAX_CHARACTERS: Final = 1_000_000
_MAX_DEPTH: Final = 100
_CACHE_BYTES: Final = 16 * 1024**2
_BYTES_PER_CHARACTER: Final = 8
"""Approximate memory of a parsed config per character: the text, its labels and their objects."""


@dataclass(frozen=True, slots=True)
class LabelConfig:
    """A label config, checked.

    Attributes
    ----------
    kind : what the project wants first: the kind of its first target
    targets : all that the project wants, see ``Target``
    image_name, image_key : name of the Image tag and the key of the task data that holds its address
    controls : all control tags that Groundswell reads, in document order
    outputs : controls a mask or box is written to, best first (bitmask, brush, polygon, rectangle)
    prompts : controls whose regions are prompts of smart tools
    labels : labels of all targets, in their order
    digest : 12 hex digits of the parts that matter; changes when tags or labels change, not with colours
    xml : the original text
    """

    kind: Kind
    targets: tuple[Target, ...]
    image_name: str
    image_key: str
    controls: tuple[ControlTag, ...]
    outputs: tuple[ControlTag, ...]
    prompts: tuple[ControlTag, ...]
    labels: tuple[str, ...]
    digest: str
    xml: str

    def control(self, name: str) -> ControlTag | None:
        """The control tag of this name."""
        return next((c for c in self.controls if c.name == name), None)

    def output_for(self, label: str) -> ControlTag:
        """The control that a mask of ``label`` is written to; BadLabelConfig when no output knows the
        label.
        """
        target = self.target_of(label)
        return next(c for c in target.outputs if target.value(label) in c.labels)

    def target_of(self, label: str) -> Target:
        """The target that a label belongs to; BadLabelConfig when no output knows it."""
        for target in self.targets:
            if label in target.labels:
                return target
        raise BadLabelConfig(
            f"no output tag offers the label {label!r}",
            field="label_config",
            hint=f"Known labels: {', '.join(self.labels) or 'none'}. Add it to an output tag",
        )

    @property
    def wanted(self) -> tuple[Wanted, ...]:
        """What the project wants, without the tags."""
        return tuple(target.wanted for target in self.targets)

    def kind_of(self, label: str) -> ProjectKind:
        """The kind of a label; BadLabelConfig when no output knows it."""
        return self.target_of(label).is_of

    def only(self, labels: Collection[str]) -> LabelConfig:
        """The config as if its tags offered no other labels than these; targets may be left without any."""
        if set(self.labels) <= set(labels):
            return self
        targets = [
            replace(target, labels=tuple(label for label in target.labels if label in labels))
            for target in self.targets
        ]
        return replace(
            self,
            targets=tuple(target for target in targets if target.labels),
            labels=tuple(label for target in targets for label in target.labels),
        )

    def image_of(self, data: Mapping[str, object]) -> str:
        """The image address in the data of a task; BadLabelConfig names the key when it is missing."""
        value = data.get(self.image_key)
        if not isinstance(value, str) or not value.strip():
            raise BadLabelConfig(
                f"task data has no text under {self.image_key!r}",
                field=f"data.{self.image_key}",
                hint=f"The label config shows ${self.image_key}, the task has {', '.join(data) or 'nothing'}",
            )
        return value.strip()


_known: Final[ByteCache[str, LabelConfig]] = ByteCache(
    _CACHE_BYTES, lambda config: _BYTES_PER_CHARACTER * len(config.xml)
)
"""Parsed configs by their text. Callers of ``/predict`` choose the text, so the memory is limited."""


def parse_label_config(xml: str) -> LabelConfig:
    """Parse the XML of a label config. Raises BadLabelConfig naming the tag or attribute that is wrong."""
    found = _known.get(xml)
    if found is None:
        found = _parse(xml)
        _known.put(xml, found)
    return found


def _parse(xml: str) -> LabelConfig:
    root = _parse_xml(xml)
    images = [e for e in root.iter() if e.tag.lower() == "image"]
    if not images:
        raise BadLabelConfig(
            "the label config has no Image tag",
            field="label_config.Image",
            hint='Add <Image name="image" value="$image"/>: Groundswell works on images',
        )
    keys = {_attribute(e, "name"): _image_key(e) for e in images}
    controls = tuple(c for e in root.iter() if (c := _control(e, keys)) is not None)
    uses = Counter(c.name for c in controls)
    if double := sorted(name for name, count in uses.items() if count > 1):
        raise BadLabelConfig(f"two control tags are named {double[0]!r}", field="label_config.name")
    outputs = _outputs(controls)
    choices = [c for c in controls if c.type == "choices" and c.labels and not c.per_region]
    targets = find_targets(outputs, choices, _marked(root))
    if not targets:
        raise BadLabelConfig(
            "the label config has no tag that Groundswell can write to",
            field="label_config",
            hint='Add BrushLabels, BitmaskLabels, PolygonLabels, RectangleLabels (smart="false") or Choices',
        )
    image_name = targets[0].outputs[0].to_name
    prompts = tuple(c for c in controls if c.type in _PROMPT_TAGS and c.smart and c not in outputs)
    text = repr(([target.kind for target in targets], image_name, keys[image_name], controls))
    return LabelConfig(
        kind=targets[0].kind,
        targets=targets,
        image_name=image_name,
        image_key=keys[image_name],
        controls=controls,
        outputs=outputs,
        prompts=prompts,
        labels=tuple(label for target in targets for label in target.labels),
        digest=hashlib.sha256(text.encode()).hexdigest()[:12],
        xml=xml,
    )


def _parse_xml(xml: str) -> Element:
    if not isinstance(xml, str) or not xml.strip():
        raise BadLabelConfig(
            "the label config is empty", field="label_config", hint="Set one in the project's settings"
        )
    if len(xml) > _MAX_CHARACTERS:
        raise BadLabelConfig(
            f"the label config is longer than {_MAX_CHARACTERS} characters", field="label_config"
        )
    try:
        root: Element = fromstring(xml, forbid_dtd=True)
    except DefusedXmlException as error:
        raise BadLabelConfig(
            "the label config declares entities, which is not allowed", field="label_config"
        ) from error
    except (ParseError, ValueError) as error:
        raise BadLabelConfig(
            f"the label config is not well-formed XML ({error})", field="label_config"
        ) from error
    if _is_deeper(root, _MAX_DEPTH):
        raise BadLabelConfig(f"tags are nested more than {_MAX_DEPTH} deep", field="label_config")
    return root


def _is_deeper(root: Element, limit: int) -> bool:
    level = [root]
    for _ in range(limit):
        level = [child for element in level for child in element]
    return bool(level)


def _attribute(element: Element, name: str) -> str:
    value = element.get(name, "").strip()
    if not value:
        raise BadLabelConfig(f"<{element.tag}> has no {name}", field=f"label_config.{element.tag}.{name}")
    return value


def _image_key(element: Element) -> str:
    if element.get("valueList"):
        raise BadLabelConfig(
            "<Image valueList=…> (several pages) is not supported",
            field="label_config.Image.valueList",
            hint='Use one picture per task: <Image value="$image"/>',
        )
    value = _attribute(element, "value")
    match = re.fullmatch(r"\$([\w.\-]+)", value)
    if match is None:
        raise BadLabelConfig(
            f"<Image> has value {value!r}, expected a variable",
            field="label_config.Image.value",
            hint='Write value="$image", where image is the key in the task data',
        )
    return match.group(1)


def _flag(element: Element, name: str, *, default: bool) -> bool:
    value = element.get(name)
    return default if value is None else value.strip().lower() == "true"


def _control(element: Element, images: Mapping[str, str]) -> ControlTag | None:
    """A control tag on one of the images; None for tags we do not read and tags on other objects."""
    kind = element.tag.lower()
    if kind not in _LABEL_TAGS and kind != "choices":
        return None
    to_name = _attribute(element, "toName")
    if to_name not in images:
        if kind in _LABEL_TAGS:
            raise BadLabelConfig(
                f"<{element.tag}> points to {to_name!r}, which is not an Image tag",
                field=f"label_config.{element.tag}.toName",
                hint=f"Images: {', '.join(images)}",
            )
        return None
    item = "choice" if kind == "choices" else "label"
    children = [e for e in element.iter() if e.tag.lower() == item]
    labels = tuple(e.get("alias", "").strip() or _attribute(e, "value") for e in children)
    if not labels and not element.get("value"):
        raise BadLabelConfig(f"<{element.tag}> offers no labels", field=f"label_config.{element.tag}")
    if len(set(labels)) != len(labels):
        twice = next(x for x in labels if labels.count(x) > 1)
        raise BadLabelConfig(
            f"<{element.tag}> offers {twice!r} twice", field=f"label_config.{element.tag}.Label.value"
        )
    return ControlTag(
        name=_attribute(element, "name"),
        type=kind,
        to_name=to_name,
        labels=labels,
        smart=kind != "choices" and _flag(element, "smart", default=True),
        smart_only=_flag(element, "smartOnly", default=False),
        multiple=element.get("choice", "").strip().lower() == "multiple",
        per_region=_flag(element, "perRegion", default=False),
    )


def _outputs(controls: Sequence[ControlTag]) -> tuple[ControlTag, ...]:
    """Output controls in order of preference; a smart-only rectangle beside a mask tag is a prompt."""
    order = list(_OUTPUT_TAGS)
    found = [c for c in controls if c.type in _OUTPUT_TAGS and not c.smart_only]
    masks = [c for c in found if c.type != "rectanglelabels"]
    if masks:  # beside a mask tag, a rectangle with smart prompts is not an output
        found = [c for c in found if c.type != "rectanglelabels" or not c.smart]
    return tuple(sorted(found, key=lambda c: order.index(c.type)))


def _marked(root: Element) -> Kind | None:
    """The kind that a class on one of the config's views names."""
    classes = {name for e in root.iter() for name in e.get("className", "").split()}
    return next((kind for name, kind in KIND_OF_CLASS.items() if name in classes), None)
