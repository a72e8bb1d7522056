"""Learner ``classifier``: labels of whole pictures, by a linear head or a whole network."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ml_backend.artifacts.files import write_json
from ml_backend.devices import resolve_device
from ml_backend.errors import BadInput
from ml_backend.learners.base import Progress, TrainReport, TrainSpec
from ml_backend.learners.classes.settings import classifier_settings
from ml_backend.learners.version_files import CONFIG, WEIGHTS, load_weights, read_description

if TYPE_CHECKING:
    from ml_backend.learners.classes.network import ClassNetwork
    from ml_backend.learners.classes.predictor import ClassConfig, ClassPredictor

__all__ = ["Classifier"]


class Classifier:
    """See ``ml_backend.learners.base.Learner``. torch is imported by the methods, not by this module."""

    name = "classifier"

    def check_options(self, preset: str, options: Mapping[str, Any]) -> None:
        """Raises BadInput naming the preset or option that is wrong."""
        classifier_settings(preset, options)

    def train(self, spec: TrainSpec, out: Path, progress: Progress) -> TrainReport:
        """Train into ``out``: weights.safetensors, learner.json. Learns from ``Example.tags``.

        Pictures that cannot be read, and in a single choice those without exactly one label, are left out and
        named in the report. Raises BadInput, ModelError.
        """

        from ml_backend.images.decode import read_image
        from ml_backend.learners.classes.evaluation import evaluate_classes
        from ml_backend.learners.classes.run import TrainingRun
        from ml_backend.learners.classes.training_set import tag_matrix, tagged_examples
        from ml_backend.learners.readable_examples import nothing_left, readable_examples
        from ml_backend.learners.training.begin import begin
        from ml_backend.learners.weights import save_weights

        started = time.monotonic()
        settings = classifier_settings(spec.preset, spec.options)
        k = len(spec.labels)
        exclusive = spec.exclusive and k > 1  # of one label alone, a picture may have none
        if settings.positive and settings.positive not in spec.labels:
            raise BadInput(f"there is no label {settings.positive!r}", field="options.positive")
        train, test = readable_examples(spec.train), readable_examples(spec.test)
        train_kept, train_left = tagged_examples(train.kept, labels=k, exclusive=exclusive)
        test_kept, test_left = tagged_examples(test.kept, labels=k, exclusive=exclusive)
        left_out = train.left_out + train_left + test.left_out + test_left
        if not k or not train_kept:
            raise nothing_left(train.left_out + train_left)
        spec = dataclasses.replace(spec, train=train_kept, test=test_kept, exclusive=exclusive)
        device = begin(spec, threads=settings.threads)
        before = self._read(spec.start) if spec.continues and spec.start is not None else None
        done = TrainingRun(
            spec, settings, device, lambda share, line: progress(0.9 * share, line), before
        ).go()
        out.mkdir(parents=True, exist_ok=True)
        save_weights(done.network.state_dict(), out / WEIGHTS)
        write_json(
            out / CONFIG,
            {"learner": self.name, "started_from": done.said, **dataclasses.asdict(done.config)},
        )
        predictor = self.load(out, device=spec.device)
        found = [predictor.probabilities([read_image(example.image)])[0] for example in spec.test]
        probability = np.concatenate(found) if found else np.zeros((0, k))
        evaluation = evaluate_classes(
            probability, tag_matrix(spec.test, k), spec.labels, exclusive=exclusive, seed=spec.seed
        )
        value = evaluation.metrics.get("accuracy")
        progress(1.0, f"accuracy {value[0]:.3f} on {evaluation.n_images} pictures" if value else done.said)
        return TrainReport(
            learner=self.name,
            started_from=done.said,
            iterations=done.iterations,
            seconds=time.monotonic() - started,
            evaluation=evaluation,
            history=done.history,
            left_out=left_out,
            cut_short=done.cut_short,
        )

    def load(self, folder: Path, *, device: str = "auto") -> ClassPredictor:
        """Load a version written by ``train``. Raises ModelError when files are missing or do not fit."""
        import torch

        from ml_backend.learners.classes.predictor import ClassPredictor

        config, network = self._read(folder)
        return ClassPredictor(network, config, device=torch.device(resolve_device(device)))

    def export(self, folder: Path, out: Path) -> Path:
        """Write ``out``, ONNX where it ends in .onnx, else TorchScript; a .json says what it takes."""
        from ml_backend.learners.classes.export import export_classifier

        config, network = self._read(folder)
        return export_classifier(network, config, out)

    def _read(self, folder: Path) -> tuple[ClassConfig, ClassNetwork]:
        from ml_backend.learners.classes.features import build_features
        from ml_backend.learners.classes.network import ClassNetwork
        from ml_backend.learners.classes.predictor import ClassConfig

        config = ClassConfig.from_json(read_description(folder, self.name))
        network = ClassNetwork(
            build_features(config.features), len(config.labels), exclusive=config.exclusive
        )
        load_weights(network, folder)
        return config, network.eval()
