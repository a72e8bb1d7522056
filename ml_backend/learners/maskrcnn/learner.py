"""Mask R-CNN (torchvision) as a learner: ``light`` for CPUs, ``full`` for GPUs."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_backend.artifacts.files import read_json, write_json
from ml_backend.devices import resolve_device
from ml_backend.errors import ModelError
from ml_backend.learners.base import Progress, TrainReport, TrainSpec
from ml_backend.learners.maskrcnn.settings import loop_settings, train_settings

if TYPE_CHECKING:
    import torch

    from ml_backend.learners.maskrcnn.architecture import NetworkConfig
    from ml_backend.learners.maskrcnn.predictor import MaskRcnnPredictor
    from ml_backend.learners.maskrcnn.settings import TrainSettings

__all__ = ["MaskRcnn"]

WEIGHTS, CONFIG = "weights.safetensors", "learner.json"


class MaskRcnn:
    """Learner ``maskrcnn``. torch is imported by the methods, not by this module."""

    name = "maskrcnn"

    def check_options(self, preset: str, options: Mapping[str, Any]) -> None:
        """Raises BadInput naming the preset or option that is wrong."""
        train_settings(preset, options)

    def train(self, spec: TrainSpec, out: Path, progress: Progress) -> TrainReport:
        """Train into ``out``: weights.safetensors, learner.json. Raises BadInput, ModelError."""
        import torch

        from ml_backend.images.decode import read_image
        from ml_backend.learners.evaluation import evaluate
        from ml_backend.learners.maskrcnn.training_crops import Crops, CropSettings
        from ml_backend.learners.readable_examples import nothing_left, readable_examples
        from ml_backend.learners.training.batches import Batches
        from ml_backend.learners.training.images import image_cache_bytes
        from ml_backend.learners.training.loop import fit
        from ml_backend.learners.weights import save_weights

        started = time.monotonic()
        settings = train_settings(spec.preset, spec.options)
        train, test = readable_examples(spec.train), readable_examples(spec.test)
        if not spec.labels or not any(example.rle for example in train.kept):
            raise nothing_left(train.left_out)
        spec = dataclasses.replace(spec, train=train.kept, test=test.kept)
        if settings.threads:
            torch.set_num_threads(settings.threads)
        torch.manual_seed(spec.seed)
        device = torch.device(resolve_device(spec.device))
        config, model, said = _start(spec, settings)
        progress(0.0, f"starting from {said}, on {device}")
        loop = loop_settings(settings, spec)
        crops = Crops(
            # images on which people found no object are kept: they show the network what is background
            spec.train,
            CropSettings(settings.size, config.geometry.scale, config.normalise, _turn(spec, settings, said)),
            spec.seed,
            loop.iterations * settings.batch,
            cache_bytes=image_cache_bytes(settings.workers),
        )
        done = fit(
            model,
            Batches(crops, settings.batch, workers=settings.workers),
            lambda network, samples: network(*zip(*samples, strict=True)),
            loop,
            device=device,
            seed=spec.seed,
            progress=lambda share, line: progress(0.9 * share, line),
            folder=spec.resume,
        )
        out.mkdir(parents=True, exist_ok=True)
        save_weights(model.state_dict(), out / WEIGHTS)
        write_json(out / CONFIG, {"learner": self.name, "started_from": said, **config.to_json()})
        predictor = self.load(out, device=spec.device)
        found = [next(predictor.predict([read_image(example.image)])) for example in spec.test]
        evaluation = evaluate(found, spec.test, spec.labels, max_detections=config.geometry.max_detections)
        value = evaluation.metrics.get("AP")
        progress(1.0, f"AP {value[0]:.3f} on {evaluation.n_images} images" if value else "no test images")
        return TrainReport(
            learner=self.name,
            started_from=said,
            iterations=done.steps,
            seconds=time.monotonic() - started,
            evaluation=evaluation,
            history=done.history,
            left_out=train.left_out + test.left_out,
            cut_short=done.cut_short,
        )

    def load(self, folder: Path, *, device: str = "auto") -> MaskRcnnPredictor:
        """Load a version written by ``train``. Raises ModelError when files are missing or do not fit."""
        import torch

        from ml_backend.learners.maskrcnn.predictor import MaskRcnnPredictor

        config, model = self._read(folder)
        return MaskRcnnPredictor(model, config, device=torch.device(resolve_device(device)))

    def export(self, folder: Path, out: Path) -> Path:
        """Write TorchScript (``out``) and beside it a manifest (``.json``) of labels and input rules."""
        from ml_backend.learners.maskrcnn.export import export_torchscript

        config, model = self._read(folder)
        return export_torchscript(model, config, out)

    def _read(self, folder: Path) -> tuple[NetworkConfig, torch.nn.Module]:
        from ml_backend.learners.maskrcnn.architecture import NetworkConfig, build_network
        from ml_backend.learners.weights import read_weights

        try:
            description = read_json(folder / CONFIG)
        except (OSError, ValueError) as error:
            raise ModelError(f"{folder} holds no model: {error}", hint="Train again") from error
        if description.get("learner") != self.name:
            raise ModelError(
                f"{folder} was made by learner {description.get('learner')!r}, not {self.name!r}"
            )
        config = NetworkConfig.from_json(description)
        model = build_network(config)
        try:
            model.load_state_dict(read_weights(folder / WEIGHTS))
        except RuntimeError as error:
            raise ModelError(f"the weights in {folder} do not fit their description") from error
        return config, model.eval()


def _start(spec: TrainSpec, settings: TrainSettings) -> tuple[NetworkConfig, torch.nn.Module, str]:
    """The network to train and a sentence about where its weights come from."""
    from ml_backend.learners.maskrcnn.architecture import NetworkConfig, build_network, copy_weights
    from ml_backend.learners.maskrcnn.geometry import fit_geometry, measure
    from ml_backend.learners.weights import published_weights, read_weights

    geometry = fit_geometry(
        measure(spec.train),
        target_px=settings.target_px,
        max_side=settings.max_side,
        detection_cap=settings.max_detections or None,
    )
    if spec.start is not None:
        before = MaskRcnn()._read(spec.start)[0]
        cap = max(geometry.max_detections, before.geometry.max_detections)
        kept = dataclasses.replace(before.geometry, max_detections=settings.max_detections or cap)
        config = dataclasses.replace(
            before,  # its masks were learnt with its margin
            labels=spec.labels,
            geometry=kept,
            box_passes=settings.box_passes,
            quality_head=bool(settings.quality_head),
        )
        model = build_network(config)
        copy_weights(
            model, read_weights(spec.start / WEIGHTS), old_labels=before.labels, new_labels=spec.labels
        )
        new = [label for label in spec.labels if label not in before.labels]
        return (
            config,
            model,
            f"version {spec.start.name}" + (f" (new labels: {', '.join(new)})" if new else ""),
        )
    state, said = published_weights(settings.backbone, wanted=settings.weights)
    if state is not None and settings.backbone == "resnet50":  # the published proposal head has these anchors
        sizes = tuple((float(32 << i),) for i in range(5))
        geometry = dataclasses.replace(geometry, anchor_sizes=sizes, anchor_ratios=(0.5, 1.0, 2.0))
    config = NetworkConfig(
        labels=spec.labels,
        backbone=settings.backbone,
        channels=settings.channels,
        geometry=geometry,
        normalise="image" if state is None else "imagenet",
        score_threshold=settings.score_threshold,
        nms=settings.nms,
        mask_margin=settings.mask_margin,
        box_passes=settings.box_passes,
        quality_head=bool(settings.quality_head),
    )
    model = build_network(config)
    if state is not None:
        if settings.backbone == "mobilenet_v3_large":
            state = {f"backbone.{name}": value for name, value in state.items()}
        copy_weights(model, state)
    return config, model, said


def _turn(spec: TrainSpec, settings: TrainSettings, said: str) -> str:
    """How crops may be turned: ``quarter`` if all masks are boxes (a box must stay a box), ``none`` on
    weights learnt from photographs (where up and down differ), else ``any``.
    """
    from ml_backend.masks.statistics import STATISTICS, mask_statistics

    if settings.turn != "auto":
        return settings.turn
    rles = [rle for example in spec.train for rle in example.rle]
    extent = mask_statistics(rles)[:, STATISTICS.index("extent")]
    if bool((extent > 0.99).all()):
        return "quarter"
    return "none" if "published" in said.split("(")[0] else "any"
