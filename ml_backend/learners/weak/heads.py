"""The network of CIM on given features: a shared trunk, an anti-noise pair and three refinement branches.

(Li et al., IJCAI 2023, section 3: all heads linear.) Class 0 is the background.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["BRANCHES", "Heads", "Output"]

BRANCHES = 3


@dataclass(frozen=True, slots=True, eq=False)
class Output:
    """Of the n proposals of one picture.

    ``mil_class`` (n, C+1) class softmax and ``mil_pick`` (n, C+1) softmax over proposals of the anti-noise
    pair; per branch ``classes`` (n, C+1) softmax and ``integrity`` (n, C+1) sigmoid, how complete a mask is.
    """

    mil_class: Tensor
    mil_pick: Tensor
    classes: tuple[Tensor, ...]
    integrity: tuple[Tensor, ...]


class Heads(nn.Module):
    """``features`` numbers in, scaled by ``mean`` and ``spread`` (set from the training pictures).

    ``blind`` (C+1,) marks labels that all training pictures have, or none. Their tags say nothing about what
    is a complete object, so objectness stands in for their integrity.
    """

    def __init__(self, features: int, labels: int, *, width: int = 128, dropout: float = 0.2) -> None:
        super().__init__()
        self.mean: Tensor
        self.spread: Tensor
        self.blind: Tensor
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("spread", torch.ones(features))
        self.register_buffer("blind", torch.zeros(labels + 1, dtype=torch.bool))
        self.trunk = nn.Sequential(
            nn.Linear(features, width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Dropout(dropout),
        )
        n = labels + 1
        self.mil_class = nn.Linear(width, n)
        self.mil_pick = nn.Linear(width, n)
        self.classes = nn.ModuleList(nn.Linear(width, n) for _ in range(BRANCHES))
        self.integrity = nn.ModuleList(nn.Linear(width, n) for _ in range(BRANCHES))

    def embed(self, features: Tensor) -> Tensor:
        """(n, width) of (n, f) raw features."""
        scaled = (features - self.mean) / self.spread
        return self.trunk(scaled.clamp(-6, 6))  # type: ignore[no-any-return]

    def forward(self, features: Tensor, sizes: list[int]) -> list[Output]:
        """One output per picture of features (Σ n, f), ``sizes`` proposals each."""
        hidden = self.embed(features)
        mil_class = self.mil_class(hidden).softmax(dim=1)
        pick = self.mil_pick(hidden)
        classes = [head(hidden).softmax(dim=1) for head in self.classes]
        integrity = [head(hidden).sigmoid() for head in self.integrity]
        outputs = []
        start = 0
        for n in sizes:
            rows = slice(start, start + n)
            outputs.append(
                Output(
                    mil_class[rows],
                    pick[rows].softmax(dim=0),
                    tuple(p[rows] for p in classes),
                    tuple(d[rows] for d in integrity),
                )
            )
            start += n
        return outputs
