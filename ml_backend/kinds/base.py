"""What a project may want, and everything that follows from it, in one object per kind.

Models, pools, trees, questions and certificates know instances only: a label, a mask, a score. A box is an
instance whose mask is the filled box, and a class is one whose mask covers the picture. So a kind says what
differs: which learners find its instances, how drawn regions become instances, when a found one is good, what
people are asked, and what is measured and exported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ml_backend.instances import Rle

__all__ = ["Kind", "LabelledMask", "ProjectKind", "Unit", "as_drawn"]

Kind = Literal["instances", "boxes", "segmentation", "components", "classes", "weak"]
Unit = Literal["mask", "box", "picture"]
LabelledMask = tuple[str, Rle]
"""A label and the mask of one object at the size of the picture."""


def as_drawn(masks: Sequence[LabelledMask]) -> list[LabelledMask]:
    """The masks as they are: one instance each."""
    return list(masks)


@dataclass(frozen=True, slots=True)
class ProjectKind:
    """One kind of labels.

    Attributes
    ----------
    name : as in ``groundswell init --kind``
    unit : what one instance is to people: an outlined mask, a box, or the whole picture
    wants : what people get, in the words of the command line
    learners : names of the learners that can be trained for it, the default one first
    good_iou : an instance is good when its IoU with a true one of its label exceeds this
    same_iou : two instances of a label are of one object when their IoU exceeds this; above 1: never
    question : what people are asked about one instance; ``{label}`` is its label
    good_one : what a good instance is called, the same way
    check : how people judge one, for the instructions of a review
    drawn_s : seconds that a person takes to make one without help
    headline : the metric of the test split that stands for a model version
    exports : names of the export formats, the default one first
    max_tags_per_pixel : how many boxes may lie on one pixel of a prediction; 0: any number
    whole_labels : whether all of a label on a picture is one mask
    learner_options : options of the learners that follow from the kind
    tagged : whether people say which labels a picture has instead of drawing them
    to_instances : what was drawn on one picture, as the instances that a model should find there
    """

    name: Kind
    unit: Unit
    wants: str
    learners: tuple[str, ...]
    good_iou: float
    same_iou: float
    question: str
    good_one: str
    check: str
    drawn_s: float
    headline: str
    exports: tuple[str, ...]
    max_tags_per_pixel: int = 0
    tagged: bool = False
    whole_labels: bool = False
    learner_options: Mapping[str, str] = field(default_factory=dict)
    to_instances: Callable[[Sequence[LabelledMask]], list[LabelledMask]] = as_drawn

    @property
    def one_per_label(self) -> bool:
        """Whether a picture has at most one instance of a label, all that is of it."""
        return self.whole_labels and self.same_iou > 1
