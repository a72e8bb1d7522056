"""What a label config wants: its control tags, and the labels of each kind among them.

A config may want several things at once, say boxes and a class of the picture. Each is a *target*: labels of
one kind, with the tags they are read from and written to. Labels of all targets stand in one list, so their
names must differ. A choice named like a region's label gets the name of its tag in front: ``quality: good``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from ml_backend.errors import BadLabelConfig
from ml_backend.kinds.base import Kind, ProjectKind
from ml_backend.kinds.registry import KINDS, Wanted

__all__ = ["LABELS", "ControlTag", "Target", "find_targets"]

LABELS: Final = "labels"
"""type of a Labels tag, and the key of its labels"""


@dataclass(frozen=True, slots=True)
class ControlTag:
    """One control tag: ``type`` is the tag in lower case, which is also the ``type`` of its results.

    ``multiple`` says that several choices may be picked; ``per_region`` that a choice belongs to a region.
    ``label_tag`` names the Labels tag that says the label of this tag's regions; empty where the tag has
    labels of its own.
    """

    name: str
    type: str
    to_name: str
    labels: tuple[str, ...]
    smart: bool
    smart_only: bool
    multiple: bool = False
    per_region: bool = False
    label_tag: str = field(default="", repr=False)  # digests of configs are made of the repr

    @property
    def value_key(self) -> str:
        """Key below ``value`` under which results of this tag keep their labels."""
        return LABELS if self.label_tag else self.type

    @property
    def shape(self) -> str:
        """What is drawn with the tag, however it gets its label: ``brush``, ``rectangle``, …."""
        return self.type.removesuffix("labels") or self.type


@dataclass(frozen=True, slots=True)
class Target:
    """Labels of one kind.

    Attributes
    ----------
    kind : what is wanted
    labels : names of the labels, as pools and models have them
    outputs : tags that instances are written to, best first; the Choices tag for classes
    tags : the Choices tag where people say what a picture shows; None where they draw only
    values : label -> what results hold for it, where that is another text
    """

    kind: Kind
    labels: tuple[str, ...]
    outputs: tuple[ControlTag, ...]
    tags: ControlTag | None = None
    values: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_of(self) -> ProjectKind:
        """The kind as an object."""
        return KINDS[self.kind]

    @property
    def wanted(self) -> Wanted:
        """The target without its tags."""
        return Wanted(self.kind, self.labels, self.tags is not None and not self.tags.multiple)

    def value(self, label: str) -> str:
        """The text of a label in results."""
        return self.values.get(label, label)

    def label_of(self, value: str) -> str:
        """The label that a text in results stands for. Raises KeyError when there is none."""
        found = next((label for label in self.labels if self.value(label) == value), None)
        if found is None:
            raise KeyError(value)
        return found


def find_targets(
    outputs: Sequence[ControlTag], choices: Sequence[ControlTag], marked: Kind | None
) -> tuple[Target, ...]:
    """The targets of a config, the main one first; none when there is nothing to write to.

    Parameters
    ----------
    outputs : tags that masks or boxes are written to, best first
    choices : Choices tags of whole pictures
    marked : kind that the config says it is (``segmentation``, ``weak``), None for none

    Raises BadLabelConfig when tags that the marked kind needs are missing.
    """
    masks = [tag for tag in outputs if tag.shape != "rectangle"]
    if marked is not None and not masks:
        raise BadLabelConfig(f"a project of kind {marked} needs a mask tag", field="label_config.BrushLabels")
    found: list[Target] = []
    drawn = _labels_of(masks)
    if marked == "weak":
        if not choices:
            raise BadLabelConfig("a project of kind weak needs a Choices tag", field="label_config.Choices")
        tags, *choices = choices
        _check_tags(tags, drawn)
        found.append(Target("weak", drawn, tuple(outputs), tags))
    elif drawn:
        found.append(Target(marked or "instances", drawn, tuple(outputs)))
    boxed = tuple(label for label in _labels_of(outputs) if label not in drawn)
    if boxed:
        boxes = tuple(tag for tag in outputs if tag.shape == "rectangle")
        found.append(Target("boxes", boxed, boxes))
    taken = {*drawn, *boxed}
    for tag in choices:
        names: dict[str, str] = {}
        for value in tag.labels:
            names[_free_name(value, tag.name, taken | names.keys() | (set(tag.labels) - {value}))] = value
        taken |= names.keys()
        values = {name: value for name, value in names.items() if name != value}
        found.append(Target("classes", tuple(names), (tag,), tag, values))
    return tuple(found)


def _labels_of(tags: Sequence[ControlTag]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(label for tag in tags for label in tag.labels))


def _check_tags(tags: ControlTag, drawn: Sequence[str]) -> None:
    unknown = [label for label in tags.labels if label not in drawn]
    if unknown:
        raise BadLabelConfig(
            f"the tag {unknown[0]!r} is no label of the mask tag",
            field=f"label_config.{tags.name}",
            hint="In a project of kind weak, Choices and mask tag offer the same labels",
        )


def _free_name(value: str, tag: str, taken: set[str]) -> str:
    name = value
    while name in taken:
        name = f"{tag}: {name}"
    return name
