"""The network that a training starts from: random or published weights, or an earlier version."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ml_backend.learners.base import TrainSpec
from ml_backend.learners.boxes.description import BoxNetwork
from ml_backend.learners.boxes.detector import BoxDetector
from ml_backend.learners.boxes.settings import BoxSettings
from ml_backend.learners.maskrcnn.geometry import Geometry, fit_geometry, measure
from ml_backend.learners.weights import published_weights, taken_or_refused

__all__ = ["Build", "Started", "copy_state", "start_anew", "start_from"]

Build = Callable[[BoxNetwork], BoxDetector]


@dataclasses.dataclass(frozen=True, slots=True)
class Started:
    """A network to train, and a sentence about where its weights come from.

    ``photographs``: the weights were learnt from photographs, where up and down differ.
    """

    network: BoxNetwork
    model: BoxDetector
    said: str
    photographs: bool


def start_anew(spec: TrainSpec, settings: BoxSettings, build: Build) -> Started:
    """Published weights if they are wanted and there, else random ones. Raises ModelError, BadInput."""
    geometry = _geometry(spec, settings)
    backbone, state, said = _weights(settings)
    if state is not None and backbone == "resnet50":  # the published proposal head has these anchors
        sizes = tuple((float(32 << i),) for i in range(5))
        geometry = dataclasses.replace(geometry, anchor_sizes=sizes, anchor_ratios=(0.5, 1.0, 2.0))
    network = BoxNetwork(
        labels=spec.labels,
        backbone=backbone,
        channels=settings.channels,
        geometry=geometry,
        normalise="image" if state is None else "imagenet",
        score_threshold=settings.score_threshold,
        nms=settings.nms,
    )
    model = build(network)
    if state is not None:
        if backbone == "mobilenet_v3_large" and not any(name.startswith("backbone.") for name in state):
            state = {f"backbone.{name}": value for name, value in state.items()}
        taken = copy_state(model, state)
        said += taken_or_refused(model.state_dict(), taken, state, said, part="backbone.")
    return Started(network, model, said, photographs=state is not None)


def start_from(
    folder: Path,
    before: BoxNetwork,
    state: Mapping[str, Tensor],
    spec: TrainSpec,
    settings: BoxSettings,
    build: Build,
) -> Started:
    """An earlier version; rows of labels that it knew are kept by name."""
    cap = settings.max_detections or max(
        _geometry(spec, settings).max_detections, before.geometry.max_detections
    )
    network = dataclasses.replace(
        before,
        labels=spec.labels,
        geometry=dataclasses.replace(before.geometry, max_detections=cap),
        score_threshold=settings.score_threshold,
        nms=settings.nms,
    )
    model = build(network)
    copy_state(model, state, old=before.labels, new=spec.labels)
    new = [label for label in spec.labels if label not in before.labels]
    said = f"version {folder.name}" + (f" (new labels: {', '.join(new)})" if new else "")
    return Started(network, model, said, photographs=before.normalise == "imagenet")


def copy_state(
    model: nn.Module, state: Mapping[str, Tensor], *, old: tuple[str, ...] = (), new: tuple[str, ...] = ()
) -> set[str]:
    """Copy what fits from ``state``; returns the names of the tensors that were taken.

    Tensors with rows per label (``class_rows`` of the model: name -> rows before the first label) are copied
    by the name of the label; a new label keeps its random row. Without labels they stay random: the weights
    are of other labels.
    """
    class_rows: Mapping[str, int] = model.class_rows  # type: ignore[assignment]
    pairs = [(old.index(label), row) for row, label in enumerate(new) if label in old]
    taken: set[str] = set()
    with torch.no_grad():
        for name, own in model.state_dict().items():
            given = state.get(name)
            if given is None:
                continue
            before = next((rows for part, rows in class_rows.items() if part in name), None)
            if before is None:
                if given.shape == own.shape:
                    own.copy_(given)
                    taken.add(name)
            elif old and given.shape[1:] == own.shape[1:]:
                per_label = own.shape[0] // (len(new) + before)
                mine = own.view(len(new) + before, per_label, *own.shape[1:])
                theirs = given.view(len(old) + before, per_label, *given.shape[1:])
                mine[:before].copy_(theirs[:before])
                for source, target in pairs:
                    mine[target + before].copy_(theirs[source + before])
                taken.add(name)
    return taken


def _geometry(spec: TrainSpec, settings: BoxSettings) -> Geometry:
    return fit_geometry(
        measure(spec.train),
        target_px=settings.target_px,
        max_side=settings.max_side,
        detection_cap=settings.max_detections or None,
    )


def _weights(settings: BoxSettings) -> tuple[str, dict[str, Tensor] | None, str]:
    """Backbone, its published weights or None, and a sentence about them."""
    if settings.backbone != "auto":
        wanted = "fasterrcnn_resnet50" if settings.backbone == "resnet50" else settings.backbone
        state, said = published_weights(wanted, wanted=settings.weights)
        return settings.backbone, state, said
    state, said = published_weights("mobilenet_v3_large", wanted=settings.weights)
    return ("small" if state is None else "mobilenet_v3_large"), state, said
