"""The box learners: what they share, and one class for each network."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_backend.artifacts.files import write_json
from ml_backend.devices import resolve_device
from ml_backend.learners.base import Progress, TrainReport, TrainSpec
from ml_backend.learners.boxes.settings import (
    FASTER_RCNN,
    ONE_STAGE,
    BoxSettings,
    box_settings,
)
from ml_backend.learners.training.detection_settings import loop_settings
from ml_backend.learners.version_files import CONFIG, WEIGHTS, load_weights, read_description

if TYPE_CHECKING:
    from torch import Tensor

    from ml_backend.learners.boxes.crops import Sample
    from ml_backend.learners.boxes.description import BoxNetwork
    from ml_backend.learners.boxes.detector import BoxDetector
    from ml_backend.learners.boxes.predictor import BoxPredictor
    from ml_backend.learners.boxes.starting import Started

__all__ = ["BoxLearner", "FasterRcnn", "OneStage"]


class BoxLearner:
    """What the box learners share. torch is imported by the methods, not by this module."""

    name: str
    presets: Mapping[str, BoxSettings]

    def build(self, network: BoxNetwork) -> BoxDetector:
        """The network with random weights. Raises ModelError where it cannot be built."""
        raise NotImplementedError

    def check_options(self, preset: str, options: Mapping[str, Any]) -> None:
        """Raises BadInput naming the preset or option that is wrong."""
        box_settings(self.presets, preset, options)

    def train(self, spec: TrainSpec, out: Path, progress: Progress) -> TrainReport:
        """Train into ``out``: weights.safetensors, learner.json. Raises BadInput, ModelError."""

        from ml_backend.images.decode import read_image
        from ml_backend.learners.boxes.crops import BoxCrops, CropSettings
        from ml_backend.learners.evaluation import evaluate
        from ml_backend.learners.readable_examples import with_readable
        from ml_backend.learners.training.batches import Batches
        from ml_backend.learners.training.begin import begin
        from ml_backend.learners.training.images import image_cache_bytes
        from ml_backend.learners.training.loop import fit
        from ml_backend.learners.weights import save_weights

        begun = time.monotonic()
        settings = box_settings(self.presets, spec.preset, spec.options)
        spec, left_out = with_readable(spec)
        device = begin(spec, threads=settings.threads)
        start = self._start(spec, settings)
        progress(0.0, f"starting from {start.said}, on {device}")
        loop = loop_settings(settings, spec)
        turn = settings.turn == "quarter" or (settings.turn == "auto" and not start.photographs)
        crops = BoxCrops(
            # images on which people found no object are kept: they show the network what is background
            spec.train,
            CropSettings(
                settings.size,
                start.network.geometry.scale,
                start.network.max_side,
                start.network.normalise,
                turn,
            ),
            spec.seed,
            loop.iterations * settings.batch,
            cache_bytes=image_cache_bytes(settings.workers),
        )
        done = fit(
            start.model,
            Batches(crops, settings.batch, workers=settings.workers),
            _losses,
            loop,
            device=device,
            seed=spec.seed,
            progress=lambda share, line: progress(0.9 * share, line),
            folder=spec.resume,
        )
        out.mkdir(parents=True, exist_ok=True)
        save_weights(start.model.state_dict(), out / WEIGHTS)
        described = {"learner": self.name, "started_from": start.said, **start.network.to_json()}
        write_json(out / CONFIG, described)
        predictor = self.load(out, device=spec.device)
        found = [next(predictor.predict([read_image(example.image)])) for example in spec.test]
        cap = start.network.geometry.max_detections
        evaluation = evaluate(found, spec.test, spec.labels, iou="bbox", max_detections=cap)
        value = evaluation.metrics.get("AP50")
        progress(1.0, f"AP50 {value[0]:.3f} on {evaluation.n_images} images" if value else "no test images")
        return TrainReport(
            learner=self.name,
            started_from=start.said,
            iterations=done.steps,
            seconds=time.monotonic() - begun,
            evaluation=evaluation,
            history=done.history,
            left_out=left_out,
            cut_short=done.cut_short,
        )

    def load(self, folder: Path, *, device: str = "auto") -> BoxPredictor:
        """Load a version written by ``train``. Raises ModelError when files are missing or do not fit."""
        import torch

        from ml_backend.learners.boxes.predictor import BoxPredictor

        network, model = self._read(folder)
        return BoxPredictor(self.name, model, network, device=torch.device(resolve_device(device)))

    def export(self, folder: Path, out: Path) -> Path:
        """Write TorchScript (``out``) and beside it a manifest (``.json``) of labels and input rules."""
        from ml_backend.learners.boxes.export import export_torchscript

        network, model = self._read(folder)
        return export_torchscript(model, network, out)

    def _start(self, spec: TrainSpec, settings: BoxSettings) -> Started:
        from ml_backend.learners.boxes.starting import start_anew, start_from
        from ml_backend.learners.weights import read_weights

        if spec.start is None:
            return start_anew(spec, settings, self.build)
        before = self._described(spec.start)
        state = read_weights(spec.start / WEIGHTS)
        return start_from(spec.start, before, state, spec, settings, self.build)

    def _described(self, folder: Path) -> BoxNetwork:
        from ml_backend.learners.boxes.description import network_from_json

        return network_from_json(read_description(folder, self.name))

    def _read(self, folder: Path) -> tuple[BoxNetwork, BoxDetector]:
        network = self._described(folder)
        model = self.build(network)
        load_weights(model, folder)
        return network, model.eval()


def _losses(model: BoxDetector, samples: list[Sample]) -> dict[str, Tensor]:
    return model.losses([image for image, _ in samples], [target for _, target in samples])


class FasterRcnn(BoxLearner):
    """Learner ``fasterrcnn``: two stages, proposals and a decision on each."""

    name = "fasterrcnn"
    presets = FASTER_RCNN

    def build(self, network: BoxNetwork) -> BoxDetector:
        """See ``BoxLearner``."""
        from ml_backend.learners.boxes.faster_rcnn import build_faster_rcnn

        return build_faster_rcnn(network)


class OneStage(BoxLearner):
    """Learner ``fcos``: one stage, a decision at every place of the picture."""

    name = "fcos"
    presets = ONE_STAGE

    def build(self, network: BoxNetwork) -> BoxDetector:
        """See ``BoxLearner``."""
        from ml_backend.learners.boxes.one_stage import build_one_stage

        return build_one_stage(network)
