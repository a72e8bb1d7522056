"""One partition of the pool, each cluster judged once: a baseline of Papadopoulos et al. (ICCV 2021)."""

from __future__ import annotations

import numpy as np

from clustering.answers import AnswerLog, PolicyStep, Stream
from clustering.pool import Pool
from clustering.search._frontier import AnswersByNode, SampleRule, finish_step, judge
from clustering.search._parts import DecisionRows, LabelPolicy, QuestionRows
from clustering.trees import ClusterTree

__all__ = ["UniversalCut"]


class UniversalCut(LabelPolicy):
    """Cut the tree into clusters, ask ``sample`` members of each, accept the cluster or leave it.

    A cluster that is not accepted is reported as SPLIT, although it is not: only a finer cut could save its
    good members.

    Parameters
    ----------
    clusters : number of clusters of the cut; None = the square root of the pool's size
    prior, min_size, sample, accept : see ``SampleRule``; clusters below ``prior`` or ``min_size`` are dropped
    """

    name = "universal-cut"

    def __init__(
        self,
        *,
        clusters: int | None = None,
        prior: float = 0.7,
        min_size: int = 15,
        sample: int = 15,
        accept: float = 0.85,
    ) -> None:
        if clusters is not None and clusters < 1:
            raise ValueError(f"clusters is {clusters}: a cut needs 1 or more")
        self.clusters = clusters
        self.rule = SampleRule(prior=prior, min_size=min_size, sample=sample, accept=accept, reject=0.0)

    def label_step(
        self, tree: ClusterTree, pool: Pool, log: AnswerLog, *, budget: int, seed: int
    ) -> PolicyStep:
        """Judge the clusters of the cut, best mean prior first; see ``SearchPolicy``."""
        questions, rows = QuestionRows(budget), DecisionRows(0.95)
        done = True
        if len(pool):
            nodes = tree.cut_into(min(len(tree), self.clusters or max(1, round(len(tree) ** 0.5))))
            means = tree.means(pool.prior)
            nodes = nodes[(tree.size[nodes] >= self.rule.min_size) & (means[nodes] >= self.rule.prior)]
            answers = AnswersByNode(tree, log)
            none = np.zeros(0, np.int64)
            for node in nodes[np.argsort(-means[nodes], kind="stable")].tolist():
                speak, ask = judge(tree, answers, node, none, self.rule, seed)
                if len(ask):
                    done = False
                    share = min(1.0, self.rule.sample / int(tree.size[node]))
                    questions.add(ask, cluster=node, stream=Stream.SEARCH, inclusion=share)
                    continue
                yes = float(answers.yes[speak].sum())
                action = self.rule.decide(yes / len(speak))
                rows.add(action, cluster=node, asked=len(speak), yes=round(yes), test=self.name)
        return finish_step(tree, log, rows.build(), questions.build(), done=done)
