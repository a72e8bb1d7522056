"""The box and mask heads of torchvision's Mask R-CNN, with wider mask windows, repeated box refinement and a
head that predicts the IoU of each mask."""

# no "from __future__ import annotations": TorchScript reads the types of the signatures
import torch
from torch import Tensor
from torch.nn import functional
from torchvision.models.detection.roi_heads import (
    RoIHeads,
    fastrcnn_loss,
    maskrcnn_loss,
)
from torchvision.ops import batched_nms, box_iou, clip_boxes_to_image

from ml_backend.learners.maskrcnn.ignore import inside, training_samples
from ml_backend.learners.maskrcnn.quality import MaskQuality, whole_mask_iou

__all__ = ["InstanceHeads", "widened"]

_JUDGED = 16
"""Detections per picture whose masks are judged in a training step."""
_SHAKE = 0.15


class InstanceHeads(RoIHeads):  # type: ignore[misc]
    """torchvision's heads; names and shapes of their weights are unchanged.

    ``mask_margin``: the mask is drawn over the box made larger by this share on each side, so that an object
    is not cut where its box is too small. ``box_passes``: how often a box goes through the box head; with 2,
    the boxes that were found are refined once more. ``quality_head``: predicts the IoU of each mask.
    """

    def __init__(
        self, heads: RoIHeads, *, mask_margin: float, box_passes: int, quality_head: MaskQuality | None
    ) -> None:
        super().__init__(
            heads.box_roi_pool,
            heads.box_head,
            heads.box_predictor,
            heads.proposal_matcher.high_threshold,
            heads.proposal_matcher.low_threshold,
            heads.fg_bg_sampler.batch_size_per_image,
            heads.fg_bg_sampler.positive_fraction,
            heads.box_coder.weights,
            heads.score_thresh,
            heads.nms_thresh,
            heads.detections_per_img,
            heads.mask_roi_pool,
            heads.mask_head,
            heads.mask_predictor,
        )
        self.mask_margin = mask_margin
        self.box_passes = box_passes
        self.quality_head = quality_head

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """In training ([], losses); else one dictionary per picture: ``boxes`` (n, 4) are the windows over
        which ``masks`` (n, 1, m, m) are drawn, ``labels`` (n,) from 1, ``scores`` (n,), ``quality`` (n,)
        where there is a head for it."""
        if self.training:
            none: list[dict[str, Tensor]] = []
            return none, self.losses(features, proposals, image_shapes, targets)
        return self.detect(features, proposals, image_shapes), {}

    def detect(
        self, features: dict[str, Tensor], proposals: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> list[dict[str, Tensor]]:
        """What ``forward`` returns in use."""
        logits, deltas = self.box_predictor(
            self.box_head(self.box_roi_pool(features, proposals, image_shapes))
        )
        boxes, scores, labels = self.postprocess_detections(logits, deltas, proposals, image_shapes)
        if self.box_passes > 1:
            for _ in range(self.box_passes - 1):
                boxes = self.refined(features, boxes, labels, image_shapes)
            for i in range(len(boxes)):  # boxes that moved onto the same object
                keep = batched_nms(boxes[i], scores[i], labels[i], self.nms_thresh)
                boxes[i], scores[i], labels[i] = boxes[i][keep], scores[i][keep], labels[i][keep]
        windows = [widened(box, self.mask_margin) for box in boxes]
        pooled = self.mask_roi_pool(features, windows, image_shapes)
        every = torch.cat(labels)
        rows = torch.arange(len(every), device=every.device)
        mask_logits = self.mask_predictor(self.mask_head(pooled))[rows, every]
        counts = [len(box) for box in boxes]
        masks = mask_logits.sigmoid()[:, None].split(counts)
        result: list[dict[str, Tensor]] = []
        for i in range(len(boxes)):
            result.append({"boxes": windows[i], "labels": labels[i], "scores": scores[i], "masks": masks[i]})
        if self.quality_head is not None:
            looks = self.box_head(self.box_roi_pool(features, windows, image_shapes))
            quality = self.quality_head(pooled, mask_logits, looks).split(counts)
            for i in range(len(boxes)):
                result[i]["quality"] = quality[i]
        return result

    def refined(
        self,
        features: dict[str, Tensor],
        boxes: list[Tensor],
        labels: list[Tensor],
        image_shapes: list[tuple[int, int]],
    ) -> list[Tensor]:
        """The boxes after one more pass through the box head, with the offsets of their labels."""
        deltas = self.box_predictor(self.box_head(self.box_roi_pool(features, boxes, image_shapes)))[1]
        return self._moved(deltas, boxes, labels, image_shapes)

    def _moved(
        self,
        deltas: Tensor,
        boxes: list[Tensor],
        labels: list[Tensor],
        image_shapes: list[tuple[int, int]],
    ) -> list[Tensor]:
        every = torch.cat(labels)
        if len(every) == 0:
            return boxes
        rows = torch.arange(len(every), device=every.device)
        moved = self.box_coder.decode(deltas, boxes)[rows, every]
        parts = moved.split([len(box) for box in boxes])
        return [clip_boxes_to_image(part, hw) for part, hw in zip(parts, image_shapes)]  # noqa: B905

    @torch.jit.unused
    def losses(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]] | None,
    ) -> dict[str, Tensor]:
        """The losses of a training step."""
        assert targets is not None
        proposals, matched, labels, regression = training_samples(self, proposals, targets)
        if not any(len(label) for label in labels):  # all pictures are areas to ignore
            return {"loss_classifier": torch.stack([level.sum() for level in features.values()]).sum() * 0}
        roi = self.box_head(self.box_roi_pool(features, proposals, image_shapes))
        logits, deltas = self.box_predictor(roi)
        loss_classifier, loss_box_reg = fastrcnn_loss(logits, deltas, labels, regression)
        found = {"loss_classifier": loss_classifier, "loss_box_reg": loss_box_reg}
        positive = [label > 0 for label in labels]
        boxes = [p[keep] for p, keep in zip(proposals, positive, strict=True)]
        index = [m[keep] for m, keep in zip(matched, positive, strict=True)]
        windows = [widened(box, self.mask_margin) for box in boxes]
        mask_logits = self.mask_predictor(self.mask_head(self.mask_roi_pool(features, windows, image_shapes)))
        found["loss_mask"] = maskrcnn_loss(
            mask_logits, windows, [t["masks"] for t in targets], [t["labels"] for t in targets], index
        )
        if self.quality_head is not None:
            found["loss_quality"] = self._quality_loss(
                features, proposals, logits.detach(), deltas.detach(), image_shapes, targets
            )
        return found

    def _quality_loss(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        logits: Tensor,
        deltas: Tensor,
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]],
    ) -> Tensor:
        """Mean absolute error of the predicted IoU, on masks made as in use: the most probable boxes, whether
        there is an object or not, refined, with masks of the label the network gives them. Half of the boxes
        are moved, because on pictures it learnt by heart the network errs less than on others."""
        with torch.no_grad():
            counts = [len(p) for p in proposals]
            best = functional.softmax(logits.float(), -1)[:, 1:].max(dim=1)
            chosen = [
                score.topk(min(_JUDGED, len(score))).indices for score in torch.split(best.values, counts)
            ]
            labels = [
                label[k] + 1 for label, k in zip(torch.split(best.indices, counts), chosen, strict=True)
            ]
            boxes = self._moved(
                torch.cat([d[k] for d, k in zip(torch.split(deltas, counts), chosen, strict=True)]),
                [p[k] for p, k in zip(proposals, chosen, strict=True)],
                labels,
                image_shapes,
            )
            for _ in range(self.box_passes - 1):
                boxes = self.refined(features, boxes, labels, image_shapes)
            boxes = [_moved_at_random(box, hw) for box, hw in zip(boxes, image_shapes, strict=True)]
            windows = [widened(box, self.mask_margin) for box in boxes]
            pooled = self.mask_roi_pool(features, windows, image_shapes)
            every = torch.cat(labels)
            rows = torch.arange(len(every), device=every.device)
            drawn = self.mask_predictor(self.mask_head(pooled))[rows, every].float()
            looks = self.box_head(self.box_roi_pool(features, windows, image_shapes))
            parts = torch.split(drawn, [len(box) for box in boxes])
            judged = torch.cat([~inside(b, t.get("ignore")) for b, t in zip(boxes, targets, strict=True)])
            truth = torch.cat(
                [
                    whole_mask_iou(part, window, t["masks"], _meant(box, label, t))
                    for part, window, box, label, t in zip(
                        parts, windows, boxes, labels, targets, strict=True
                    )
                ]
            )
        judged |= truth > 0
        if not judged.any():
            return logits.sum() * 0
        assert self.quality_head is not None
        predicted: Tensor = self.quality_head(pooled, drawn, looks)
        return (predicted.float() - truth)[judged].abs().mean()


