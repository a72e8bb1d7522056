"""The published thresholds in breadth-first order: a baseline of Papadopoulos et al. (ICCV 2021)."""

from __future__ import annotations

from clustering.search._frontier import FrontierSearch, Priority

__all__ = ["BreadthFirst"]


class BreadthFirst(FrontierSearch):
    """Clusters in the order in which the splits found them.

    Parameters
    ----------
    prior, min_size, sample, accept, reject, reuse : see ``SampleRule``
    """

    name = "breadth-first"

    def priority(self, seed: int) -> Priority:
        return lambda node, found, mean: float(found)
