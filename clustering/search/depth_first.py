"""The published thresholds in depth-first order: a baseline of Papadopoulos et al. (ICCV 2021)."""

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
