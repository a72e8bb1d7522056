"""Search policies, one file each, all with the protocol ``clustering.answers.SearchPolicy``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from clustering.answers import SearchPolicy
from clustering.search._plan import HARVEST_PHASE
from clustering.search.breadth_first import BreadthFirst
from clustering.search.certified import Certified
from clustering.search.depth_first import DepthFirst
from clustering.search.lsun import Lsun
from clustering.search.original import Original
from clustering.search.pac_labels import PacLabels
from clustering.search.platt import Platt
from clustering.search.random_order import RandomOrder
from clustering.search.universal_cut import UniversalCut
from clustering.search.verify_all import VerifyAll

__all__ = [
    "HARVEST_PHASE",
    "POLICIES",
    "BreadthFirst",
    "Certified",
    "DepthFirst",
    "Lsun",
    "Original",
    "PacLabels",
    "Platt",
    "RandomOrder",
    "UniversalCut",
    "VerifyAll",
    "make_policy",
]

POLICIES: dict[str, Callable[..., SearchPolicy]] = {
    policy.name: policy
    for policy in (
        Certified,
        Original,
        Platt,
        VerifyAll,
        PacLabels,
        BreadthFirst,
        DepthFirst,
        RandomOrder,
        UniversalCut,
        Lsun,
    )
}
"""Name -> class of the policy."""
_FORMER = {"auto": "certified"}
"""Names that projects may still carry: ``auto`` was the default before ``certified`` suited every size."""


def make_policy(name: str, **options: Any) -> SearchPolicy:
    """Build the policy ``name`` with its own keyword options.

    Raises
    ------
    ValueError : no policy has that name, or an option's value cannot be used
    TypeError : the policy has no such option

    >>> make_policy("original", accept=0.9).name
    'original'
    """
    name = _FORMER.get(name, name)
    if name not in POLICIES:
        raise ValueError(f"no policy is named {name!r}; choose one of {', '.join(sorted(POLICIES))}")
    return POLICIES[name](**options)
