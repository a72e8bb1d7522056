"""One-stage detector: FCOS (Tian et al., ICCV 2019) with a predicted IoU in place of its centre-ness.

Every place of the pyramid says which label it shows, how far the four edges are, and which IoU the box will
have (as in IoU-aware and VarifocalNet detectors). Anchors need not be fitted, and there is no second stage.
"""
# TorchScript reads the annotations of this module: they must not be strings

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import batched_nms, clip_boxes_to_image, generalized_box_iou_loss

from ml_backend.errors import ModelError
from ml_backend.learners.boxes.description import BoxNetwork
from ml_backend.learners.boxes.detector import BoxDetector, Found, batched, level_pool
from ml_backend.learners.maskrcnn.backbone import MobileNetPyramid, SmallPyramid, group_norm

__all__ = ["OneStageDetector", "build_one_stage"]

_STRIDES = (4, 8, 16, 32)
_CENTRE = 1.5
"""Places within this many strides of the centre of an object learn it."""
_REACH = 8.0
"""A level learns objects whose farthest edge is at most this many strides away (the coarsest learns all)."""
_CANDIDATES = 400
_RARE = 0.05
"""Probability of an object that the head starts with. FCOS starts at 0.01, which a short training does not
make up for: with 0.05, and the weight below, the AP of drawn shapes after 110 steps rose from .33 to .46."""
_OBJECT_WEIGHT = 0.6
"""Weight of objects in the focal loss, against that of background; 0.25 is usual."""


