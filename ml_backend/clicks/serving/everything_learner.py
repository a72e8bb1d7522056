"""Learner ``everything``: masks of everything on a picture under one label, before anybody has labelled.

It learns nothing. As a cold start it gives the first predictions of a project, which the first training
replaces like those of any other cold start.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ml_backend.artifacts.files import write_json
from ml_backend.clicks.serving.everything_options import everything_options, label_for
from ml_backend.errors import BadInput, ModelError
from ml_backend.learners.base import Evaluation, LeftOut, Predictor, Progress, TrainReport, TrainSpec
from ml_backend.learners.version_files import CONFIG, read_description

__all__ = ["EVERYTHING", "EverythingLearner"]

EVERYTHING: Final = "everything"


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
        from ml_backend.clicks.serving.everything_predictor import everything_segmenter

        begun = time.monotonic()
        label = label_for(spec.options, spec.labels)
        options = everything_options(spec.options)
        segmenter = everything_segmenter(options.segmenter, spec.device)
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
        from ml_backend.clicks.serving.everything_predictor import EverythingPredictor, everything_segmenter

        value = read_description(folder, self.name)
        try:
            labels = tuple(str(label) for label in value["labels"])
            options = everything_options(value["options"])
            label = label_for(value["options"], labels)
        except (ValueError, KeyError, TypeError, BadInput) as error:
            raise ModelError(f"the description in {folder} is damaged: {error}", field=CONFIG) from error
        segmenter = everything_segmenter(options.segmenter, device)
        return EverythingPredictor(segmenter, labels, label, options)

    def export(self, folder: Path, out: Path) -> Path:
        """Raises ModelError: there is no model of its own to write."""
        raise ModelError(
            "a cold start is not exported", hint="Use the segmenter itself; learner.json says which it is"
        )
