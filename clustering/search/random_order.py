"""The published thresholds with a random frontier, the weakest order to compare with."""

from __future__ import annotations

import numpy as np

from clustering.search._frontier import FrontierSearch, Priority

__all__ = ["RandomOrder"]


class RandomOrder(FrontierSearch):
    """Clusters in an order that only the seed decides.

    Parameters
    ----------
    prior, min_size, sample, accept, reject, reuse : see ``SampleRule``
    """

    name = "random"

    def priority(self, seed: int) -> Priority:
        return lambda node, found, mean: float(np.random.default_rng([seed, node, 1]).random())
