"""Decisions -> a label for every member with its provenance, and answers carried over to the next pool.

Labels are derived from the log alone: withdrawing an answer means calling the policy with the log without it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clustering.answers import AnswerLog, Decisions, PolicyStep, SearchPolicy, verified_labels
from clustering.pool import Pool
from clustering.trees import ClusterTree

__all__ = [
    "CARRY_OVER_IOU",
    "Propagation",
    "Provenance",
    "carry_over",
    "match_pools",
    "propagate",
    "withdraw",
]

CARRY_OVER_IOU = 0.9
"""Two masks are the same mask, and share their answers, from this IoU on."""


@dataclass(frozen=True, slots=True, eq=False)
class Provenance:
    """Why one instance has its label.

    Attributes
    ----------
    item : row of the pool
    label : +1, -1 or 0
    verified : the instance's own verdict decided, not a propagated decision
    test : name of the rule or test behind the decision, "verdict" for a verified one, "" for none
    cluster : node that was decided, negative = a set that is no node, or none
    lower, upper, confidence : interval of the purity behind a propagated label, NaN otherwise
    answers : (a,) int64, rows of the log that speak for it
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
    # a policy that labels a verified item by a decision would contradict the person who looked at it
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
    """Take answers back: the log without ``rows`` and what follows from it, as if never given."""
    keep = np.ones(len(log), bool)
    keep[np.asarray(rows, np.int64)] = False
    rest = log.take(keep)
    return rest, policy.step(tree, pool, rest, budget=budget, seed=seed)


def match_pools(
    old: npt.ArrayLike,
    new: npt.ArrayLike,
    iou: npt.ArrayLike,
    same_label: npt.ArrayLike,
    *,
    threshold: float = CARRY_OVER_IOU,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """One-to-one pairs of instances of two pools that are the same mask.

    Candidates are taken greedily, highest IoU first; pairs below ``threshold`` or of another label never.

    Parameters
    ----------
    old, new : (c,) int rows of the two pools; iou : (c,) mask IoU; same_label : (c,) bool

    Returns
    -------
    old, new : (p,) int64, sorted by ``old``. Time O(c log c).

    Raises
    ------
    ValueError : the columns have different lengths or an IoU is not within 0..1
    """
    a, b = np.asarray(old, np.int64), np.asarray(new, np.int64)
    overlap, same = np.asarray(iou, np.float64), np.asarray(same_label, bool)
    if not len(a) == len(b) == len(overlap) == len(same):
        raise ValueError(f"candidate columns have {len(a)}, {len(b)}, {len(overlap)} and {len(same)} rows")
    if len(overlap) and not (np.isfinite(overlap).all() and overlap.min() >= 0 and overlap.max() <= 1 + 1e-9):
        raise ValueError("an IoU is not within 0..1")
    usable = np.flatnonzero(same & (overlap >= threshold))
    usable = usable[np.lexsort((b[usable], a[usable], -overlap[usable]))]
    a, b = a[usable], b[usable]
    chosen: list[npt.NDArray[np.int64]] = []
    # whoever is first in the order for both of its instances is a pair; take those, drop their rivals, repeat
    while len(a):
        _, first_a = np.unique(a, return_index=True)
        _, first_b = np.unique(b, return_index=True)
        pairs = np.intersect1d(first_a, first_b)
        chosen.append(np.stack([a[pairs], b[pairs]]))
        left = ~(np.isin(a, a[pairs]) | np.isin(b, b[pairs]))
        a, b = a[left], b[left]
    if not chosen:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    both = np.concatenate(chosen, axis=1)
    both = both[:, np.argsort(both[0], kind="stable")]
    return both[0], both[1]


def carry_over(
    log: AnswerLog,
    old: npt.ArrayLike,
    new: npt.ArrayLike,
    iou: npt.ArrayLike,
    same_label: npt.ArrayLike,
    *,
    threshold: float = CARRY_OVER_IOU,
) -> tuple[AnswerLog, npt.NDArray[np.int64]]:
    """The answers of an earlier pool that also answer the new pool.

    Carried answers lose their node and their stream's randomness: they come back as ``cluster`` -1 and
    inclusion 1, so that no test mistakes them for a random sample of the new pool; they verify their items
    and teach the verifier.

    Parameters
    ----------
    log : answers about the old pool
    old, new, iou, same_label : candidate pairs, see ``match_pools``

    Returns
    -------
    carried : AnswerLog over rows of the new pool, in the order of ``log``
    rows : (len(carried),) int64, the rows of ``log`` they come from
    """
    from_rows, to_rows = match_pools(old, new, iou, same_label, threshold=threshold)
    if not len(from_rows) or not len(log):
        return AnswerLog.empty(), np.zeros(0, np.int64)
    at = np.minimum(np.searchsorted(from_rows, log.item), len(from_rows) - 1)
    rows = np.flatnonzero(from_rows[at] == log.item)
    k = len(rows)
    carried = AnswerLog(
        item=to_rows[at[rows]],
        yes=log.yes[rows],
        cluster=np.full(k, -1, np.int64),
        stream=np.zeros(k, np.int8),
        inclusion=np.ones(k, np.float64),
    )
    return carried, rows