def _meant(box: Tensor, label: Tensor, target: dict[str, Tensor]) -> Tensor:
    """(n,) the true instance of the same label that each box overlaps most, -1 where it overlaps none."""
    if not len(target["boxes"]):
        return torch.full((len(box),), -1, dtype=torch.int64, device=box.device)
    iou = box_iou(box.float(), target["boxes"].float()) * (label[:, None] == target["labels"][None])
    most = iou.max(dim=1)
    return torch.where(most.values > 0, most.indices, torch.full_like(most.indices, -1))


def _moved_at_random(box: Tensor, hw: tuple[int, int]) -> Tensor:
    """Boxes (n, 4), about half of them moved and scaled by some 15 % of their sides."""
    size = box[:, 2:] - box[:, :2]
    centre = (box[:, 2:] + box[:, :2]) / 2 + _SHAKE * size * torch.randn_like(size)
    half = size / 2 * torch.exp(_SHAKE * torch.randn_like(size))
    moved = clip_boxes_to_image(torch.cat([centre - half, centre + half], dim=1), hw)
    return torch.where(torch.rand(len(box), 1, device=box.device) < 0.5, moved, box)


def widened(box: Tensor, margin: float) -> Tensor:
    """Boxes (n, 4) xyxy, larger by ``margin`` of their sides on each side; they may leave the picture."""
    if margin == 0.0:
        return box
    by = (box[:, 2:] - box[:, :2]) * margin
    return torch.cat([box[:, :2] - by, box[:, 2:] + by], dim=1)
