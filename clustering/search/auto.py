"""The default: a purity that is kept where the pool is large enough for it, else the published rule."""

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
"""Pools of a trained detector: from here on a certificate costs about as many questions per mask as the
published rule asks, and saves more the larger the pool is; far below it asks several times as many."""


class Auto:
    """``certified`` for pools of at least ``from_size`` instances, ``original`` for smaller ones.

    What the published rule accepts comes without a guarantee; every decision names its test, so that one can
    tell which it was.

    Parameters
    ----------
    from_size : least number of instances for ``certified``
    purity : promised purity of ``certified``, and the share of yes at which ``original`` accepts
    options : of either policy, by name
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
