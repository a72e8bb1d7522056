"""What all policies share: checks of arguments, collecting questions and decisions, labels of members."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from clustering.answers import (
    Action,
    AnswerLog,
    Decisions,
    Form,
    PolicyStep,
    Questions,
    Stream,
    verified_labels,
)
from clustering.evidence import clopper_pearson
from clustering.pool import Pool
from clustering.project_pool import ProjectPool
from clustering.trees import ClusterTree

__all__ = [
    "DecisionRows",
    "LabelPolicy",
    "QuestionRows",
    "check_arguments",
    "label_members",
]


def check_arguments(project: ProjectPool, log: AnswerLog, budget: int) -> None:
    """Raise ValueError where project, log and budget do not fit each other."""
    if budget < 0:
        raise ValueError(f"budget is {budget}: it must be 0 or more questions")
    if len(log) and (int(log.item.min()) < 0 or int(log.item.max()) >= len(project)):
        raise ValueError(f"the log names item {int(log.item.max())}, the pool has {len(project)} rows")


class LabelPolicy:
    """A policy that treats each label on its own, with the tree of that label."""

    name = ""

    def label_step(
        self, tree: ClusterTree, pool: Pool, log: AnswerLog, *, budget: int, seed: int
    ) -> PolicyStep:
        """The step for one label; rows of ``log`` are rows of ``pool``."""
        raise NotImplementedError

    def step(
        self, project: ProjectPool, log: AnswerLog, *, budget: int, seed: int, certificate: int = 1
    ) -> PolicyStep:
        """The steps of all labels, one after the other until the budget is used up; see ``SearchPolicy``.

        Raises ValueError where the project has no trees.
        """
        check_arguments(project, log, budget)
        if project.trees is None:
            raise ValueError(f"the policy {self.name} needs the cluster trees of the labels")
        steps: list[PolicyStep] = []
        for number, (tree, pool) in enumerate(zip(project.trees, project.pools, strict=True)):
            low, high = project.offset[number], project.offset[number + 1]
            mine = log.take((log.item >= low) & (log.item < high))
            mine = replace(mine, item=mine.item - low)
            left = budget - sum(len(step.questions) for step in steps)
            steps.append(self.label_step(tree, pool, mine, budget=left, seed=label_seed(seed, number)))
        return _joined(project, steps)


def label_seed(seed: int, label: int) -> int:
    """A seed of its own for each label; label 0 keeps the seed."""
    return seed if not label else int(np.random.SeedSequence([seed, label]).generate_state(1)[0])


def _joined(project: ProjectPool, steps: list[PolicyStep]) -> PolicyStep:
    """The steps of the labels as one step of the project."""
    n = len(project)
    label, decision = np.zeros(n, np.int8), np.full(n, -1, np.int64)
    first_row = 0
    for number, step in enumerate(steps):
        rows = slice(int(project.offset[number]), int(project.offset[number + 1]))
        label[rows] = step.label
        decision[rows] = np.where(step.decision >= 0, step.decision + first_row, -1)
        first_row += len(step.decisions)
    asked = [
        replace(step.questions, item=step.questions.item + project.offset[number])
        for number, step in enumerate(steps)
    ]
    decided = [
        replace(step.decisions, label=np.full(len(step.decisions), number, np.int64))
        for number, step in enumerate(steps)
    ]
    columns = _stacked(decided, DecisionRows(0.95).build(), leave="test")
    tests = tuple(test for step in steps for test in step.decisions.test)
    return PolicyStep(
        questions=Questions(**_stacked(asked, Questions.empty())),
        decisions=Decisions(**columns, test=tests),
        label=label,
        decision=decision,
        done=all(step.done for step in steps),
    )


def _stacked(parts: Sequence[Any], empty: Any, *, leave: str = "") -> dict[str, Any]:
    """Each array column of the parts, one below the other; those of ``empty`` where there is no part."""
    names = [field.name for field in fields(empty) if field.name != leave]
    return {name: np.concatenate([getattr(part, name) for part in [*parts, empty]]) for name in names}


@dataclass(slots=True)
class QuestionRows:
    """Collects questions up to a budget."""

    budget: int
    _blocks: list[Questions] = field(default_factory=list)
    _count: int = 0

    def __len__(self) -> int:
        return self._count

    @property
    def room(self) -> int:
        """How many questions may still be added."""
        return self.budget - self._count

    def add(
        self,
        items: npt.NDArray[np.int64],
        *,
        stream: Stream,
        inclusion: npt.NDArray[np.float64] | float,
        cluster: int = -1,
        phase: int = -1,
        sheet: npt.NDArray[np.int64] | None = None,
    ) -> None:
        """Add as many of ``items`` as the budget has room for; ``sheet`` -1 means asked singly."""
        items = items[: self.room]
        q = len(items)
        if not q:
            return
        sheets = np.full(q, -1, np.int64) if sheet is None else sheet[:q]
        self._blocks.append(
            Questions(
                item=items.astype(np.int64),
                cluster=np.full(q, cluster, np.int64),
                phase=np.full(q, phase, np.int64),
                stream=np.full(q, stream, np.int8),
                inclusion=np.broadcast_to(np.asarray(inclusion, np.float64), (q,))[:q].copy()
                if np.ndim(inclusion) == 0
                else np.asarray(inclusion, np.float64)[:q],
                form=np.where(sheets >= 0, Form.SHEET, Form.SINGLE).astype(np.int8),
                sheet=sheets,
            )
        )
        self._count += q

    def build(self) -> Questions:
        """All questions added, in that order."""
        if not self._blocks:
            return Questions.empty()
        return Questions(**_stacked(self._blocks, Questions.empty()))


@dataclass(slots=True)
class DecisionRows:
    """Collects decisions. ``confidence`` is the level of intervals that a test does not give itself."""

    confidence: float
    _rows: list[tuple[int, int, int, int, int, int, str]] = field(default_factory=list)
    _bounds: dict[int, tuple[float, float, float]] = field(default_factory=dict)

    def add(
        self,
        action: Action,
        *,
        asked: int,
        yes: int,
        test: str,
        label: int = -1,
        cluster: int = -1,
        phase: int = -1,
        bounds: tuple[float, float, float] | None = None,
    ) -> int:
        """Add a row and return its number; ``bounds`` = (lower, upper, confidence) if the test gives them."""
        if bounds is not None:
            self._bounds[len(self._rows)] = bounds
        self._rows.append((cluster, phase, int(action), asked, yes, label, test))
        return len(self._rows) - 1

    def build(self) -> Decisions:
        """All decisions added; where no bounds were given, with Clopper-Pearson intervals."""
        numbers = np.array([row[:6] for row in self._rows], np.int64).reshape(-1, 6)
        # a two-sided interval at level c is a pair of one-sided bounds at error (1-c)/2
        lower, upper = clopper_pearson(numbers[:, 4], numbers[:, 3], alpha=(1.0 - self.confidence) / 2.0)
        confidence = np.full(len(numbers), self.confidence)
        for row, (low, high, level) in self._bounds.items():
            lower[row], upper[row], confidence[row] = low, high, level
        return Decisions(
            label=numbers[:, 5],
            cluster=numbers[:, 0],
            phase=numbers[:, 1],
            action=numbers[:, 2].astype(np.int8),
            asked=numbers[:, 3],
            yes=numbers[:, 4],
            lower=lower,
            upper=upper,
            confidence=confidence,
            test=tuple(row[6] for row in self._rows),
        )


def label_members(
    tree: ClusterTree, decisions: Decisions, log: AnswerLog
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int64]]:
    """Propagate decisions on nodes to their members, then let every own verdict overrule.

    Accepted or rejected nodes must be disjoint, which a top-down search guarantees.

    Returns
    -------
    label : (n,) int8, decision : (n,) int64, as in ``PolicyStep``
    """
    n = len(tree)
    label = np.zeros(n, np.int8)
    decision = np.full(n, -1, np.int64)
    for row in np.flatnonzero((decisions.action == Action.ACCEPT) | (decisions.action == Action.REJECT)):
        members = tree.members(int(decisions.cluster[row]))
        label[members] = 1 if decisions.action[row] == Action.ACCEPT else -1
        decision[members] = row
    verified = verified_labels(log, n)
    own = verified != 0
    label[own] = verified[own]
    decision[own] = -1
    return label, decision
