"""From decisions to a label for every instance, with its provenance.

Labels are derived from the log alone: withdrawing an answer means calling the policy with the log without it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clustering.answers import AnswerLog, Decisions, PolicyStep, SearchPolicy, verified_labels
from clustering.pool import Pool
from clustering.trees import ClusterTree

__all__ = ["Propagation", "Provenance", "propagate", "withdraw"]


@dataclass(frozen=True, slots=True, eq=False)
class Provenance:
    """Why one instance has its label.

    Attributes
    ----------
    item : row of the pool
    label : +1, -1 or 0
    verified : the instance's own verdict decided, not a propagated decision
    test : name of the rule or test behind the decision, "verdict" for a verified one, "" for none
    cluster : node that was decided; negative = a certified set (see ``AnswerLog.cluster``), or nothing
    lower, upper, confidence : interval of the purity behind a propagated label, NaN otherwise
    answers : int64, rows of the log that the label rests on
    """

    item: int
    label: int
    verified: bool
    test: str
    cluster: int
    lower: float
    upper: float
    confidence: float
    answers: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Propagation:
    """Labels of a whole pool, with what is needed to explain each of them.

    Attributes
    ----------
    label : (n,) int8, +1 accepted, -1 rejected, 0 undecided
    verified : (n,) bool, label by the instance's own verdict
    decision : (n,) int64, row of ``decisions`` behind a propagated label, -1 otherwise
    purity : (n,) float64, lower bound of the purity behind a propagated label, NaN otherwise
    decisions : all decisions
    """

    label: npt.NDArray[np.int8]
    verified: npt.NDArray[np.bool_]
    decision: npt.NDArray[np.int64]
    purity: npt.NDArray[np.float64]
    decisions: Decisions

    @property
    def accepted(self) -> npt.NDArray[np.int64]:
        """Rows of the pool that are accepted."""
        return np.flatnonzero(self.label > 0)

    def explain(self, item: int, tree: ClusterTree, log: AnswerLog) -> Provenance:
        """Provenance of one instance.

        The answers behind a decision on a node are those on its members; behind a certified set, those with
        the set's own tag (see ``AnswerLog.cluster``); behind a verified label, those on the instance.

        Raises
        ------
        ValueError : the pool has no such row
        """
        if not 0 <= item < len(self.label):
            raise ValueError(f"item is {item}: the pool has {len(self.label)} rows")
        row = int(self.decision[item])
        label, verified = int(self.label[item]), bool(self.verified[item])
        if verified or row < 0:
            rows = np.flatnonzero(log.item == item)
            test = "verdict" if verified else ""
            return Provenance(item, label, verified, test, -1, np.nan, np.nan, np.nan, rows)
        node = int(self.decisions.cluster[row])
        rows = (
            np.flatnonzero(tree.is_member(node, log.item))
            if node >= 0
            else np.flatnonzero(log.cluster == node)
        )
        return Provenance(
            item,
            label,
            verified,
            self.decisions.test[row],
            node,
            float(self.decisions.lower[row]),
            float(self.decisions.upper[row]),
            float(self.decisions.confidence[row]),
            rows,
        )


def propagate(step: PolicyStep, log: AnswerLog) -> Propagation:
    """Labels and provenance of everything a policy decided. Time and memory O(n + m).

    Parameters
    ----------
    step : what the policy returned for ``log``
    log : the verdicts it was called with
    """
    n = len(step.label)
    verified = verified_labels(log, n) != 0
    # whoever looked at an instance overrules a decision about its cluster
    decision = np.where(verified, -1, step.decision)
    purity = np.full(n, np.nan)
    by_decision = decision >= 0
    purity[by_decision] = step.decisions.lower[decision[by_decision]]
    return Propagation(
        label=step.label, verified=verified, decision=decision, purity=purity, decisions=step.decisions
    )


def withdraw(
    policy: SearchPolicy,
    tree: ClusterTree,
    pool: Pool,
    log: AnswerLog,
    rows: npt.ArrayLike,
    *,
    budget: int,
    seed: int,
) -> tuple[AnswerLog, PolicyStep]:
    """Take answers back, as if they had never been given.

    Parameters
    ----------
    rows : int64, rows of ``log`` to take back
    tree, pool, budget, seed : as for ``SearchPolicy.step``

    Returns
    -------
    The log without ``rows``, and the step of the policy on it.
    """
    keep = np.ones(len(log), bool)
    keep[np.asarray(rows, np.int64)] = False
    rest = log.take(keep)
    return rest, policy.step(tree, pool, rest, budget=budget, seed=seed)
