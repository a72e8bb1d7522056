"""Label configs: Label Studio's XML, parsed once into frozen types.

Facts about Label Studio 1.23.2 (from the source of its editor, and tried on a server):

* Every control tag is one of the smart tools unless it says ``smart="false"``. ``smartOnly="true"`` hides the
  ordinary tool. So prompts are ``smart="true" smartOnly="true"`` and outputs ``smart="false"``.
* ``BitmaskLabels`` exists. Its result is ``{"type": "bitmasklabels", "value": {"imageDataURL":
  "data:image/png;base64,…", "bitmasklabels": ["Cat"]}}``; the PNG has the natural size of the image and its
  alpha channel is the mask. The editor accepts any PNG with alpha and writes back black on transparent.
* A ``<Label alias="cat" value="Cat"/>`` is stored in results under its alias.
* Labels may stand in one row of their own, ``<Labels name="label" toName="image">``, beside tags without
  labels (``<Brush name="mask" toName="image"/>``, ``<KeyPoint …/>``). A region then is two results of one
  id: the shape, and ``{"type": "labels", "from_name": "label", "value": {…, "labels": ["Cat"]}}``.
* The kind of a project follows from its tags. Three kinds have the same tags as others; a class on the outer
  ``View`` tells them apart: ``groundswell-segmentation`` (one mask per class), ``groundswell-components``
  (the same, judged part by part) and ``groundswell-weak``.
"""

from __future__ import annotations

