"""The search of Papadopoulos et al. (ICCV 2021): 15 members asked per node, then accept, reject or split it.

The walk starts again at the root at every step, so it is a pure function of the log. A node is judged by the
answers that were drawn for it or for one of its ancestors. Answers drawn later for its descendants do not
change a judgement that was already made.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from clustering.answers import Action, AnswerLog, Decisions, PolicyStep, Questions, Stream
from clustering.pool import Pool
from clustering.search._parts import DecisionRows, LabelPolicy, QuestionRows, label_members
from clustering.trees import ClusterTree

__all__ = [
    "AnswersByNode",
    "FrontierSearch",
    "Priority",
    "SampleRule",
    "finish_step",
    "frontier_step",
    "judge",
]

Priority = Callable[[int, int, float], float]
"""(node, order of discovery, mean prior) -> key; the smallest key is looked at first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRule:
    """Thresholds of the published search.

    Attributes
    ----------
    prior : nodes whose members have a lower mean of score × quality are split without questions
    min_size : smaller nodes are dropped
    sample : members asked per node
    accept : a node is accepted from this share of yes on
    reject : a node is rejected below this share of yes; 0 rejects none, as in the published
        campaign's code
    reuse : answers inherited from ancestors count towards ``sample``, and only the missing ones are asked.
        False draws a full new sample unless ``sample`` answers were inherited, as the published campaign did
    """

    prior: float = 0.7
    min_size: int = 15
    sample: int = 15
    accept: float = 0.85
    reject: float = 0.15
    reuse: bool = True

    def __post_init__(self) -> None:
        if self.sample < 1 or self.min_size < 1:
            raise ValueError(f"sample is {self.sample}, min_size {self.min_size}: both must be 1 or more")
        if not 0.0 <= self.reject <= self.accept <= 1.0:
            raise ValueError(
                f"reject {self.reject} and accept {self.accept} must satisfy 0 <= reject <= accept <= 1"
            )

    def missing(self, size: int, inherited: int) -> int:
        """How many members to ask about in a node of ``size`` members, ``inherited`` of them answered."""
        wanted = min(self.sample, size)
        if inherited >= wanted:
            return 0
        return min(wanted - inherited if self.reuse else wanted, size - inherited)

    def decide(self, share: float) -> Action:
        """Accept, reject or split a node with this share of yes."""
        if share >= self.accept:
            return Action.ACCEPT
        return Action.REJECT if share < self.reject else Action.SPLIT


class AnswersByNode:
    """Answers sorted by the node for which they were drawn, with each item's place in the tree's order."""

    def __init__(self, tree: ClusterTree, log: AnswerLog) -> None:
        by_cluster = np.argsort(log.cluster, kind="stable")
        self._cluster = log.cluster[by_cluster]
        self._asked = set(np.unique(self._cluster).tolist())
        self.place = tree.start[log.item[by_cluster]]
        self.item = log.item[by_cluster]
        # the published rule counts masks that got a yes; verdicts on people who err are never quite 0 or 1
        self.yes = (log.yes[by_cluster] > 0.5).astype(np.float64)

    def of(self, cluster: int) -> npt.NDArray[np.int64]:
        """Rows of the answers drawn for a node."""
        low, high = np.searchsorted(self._cluster, [cluster, cluster + 1])
        return np.arange(low, high)

    def any_of(self, cluster: int) -> bool:
        """Whether a question was drawn for the node."""
        return cluster in self._asked

    def of_no_node(self) -> npt.NDArray[np.int64]:
        """Rows not drawn for a node, such as answers carried over: they count as inherited by the root."""
        return np.arange(0, int(np.searchsorted(self._cluster, 0)))


