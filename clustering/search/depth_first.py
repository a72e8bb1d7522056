"""The published thresholds with a depth-first frontier."""

from __future__ import annotations

from clustering.answers import AnswerLog, PolicyStep
from clustering.pool import Pool
from clustering.search._frontier import SampleRule, frontier_step
from clustering.tree import ClusterTree

__all__ = ["DepthFirst"]


class DepthFirst:
    """The cluster found last is looked at first.

    Parameters
    ----------
    prior, min_size, sample, accept, reject, reuse : see ``SampleRule``
    """

    name = "depth-first"

    def __init__(
        self,
        *,
        prior: float = 0.7,
        min_size: int = 15,
        sample: int = 15,
        accept: float = 0.85,
        reject: float = 0.15,
        reuse: bool = True,
    ) -> None:
        self.rule = SampleRule(
            prior=prior, min_size=min_size, sample=sample, accept=accept, reject=reject, reuse=reuse
        )

    def step(self, tree: ClusterTree, pool: Pool, log: AnswerLog, *, budget: int, seed: int) -> PolicyStep:
        """Replay the search over everything answered; see ``SearchPolicy``."""
        return frontier_step(
            tree,
            pool,
            log,
            rule=self.rule,
            priority=lambda node, found, mean: -float(found),
            budget=budget,
            seed=seed,
            name=self.name,
        )