import hashlib
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
from ml_backend.label_studio.image_values import ImageValue, parse_image_value
from ml_backend.label_studio.targets import LABELS, ControlTag, Target, find_targets

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
_LABEL_TAGS: Final = frozenset({*_OUTPUT_TAGS, "keypointlabels", "ellipselabels", LABELS})
_SHAPE_TAGS: Final = frozenset({*_OUTPUT_TAGS.values(), "keypoint"})
"""Tags without labels: those of the Labels tag on the same image count for them."""
_PROMPT_SHAPES: Final = frozenset({"keypoint", "rectangle"})
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
    image_name : name of the Image tag that models learn from and make proposals for. Of several Image tags
        it is the one with the best output tag; smart tools work on all of them.
    images : what the value of each Image tag says about the data of a task
    controls : all control tags that Groundswell reads, in document order
    outputs : controls of the image that a mask or box is written to, best first (bitmask, brush, polygon,
        rectangle)
    click_outputs : the same of all images, for the answers to clicks
    prompts : controls whose regions are prompts of smart tools
    labels : labels of all targets, in their order
    digest : 12 hex digits of the parts that matter; changes when tags or labels change, not with colours
    xml : the original text
    """

    kind: Kind
    targets: tuple[Target, ...]
    image_name: str
    images: Mapping[str, ImageValue]
    controls: tuple[ControlTag, ...]
    outputs: tuple[ControlTag, ...]
    click_outputs: tuple[ControlTag, ...]
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

    def click_output(self, label: str, image: str) -> ControlTag:
        """The control that the mask of a click on an image is written to; BadLabelConfig when the image has
        none for the label.
        """
        found = [c for c in self.click_outputs if c.to_name == image]
        if control := next((c for c in found if label in c.labels), None):
            return control
        known = dict.fromkeys(x for c in found for x in c.labels)
        raise BadLabelConfig(
            f"no output tag on the image {image!r} offers the label {label!r}",
            field="label_config",
            hint=f"Its labels: {', '.join(known) or 'none'}. Add {label!r} to a tag with toName={image!r}",
        )

    @property
    def click_labels(self) -> tuple[str, ...]:
        """Labels that smart tools may ask for, of all images."""
        return tuple(dict.fromkeys((*self.labels, *(x for c in self.click_outputs for x in c.labels))))

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

    @property
    def image_key(self) -> str:
        """The field of the data that holds the address of a task's image. Raises BadLabelConfig where there
        is no such field, so that no task can be made of an address alone.
        """
        value = self.images[self.image_name]
        if value.is_field:
            return value.key
        raise BadLabelConfig(
            f"pictures cannot be added here: the label config shows {value.text}, not a field of its own",
            field="label_config.Image.value",
            hint='Import tasks into Label Studio yourself, or write value="$image"',
        )

    def image_of(self, data: Mapping[str, object], image: str = "") -> str:
        """The address of an image (default: of ``image_name``) in the data of a task; BadLabelConfig names
        the field when it is missing.
        """
        return self.images[image or self.image_name].address_in(data)


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
    values = {_attribute(e, "name"): _image_value(e) for e in images}
    controls = _with_labels([c for e in root.iter() if (c := _control(e, values)) is not None])
    uses = Counter(c.name for c in controls)
    if double := sorted(name for name, count in uses.items() if count > 1):
        raise BadLabelConfig(f"two control tags are named {double[0]!r}", field="label_config.name")
    everywhere = tuple(c for name in values for c in _outputs([c for c in controls if c.to_name == name]))
    choices = [c for c in controls if c.type == "choices" and c.labels and not c.per_region]
    image_name = _main_image(everywhere, choices)
    outputs = tuple(c for c in everywhere if c.to_name == image_name)
    here = [c for c in choices if c.to_name == image_name]
    targets = find_targets(outputs, here, _marked(root)) if image_name else ()
    if not targets:
        raise BadLabelConfig(
            "the label config has no tag that Groundswell can write to",
            field="label_config",
            hint='Add BrushLabels, BitmaskLabels, PolygonLabels, RectangleLabels (smart="false") or Choices',
        )
    prompts = tuple(c for c in controls if c.shape in _PROMPT_SHAPES and c.smart and c not in everywhere)
    text = repr(([target.kind for target in targets], image_name, values[image_name].key, controls))
    return LabelConfig(
        kind=targets[0].kind,
        targets=targets,
        image_name=image_name,
        images=values,
        controls=controls,
        outputs=outputs,
        click_outputs=everywhere,
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


def _image_value(element: Element) -> ImageValue:
    if element.get("valueList"):
        raise BadLabelConfig(
            "<Image valueList=…> (several pages) is not supported",
            field="label_config.Image.valueList",
            hint='Use one picture per task: <Image value="$image"/>',
        )
    return parse_image_value(_attribute(element, "value"))


def _flag(element: Element, name: str, *, default: bool) -> bool:
    value = element.get(name)
    return default if value is None else value.strip().lower() == "true"


def _control(element: Element, images: Mapping[str, ImageValue]) -> ControlTag | None:
    """A control tag on one of the images; None for tags we do not read and tags on other objects."""
    kind = element.tag.lower()
    if kind not in _LABEL_TAGS and kind not in _SHAPE_TAGS and kind != "choices":
        return None
    to_name = _attribute(element, "toName")
    if to_name not in images:
        if kind in _LABEL_TAGS and kind != LABELS:
            raise BadLabelConfig(
                f"<{element.tag}> points to {to_name!r}, which is not an Image tag",
                field=f"label_config.{element.tag}.toName",
                hint=f"Images: {', '.join(images)}",
            )
        return None
    item = "choice" if kind == "choices" else "label"
    children = [e for e in element.iter() if e.tag.lower() == item]
    labels = tuple(e.get("alias", "").strip() or _attribute(e, "value") for e in children)
    if not labels and not element.get("value") and kind not in _SHAPE_TAGS:
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
    order: list[str] = list(_OUTPUT_TAGS.values())
    found = [c for c in controls if c.shape in order and not c.smart_only]
    masks = [c for c in found if c.shape != "rectangle"]
    if masks:  # beside a mask tag, a rectangle with smart prompts is not an output
        found = [c for c in found if c.shape != "rectangle" or not c.smart]
    return tuple(sorted(found, key=lambda c: order.index(c.shape)))


def _with_labels(controls: Sequence[ControlTag]) -> tuple[ControlTag, ...]:
    """The controls; tags without labels get those of the first Labels tag of their image, or are left out."""
    rows: dict[str, ControlTag] = {}
    for control in controls:
        if control.type == LABELS:
            rows.setdefault(control.to_name, control)
    return tuple(
        replace(c, labels=rows[c.to_name].labels, label_tag=rows[c.to_name].name)
        if c.type in _SHAPE_TAGS
        else c
        for c in controls
        if c.type not in _SHAPE_TAGS or c.to_name in rows
    )


def _main_image(outputs: Sequence[ControlTag], choices: Sequence[ControlTag]) -> str:
    """The image with the best output tag, masks before boxes; without any, that of the first Choices."""
    order: list[str] = list(_OUTPUT_TAGS.values())
    if outputs:
        return min(outputs, key=lambda c: order.index(c.shape)).to_name
    return choices[0].to_name if choices else ""


def _marked(root: Element) -> Kind | None:
    """The kind that a class on one of the config's views names."""
    classes = {name for e in root.iter() for name in e.get("className", "").split()}
    return next((kind for name, kind in KIND_OF_CLASS.items() if name in classes), None)
