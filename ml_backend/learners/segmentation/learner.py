"""DeepLabV3 on MobileNetV3-large (torchvision) as a learner of one mask per label."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ml_backend.artifacts.files import write_json
from ml_backend.devices import resolve_device
from ml_backend.errors import ModelError
from ml_backend.learners.base import Progress, TrainReport, TrainSpec
from ml_backend.learners.segmentation.settings import train_settings
from ml_backend.learners.version_files import CONFIG, WEIGHTS, load_weights, read_description

if TYPE_CHECKING:
    import torch

    from ml_backend.examples import Example
    from ml_backend.learners.segmentation.network import NetworkConfig, SegmentationNetwork
    from ml_backend.learners.segmentation.predictor import SegmentationPredictor
    from ml_backend.learners.segmentation.settings import TrainSettings
    from ml_backend.learners.training.loop import FitResult

__all__ = ["DeepLabV3"]

_FIRST_PART, _STATISTICS_BATCHES = 0.8, 20


class DeepLabV3:
    """Learner ``deeplabv3``. torch is imported by the methods, not by this module."""

    name = "deeplabv3"

    def check_options(self, preset: str, options: Mapping[str, Any]) -> None:
        """Raises BadInput naming the preset or option that is wrong."""
        train_settings(preset, options)

    def train(self, spec: TrainSpec, out: Path, progress: Progress) -> TrainReport:
        """Train into ``out``: weights.safetensors, learner.json. Raises BadInput, ModelError.

        Pictures without a mask are used: they show what is background. A share of the pictures is held out
        until calibration and thresholds are fitted to it; the last fifth of the steps uses all of them.
        """

        from ml_backend.images.decode import read_image
        from ml_backend.learners.readable_examples import with_readable
        from ml_backend.learners.segmentation.evaluation import evaluate_masks
        from ml_backend.learners.training.begin import begin
        from ml_backend.learners.weights import save_weights

        started = time.monotonic()
        settings = train_settings(spec.preset, spec.options)
        spec, left_out = with_readable(spec)
        device = begin(spec, threads=settings.threads)
        config, model, said = _start(spec, settings)
        progress(0.0, f"starting from {said}, on {device}")
        config, done = _fit(model, config, spec, settings, said, device, progress)
        out.mkdir(parents=True, exist_ok=True)
        save_weights(model.state_dict(), out / WEIGHTS)
        write_json(out / CONFIG, {"learner": self.name, "started_from": said, **config.to_json()})
        predictor = self.load(out, device=spec.device)
        found = [next(predictor.predict([read_image(example.image)])) for example in spec.test]
        evaluation = evaluate_masks(found, spec.test, spec.labels)
        value = evaluation.metrics.get("IoU")
        progress(1.0, f"IoU {value[0]:.3f} on {evaluation.n_images} images" if value else "no test images")
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

    def load(self, folder: Path, *, device: str = "auto") -> SegmentationPredictor:
        """Load a version written by ``train``. Raises ModelError when files are missing or do not fit."""
        import torch

        from ml_backend.learners.segmentation.predictor import SegmentationPredictor

        config, model = self._read(folder)
        return SegmentationPredictor(model, config, device=torch.device(resolve_device(device)))

    def export(self, folder: Path, out: Path) -> Path:
        """Write TorchScript (``out``) and beside it a manifest (``.json``) of labels and input rules."""
        from ml_backend.learners.segmentation.export import export_torchscript

        config, model = self._read(folder)
        return export_torchscript(model, config, out)

    def _read(self, folder: Path) -> tuple[NetworkConfig, SegmentationNetwork]:
        from ml_backend.learners.segmentation.network import NetworkConfig, build_network

        config = NetworkConfig.from_json(read_description(folder, self.name))
        model = build_network(config)
        load_weights(model, folder)
        model.eval()
        return config, model


def _start(spec: TrainSpec, settings: TrainSettings) -> tuple[NetworkConfig, SegmentationNetwork, str]:
    """The network to train and a sentence about where its weights come from."""
    from ml_backend.learners.segmentation.network import (
        NetworkConfig,
        build_network,
        copy_weights,
        start_rare,
    )
    from ml_backend.learners.segmentation.training_crops import label_shares
    from ml_backend.learners.weights import published_weights, read_weights

    cut = 0.5 if settings.fixed_threshold is None else settings.fixed_threshold
    n = len(spec.labels)
    plain: dict[str, Any] = {
        "labels": spec.labels,
        "unit": settings.unit,
        "min_area": settings.min_area,
        "threshold": (cut,) * n,
        "calibration": ((1.0, 0.0),) * n,
    }
    if spec.start is not None:
        before = DeepLabV3()._read(spec.start)[0]
        config = dataclasses.replace(before, **plain)
        model = build_network(config)
        start_rare(model, label_shares(spec.train, n).tolist())
        state = read_weights(spec.start / WEIGHTS)
        copy_weights(model, state, old_labels=before.labels, new_labels=spec.labels)
        new = [label for label in spec.labels if label not in before.labels]
        added = f" (new labels: {', '.join(new)})" if new else ""
        return config, model, f"version {spec.start.name}{added}"
    given, said = published_weights("deeplabv3_mobilenet_v3_large", wanted=settings.weights)
    if given is None and settings.weights in ("auto", "cached"):
        given, said = published_weights("mobilenet_v3_large", wanted="cached")
    config = NetworkConfig(
        **plain,
        decoder=settings.decoder,
        normalise="image" if given is None else "imagenet",
        scale=_scale(spec.train, settings),
        max_side=2 * settings.max_side,
    )
    model = build_network(config)
    start_rare(model, label_shares(spec.train, n).tolist())
    if given is not None and not copy_weights(model, given):
        raise ModelError(
            f"nothing in {Path(settings.weights).name} fits DeepLabV3 on MobileNetV3-large",
            field="options.weights",
            hint="Its weights must be named as torchvision names them",
        )
    return config, model, said


def _scale(examples: Sequence[Example], settings: TrainSettings) -> float:
    from ml_backend.learners.segmentation.training_crops import fit_scale, masks_of
    from ml_backend.masks.components import components
    from ml_backend.masks.rle import rle_area, rle_hw
    from ml_backend.masks.shapes import union_rle

    drawn = [example for example in examples if example.rle]
    parts = [
        rle_area(part)
        for example in drawn
        for label in set(example.label)
        for part in components(union_rle(masks_of(example, label)))
    ]
    sizes = [rle_hw(example.rle[0]) for example in drawn]
    return fit_scale(parts, sizes, target_px=settings.target_px, max_side=settings.max_side)


def _fit(
    model: SegmentationNetwork,
    config: NetworkConfig,
    spec: TrainSpec,
    settings: TrainSettings,
    said: str,
    device: torch.device,
    progress: Progress,
) -> tuple[NetworkConfig, FitResult]:
    """Train on a part, calibrate on the rest, go on with all.

    Returns the fitted description, and what both trainings did together.
    """
    from ml_backend.learners.segmentation.calibration import calibrate
    from ml_backend.learners.segmentation.optimisation import exact_statistics, focal_loss
    from ml_backend.learners.segmentation.predictor import SegmentationPredictor
    from ml_backend.learners.segmentation.training_crops import Crops, CropSettings, Sample, stack
    from ml_backend.learners.training.batches import Batches
    from ml_backend.learners.training.images import image_cache_bytes
    from ml_backend.learners.training.loop import fit

    total = settings.continue_iterations if spec.continues else settings.iterations
    lr = settings.continue_lr if spec.continues else settings.lr
    part, held_out = hold_out(spec.train, settings.held_out, spec.seed)
    first = total if not held_out else max(1, round(_FIRST_PART * total))
    settings_of_crops = CropSettings(
        settings.size, config.scale, config.max_side, config.normalise, _turn(settings, said), settings.zoom
    )
    history: list[tuple[int, float]] = []

    def loss_of(network: SegmentationNetwork, samples: list[Sample]) -> dict[str, torch.Tensor]:
        batch = stack(samples)
        logits = network(batch.pixels)
        return {"focal": focal_loss(logits, batch, alpha=settings.alpha, gamma=settings.gamma)}

    runs: list[FitResult] = []

    def run(examples: Sequence[Example], rate: float, done: int, until: int) -> None:
        """Steps ``done`` to ``until`` on some examples, or as many as time allows."""
        share = (until - done) / total
        crops = Crops(
            examples,
            len(spec.labels),
            settings_of_crops,
            spec.seed + done,
            (until - done) * settings.batch,
            cache_bytes=image_cache_bytes(settings.workers),
        )
        batches = Batches(crops, settings.batch, workers=settings.workers)
        found = fit(
            model,
            batches,
            loss_of,
            settings.loop(until - done, rate, share * spec.seconds),
            device=device,
            seed=spec.seed + done,
            progress=lambda here, line: progress(0.9 * (done / total + share * here), line),
            folder=None if spec.resume is None else spec.resume / f"from-{done}",
        )
        history.extend((done + step, loss) for step, loss in found.history)
        drawn = Batches(crops, settings.batch)
        exact_statistics(
            model,
            lambda step: stack(drawn(step)).pixels,
            batches=min(_STATISTICS_BATCHES, until - done),
            device=device,
        )
        runs.append(found)

    run(part, lr, 0, first)
    if held_out:
        predictor = SegmentationPredictor(model, config, device=device)
        config = calibrate(
            predictor, config, held_out, fixed_threshold=settings.fixed_threshold, seed=spec.seed
        )
    if total > first:
        run(spec.train, lr / 3, first, total)
    return config, dataclasses.replace(
        runs[0],
        history=tuple(history),
        steps=sum(each.steps for each in runs),
        seconds=sum(each.seconds for each in runs),
        cut_short=any(each.cut_short for each in runs),
    )


def hold_out(
    examples: Sequence[Example], share: float, seed: int
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Examples to train on and to calibrate with; none is held out where fewer than two would be."""
    count = round(share * len(examples))
    if count < 2:
        return tuple(examples), ()
    order = np.random.default_rng((seed, 7)).permutation(len(examples))
    return tuple(examples[i] for i in order[count:]), tuple(examples[i] for i in order[:count])


def _turn(settings: TrainSettings, said: str) -> str:
    """How crops may be turned: not at all on weights learnt from photographs, where up and down differ."""
    if settings.turn != "auto":
        return settings.turn
    return "none" if "published" in said.split("(")[0] else "any"
