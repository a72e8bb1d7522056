"""Mask R-CNN (torchvision) as a learner: ``light`` for CPUs, ``full`` for GPUs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_backend.artifacts.files import write_json
from ml_backend.devices import resolve_device
from ml_backend.learners.base import Progress, TrainReport, TrainSpec
from ml_backend.learners.maskrcnn.settings import train_settings
from ml_backend.learners.training.detection_settings import loop_settings
from ml_backend.learners.version_files import CONFIG, WEIGHTS, load_weights

if TYPE_CHECKING:
    import torch

    from ml_backend.learners.maskrcnn.architecture import NetworkConfig
    from ml_backend.learners.maskrcnn.predictor import MaskRcnnPredictor
    from ml_backend.learners.maskrcnn.settings import TrainSettings

__all__ = ["MaskRcnn"]


class MaskRcnn:
    """Learner ``maskrcnn``. torch is imported by the methods, not by this module."""

    name = "maskrcnn"
    leaves_areas_out = True
    """Areas to ignore and weights of examples are honoured."""

    def check_options(self, preset: str, options: Mapping[str, Any]) -> None:
        """Raises BadInput naming the preset or option that is wrong."""
        train_settings(preset, options)

    def train(self, spec: TrainSpec, out: Path, progress: Progress) -> TrainReport:
        """Train into ``out``: weights.safetensors, learner.json. Raises BadInput, ModelError."""

        from ml_backend.images.decode import read_image
        from ml_backend.learners.evaluation import evaluate
        from ml_backend.learners.maskrcnn.start import start_network
        from ml_backend.learners.maskrcnn.training_crops import Crops, CropSettings
        from ml_backend.learners.readable_examples import with_readable
        from ml_backend.learners.training.batches import Batches
        from ml_backend.learners.training.begin import begin
        from ml_backend.learners.training.images import image_cache_bytes
        from ml_backend.learners.training.loop import fit
        from ml_backend.learners.weights import save_weights

        started = time.monotonic()
        settings = train_settings(spec.preset, spec.options)
        spec, left_out = with_readable(spec)
        device = begin(spec, threads=settings.threads)
        config, model, said = start_network(spec, settings)
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
            left_out=left_out,
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
        from ml_backend.learners.maskrcnn.architecture import build_network
        from ml_backend.learners.maskrcnn.start import read_config

        config = read_config(folder)
        model = build_network(config)
        load_weights(model, folder)
        return config, model.eval()


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
