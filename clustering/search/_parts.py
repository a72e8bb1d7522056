"""What all policies share: checks of arguments, collecting questions and decisions, labels of members."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from clustering.answers import Action, AnswerLog, Decisions, Form, Questions, Stream, verified_labels
from clustering.evidence import clopper_pearson
from clustering.pool import Pool
from clustering.trees import ClusterTree

__all__ = [
    "DecisionRows",
    "QuestionRows",
    "check_arguments",
    "label_members",
]


def check_arguments(tree: ClusterTree, pool: Pool, log: AnswerLog, budget: int) -> None:
    """Raise ValueError where tree, pool, log and budget do not fit each other."""
    if len(tree) != len(pool):
        raise ValueError(
            f"the tree has {len(tree)} instances, the pool {len(pool)}: build the tree from this pool"
        )
    if budget < 0:
        raise ValueError(f"budget is {budget}: it must be 0 or more questions")
    if len(log) and (int(log.item.min()) < 0 or int(log.item.max()) >= len(pool)):
        raise ValueError(f"the log names item {int(log.item.max())}, the pool has {len(pool)} rows")


@dataclass(slots=True)
class QuestionRows:
    """Collects questions up to a budget."""

    budget: int
    _blocks: list[Questions] = field(default_factory=list)
    _count: int = 0

    @property
    def room(self) -> int:
        """How many questions may still be added."""
        return self.budget - self._count

    def add(
        self,
        items: npt.NDArray[np.int64],
        *,
        cluster: int,
        stream: Stream,
        inclusion: npt.NDArray[np.float64] | float,
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
        columns = ("item", "cluster", "stream", "inclusion", "form", "sheet")
        return Questions(*(np.concatenate([getattr(block, c) for block in self._blocks]) for c in columns))


@dataclass(slots=True)
class DecisionRows:
    """Collects decisions. ``confidence`` is the level of intervals that a test does not give itself."""

    confidence: float
    _rows: list[tuple[int, int, int, int, str]] = field(default_factory=list)
    _bounds: dict[int, tuple[float, float, float]] = field(default_factory=dict)

    def add(
        self,
        cluster: int,
        action: Action,
        *,
        asked: int,
        yes: int,
        test: str,
        bounds: tuple[float, float, float] | None = None,
    ) -> int:
        """Add a row and return its number; ``bounds`` = (lower, upper, confidence) if the test gives them."""
        if bounds is not None:
            self._bounds[len(self._rows)] = bounds
        self._rows.append((cluster, int(action), asked, yes, test))
        return len(self._rows) - 1

    def build(self) -> Decisions:
        """All decisions added; where no bounds were given, with Clopper-Pearson intervals."""
        numbers = np.array([row[:4] for row in self._rows], np.int64).reshape(-1, 4)
        # a two-sided interval at level c is a pair of one-sided bounds at error (1-c)/2
        lower, upper = clopper_pearson(numbers[:, 3], numbers[:, 2], alpha=(1.0 - self.confidence) / 2.0)
        confidence = np.full(len(numbers), self.confidence)
        for row, (low, high, level) in self._bounds.items():
            lower[row], upper[row], confidence[row] = low, high, level
        return Decisions(
            cluster=numbers[:, 0],
            action=numbers[:, 1].astype(np.int8),
            asked=numbers[:, 2],
            yes=numbers[:, 3],
            lower=lower,
            upper=upper,
            confidence=confidence,
            test=tuple(row[4] for row in self._rows),
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
