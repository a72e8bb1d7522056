"""The published search (Papadopoulos et al., ICCV 2021): best mean prior first. The baseline to beat."""

from __future__ import annotations

from clustering.search._frontier import FrontierSearch, Priority

__all__ = ["Original"]


class Original(FrontierSearch):
    """Best mean prior first; 15 members asked, ≥ 0.85 yes accepts, < 0.15 rejects, else split and ask again.

    Parameters
    ----------
    prior, min_size, sample, accept, reject, reuse : see ``SampleRule``
    """

    name = "original"

    def priority(self, seed: int) -> Priority:
        return lambda node, found, mean: -mean
