"""Areas where objects may be that nobody confirmed: what lies in them is neither object nor background.

A target may have ``ignore``, (n, 4) boxes xyxy. Anchors and proposals that match no true instance and lie by
more than half of their area in one of them are left out of the losses.
"""

# no "from __future__ import annotations": TorchScript reads the types of the signatures
import torch
from torch import Tensor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork

__all__ = ["IgnoringRpn", "inside", "training_samples"]

_LEFT_OUT = -1
_SHARE = 0.5


def inside(boxes: Tensor, areas: Tensor | None) -> Tensor:
    """(m,) bool: whether more than half of each box (m, 4) lies in one of the areas (n, 4)."""
    if areas is None or not len(areas):
        return torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    top_left = torch.maximum(boxes[:, None, :2], areas[None, :, :2])
    sides = (torch.minimum(boxes[:, None, 2:], areas[None, :, 2:]) - top_left).clamp(min=0)
    own = (boxes[:, 2:] - boxes[:, :2]).prod(1).clamp(min=1e-6)
    found: Tensor = (sides.prod(2) / own[:, None]).amax(1) > _SHARE
    return found


class IgnoringRpn(RegionProposalNetwork):  # type: ignore[misc]
    """torchvision's proposal network; names and shapes of its weights are unchanged."""

    @torch.jit.unused
    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """As in torchvision, but anchors in areas to ignore are no background."""
        labels, boxes = RegionProposalNetwork.assign_targets_to_anchors(self, anchors, targets)
        for label, anchor, target in zip(labels, anchors, targets, strict=True):
            label[(label == 0) & inside(anchor, target.get("ignore"))] = _LEFT_OUT
        return labels, boxes


def training_samples(
    heads: RoIHeads, proposals: list[Tensor], targets: list[dict[str, Tensor]]
) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
    """``RoIHeads.select_training_samples``, but proposals in areas to ignore are not drawn as background.

    Returns proposals, matched true instances, labels and regression targets, one tensor per picture.
    """
    if all("ignore" not in target or not len(target["ignore"]) for target in targets):
        found: tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]] = heads.select_training_samples(
            proposals, targets
        )
        return found
    truth = [target["boxes"].to(proposals[0].dtype) for target in targets]
    proposals = heads.add_gt_proposals(proposals, truth)
    matched, labels = heads.assign_targets_to_proposals(proposals, truth, [t["labels"] for t in targets])
    for label, proposal, target in zip(labels, proposals, targets, strict=True):
        label[(label == 0) & inside(proposal, target.get("ignore"))] = _LEFT_OUT
    chosen = heads.subsample(labels)
    proposals = [proposal[rows] for proposal, rows in zip(proposals, chosen, strict=True)]
    matched = [match[rows] for match, rows in zip(matched, chosen, strict=True)]
    labels = [label[rows] for label, rows in zip(labels, chosen, strict=True)]
    meant = [
        (boxes if len(boxes) else boxes.new_zeros(1, 4))[match]
        for boxes, match in zip(truth, matched, strict=True)
    ]
    return proposals, matched, labels, heads.box_coder.encode(meant, proposals)
