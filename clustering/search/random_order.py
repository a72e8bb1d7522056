"""The published thresholds in random order: the weakest baseline of Papadopoulos et al. (ICCV 2021)."""

from __future__ import annotations

import numpy as np

from clustering.search._frontier import FrontierSearch, Priority

__all__ = ["RandomOrder"]


class RandomOrder(FrontierSearch):
    """Clusters in an order that is drawn by chance.

    Parameters
    ----------
    prior, min_size, sample, accept, reject, reuse : see ``SampleRule``
    """

    name = "random"

    def priority(self, seed: int) -> Priority:
        return lambda node, found, mean: float(np.random.default_rng([seed, node, 1]).random())
