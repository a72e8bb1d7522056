"""The network a training starts from: an earlier version, published weights, a checkpoint, or none."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from ml_backend.learners.base import TrainSpec
from ml_backend.learners.maskrcnn.architecture import NetworkConfig, build_network, copy_weights
from ml_backend.learners.maskrcnn.geometry import Geometry, fit_geometry, measure
from ml_backend.learners.maskrcnn.settings import TrainSettings
from ml_backend.learners.version_files import CONFIG, WEIGHTS, read_description
from ml_backend.learners.weights import published_weights, read_weights, taken_or_refused

__all__ = ["read_config", "start_network"]

_FIRST = {"mobilenet_v3_large": "backbone.features.", "resnet50": "backbone.body.", "small": "backbone."}
"""Where a backbone's own tensors, those of a classifier of pictures, belong in our network."""


def start_network(spec: TrainSpec, settings: TrainSettings) -> tuple[NetworkConfig, nn.Module, str]:
    """The network to train and a sentence about where its weights come from. Raises ModelError where a
    version or file cannot be read or does not fit."""
    geometry = fit_geometry(
        measure(spec.train),
        target_px=settings.target_px,
        max_side=settings.max_side,
        detection_cap=settings.max_detections or None,
    )
    if spec.start is not None:
        return _continued(spec, settings, spec.start, geometry)
    state, said = published_weights(settings.backbone, wanted=settings.weights)
    # the published heads of ResNet-50 were learnt with these anchors
    if state is not None and settings.backbone == "resnet50":
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
    if state is None:
        return config, build_network(config), said
    old_labels: tuple[str, ...] = ()
    beside = Path(settings.weights).with_name(CONFIG)
    if settings.weights not in ("auto", "cached") and beside.is_file():  # a version of ours
        before = read_config(beside.parent)
        old_labels = before.labels
        config = dataclasses.replace(
            config, normalise=before.normalise, mask_margin=before.mask_margin, geometry=before.geometry
        )
    model = build_network(config)
    state = _with_our_names(state, settings.backbone)
    left = copy_weights(model, state, old_labels=old_labels, new_labels=config.labels)
    own = model.state_dict()
    taken = set(own) - set(left)
    return config, model, said + taken_or_refused(own, taken, state, said, part=_FIRST[settings.backbone])


def read_config(folder: Path) -> NetworkConfig:
    """The description of a version. Raises ModelError where there is none, or one of another learner."""
    return NetworkConfig.from_json(read_description(folder, "maskrcnn"))


def _continued(
    spec: TrainSpec, settings: TrainSettings, folder: Path, geometry: Geometry
) -> tuple[NetworkConfig, nn.Module, str]:
    before = read_config(folder)
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
    copy_weights(model, read_weights(folder / WEIGHTS), old_labels=before.labels, new_labels=spec.labels)
    new = [label for label in spec.labels if label not in before.labels]
    return config, model, f"version {folder.name}" + (f" (new labels: {', '.join(new)})" if new else "")


def _with_our_names(state: Mapping[str, Tensor], backbone: str) -> dict[str, Tensor]:
    """Names as in our network: without the prefix of torch's parallel training, and with that of the
    backbone where the weights are those of a classifier."""
    names = {name.removeprefix("module."): value for name, value in state.items()}
    if any(name.startswith("backbone.") for name in names):
        return names
    first = _FIRST[backbone]
    prefix = "backbone." if backbone == "mobilenet_v3_large" else first  # its names begin with "features."
    return {prefix + name: value for name, value in names.items()}
