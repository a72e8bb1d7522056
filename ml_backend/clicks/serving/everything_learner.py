"""Learner ``everything``: masks of everything on a picture under one label, before anybody has labelled.

It learns nothing. As a cold start it gives the first predictions of a project, which the first training
replaces like those of any other cold start.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ml_backend.artifacts.files import write_json
from ml_backend.clicks.base import ClickSegmenter
from ml_backend.clicks.everything import EverythingSettings, segment_everything
from ml_backend.clicks.serving.auto_choice import settings_for
from ml_backend.clicks.serving.catalog import SEGMENTERS, build_segmenter
from ml_backend.errors import BadInput, ModelError
from ml_backend.instances import Instances
from ml_backend.learners.base import Evaluation, LeftOut, Predictor, Progress, TrainReport, TrainSpec
from ml_backend.learners.mask_features import MaskFeatures
from ml_backend.learners.options import with_options
from ml_backend.learners.version_files import CONFIG, read_description
from ml_backend.masks.empty import without_empty_masks
from ml_backend.masks.rle import rle_box
from ml_backend.settings import BackendSettings

__all__ = ["EVERYTHING", "EverythingLearner", "EverythingOptions", "EverythingPredictor", "label_for"]

EVERYTHING: Final = "everything"
_DEFAULTS: Final = EverythingSettings()


@dataclasses.dataclass(frozen=True, slots=True)
class EverythingOptions:
    """Options of the learner.

    Attributes
    ----------
    label : that all masks get; needed where the project has several
    segmenter : that finds them; empty: the one of the settings
    most : masks of a picture
    min_trust : masks below are left out; trust is expected IoU times stability
    """

    label: str = ""
    segmenter: str = ""
    most: int = _DEFAULTS.most
    min_trust: float = _DEFAULTS.min_trust


def everything_options(options: Mapping[str, Any]) -> EverythingOptions:
    """The options, checked. Raises BadInput naming the one that is wrong."""
    found = with_options(EverythingOptions(), options, positive=("most",))
    if found.min_trust > 1:
        raise BadInput("must be at most 1", field="options.min_trust")
    names = [name for name, entry in SEGMENTERS.items() if not entry.needs_project]
    if found.segmenter and found.segmenter not in names:
        raise BadInput(
            f"there is no segmenter {found.segmenter!r}",
            field="options.segmenter",
            hint=f"One of: {', '.join(names)}",
        )
    return found


def label_for(options: Mapping[str, Any], labels: Sequence[str]) -> str:
    """The label that the masks get. Raises BadInput where the project does not have it, or has several and
    none is named: nobody can submit a mask whose label is a guess.
    """
    chosen = everything_options(options).label
    if not chosen and len(labels) == 1:
        return labels[0]
    if chosen not in labels:
        raise BadInput(
            f"the project has no label {chosen!r}" if chosen else "which label do the masks get?",
            field="options.label",
            hint=f"One of: {', '.join(labels)}; what a mask shows is not known before the first training",
        )
    return chosen


class EverythingLearner:
    """See ``ml_backend.learners.base.Learner``. A version is a file: the options and the label."""

    name = EVERYTHING

    def check_options(self, preset: str, options: Mapping[str, Any]) -> None:
        """Raises BadInput naming the option that is wrong. The label is checked by ``label_for``."""
        everything_options(options)

    def train(self, spec: TrainSpec, out: Path, progress: Progress) -> TrainReport:
        """Load the segmenter once and write learner.json; measure on the test split where there is one.

        Raises BadInput for wrong options, ModelError for a segmenter that cannot be loaded.
        """
        begun = time.monotonic()
        label = label_for(spec.options, spec.labels)
        options = everything_options(spec.options)
        segmenter = _segmenter(options.segmenter, spec.device)
        said = f"no training: everything that {segmenter.name} finds is a {label}"
        progress(0.5, said)
        out.mkdir(parents=True, exist_ok=True)
        described = {**dataclasses.asdict(options), "label": label, "segmenter": segmenter.name}
        write_json(out / CONFIG, {"learner": self.name, "labels": list(spec.labels), "options": described})
        evaluation, left_out = Evaluation(0, 0, {}), tuple[LeftOut, ...]()
        if spec.test:
            from ml_backend.images.decode import read_image
            from ml_backend.learners.evaluation import evaluate
            from ml_backend.learners.readable_examples import readable_examples

            test = readable_examples(spec.test)
            predictor = self.load(out, device=spec.device)
            found = [next(predictor.predict([read_image(example.image)])) for example in test.kept]
            evaluation, left_out = evaluate(found, test.kept, spec.labels), test.left_out
        progress(1.0, "everything is ready")
        return TrainReport(
            learner=self.name,
            started_from=said,
            iterations=0,
            seconds=time.monotonic() - begun,
            evaluation=evaluation,
            left_out=left_out,
        )

    def load(self, folder: Path, *, device: str = "auto") -> Predictor:
        """Raises ModelError when the description is damaged or the segmenter is no longer there."""
        value = read_description(folder, self.name)
        try:
            labels = tuple(str(label) for label in value["labels"])
            options = everything_options(value["options"])
            label = label_for(value["options"], labels)
        except (ValueError, KeyError, TypeError, BadInput) as error:
            raise ModelError(f"the description in {folder} is damaged: {error}", field=CONFIG) from error
        return EverythingPredictor(_segmenter(options.segmenter, device), labels, label, options)

    def export(self, folder: Path, out: Path) -> Path:
        """Raises ModelError: there is no model of its own to write."""
        raise ModelError(
            "a cold start is not exported", hint="Use the segmenter itself; learner.json says which it is"
        )


class EverythingPredictor:
    """See ``ml_backend.learners.base.Predictor``; safe under threads, as segmenters are."""

    def __init__(
        self, segmenter: ClickSegmenter, labels: tuple[str, ...], label: str, options: EverythingOptions
    ) -> None:
        self.labels = labels
        self.nbytes = segmenter.nbytes
        self._segmenter = segmenter
        self._label = labels.index(label)
        self._settings = EverythingSettings(most=options.most, min_trust=options.min_trust)
        self._features = MaskFeatures("classical")
        self.embedding_dim = self._features.dim

    def predict(self, images: Sequence[npt.NDArray[np.uint8]]) -> Iterator[Instances]:
        """Instances of each (H, W, 3) uint8 RGB image, in order: ``score`` is the trust."""
        for image in images:
            yield self._one(image)

    def _one(self, image: npt.NDArray[np.uint8]) -> Instances:
        found = segment_everything(self._segmenter, image, self._settings)
        rles = found.rles()
        n = len(rles)
        instances = Instances(
            label=np.full(n, self._label, np.int64),
            box_xyxy=np.array([rle_box(rle) for rle in rles], np.float32).reshape(n, 4),
            rle=rles,
            score=found.trust,
            quality=found.score,
            embedding=self._features(image, rles),
        )
        return without_empty_masks(instances)


def _segmenter(name: str, device: str) -> ClickSegmenter:
    settings = BackendSettings()
    if device != "auto":
        settings = settings.model_copy(update={"device": device})
    name = name or settings.segmenter
    # a project's own click network is trained on finished tasks, of which there are none yet
    name = "classical" if name == "project" else name
    return build_segmenter(name, settings_for(name, settings))
