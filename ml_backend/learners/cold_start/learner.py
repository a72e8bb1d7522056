"""Learner ``zero-shot``: a detector that was trained elsewhere. It needs no task and learns nothing."""

from __future__ import annotations

import dataclasses
import difflib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_backend.artifacts.files import write_json
from ml_backend.devices import resolve_device
from ml_backend.errors import BadInput, ModelError
from ml_backend.learners.base import Evaluation, Progress, TrainReport, TrainSpec
from ml_backend.learners.class_map import DROP, ClassMap, class_map
from ml_backend.learners.cold_start.settings import ColdStart, cold_start_settings
from ml_backend.learners.version_files import CONFIG, read_description

if TYPE_CHECKING:
    from ml_backend.learners.cold_start.predictor import ColdStartPredictor
    from ml_backend.learners.cold_start.source import Source

__all__ = ["ZeroShot"]

_BY_FAMILY = {"words": 0.1, "classes": 0.3}
"""Least scores where none is given: detectors by words give lower ones."""


class ZeroShot:
    """See ``ml_backend.learners.base.Learner``. The options are those of ``settings.ColdStart``.

    A version is a file: the options, the labels, and where the detector's weights are. They are not copied.
    """

    name = "zero-shot"

    def check_options(self, preset: str, options: Mapping[str, Any]) -> None:
        """Raises BadInput naming the option that is wrong. Names of labels are checked by ``train``."""
        cold_start_settings(options)

    def train(self, spec: TrainSpec, out: Path, progress: Progress) -> TrainReport:
        """Load the detector, fit its classes to the labels, write learner.json; measure on the test split.

        ``spec.train`` may be empty and teaches nothing. Raises BadInput for options that do not fit the
        labels or the detector, ModelError for a detector that cannot be loaded.
        """
        from ml_backend.images.decode import read_image
        from ml_backend.learners.cold_start.opening import open_source
        from ml_backend.learners.evaluation import evaluate
        from ml_backend.learners.readable_examples import readable_examples

        begun = time.monotonic()
        if not spec.labels:
            raise BadInput("the project has no labels to look for", field="labels")
        settings = _findable(cold_start_settings(spec.options, spec.labels))
        device = resolve_device(spec.device)
        source = open_source(settings, spec.labels, device)
        _class_map(settings, source, spec.labels)
        if not settings.score_threshold:
            least = _BY_FAMILY["words" if source.words else "classes"]
            settings = dataclasses.replace(settings, score_threshold=least)
        progress(0.5, f"no training: {source.said}")
        out.mkdir(parents=True, exist_ok=True)
        described = {"learner": self.name, "labels": list(spec.labels), "options": _to_json(settings)}
        write_json(out / CONFIG, described)
        test = readable_examples(spec.test)
        evaluation = Evaluation(0, 0, {})
        if test.kept:
            predictor = self.load(out, device=spec.device)
            found = [next(predictor.predict([read_image(example.image)])) for example in test.kept]
            evaluation = evaluate(
                found,
                test.kept,
                spec.labels,
                iou="segm" if source.gives_masks or settings.masks != "box" else "bbox",
                max_detections=settings.max_detections,
            )
        progress(1.0, "the detector is ready")
        return TrainReport(
            learner=self.name,
            started_from=f"no training: {source.said}",
            iterations=0,
            seconds=time.monotonic() - begun,
            evaluation=evaluation,
            left_out=test.left_out,
        )

    def load(self, folder: Path, *, device: str = "auto") -> ColdStartPredictor:
        """The detector of a version. Raises ModelError when it is no longer where it was, or does not fit."""
        import torch

        from ml_backend.learners.cold_start.box_masks import box_masks
        from ml_backend.learners.cold_start.opening import open_source
        from ml_backend.learners.cold_start.predictor import ColdStartPredictor

        try:
            described = read_description(folder, self.name)
        except ModelError as error:
            raise ModelError(f"{folder} holds no cold start that can be used: {error.message}") from error
        try:
            labels = tuple(str(label) for label in described["labels"])
            settings = cold_start_settings(described["options"], labels)
            source = open_source(settings, labels, resolve_device(device))
            mapping = _class_map(settings, source, labels)
        except (ValueError, KeyError, TypeError, BadInput) as error:
            raise ModelError(f"{folder} holds no cold start that can be used: {error}") from error
        masks = box_masks(settings.masks, settings.weights)
        return ColdStartPredictor(
            source, mapping, masks, settings, device=torch.device(resolve_device(device))
        )

    def export(self, folder: Path, out: Path) -> Path:
        """Raises ModelError: the detector is where it always was, in a form others load."""
        raise ModelError(
            "a cold start is not exported", hint="Use the detector itself; learner.json says where it is"
        )


def _class_map(settings: ColdStart, source: Source, labels: tuple[str, ...]) -> ClassMap:
    """What becomes of each class of the detector. Raises BadInput."""
    given = settings.class_map
    if source.words:
        if given.named or given.default is not None:
            raise BadInput(
                "this detector looks for words: it has no classes to map",
                field="options.class_map",
                hint="Say with the option synonyms what to look for",
            )
        return class_map(labels, labels, {})
    if settings.synonyms:
        raise BadInput(
            "this detector has classes and looks for no words",
            field="options.synonyms",
            hint="Say with the option class_map what its classes are called here",
        )
    try:
        return class_map(source.classes, labels, given.named, default=given.default)
    except BadInput as error:
        raise BadInput(error.message, field="options.class_map", hint=_close(error, source)) from error


def _close(error: BadInput, source: Source) -> str:
    """The hint of an error about a name; a detector may have hundreds of classes, so only some are named."""
    if len(source.classes) <= 20:
        return error.hint
    wanted = error.message.rpartition(" ")[2].strip("'")
    near = difflib.get_close_matches(wanted, source.classes, n=5) or source.classes[:10]
    return f"The detector has {len(source.classes)} classes, for example {', '.join(near)}"


def _findable(settings: ColdStart) -> ColdStart:
    """Paths as they are found from every working directory."""
    return dataclasses.replace(
        settings,
        detector=_whole_path(settings.detector),
        weights=_whole_path(settings.weights),
        masks=_whole_path(settings.masks),
    )


def _whole_path(value: str) -> str:
    named = value in ("auto", "cached", "box", "grabcut")
    return value if named or not Path(value).exists() else str(Path(value).resolve())


def _to_json(settings: ColdStart) -> dict[str, Any]:
    """The options that give these settings."""
    options = dataclasses.asdict(settings)
    named = settings.class_map.named
    options["class_map"] = {
        "map": {name: label for name, label in named.items() if label != DROP},
        "drop": [name for name, label in named.items() if label == DROP],
        "default": settings.class_map.default,
    }
    options["synonyms"] = {label: list(words) for label, words in settings.synonyms.items()}
    return options
