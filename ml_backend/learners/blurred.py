"""How blurred the masks of a picture are: a doubt that only the network itself can name."""

from __future__ import annotations

import torch
from torch import Tensor

from ml_backend.learners.uncertainty import SHOWN_FROM

__all__ = ["mask_entropy"]


def mask_entropy(probability: Tensor, score: Tensor, *, shown_from: float = SHOWN_FROM) -> float:
    """Mean entropy of the pixels inside the boxes of what is shown, in bits (0..1).

    ``probability`` is (n, s, s) in 0..1, ``score`` (n,). Where nothing is sure enough to be shown, all count;
    0 where nothing was found.
    """
    if not len(score):
        return 0.0
    p = probability.float().clamp(1e-6, 1 - 1e-6)
    bits = -(p * p.log2() + (1 - p) * (1 - p).log2())
    of_mask = bits.mean(dim=(1, 2))
    shown = score >= shown_from
    chosen: Tensor = of_mask[shown] if bool(shown.any()) else of_mask
    return float(torch.clamp(chosen.mean(), 0.0, 1.0))
