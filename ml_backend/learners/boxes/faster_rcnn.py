"""Faster R-CNN (torchvision) with areas to ignore, weights per object, and a predicted IoU per box.

The IoU head is IoU-Net's (Jiang et al., ECCV 2018): features pooled from the final box itself, trained on
refined proposals and on true boxes moved at random, so that it sees boxes of every IoU.
"""
# TorchScript reads the annotations of this module: they must not be strings

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection import fasterrcnn_resnet50_fpn_v2
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import AnchorGenerator, RegionProposalNetwork, RPNHead
from torchvision.ops import box_iou

from ml_backend.errors import ModelError
from ml_backend.learners.boxes.description import BoxNetwork
from ml_backend.learners.boxes.detector import BoxDetector, Found, batched, covered_by, level_pool
from ml_backend.learners.maskrcnn.backbone import MobileNetPyramid, SmallPyramid

__all__ = ["FasterRcnnDetector", "build_faster_rcnn"]

_STRIDES = (4, 8, 16, 32)
_TRUSTED = 0.5
"""Objects of less weight than this are neither object nor background to the proposal network."""
_REFINED, _MOVED = 24, 24
"""Boxes per image that the IoU head learns from: the detector's own, and true ones moved at random."""


class FasterRcnnDetector(BoxDetector):
    """See ``BoxDetector``. ``levels``: how many pyramid levels the proposal network uses."""

    class_rows: ClassVar[Mapping[str, int]] = {".box_predictor.": 1}  # row 0 is the background

    def __init__(self, backbone: nn.Module, rpn: nn.Module, heads: nn.Module, levels: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.rpn = rpn
        self.roi_heads = heads
        self.levels = levels
        self.pooled_size = int(backbone.out_channels) * 49  # type: ignore[arg-type]

    @torch.jit.unused
    def losses(self, images: list[Tensor], targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        batch = batched(images)
        features = self.backbone(batch.tensors)
        proposals, losses = self.rpn(batch, self._first(features), targets)
        return losses | self.roi_heads.losses(features, proposals, batch.image_sizes, targets)  # type: ignore[no-any-return, operator]

    @torch.jit.export
    def find(self, images: list[Tensor]) -> list[Found]:
        batch = batched(images)
        features: dict[str, Tensor] = self.backbone(batch.tensors)
        proposals: list[Tensor] = self.rpn(batch, self._first(features))[0]
        found: list[Found] = self.roi_heads.find(features, proposals, batch.image_sizes)  # type: ignore[operator]
        return found

    def _first(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """The finest levels; coarser ones only feed finer ones."""
        chosen: dict[str, Tensor] = {}
        for name, level in features.items():
            if len(chosen) < self.levels:
                chosen[name] = level
        return chosen

    def forward(self, images: list[Tensor]) -> list[Found]:
        return self.find(images)


class _Proposals(RegionProposalNetwork):  # type: ignore[misc]
    """Anchors in areas to ignore are not background; objects that are hardly trusted teach nothing."""

    @torch.jit.unused
    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        labels, boxes = super().assign_targets_to_anchors(anchors, targets)
        for here, matched, places, target in zip(labels, boxes, anchors, targets, strict=True):
            here[(here == 0) & covered_by(places, target["ignore"])] = -1
            doubtful = target["boxes"][target["weights"] < _TRUSTED]
            if len(doubtful):
                theirs = (matched[:, None] == doubtful[None]).all(dim=2).any(dim=1)
                here[(here == 1) & theirs] = -1
        return labels, boxes


class _Heads(RoIHeads):  # type: ignore[misc]
    """Classes, refined boxes and predicted IoUs."""

    def __init__(self, *args: object, width: int, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self.iou = nn.Sequential(nn.Linear(width, width // 2), nn.ReLU(), nn.Linear(width // 2, 1))

    @torch.jit.unused
    def losses(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        sizes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]],
    ) -> dict[str, Tensor]:
        true = [target["boxes"] for target in targets]
        places = self.add_gt_proposals(proposals, true)
        matched, labels = self.assign_targets_to_proposals(places, true, [t["labels"] for t in targets])
        for here, label, target in zip(places, labels, targets, strict=True):
            label[(label == 0) & covered_by(here, target["ignore"])] = -1
        chosen = self.subsample(labels)
        places = [here[rows] for here, rows in zip(places, chosen, strict=True)]
        matched = [index[rows] for index, rows in zip(matched, chosen, strict=True)]
        label = torch.cat([own[rows] for own, rows in zip(labels, chosen, strict=True)])
        goal = [_rows(target["boxes"], index) for target, index in zip(targets, matched, strict=True)]
        weight = torch.cat([_rows(t["weights"], index) for t, index in zip(targets, matched, strict=True)])
        weight = torch.where(label > 0, weight, torch.ones_like(weight))
        roi = self.box_head(self.box_roi_pool(features, places, sizes))
        logits, deltas = self.box_predictor(roi)
        each = functional.cross_entropy(logits, label, reduction="none")
        rows = torch.where(label > 0)[0]
        mine = deltas.view(len(label), -1, 4)[rows, label[rows]]
        aims = torch.cat(self.box_coder.encode(goal, places))[rows]
        moved = functional.smooth_l1_loss(mine, aims, beta=1 / 9, reduction="none").sum(dim=1)
        refined = self.box_coder.decode(deltas.detach().float(), places)
        refined = refined.view(len(label), -1, 4)[torch.arange(len(label), device=label.device), label]
        counts = [len(here) for here in places]
        own = [
            _near(box[kind > 0], size)
            for box, kind, size in zip(
                torch.split(refined, counts), torch.split(label, counts), sizes, strict=True
            )
        ]
        return {
            "classes": (each * weight).sum() / weight.sum().clamp(min=1),
            "boxes": (moved * weight[rows]).sum() / max(len(label), 1),
            "iou": self._iou_loss(features, own, sizes, true),
        }

    @torch.jit.unused
    def _iou_loss(
        self,
        features: dict[str, Tensor],
        own: list[Tensor],
        sizes: list[tuple[int, int]],
        true: list[Tensor],
    ) -> Tensor:
        asked = [
            torch.cat([box, _near(_moved(here), size)])
            for box, here, size in zip(own, true, sizes, strict=True)
        ]
        if not sum(len(box) for box in asked):
            return next(iter(features.values())).sum() * 0
        iou = [
            box_iou(box, here).max(dim=1).values if len(here) else box.new_zeros(len(box))
            for box, here in zip(asked, true, strict=True)
        ]
        said = self.iou(self.box_head(self.box_roi_pool(features, asked, sizes)))[:, 0]
        return functional.binary_cross_entropy_with_logits(said, torch.cat(iou))

    @torch.jit.export
    def find(
        self, features: dict[str, Tensor], proposals: list[Tensor], sizes: list[tuple[int, int]]
    ) -> list[Found]:
        logits, deltas = self.box_predictor(self.box_head(self.box_roi_pool(features, proposals, sizes)))
        boxes, scores, labels = self.postprocess_detections(logits, deltas, proposals, sizes)
        pooled = self.box_roi_pool(features, boxes, sizes)
        quality = self.iou(self.box_head(pooled))[:, 0].sigmoid()
        found: list[Found] = []
        start = 0
        for box, score, label in zip(boxes, scores, labels):  # noqa: B905 (unknown to TorchScript)
            stop = start + box.shape[0]
            found.append(Found(box, label - 1, score, quality[start:stop], pooled[start:stop]))
            start = stop
        return found

    def forward(
        self, features: dict[str, Tensor], proposals: list[Tensor], sizes: list[tuple[int, int]]
    ) -> list[Found]:
        return self.find(features, proposals, sizes)


def _rows(values: Tensor, index: Tensor) -> Tensor:
    """``values[index]``; zeros where there are no values."""
    if len(values):
        return values[index]
    return values.new_zeros((len(index), *values.shape[1:]))


def _near(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """At most ``_REFINED`` of the boxes, cut at the border; those without area are left out."""
    boxes = boxes[torch.randperm(len(boxes), device=boxes.device)[:_REFINED]]
    low = boxes.new_zeros(4)
    high = boxes.new_tensor([size[1], size[0], size[1], size[0]])
    boxes = torch.minimum(torch.maximum(boxes, low), high)
    return boxes[((boxes[:, 2:] - boxes[:, :2]) > 1).all(dim=1)]


def _moved(true: Tensor) -> Tensor:
    """``_MOVED`` true boxes, each edge moved by up to a third of the side, all four together more or less."""
    if not len(true):
        return true
    boxes = true[torch.randint(len(true), (_MOVED,), device=true.device)]
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    much = torch.rand((_MOVED, 1), device=true.device)
    return boxes + sides * much * torch.empty_like(boxes).uniform_(-0.33, 0.33)


def build_faster_rcnn(network: BoxNetwork) -> FasterRcnnDetector:
    """The detector with random weights. Raises ModelError for a backbone that is not known."""
    geometry = network.geometry
    if network.backbone == "resnet50":
        known = fasterrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None, num_classes=2)
        backbone, box_head, width, pyramid, depth = known.backbone, known.roi_heads.box_head, 1024, 5, 2
    else:
        backbone, pyramid, width, depth = _light_backbone(network), 4, 256, 1
        box_head = TwoMLPHead(network.channels * 49, width)
    levels = len(geometry.anchor_sizes)
    if levels > pyramid:
        raise ModelError(f"anchors for {levels} levels, the pyramid has {pyramid}", field="learner.json")
    channels = int(backbone.out_channels)
    per_place = len(geometry.anchor_sizes[0]) * len(geometry.anchor_ratios)
    rpn = _Proposals(
        AnchorGenerator(geometry.anchor_sizes, (geometry.anchor_ratios,) * levels),
        RPNHead(channels, per_place, conv_depth=depth),
        fg_iou_thresh=0.6 if depth == 1 else 0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_top_n={"training": 1000 if depth == 1 else 2000, "testing": 1000},
        post_nms_top_n={
            "training": 400 if depth == 1 else 2000,
            "testing": max(150, min(1000, 2 * geometry.max_detections)),
        },
        nms_thresh=0.7,
    )
    heads = _Heads(
        level_pool(channels, _STRIDES),
        box_head,
        FastRCNNPredictor(width, len(network.labels) + 1),
        fg_iou_thresh=0.5,
        bg_iou_thresh=0.5,
        batch_size_per_image=128 if depth == 1 else 512,
        positive_fraction=0.25,
        bbox_reg_weights=None,
        score_thresh=network.score_threshold,
        nms_thresh=network.nms,
        detections_per_img=geometry.max_detections,
        width=width,
    )
    with torch.no_grad():  # most anchors and boxes hold no object
        nn.init.constant_(rpn.head.cls_logits.bias, -2.0)
        heads.box_predictor.cls_score.bias.zero_()
        heads.box_predictor.cls_score.bias[0] = 1.5
    return FasterRcnnDetector(backbone, rpn, heads, levels)


def _light_backbone(network: BoxNetwork) -> nn.Module:
    if network.backbone == "small":
        return SmallPyramid(out_channels=network.channels)
    if network.backbone == "mobilenet_v3_large":
        return MobileNetPyramid(out_channels=network.channels)
    raise ModelError(f"no backbone is called {network.backbone!r}", field="learner.json")