def judge(
    tree: ClusterTree,
    answers: AnswersByNode,
    node: int,
    inherited: npt.NDArray[np.int64],
    rule: SampleRule,
    seed: int,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """What is known about a node.

    Returns
    -------
    rows : int64, rows of ``answers`` that count for the node
    ask : int64, members still to be asked; empty when the node can be judged
    """
    own = answers.of(node)
    rows = np.concatenate([inherited, own])
    size = int(tree.stop[node] - tree.start[node])
    known = np.unique(answers.item[inherited])
    missing = rule.missing(size, len(known)) - len(np.setdiff1d(answers.item[own], known))
    if missing <= 0:
        return rows, np.zeros(0, np.int64)
    # the draw depends on the seed and the node alone, so that a rerun proposes the same members
    rng = np.random.default_rng([seed, node])
    drawn = tree.members(node)[rng.choice(size, min(size, rule.sample + len(known)), replace=False)]
    wanted = drawn[~np.isin(drawn, known)][: rule.missing(size, len(known))]
    open_items = wanted[~np.isin(wanted, answers.item[own])]
    return rows, open_items[:missing]


def frontier_step(
    tree: ClusterTree,
    pool: Pool,
    log: AnswerLog,
    *,
    rule: SampleRule,
    priority: Priority,
    budget: int,
    seed: int,
    name: str,
) -> PolicyStep:
    """One step of a frontier search. Time O(n + visited nodes · log), memory O(n)."""
    questions, rows = QuestionRows(budget), DecisionRows(0.95)
    if not len(pool):
        return finish_step(tree, log, rows.build(), questions.build(), done=True)
    means = tree.means(pool.prior)
    answers = AnswersByNode(tree, log)
    # memory views: reading single elements is twice as fast as from arrays
    start, stop, mean = tree.start.data, tree.stop.data, means.data
    left, right, n = tree.left.data, tree.right.data, len(pool)
    waiting = False
    found = 0
    frontier: list[tuple[float, int, int, npt.NDArray[np.int64]]] = []

    def push(node: int, inherited: npt.NDArray[np.int64]) -> None:
        nonlocal found
        if stop[node] - start[node] < rule.min_size:
            return
        if len(inherited):
            at = answers.place[inherited]
            inherited = inherited[(at >= start[node]) & (at < stop[node])]
        heapq.heappush(frontier, (priority(node, found, mean[node]), found, node, inherited))
        found += 1

    push(tree.root, answers.of_no_node())
    while frontier:
        _, _, node, inherited = heapq.heappop(frontier)
        size = stop[node] - start[node]
        speak = inherited
        action = Action.SPLIT
        if mean[node] >= rule.prior or size <= rule.min_size:
            if not (questions.room or len(inherited) or answers.any_of(node)):
                waiting = True  # nothing is known about it and nothing more can be asked at this step
                continue
            speak, ask = judge(tree, answers, node, inherited, rule, seed)
            if len(ask):
                waiting = True
                questions.add(ask, cluster=node, stream=Stream.SEARCH, inclusion=min(1.0, rule.sample / size))
                continue
            yes = float(answers.yes[speak].sum())
            action = rule.decide(yes / len(speak))
            rows.add(action, cluster=node, asked=len(speak), yes=round(yes), test=name)
        if action == Action.SPLIT and node >= n:
            push(left[node - n], speak)
            push(right[node - n], speak)
    return finish_step(tree, log, rows.build(), questions.build(), done=not waiting)


class FrontierSearch(LabelPolicy):
    """The published search; subclasses say in which order nodes are looked at.

    Parameters
    ----------
    rule : thresholds by name, see ``SampleRule``
    """

    name = ""

    def __init__(self, **rule: Any) -> None:
        self.rule = SampleRule(**rule)

    def priority(self, seed: int) -> Priority:
        """The order in which nodes are looked at; ``seed`` is for orders drawn by chance."""
        raise NotImplementedError

    def label_step(
        self, tree: ClusterTree, pool: Pool, log: AnswerLog, *, budget: int, seed: int
    ) -> PolicyStep:
        """Repeat the search with everything answered; see ``SearchPolicy``."""
        return frontier_step(
            tree,
            pool,
            log,
            rule=self.rule,
            priority=self.priority(seed),
            budget=budget,
            seed=seed,
            name=self.name,
        )


def finish_step(
    tree: ClusterTree, log: AnswerLog, decisions: Decisions, questions: Questions, *, done: bool
) -> PolicyStep:
    """The result of a step: labels of the members beside decisions and questions."""
    label, decision = label_members(tree, decisions, log)
    return PolicyStep(questions=questions, decisions=decisions, label=label, decision=decision, done=done)
