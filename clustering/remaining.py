"""How many pictures with a label are still unlabelled, and whether one may stop looking for more.

Who labels the likeliest pictures first sees the positives run dry, but that may only mean that the model
does not know the rest. So some picks are drawn with known probabilities: with probability ε a pick is
uniform over what is left. If R of the n pictures left are positive and picture i is drawn with probability
q_i, then y_i / q_i has the mean R (Horvitz & Thompson 1952), whatever the model believes. Each pick
therefore gives an estimate of the total, found so far plus y / q, and their weighted mean is the estimate
(the levelled estimators of active testing are such means: Farquhar et al. 2021, arXiv 2101.11665).

The upper bound is a bet against "the total is P or more" (Waudby-Smith & Ramdas 2024, arXiv 2010.09686): a
pick multiplies the wealth by ``1 + λ (R - y / q)``, which is fair when P is true, for any stake known
before the pick that keeps the factor from falling below 0. By Ville's inequality the wealth ever reaches 1
/ α with probability at most α. So the bound holds after every answer at once, and one may stop because of
it.

What it costs: while k uniform picks of n left show no positive, about ``3 n / k`` positives can be left
unseen (at 95 %). Small ε or rare labels need many answers; no method that trusts no model can do with less.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from clustering.arrays import Bools, Floats, Ints
from clustering.evidence.sequential import BETS

__all__ = ["Picks", "Remaining", "remaining_log_wealth", "remaining_positives"]


@dataclass(frozen=True, slots=True, eq=False)
class Picks:
    """t pictures in the order in which they were drawn to be labelled.

    Attributes
    ----------
    positive : (t,) bool, whether people gave it the label
    answered : (t,) bool; False: nobody has answered (yet), or they skipped it
    probability : (t,) float64 in (0, 1], with which this picture was drawn, given all picks before it
    least : (t,) float64, the smallest such probability that any picture left had: ε / n with n pictures left
    gone : (t,) int64, at least so many positives were no longer among the pictures drawn from

    Raises ValueError when columns differ in length or probabilities are out of range.
    """

    positive: Bools
    answered: Bools
    probability: Floats
    least: Floats
    gone: Ints

    def __post_init__(self) -> None:
        columns = (self.positive, self.answered, self.probability, self.least, self.gone)
        if len({len(column) for column in columns}) > 1:
            raise ValueError("columns of the picks have different lengths")
        q, least = self.probability, self.least
        if (least <= 0).any() or (q < least * (1 - 1e-9)).any() or (q > 1 + 1e-9).any():
            raise ValueError("probabilities of picks must lie between the least one, above 0, and 1")

    def __len__(self) -> int:
        return len(self.positive)

    @property
    def assumed(self) -> Bools:
        """(t,) positive, or without an answer: people may skip just the positives."""
        return np.asarray(self.positive | ~self.answered)

    @classmethod
    def in_turn(
        cls, positive: Bools, answered: Bools, probability: Floats, least: Floats, *, gone: int = 0
    ) -> Picks:
        """Picks from one set of pictures, one after the other; ``gone`` positives were labelled before."""
        assumed = (positive | ~answered).astype(np.int64)
        return cls(positive, answered, probability, least, gone + np.cumsum(assumed) - assumed)

    @classmethod
    def joined(cls, parts: Sequence[Picks]) -> Picks:
        """The picks of several parts, one part after the other."""
        if not parts:
            none = np.zeros(0)
            return cls(none.astype(bool), none.astype(bool), none, none, none.astype(np.int64))
        names = ("positive", "answered", "probability", "least", "gone")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


@dataclass(frozen=True, slots=True)
class Remaining:
    """Positives among the pictures without an answer.

    Attributes
    ----------
    found : positives among the answers
    left : pictures without an answer
    estimate : about so many positives are left; None without an answer to a pick
    upper : at most so many are left, with probability 1 - alpha
    may_stop : whether that is few enough
    """

    found: int
    left: int
    estimate: float | None
    upper: int
    may_stop: bool


def remaining_positives(
    picks: Picks, *, found: int, left: int, alpha: float = 0.05, miss: float = 0.05
) -> Remaining:
    """Estimate and upper bound of the positives among ``left`` pictures without an answer.

    ``found``: positives among all answers, also those to pictures that were not drawn by chance. ``miss``:
    stopping is suggested once at most this share of all positives is left, with probability 1 - alpha.
    Time O(t · log left).
    """
    # the wealth grows with the total: the largest total that is not ruled out is found by bisection
    upper, ruled_out = 0, left + 1
    while ruled_out - upper > 1:
        middle = (upper + ruled_out) // 2
        wealth = remaining_log_wealth(picks, found + middle)
        if len(wealth) and wealth.max() >= -np.log(alpha):
            ruled_out = middle
        else:
            upper = middle
    estimate = None
    if picks.answered.any():
        use = picks.answered
        said = picks.gone[use] + picks.positive[use] / picks.probability[use]
        # the variance of what one pick says is about ∝ 1 / least
        total = float(np.average(said, weights=picks.least[use]))
        estimate = float(np.clip(total - found, 0.0, left))
    return Remaining(found, left, estimate, upper, upper <= miss * (found + upper))


def remaining_log_wealth(picks: Picks, total: int) -> Floats:
    """(t,) log wealth after each pick when betting that fewer than ``total`` of all pictures are positive.

    With ``total`` the true number or less, it ever reaches log(1 / alpha) with probability at most alpha. It
    grows with ``total``. Pictures without an answer count as positive.
    """
    rest = np.maximum(total - picks.gone, 0.0)
    # the factor is lowest, 1 - stake, for a positive of the least probability
    room = np.maximum(1.0 / picks.least - rest, 1e-9)
    gain = (rest - picks.assumed / picks.probability) / room
    factor = np.maximum(1.0 + BETS[None, :] * gain[:, None], 0.0)
    with np.errstate(divide="ignore"):
        paths = np.cumsum(np.log(factor), axis=0)
    wealth: Floats = special.logsumexp(paths, axis=1) - np.log(len(BETS))
    return wealth
