"""Regions as the rest of the software sees them, and how they are named in Label Studio.

``region_reader`` makes them from Label Studio's JSON, ``region_writer`` makes that JSON from them, and
``region_check`` looks for what Label Studio would drop. No other module knows the format.

Coordinates in Label Studio are percent of the image. Ours are pixels, x to the right and y down, of the image
as the editor shows it (EXIF orientation applied).

A region says in its ``meta`` where it comes from: ``text`` is what the editor shows, ``groundswell`` what
we read back. The editor (1.23.2) keeps ``meta`` of a region as it is, whatever its keys.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ml_backend.errors import BadRegion
from ml_backend.instances import Rle
from ml_backend.label_studio.codecs.base import RegionCodec, RegionKind
from ml_backend.label_studio.codecs.bitmask import BITMASK
from ml_backend.label_studio.codecs.brush import BRUSH
from ml_backend.label_studio.codecs.polygon import POLYGON
from ml_backend.label_studio.codecs.rectangle import RECTANGLE
from ml_backend.label_studio.label_config import ControlTag

__all__ = ["CODECS", "Region", "label_of", "provenance_meta", "region_id", "started_from", "value_of"]

CODECS: Final[Mapping[str, RegionCodec]] = {
    "bitmasklabels": BITMASK,
    "brushlabels": BRUSH,
    "polygonlabels": POLYGON,
    "rectanglelabels": RECTANGLE,
    "bitmask": BITMASK,
    "brush": BRUSH,
    "polygon": POLYGON,
    "rectangle": RECTANGLE,
}
"""The codec of each tag that masks are read from and written to. The key is the ``type`` of its results."""
_STARTED_FROM: Final = "started_from"
_ID_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """One region of an annotation or prediction.

    Attributes
    ----------
    id : id of the region within its annotation
    kind : what was drawn
    label : class
    rle : the mask at the size of the image (rectangles and polygons filled)
    box_xyxy : tight box of the mask in pixels; of an upright box, the box as drawn
    score : score that a model gave it; None if a person drew it
    meta : Label Studio's ``meta`` of the region
    rotated : of a box that was drawn rotated: x, y of its top left corner, width, height in pixels, and
        degrees clockwise about that corner; empty otherwise
    origin : ``manual``, ``prediction`` or ``prediction-changed`` as the editor says, empty if it does not
    """

    id: str
    kind: RegionKind
    label: str
    rle: Rle
    box_xyxy: tuple[float, float, float, float]
    score: float | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    origin: str = ""
    rotated: tuple[float, ...] = ()

    @property
    def provenance(self) -> Mapping[str, Any]:
        """What Groundswell wrote about the region's origin (key, cluster, purity, …), or nothing."""
        found = self.meta.get("groundswell")
        return found if isinstance(found, Mapping) else {}

    @property
    def started_from(self) -> str:
        """Id of the proposal that this accepted click corrects; empty for all other regions."""
        return str(self.provenance.get(_STARTED_FROM, ""))


def region_id(key: str) -> str:
    """10 characters computed from ``key``, in the form of the editor's own ids."""
    number = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big")
    digits = []
    for _ in range(10):
        number, digit = divmod(number, 62)
        digits.append(_ID_ALPHABET[digit])
    return "".join(digits)


def provenance_meta(text: str, **fields: Any) -> dict[str, Any]:
    """``meta`` of a region: people see ``text`` in the editor, ``fields`` come back as ``provenance``."""
    return {"text": [text], "groundswell": fields} if fields else {"text": [text]}


def started_from(identity: str) -> dict[str, Any]:
    """``meta`` of a mask that a click made from a region: its id, read back as ``Region.started_from``."""
    return {"groundswell": {_STARTED_FROM: identity}} if identity else {}


def value_of(item: Mapping[str, Any]) -> Mapping[str, Any]:
    """``value`` of a result. Raises BadRegion when there is none."""
    value = item.get("value")
    if not isinstance(value, Mapping):
        raise BadRegion("there is no value object", field="value")
    return value


def label_of(value: Mapping[str, Any], control: ControlTag) -> str:
    """The label under a value. Raises BadRegion when there is none, or one that the tag does not offer."""
    found = value.get(control.value_key)
    if isinstance(found, str) or not isinstance(found, list | tuple) or not found:
        raise BadRegion("the region has no label", field=f"value.{control.value_key}")
    label = str(found[0])
    if label not in control.labels:
        raise BadRegion(
            f"label {label!r} is not in the label config",
            field=f"value.{control.value_key}",
            hint=f"Known labels: {', '.join(control.labels)}",
        )
    return label
