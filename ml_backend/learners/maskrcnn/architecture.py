"""Build the Mask R-CNN networks from a stored description that can be written as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN, maskrcnn_resnet50_fpn_v2
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import AnchorGenerator, RPNHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import MultiScaleRoIAlign

from ml_backend.errors import ModelError
from ml_backend.learners.maskrcnn.backbone import MobileNetPyramid, SmallPyramid
from ml_backend.learners.maskrcnn.geometry import Geometry
from ml_backend.learners.maskrcnn.heads import InstanceHeads
from ml_backend.learners.maskrcnn.ignore import IgnoringRpn
from ml_backend.learners.maskrcnn.quality import MaskQuality

__all__ = ["BACKBONES", "NetworkConfig", "build_network", "copy_weights"]

BACKBONES = ("small", "mobilenet_v3_large", "resnet50")


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """All that is needed to build the network again; stored as ``learner.json`` beside the weights.

    ``normalise`` is ``image`` (each image by its own mean and standard deviation, because the brightness of
    microscope images varies widely) or ``imagenet`` (for published weights). ``max_side``: longest side of
    the network's input, in network pixels. ``mask_margin``, ``box_passes`` and ``quality_head`` belong to
    ``InstanceHeads``; versions written before there were such things have none of them.
    """

    labels: tuple[str, ...]
    backbone: str
    channels: int
    geometry: Geometry
    normalise: str
    score_threshold: float = 0.05
    nms: float = 0.5
    max_side: int = 1600
    mask_margin: float = 0.0
    box_passes: int = 1
    quality_head: bool = False

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> NetworkConfig:
        """Raises ModelError where a field is missing or of another kind."""
        try:
            raw = value["geometry"]
            geometry = Geometry(
                float(raw["scale"]),
                tuple(tuple(float(v) for v in level) for level in raw["anchor_sizes"]),
                tuple(float(v) for v in raw["anchor_ratios"]),
                int(raw["max_detections"]),
            )
            return cls(
                tuple(str(v) for v in value["labels"]),
                str(value["backbone"]),
                int(value["channels"]),
                geometry,
                str(value["normalise"]),
                float(value["score_threshold"]),
                float(value["nms"]),
                int(value["max_side"]),
                float(value.get("mask_margin", 0.0)),
                int(value.get("box_passes", 1)),
                bool(value.get("quality_head", False)),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(
                f"the description of the model is damaged: {error!r}", field="learner.json"
            ) from error


def build_network(config: NetworkConfig) -> MaskRCNN:
    """Mask R-CNN with random weights. Input: list of (3, h, w) floats, already scaled and normalised."""
    common: dict[str, Any] = {
        "box_detections_per_img": config.geometry.max_detections,
        "box_score_thresh": config.score_threshold,
        "box_nms_thresh": config.nms,
        "rpn_post_nms_top_n_test": max(150, min(1000, 2 * config.geometry.max_detections)),
    }
    classes = len(config.labels) + 1
    if config.backbone == "resnet50":
        model = maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None, num_classes=classes, **common)
        model.rpn.anchor_generator, per_place = _anchors(config.geometry)
        model.rpn.head = RPNHead(256, per_place, conv_depth=2)
        return _finish(model, config, 5)
    return _light(config, classes, common)


def _light(config: NetworkConfig, classes: int, common: dict[str, Any]) -> MaskRCNN:
    if config.backbone == "small":
        backbone: nn.Module = SmallPyramid(out_channels=config.channels)
    elif config.backbone == "mobilenet_v3_large":
        backbone = MobileNetPyramid(out_channels=config.channels)
    else:
        raise ModelError(f"no backbone is called {config.backbone!r}", hint=f"Known: {', '.join(BACKBONES)}")
    channels = config.channels
    anchors, per_place = _anchors(config.geometry)
    mask_layers = (channels,) * 4
    model = MaskRCNN(
        backbone,
        rpn_anchor_generator=anchors,
        rpn_head=RPNHead(channels, per_place),
        rpn_pre_nms_top_n_train=1000,
        rpn_post_nms_top_n_train=400,
        rpn_pre_nms_top_n_test=1000,
        rpn_fg_iou_thresh=0.6,
        box_roi_pool=MultiScaleRoIAlign(["0", "1", "2", "3"], output_size=7, sampling_ratio=2),
        box_head=TwoMLPHead(channels * 49, 256),
        box_predictor=FastRCNNPredictor(256, classes),
        box_batch_size_per_image=128,
        mask_roi_pool=MultiScaleRoIAlign(["0", "1", "2", "3"], output_size=14, sampling_ratio=2),
        mask_head=MaskRCNNHeads(channels, mask_layers, 1),
        mask_predictor=MaskRCNNPredictor(channels, channels, classes),
        **common,
    )
    _start_rare(model)
    return _finish(model, config, 4)


class _BatchOnly(GeneralizedRCNNTransform):  # type: ignore[misc]
    """Only pads and batches, because images come scaled and normalised. (torchvision's own option to skip the
    resize works in training only.)"""

    def __init__(self) -> None:
        super().__init__(1, 1, [0.0, 0.0, 0.0], [1.0, 1.0, 1.0], size_divisible=32)

    def resize(
        self, image: Tensor, target: dict[str, Tensor] | None = None
    ) -> tuple[Tensor, dict[str, Tensor] | None]:
        return image, target


def _finish(model: MaskRCNN, config: NetworkConfig, pyramid: int) -> MaskRCNN:
    model.transform = _BatchOnly()
    pool = model.roi_heads.mask_roi_pool
    looks = int(model.roi_heads.box_predictor.cls_score.in_features)
    channels = int(model.backbone.out_channels)
    model.roi_heads = InstanceHeads(
        model.roi_heads,
        mask_margin=config.mask_margin,
        box_passes=config.box_passes,
        quality_head=MaskQuality(channels, pool.output_size[0], looks) if config.quality_head else None,
    )
    model.rpn.__class__ = IgnoringRpn  # same weights, same arguments
    _fix_pool_scales(model, pyramid)
    levels = len(config.geometry.anchor_sizes)
    if levels > pyramid:
        raise ModelError(f"anchors for {levels} levels, the pyramid has {pyramid}", field="learner.json")
    if levels < pyramid:
        model.rpn = _FirstLevels(model.rpn, levels)
    return model


def _anchors(geometry: Geometry) -> tuple[AnchorGenerator, int]:
    """The anchor generator, and anchors per place of a feature map."""
    ratios = (geometry.anchor_ratios,) * len(geometry.anchor_sizes)
    generator = AnchorGenerator(geometry.anchor_sizes, ratios)
    return generator, len(geometry.anchor_sizes[0]) * len(geometry.anchor_ratios)


class _FirstLevels(nn.Module):
    """A proposal network that uses only the first pyramid levels; coarser ones only feed finer ones."""

    def __init__(self, inner: nn.Module, levels: int) -> None:
        super().__init__()
        self.inner = inner
        self.levels = levels

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        targets: list[dict[str, Tensor]] | None = None,
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        chosen: dict[str, Tensor] = {}
        for name, level in features.items():
            if len(chosen) < self.levels:
                chosen[name] = level
        return self.inner(images, chosen, targets)  # type: ignore[no-any-return]


def _fix_pool_scales(model: MaskRCNN, pyramid: int) -> None:
    """Make the RoI poolers derive their scales now, from a square. Otherwise they derive them from the first
    image and keep them; a narrow, padded image would give wrong scales.
    """
    channels = int(model.backbone.out_channels)
    square = {str(i): torch.zeros(1, channels, 64 >> i, 64 >> i) for i in range(min(pyramid, 4))}
    box = torch.tensor([[0.0, 0.0, 32.0, 32.0]])
    for pool in (model.roi_heads.box_roi_pool, model.roi_heads.mask_roi_pool):
        pool(square, [box], [(256, 256)])


def _start_rare(model: MaskRCNN) -> None:
    """Start both classifiers at a low probability of an object, since most anchors and boxes hold none."""
    with torch.no_grad():
        nn.init.constant_(model.rpn.head.cls_logits.bias, -2.0)
        bias = model.roi_heads.box_predictor.cls_score.bias
        bias.zero_()
        bias[0] = 1.5


def copy_weights(
    model: nn.Module,
    state: Mapping[str, Tensor],
    *,
    old_labels: Sequence[str] = (),
    new_labels: Sequence[str] = (),
) -> list[str]:
    """Copy what fits from ``state``; class rows go by label name, new labels keep their random rows.

    Returns the names of the tensors that could not be taken.
    """
    own = model.state_dict()
    rows = [(0, 0)] + [(old_labels.index(v) + 1, i + 1) for i, v in enumerate(new_labels) if v in old_labels]
    left = []
    with torch.no_grad():
        for name, tensor in own.items():
            given = state.get(name)
            if given is not None and given.shape == tensor.shape and not (rows[1:] and _has_classes(name)):
                tensor.copy_(given)
            elif given is not None and rows[1:] and _has_classes(name):
                per_class = tensor.shape[0] // (len(new_labels) + 1)
                target = tensor.view(len(new_labels) + 1, per_class, *tensor.shape[1:])
                source = given.view(len(old_labels) + 1, per_class, *given.shape[1:])
                for old, new in rows:
                    target[new].copy_(source[old])
            else:
                left.append(name)
    return left


def _has_classes(name: str) -> bool:
    return ".box_predictor." in name or ".mask_predictor.mask_fcn_logits" in name
