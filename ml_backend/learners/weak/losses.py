"""The losses of CIM (Li et al., IJCAI 2023, section 3.4) of one picture."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ml_backend.learners.weak.heads import Output
from ml_backend.learners.weak.mining import PseudoLabels
from ml_backend.learners.weak.seeds import Clusters

__all__ = ["bag_loss", "branch_losses", "cluster_loss"]

_TINY = 1e-6


def bag_loss(output: Output, tags: Tensor) -> Tensor:
    """BCE between the tags (C,) and Σ class · pick of the anti-noise pair; background is a tag of all."""
    whole = (output.mil_class * output.mil_pick).sum(dim=0).clamp(_TINY, 1 - _TINY)
    target = torch.cat([tags.new_ones(1), tags])
    return functional.binary_cross_entropy(whole, target, reduction="mean")


def cluster_loss(output: Output, clusters: Clusters) -> Tensor:
    """Cross entropy of each cluster's mean class, weighted by size, and of every background proposal."""
    device = output.mil_class.device
    cluster = torch.from_numpy(clusters.cluster).to(device)
    background = torch.from_numpy(clusters.background).to(device)
    total = output.mil_class.new_zeros(())
    k = len(clusters.label)
    inside = cluster >= 0
    if k and bool(inside.any()):
        size = torch.bincount(cluster[inside], minlength=k)
        label = torch.from_numpy(clusters.label).to(device) + 1
        mean = output.mil_class.new_zeros(k, output.mil_class.shape[1])
        mean = mean.index_add(0, cluster[inside], output.mil_class[inside]) / size.clamp(min=1)[:, None]
        own = mean[torch.arange(k, device=device), label].clamp(min=_TINY)
        total = total - (size * own.log()).sum()
    if bool(background.any()):
        total = total - output.mil_class[background, 0].clamp(min=_TINY).log().sum()
    return total / max(int(inside.sum()) + int(background.sum()), 1)


def branch_losses(
    classes: Tensor, integrity: Tensor, pseudo: PseudoLabels, tags: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """(bag, class, integrity) losses of one refinement branch: class softmax and integrity, both (n, C+1)."""
    device = classes.device
    label = torch.from_numpy(pseudo.label).to(device)
    weight = torch.from_numpy(pseudo.weight).to(device)
    complete = torch.from_numpy(pseudo.complete).to(device)
    labelled = (weight > 0).sum().clamp(min=1)
    own = classes.gather(1, label[:, None])[:, 0].clamp(min=_TINY)
    class_loss = -(weight * own.log()).sum() / labelled
    front = (label > 0) & (weight > 0)
    if bool(front.any()):
        said = integrity[front].gather(1, label[front][:, None])[:, 0]
        gap = functional.smooth_l1_loss(said, complete[front], reduction="none", beta=0.5)
        integrity_loss = (weight[front] * gap).sum() / front.sum()
    else:
        integrity_loss = classes.new_zeros(())
    return _tag_loss(classes, integrity, label, weight, tags), class_loss, integrity_loss


def _tag_loss(classes: Tensor, integrity: Tensor, label: Tensor, weight: Tensor, tags: Tensor) -> Tensor:
    """BCE per label on the largest class · integrity: of the proposals labelled so where the picture has the
    tag (weighted by the best one's weight), of all proposals where it has not."""
    product = (classes * integrity)[:, 1:]
    columns = torch.arange(1, classes.shape[1], device=classes.device)
    mine = (label[:, None] == columns[None, :]) & (weight[:, None] > 0)
    present = tags > 0.5
    restricted = torch.where(mine, product, torch.full_like(product, -1.0))
    best, place = torch.where(present, restricted, product).max(dim=0)
    known = ~present | mine.any(dim=0)
    trusted = torch.where(present, weight[place], torch.ones_like(best))
    loss = functional.binary_cross_entropy(best.clamp(_TINY, 1 - _TINY), tags, reduction="none")
    return (loss * trusted * known).sum() / max(classes.shape[1] - 1, 1)
