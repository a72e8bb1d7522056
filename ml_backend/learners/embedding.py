"""Numbers per instance from the network: the mask-attention embedding and the predicted IoU of the mask."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["EMBEDDING_DIM", "expected_iou", "mask_attention", "projection_matrix"]

EMBEDDING_DIM = 128


def projection_matrix(features: int, dim: int = EMBEDDING_DIM, *, seed: int = 0) -> Tensor:
    """(features, dim) float32 Gaussian projection that keeps squared lengths in expectation.

    It is drawn from numpy's legacy generator, which gives the same numbers on every machine and version.
    """
    drawn = np.random.RandomState(seed).standard_normal((features, dim)) / np.sqrt(dim)
    return torch.from_numpy(drawn.astype(np.float32))


def mask_attention(roi: Tensor, probability: Tensor, projection: Tensor) -> Tensor:
    """(n, dim) embeddings: RoI features (n, c, 7, 7) × mask (n, m, m) averaged to 7 × 7, projected.

    Multiplying by the mask keeps what the object looks like and drops what surrounds it (Scaling-anno,
    ICCV 2021, "mask attention"). Divided by 7, so that lengths are those of one cell's feature vector.
    """
    attention = functional.adaptive_avg_pool2d(probability[:, None], 7)
    return (roi * attention).flatten(1) @ projection / 7


def expected_iou(probability: Tensor) -> Tensor:
    """(n,) estimate of the IoU of each mask with the true one, in 0..1, from its pixel probabilities alone.

    Let p be the probability of a pixel in ``probability`` (n, m, m), M = {p > 0.5} the predicted mask, and T
    the true mask. T is modelled as independent pixels. Then E|M ∩ T| = Σ_M p and
    E|M ∪ T| = |M| + Σ_{not M} p, and their ratio is the expected IoU to first order. 0 for an empty mask.
    Uncertain outlines lower the estimate; masks that are wrong with high probabilities do not.
    """
    inside = probability > 0.5
    hit = (probability * inside).sum((1, 2))
    union = inside.sum((1, 2)) + (probability * ~inside).sum((1, 2))
    return torch.where(union > 0, hit / union.clamp(min=1e-6), torch.zeros_like(hit))
