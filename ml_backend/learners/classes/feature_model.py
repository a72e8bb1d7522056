"""What the classifier needs of a model that describes pictures."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

__all__ = ["Channels", "FeatureModel"]

Channels = tuple[float, float, float]


class FeatureModel(nn.Module):
    """A torch module from pixels (n, 3, side, side) in 0..1 to features (n, dim).

    Attributes
    ----------
    dim : number of features
    side : pixels; other sides work as well
    mean, std : per channel, taken off and divided by beforehand; None: each picture by its own
    """

    dim: int
    side: int
    mean: Channels | None
    std: Channels | None

    def description(self) -> dict[str, Any]:
        """What ``build_features`` needs to build it again, JSON-ready."""
        raise NotImplementedError

    def forward(self, pixels: Tensor) -> Tensor:
        raise NotImplementedError