class _Head(nn.Module):
    """Per place: logits of labels, distances to the edges in strides, logit of the IoU."""

    def __init__(self, channels: int, labels: int, depth: int) -> None:
        super().__init__()
        self.class_tower = _tower(channels, depth)
        self.box_tower = _tower(channels, depth)
        self.labels = nn.Conv2d(channels, labels, 3, padding=1)
        self.edges = nn.Conv2d(channels, 4, 3, padding=1)
        self.iou = nn.Conv2d(channels, 1, 3, padding=1)
        for layer in (self.labels, self.edges, self.iou):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        nn.init.constant_(self.labels.bias, -math.log(1 / _RARE - 1))  # type: ignore[arg-type]
        nn.init.constant_(self.edges.bias, 2.0)  # type: ignore[arg-type]

    def forward(self, level: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(n, places, labels), (n, places, 4), (n, places) of one level (n, c, h, w)."""
        seen, placed = self.class_tower(level), self.box_tower(level)
        labels = self.labels(seen).flatten(2).permute(0, 2, 1)
        edges = functional.softplus(self.edges(placed).flatten(2).permute(0, 2, 1).float())
        return labels, edges, self.iou(placed).flatten(1)


def _tower(channels: int, depth: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Conv2d(channels, channels, 3, padding=1, bias=False), group_norm(channels), nn.ReLU()]
    return nn.Sequential(*layers)


class OneStageDetector(BoxDetector):
    """See ``BoxDetector``. ``finest``: the first pyramid level that is used (0 = stride 4)."""

    class_rows: ClassVar[Mapping[str, int]] = {"head.labels.": 0}

    def __init__(self, backbone: nn.Module, network: BoxNetwork, finest: int, depth: int) -> None:
        super().__init__()
        channels = int(backbone.out_channels)  # type: ignore[arg-type]
        self.backbone = backbone
        self.head = _Head(channels, len(network.labels), depth)
        self.pool = level_pool(channels, _STRIDES)
        self.finest = finest
        self.pooled_size = channels * 49
        self.score_threshold = network.score_threshold
        self.nms = network.nms
        self.candidates = _CANDIDATES
        self.most = network.geometry.max_detections

    @torch.jit.unused
    def losses(self, images: list[Tensor], targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        batch = batched(images)
        labels, edges, iou, places = self._places(self.backbone(batch.tensors))
        matched = torch.stack([self._match(places, target["boxes"]) for target in targets])
        unknown = torch.stack([_within(places, target["ignore"]) for target in targets])
        there = matched >= 0
        weight = torch.ones_like(there, dtype=torch.float32)
        aims = torch.zeros_like(labels)
        true = torch.zeros_like(edges)
        for i, target in enumerate(targets):
            own = matched[i][there[i]]
            weight[i, there[i]] = target["weights"][own]
            aims[i, there[i].nonzero()[:, 0], target["labels"][own] - 1] = 1.0
            true[i, there[i]] = target["boxes"][own]
        weight[unknown & ~there] = 0.0
        count = weight[there].sum().clamp(min=1.0)
        boxes = _decode(edges, places)[there]
        overlap = generalized_box_iou_loss(boxes, true[there], reduction="none")
        with torch.no_grad():
            reached = _pairwise_iou(boxes, true[there])
        said = functional.binary_cross_entropy_with_logits(iou[there].float(), reached, reduction="none")
        return {
            "classes": (_focal(labels.float(), aims) * weight[..., None]).sum() / count,
            "boxes": 2.0 * (overlap * weight[there]).sum() / count,
            "iou": (said * weight[there]).sum() / count,
        }

    @torch.jit.unused
    def _match(self, places: Tensor, true: Tensor) -> Tensor:
        """(places,) row of the object that each place learns, -1 for background; the smallest one wins."""
        if not len(true):
            return torch.full((len(places),), -1, dtype=torch.int64, device=places.device)
        x, y, stride = places.unbind(dim=1)
        to_edges = torch.stack(
            [
                x[:, None] - true[None, :, 0],
                y[:, None] - true[None, :, 1],
                true[None, :, 2] - x[:, None],
                true[None, :, 3] - y[:, None],
            ],
            dim=2,
        )
        centre = (true[:, :2] + true[:, 2:]) / 2
        off = (places[:, None, :2] - centre[None]).abs().amax(dim=2)
        far = to_edges.amax(dim=2)
        first, last = stride == stride.min(), stride == stride.max()
        reach = torch.where(last, torch.full_like(stride, torch.inf), _REACH * stride)
        start = torch.where(first, torch.zeros_like(stride), _REACH * stride / 2)
        good = (to_edges.amin(dim=2) > 0) & (off < _CENTRE * stride[:, None])
        good &= (far > start[:, None]) & (far <= reach[:, None])
        area = (true[:, 2] - true[:, 0]) * (true[:, 3] - true[:, 1])
        cost = torch.where(good, area[None].expand(good.shape), torch.full_like(far, torch.inf))
        smallest, row = cost.min(dim=1)
        return torch.where(smallest.isfinite(), row, torch.full_like(row, -1))

    def _places(self, features: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What the head says at all places, and the places: (p, 3) x, y, stride."""
        labels: list[Tensor] = []
        edges: list[Tensor] = []
        iou: list[Tensor] = []
        places: list[Tensor] = []
        for number, level in enumerate(features.values()):
            if number >= self.finest and number < 4:
                one = self.head(level)
                labels.append(one[0])
                edges.append(one[1])
                iou.append(one[2])
                places.append(_grid(level, 4 << number))
        return torch.cat(labels, 1), torch.cat(edges, 1), torch.cat(iou, 1), torch.cat(places, 0)

    @torch.jit.export
    def find(self, images: list[Tensor]) -> list[Found]:
        batch: ImageList = batched(images)
        features: dict[str, Tensor] = self.backbone(batch.tensors)
        labels, edges, iou, places = self._places(features)
        boxes = _decode(edges, places)
        score, quality = labels.float().sigmoid(), iou.float().sigmoid()
        found: list[Found] = []
        for i in range(len(images)):
            size = batch.image_sizes[i]
            chosen = self._choose(clip_boxes_to_image(boxes[i], size), score[i], quality[i])
            box, label = boxes[i][chosen[0]], chosen[1]
            box = clip_boxes_to_image(box, size)
            own: dict[str, Tensor] = {}
            for name, level in features.items():
                if len(own) < 4:
                    own[name] = level[i : i + 1]
            pooled = self.pool(own, [box], [size])
            found.append(Found(box, label, score[i][chosen[0], label], quality[i][chosen[0]], pooled))
        return found

    def _choose(self, boxes: Tensor, score: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
        """Rows and labels of what is kept, by falling score; of two boxes the better survives."""
        row, label = torch.where(score > self.score_threshold)
        real = ((boxes[row, 2:] - boxes[row, :2]) > 0.01).all(dim=1)
        row, label = row[real], label[real]
        rank = score[row, label] * quality[row]
        best = rank.topk(min(self.candidates, rank.shape[0])).indices
        row, label = row[best], label[best]
        kept = batched_nms(boxes[row], rank[best], label, self.nms)[: self.most]
        row, label = row[kept], label[kept]
        order = score[row, label].argsort(descending=True)
        return row[order], label[order]

    def forward(self, images: list[Tensor]) -> list[Found]:
        return self.find(images)


def _within(places: Tensor, areas: Tensor) -> Tensor:
    """(p,) bool: whether each place lies in one of the areas (m, 4)."""
    x, y = places[:, None, 0], places[:, None, 1]
    inside = (x >= areas[:, 0]) & (x <= areas[:, 2]) & (y >= areas[:, 1]) & (y <= areas[:, 3])
    return inside.any(dim=1)


def _grid(level: Tensor, stride: int) -> Tensor:
    """(h·w, 3) centres x, y in network pixels and the stride, of a level (n, c, h, w)."""
    rows = torch.arange(level.shape[-2], device=level.device, dtype=torch.float32) * stride
    columns = torch.arange(level.shape[-1], device=level.device, dtype=torch.float32) * stride
    y = rows[:, None].expand(-1, columns.shape[0]).reshape(-1)
    x = columns[None, :].expand(rows.shape[0], -1).reshape(-1)
    # a convolution of stride 2 with padding sees the middle of its first pixel at its first place
    return torch.stack([x + 0.5, y + 0.5, torch.full_like(x, stride)], dim=1)


def _decode(edges: Tensor, places: Tensor) -> Tensor:
    """(n, p, 4) xyxy boxes of distances in strides."""
    far = edges * places[:, 2:]
    return torch.cat([places[:, :2] - far[..., :2], places[:, :2] + far[..., 2:]], dim=2)


def _pairwise_iou(first: Tensor, second: Tensor) -> Tensor:
    """(n,) IoU of the boxes in the same row."""
    low = torch.maximum(first[:, :2], second[:, :2])
    high = torch.minimum(first[:, 2:], second[:, 2:])
    common = (high - low).clamp(min=0).prod(dim=1)
    areas = (first[:, 2:] - first[:, :2]).prod(dim=1) + (second[:, 2:] - second[:, :2]).prod(dim=1)
    return common / (areas - common).clamp(min=1e-6)


def _focal(logits: Tensor, aims: Tensor) -> Tensor:
    """Focal loss (Lin et al. 2017), gamma 2, per place and label."""
    each = functional.binary_cross_entropy_with_logits(logits, aims, reduction="none")
    right = torch.where(aims > 0, logits.sigmoid(), 1 - logits.sigmoid())
    alpha = torch.where(aims > 0, _OBJECT_WEIGHT, 1 - _OBJECT_WEIGHT)
    return alpha * (1 - right) ** 2 * each


def build_one_stage(network: BoxNetwork) -> OneStageDetector:
    """The detector with random weights. Raises ModelError for a backbone that is not known."""
    smallest = network.geometry.anchor_sizes[0][0]
    finest = 0 if smallest < 2 * _STRIDES[1] else 1  # an object must hold about two places of a level
    if network.backbone == "small":
        return OneStageDetector(SmallPyramid(out_channels=network.channels), network, finest, 2)
    if network.backbone == "mobilenet_v3_large":
        return OneStageDetector(MobileNetPyramid(out_channels=network.channels), network, finest, 2)
    raise ModelError(f"no backbone is called {network.backbone!r}", field="learner.json")
