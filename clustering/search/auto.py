"""The default policy: certified for large pools, the published rule for small ones."""

from __future__ import annotations

import inspect
from dataclasses import fields
from typing import Any

from clustering.answers import AnswerLog, PolicyStep
from clustering.pool import Pool
from clustering.search._frontier import SampleRule
from clustering.search.certified import Certified
from clustering.search.original import Original
from clustering.trees import ClusterTree

__all__ = ["Auto"]

FROM_SIZE = 2000
"""From this size on, a certificate costs about as many questions per mask as the published rule, and fewer in
larger pools. Far below, it costs several times as many. (Measured on pools of trained detectors.)"""


class Auto:
    """``certified`` for pools of at least ``from_size`` instances, ``original`` for smaller ones.

    What the published rule accepts comes without a guarantee. The test that every decision names shows which
    of the two it was.

    Parameters
    ----------
    from_size : least number of instances for ``certified``
    purity : promised purity of ``certified``, and the share of yes at which ``original`` accepts
    options : of either policy, by name

    Raises
    ------
    TypeError : neither policy has such an option
    ValueError : a value is out of its range, for whichever pool size it would be used
    """

    name = "auto"

    def __init__(self, *, from_size: int = FROM_SIZE, purity: float = 0.85, **options: Any) -> None:
        if from_size < 0:
            raise ValueError(f"from_size is {from_size}: it must be 0 or more")
        rule_names = {field.name for field in fields(SampleRule)}
        certified_names = set(inspect.signature(Certified.__init__).parameters) - {"self", "purity"}
        unknown = set(options) - rule_names - certified_names
        if unknown:
            raise TypeError(f"no policy has the option {min(unknown)!r}")
        self.from_size = from_size
        self.certified = Certified(
            purity=purity, **{k: v for k, v in options.items() if k in certified_names}
        )
        rule = {"accept": purity, **{k: v for k, v in options.items() if k in rule_names}}
        self.original = Original(**rule)

    def step(self, tree: ClusterTree, pool: Pool, log: AnswerLog, *, budget: int, seed: int) -> PolicyStep:
        """See ``SearchPolicy``."""
        chosen = self.certified if len(pool) >= self.from_size else self.original
        return chosen.step(tree, pool, log, budget=budget, seed=seed)
