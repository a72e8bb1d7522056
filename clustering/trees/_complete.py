"""Complete linkage of a few members: the one place that calls fastcluster, loaded when it is first needed.

Policies and their options are looked at on machines that build no trees and have no fastcluster.
"""

from __future__ import annotations

from clustering.arrays import Floats

__all__ = ["complete_linkage"]


def complete_linkage(condensed: Floats) -> Floats:
    """(n - 1, 4) float64 merges in scipy's format from (n·(n-1)/2,) distances, which are overwritten.

    Time and memory O(n²) (Müllner 2013, Journal of Statistical Software 53(9)).
    """
    import fastcluster

    merges: Floats = fastcluster.linkage(condensed, method="complete", preserve_input=False)
    return merges
