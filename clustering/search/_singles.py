"""Masks that people said yes to, where people err: which of them keep the promise.

Let a bad mask get a yes with probability at most a = 1 - specificity, whatever was answered before. Take the
masks of a fixed list that were asked about: K got a yes, L a no. If F of the K are bad, then F of at least
F + (bad ones among the L) <= F + L bad masks got a yes. For the mixture e-value of Robbins (1970) against
"at most a", such an outcome has the value e(F, F + L) or more. It reaches 1 / alpha with probability at most
alpha, at any moment and whichever masks were asked about next. So with F* the smallest number of bad masks
that would break the promise among the K, the list keeps it if e(F*, F* + L) >= 1 / alpha.

The lists are cut from an order that was fixed before these answers, best first. A list that fails may pass by
the second answers to its masks that got a yes at first, or by the third: the same test, with those answers.

Assumptions: each answer errs with at most the stated probability, independently of the answers before it;
the answers of one mask come from different people.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clustering.arrays import Bools, Ints
from clustering.evidence import Noise, binomial_log_e_value
from clustering.search._plan import CONFIRM_PARTS

__all__ = ["CUTS", "Singles", "answer_runs", "test_singles"]

CUTS = (0.9, 0.8, 0.7, 0.5, 0.3, 0.2, 0.1, 0.0)
"""Predicted probabilities of being good at which the order is cut into lists."""


@dataclass(frozen=True, slots=True, eq=False)
class Singles:
    """What people's yes is worth.

    Attributes
    ----------
    accepted : (n,) bool, masks whose yes counts
    open : (k,) int64, masks that need one more yes, best first
    asked, yes : answers that the test read, and yes among them
    """

    accepted: Bools
    open: Ints
    asked: int
    yes: int


def answer_runs(item: Ints, answer: npt.NDArray[np.floating], n: int) -> tuple[Ints, Ints]:
    """Answers per instance in the order given: how many there are, and how many yes came before the first no.

    Parameters
    ----------
    item : (m,) int64; answer : (m,) 1 yes, 0 no, NaN neither (counts as no)

    Returns
    -------
    count : (n,) int64; run : (n,) int64
    """
    count = np.bincount(item, minlength=n).astype(np.int64)
    by_item = np.argsort(item, kind="stable")
    said = np.nan_to_num(answer[by_item]).astype(np.int64)
    begin = np.concatenate([[0], np.cumsum(count)[:-1]])
    place = np.arange(len(item)) - begin[item[by_item]]
    # a no at place p ends the run there
    run = count.copy()
    no = said == 0
    np.minimum.at(run, item[by_item][no], place[no])
    return count, run


def test_singles(
    order: Ints, ends: Ints, count: Ints, run: Ints, *, purity: float, noise: Noise, alpha: float
) -> Singles:
    """Which masks that got a yes are accepted.

    Parameters
    ----------
    order : (M,) int64, masks in an order that does not depend on their answers, best first
    ends : increasing places of ``order`` where a list may end, as fixed beforehand as the order
    count, run : (n,) int64, see ``answer_runs``
    alpha : error of the whole test
    """
    accepted = np.zeros(len(count), bool)
    begin, asked, yes = 0, 0, 0
    for level, part in enumerate(CONFIRM_PARTS, start=1):
        left = ends[ends > begin]
        if not len(left):
            break
        p = [_p_value(order[begin:end], count, run, level, purity, noise) for end in left.tolist()]
        if level == 1:
            # each list has a fixed part of the error: whether a list keeps the promise changes with the
            # answers, so no list may hand its part on to the next
            passed = np.array(p) <= alpha * part / len(ends)
        else:
            # the list begins where the level before ended, which its answers decided: all pairs of a
            # beginning and an end share the error
            pairs = len(ends) * (len(ends) + 1) / 2
            passed = np.array(p) <= alpha * part / pairs
        if not passed.any():
            continue
        end = int(left[np.flatnonzero(passed)[-1]])
        mine = order[begin:end]
        accepted[mine] = run[mine] >= level
        asked += int(((run[mine] >= level - 1) & (count[mine] >= level)).sum())
        yes += int((run[mine] >= level).sum())
        begin = end
    rest = order[begin:]
    waiting = rest[(run[rest] == count[rest]) & (count[rest] > 0) & (count[rest] < len(CONFIRM_PARTS))]
    return Singles(accepted, waiting, asked, yes)


def _p_value(members: Ints, count: Ints, run: Ints, level: int, purity: float, noise: Noise) -> float:
    """P-value against "of the masks of the list with ``level`` yes in a row, too few are good"."""
    tried = (run[members] >= level - 1) & (count[members] >= level)
    yes = int((run[members] >= level).sum())
    no = int(tried.sum()) - yes
    if not yes:
        return 1.0
    broken = int(np.floor((1.0 - purity) * yes + 1e-9)) + 1
    if broken > yes:
        return 1.0
    if noise.specificity >= 1.0:
        return 0.0
    log_e = float(binomial_log_e_value(broken, broken + no, share=1.0 - noise.specificity))
    return float(np.exp(-max(log_e, 0.0)))
