"""What the files of other tools say about pictures, before it fits a project.

A reader turns one format into ``PictureRows``, picture by picture, so that a data set of any size passes
through. What it cannot use becomes a ``Problem`` that names file, row and field; the rest goes on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

__all__ = ["PictureRows", "Problem", "ProblemKind", "Reader", "Row", "Shape"]

ProblemKind = Literal["rejected", "left out", "changed"]


@dataclass(frozen=True, slots=True)
class Problem:
    """Something about a row that people should know.

    Attributes
    ----------
    kind : ``rejected``: it is not in; ``left out``: it is not meant to be in (a crowd region, a label that
        was mapped to nothing, a picture that a person has annotated); ``changed``: it is in, but not quite as
        it was
    file : the file it stands in
    row : which row of the file, such as ``annotations[17]`` or ``line 3``
    field : which field is wrong
    reason : why, in words
    picture : the picture as the file names it; empty when there is none
    """

    kind: ProblemKind
    file: str
    row: str
    field: str
    reason: str
    picture: str = ""


@dataclass(frozen=True, slots=True)
class Shape:
    """Where something is on a picture, in every form in which the file says it.

    Attributes
    ----------
    box : x0, y0, x1, y1; x1 and y1 exclusive
    segmentation : as in COCO: a list of polygons (x, y, x, y, …), or run lengths with ``size`` and ``counts``
    rotated : x and y of the top left corner, width, height in pixels, and degrees clockwise about that corner
    relative : box and polygons are shares of width and height instead of pixels
    whole_label : the mask is all of its label on the picture, not one object
    """

    box: Sequence[float] | None = None
    segmentation: object = None
    rotated: Sequence[float] = ()
    relative: bool = False
    whole_label: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """One label on one picture; ``shape`` is None for a label of the whole picture."""

    where: str
    label: str
    shape: Shape | None
    score: float | None = None


@dataclass(frozen=True, slots=True)
class PictureRows:
    """All that a file says about one picture.

    Attributes
    ----------
    file : the file that says it
    name : the picture as the file names it, perhaps with folders
    hw : height and width in pixels, None where the file does not say
    rows : its labels; none means that the picture was looked at and shows nothing
    problems : rows that could not be read
    no_suffix : the name lacks the ending (``.jpg``) of the picture
    """

    file: str
    name: str
    hw: tuple[int, int] | None
    rows: Sequence[Row]
    problems: Sequence[Problem] = ()
    no_suffix: bool = False


class Reader(Protocol):
    """One format. ``labels`` are the names that the files declare up front, empty where they declare none."""

    labels: Sequence[str]

    def pictures(self) -> Iterator[PictureRows | Problem]:
        """Every picture once; problems that belong to no picture stand between them.

        Raises BadInput when the files as a whole are not of this format.
        """
        ...
