"""First guess where the objects of a tag are, before anything is mined: a linear classifier of tags.

One logistic regression per label tells pictures with the tag from those without by the mean of their
proposals' features, each weighted by its objectness. Its score of a single proposal is the class response
(Zhou et al., CVPR 2016: class activation maps). A label that all pictures have, or none, cannot be learnt so:
there the response is the objectness alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ml_backend.learners.weak.bags import Bag

__all__ = ["class_responses", "labels_with_contrast"]

_RIDGE = 0.02
_STEPS = 200


def labels_with_contrast(bags: Sequence[Bag]) -> npt.NDArray[np.bool_]:
    """(C,) bool: labels that some pictures have and others have not."""
    tags = np.stack([bag.tags for bag in bags])
    return np.asarray(tags.any(axis=0) & ~tags.all(axis=0), np.bool_)


def class_responses(bags: Sequence[Bag], mean: Tensor, spread: Tensor) -> list[npt.NDArray[np.float32]]:
    """Per bag (n, C) float32 in 0..1: objectness times the class response of each proposal."""
    scaled = [((torch.from_numpy(bag.features) - mean) / spread).clamp(-6, 6) for bag in bags]
    pooled = torch.stack(
        [
            (x * (w := torch.from_numpy(bag.prior)[:, None] + 1e-3)).sum(0) / w.sum()
            for x, bag in zip(scaled, bags, strict=True)
        ]
    )
    target = torch.from_numpy(np.stack([bag.tags for bag in bags])).float()
    contrast = torch.from_numpy(labels_with_contrast(bags))
    weight, bias = _logistic(pooled, target)
    found = []
    for x, bag in zip(scaled, bags, strict=True):
        # a proposal's share in the score of its picture, against the picture's other proposals
        score = x @ weight + bias
        score = (score - score.mean(dim=0)) / score.std(dim=0, correction=0).clamp(min=1e-3)
        response = torch.where(contrast, torch.sigmoid(1.5 * score), torch.ones_like(score))
        found.append((response.numpy() * bag.prior[:, None]).astype(np.float32))
    return found


def _logistic(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (f, C) and bias (C,) of ridge logistic regressions, classes weighted to balance."""
    weight = torch.zeros(x.shape[1], y.shape[1], requires_grad=True)
    bias = torch.zeros(y.shape[1], requires_grad=True)
    share = y.mean(dim=0).clamp(0.02, 0.98)
    balance = torch.where(y > 0.5, 0.5 / share, 0.5 / (1 - share))
    optimiser = torch.optim.Adam([weight, bias], lr=0.03)
    for _ in range(_STEPS):
        logits = x @ weight + bias
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, y, weight=balance)
        loss = loss + _RIDGE * (weight**2).sum(dim=0).mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return weight.detach(), bias.detach()
