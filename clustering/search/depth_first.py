"""The published thresholds with a depth-first frontier."""

from __future__ import annotations

from clustering.search._frontier import FrontierSearch, Priority

__all__ = ["DepthFirst"]


class DepthFirst(FrontierSearch):
    """The cluster found last is looked at first.

    Parameters
    ----------
    prior, min_size, sample, accept, reject, reuse : see ``SampleRule``
    """

    name = "depth-first"

    def priority(self, seed: int) -> Priority:
        return lambda node, found, mean: -float(found)
