"""What ``value`` of an Image tag says about a task's data: ``$image``, ``$image.url``, ``$pictures[0]``, or
an address with variables in it (``https://pictures.org/$name``).

The rules are those of Label Studio 1.23's editor (``parseValue``): a variable is ``$`` and all of
``A-Z a-z 0-9 _ . [ ] { }`` that follow. So ``$img.jpg`` is the field ``jpg`` of ``img``, never the field
``img`` with an ending, and ``$my-image`` is the variable ``my`` with a text behind it. A field whose whole
name is the path (``"image.url"``) comes before a nested one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ml_backend.errors import BadLabelConfig

__all__ = ["ImageValue", "parse_image_value"]

_VARIABLE: Final = re.compile(r"\$[A-Za-z0-9_\[\].{}]+")
_STEP: Final = re.compile(r"[^.\[\]]+")


@dataclass(frozen=True, slots=True)
class ImageValue:
    """``value`` of an Image tag as written in the label config."""

    text: str

    @property
    def key(self) -> str:
        """The field of the task's data that holds the address, where there is one; else the value itself."""
        return self.text[1:] if self.is_field else self.text

    @property
    def is_field(self) -> bool:
        """Whether the address stands under one field of the data, as new tasks can be given it."""
        return re.fullmatch(r"\$\w+", self.text, re.ASCII) is not None

    def address_in(self, data: Mapping[str, object]) -> str:
        """The address of the picture of a task. Raises BadLabelConfig naming the variable without a text."""
        if _VARIABLE.fullmatch(self.text):
            return self._text_of(self.text, data).strip()
        return _VARIABLE.sub(lambda found: self._text_of(found.group(), data), self.text).strip()

    def _text_of(self, variable: str, data: Mapping[str, object]) -> str:
        found = _look_up(variable[1:], data)
        if isinstance(found, Sequence) and not isinstance(found, str) and len(found) == 1:
            found = found[0]  # the editor shows a list as pages; one page is a picture like any other
        if isinstance(found, int | float) and not isinstance(found, bool) and variable != self.text:
            found = str(found)  # a number in the middle of an address
        if isinstance(found, str) and found.strip():
            return found
        name = variable[1:]
        if isinstance(found, Sequence) and not isinstance(found, str) and found:
            raise BadLabelConfig(
                f"task data has {len(found)} pictures under {name!r}, and only one can be worked on",
                field=f"data.{name}",
                hint="Make one task per picture",
            )
        raise BadLabelConfig(
            f"task data has no text under {name!r}",
            field=f"data.{name}",
            hint=f"The label config shows {self.text}, the task has {', '.join(data) or 'nothing'}",
        )


def parse_image_value(text: str) -> ImageValue:
    """The value of an Image tag. Raises BadLabelConfig when it names no variable."""
    if not _VARIABLE.search(text):
        raise BadLabelConfig(
            f"<Image> has value {text!r}, expected a variable",
            field="label_config.Image.value",
            hint='Write value="$image", where image is the key in the task data',
        )
    return ImageValue(text)


def _look_up(path: str, data: Mapping[str, object]) -> object:
    """What the data holds under ``a.b[0].c``; None where a step leads nowhere."""
    if path in data:
        return data[path]
    at: object = data
    for step in _STEP.findall(path):
        if isinstance(at, Mapping):
            at = at.get(step)
        elif isinstance(at, Sequence) and not isinstance(at, str) and step.isdigit():
            at = at[int(step)] if int(step) < len(at) else None
        else:
            return None
    return at
