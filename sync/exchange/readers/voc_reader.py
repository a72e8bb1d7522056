"""Pascal VOC: an XML file per picture in ``Annotations``, masks in ``SegmentationObject`` if there are any.

Boxes of VOC count pixels from 1, and the last pixel belongs to the box. An object has the number in the mask
that it has in the XML file, as in the data sets of the challenge.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

import numpy as np
import numpy.typing as npt
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import parse

from ml_backend.errors import BadInput
from ml_backend.masks.rle import encode_mask
from sync.exchange.readers.png import read_indices
from sync.exchange.readers.rows import PictureRows, Problem, Row, Shape

__all__ = ["VocReader"]


class VocReader:
    """See ``sync.exchange.readers.rows.Reader``. Raises BadInput when there is no XML file."""

    labels: Sequence[str] = ()

    def __init__(self, path: Path) -> None:
        inner = path / "Annotations"
        self._folder = inner if inner.is_dir() else path
        self._masks = self._folder.parent / "SegmentationObject"
        if not self._folder.is_dir() or next(self._folder.rglob("*.xml"), None) is None:
            raise BadInput(
                f"{path} holds no XML files", field="path", hint="Give the folder that holds Annotations/"
            )

    def pictures(self) -> Iterator[PictureRows | Problem]:
        for file in sorted(self._folder.rglob("*.xml")):
            try:
                root = parse(file).getroot()
                if root is None:
                    raise ParseError("no element")
            except (ParseError, DefusedXmlException, OSError, ValueError, LookupError) as error:
                yield Problem("rejected", str(file), "", "", f"not readable as XML: {error}")
                continue
            yield self._picture(file, root)

    def _picture(self, file: Path, root: Element) -> PictureRows:
        stem = file.relative_to(self._folder).with_suffix("")
        name = Path((root.findtext("filename") or "").strip()).name
        height, width = _number(root, "size/height"), _number(root, "size/width")
        hw = (int(height), int(width)) if height and width else None
        values, problem = self._values(file, stem)
        rows: list[Row] = []
        problems = [problem] if problem is not None else []
        for number, item in enumerate(root.iter("object"), start=1):
            where = f"object[{number}]"
            label = (item.findtext("name") or "").strip()
            edges = [_number(item, f"bndbox/{edge}") for edge in ("xmin", "ymin", "xmax", "ymax")]
            if not label or any(edge is None for edge in edges):
                field, text = ("bndbox", "four numbers are needed") if label else ("name", "it is empty")
                problems.append(Problem("rejected", str(file), where, field, text, name or str(stem)))
                continue
            x0, y0, x1, y1 = (float(edge) for edge in edges if edge is not None)
            mask = None if values is None else values == number
            segmentation = encode_mask(mask) if mask is not None and mask.any() else None
            rows.append(Row(where, label, Shape((x0 - 1, y0 - 1, x1, y1), segmentation)))
        hw = hw if hw or values is None else (values.shape[0], values.shape[1])
        # the folders above the XML file are those above the picture
        full = stem.with_name(name) if name else stem
        return PictureRows(str(file), full.as_posix(), hw, rows, problems, no_suffix=not name)

    def _values(self, file: Path, stem: Path) -> tuple[npt.NDArray[np.int32] | None, Problem | None]:
        """The numbers of objects by pixel, and why they cannot be read."""
        path = self._masks / stem.with_name(f"{stem.name}.png")
        if not path.is_file():
            return None, None
        try:
            return read_indices(path), None
        except BadInput as error:
            return None, Problem("rejected", str(path), "", "", str(error), str(stem))


def _number(element: Element, path: str) -> float | None:
    try:
        value = float(element.findtext(path) or "")
    except ValueError:
        return None
    return value if np.isfinite(value) else None
