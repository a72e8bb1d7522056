"""The pure part of the order step: from what a model found to an order, arrays in, arrays out.

The worker (``sync.rounds.order``) and the evaluation of orders (``sync.lab.al_evaluation``) share it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from clustering.task_order import OrderRule, Ranking, class_need, rank_tasks
from ml_backend.learners.doubt_scorer import DoubtScorer
from ml_backend.learners.uncertainty import doubts_of_tasks

__all__ = ["Measured", "Ranked", "doubt_of", "measure", "rank_measured", "rule_for", "worth"]

Floats = npt.NDArray[np.float64]
Features = npt.NDArray[np.float32]

_ENOUGH_LABELS: Final = 10
"""Labelled objects of a class from which the model's doubts are fully trusted: with fewer, what is typical is
the better choice (Hacohen et al. 2022 find the change at 10 to 20 labels per class)."""
_FEWEST_AHEAD: Final = 500


@dataclass(frozen=True, slots=True)
class Measured:
    """What a model found on n pictures, as far as their order depends on it.

    Attributes
    ----------
    doubts : (n,) columns by name, NaN where a picture lacks one
    shown : (n, k) expected number of objects of each label among what is shown
    best : (n,) highest score of anything found
    """

    doubts: Mapping[str, Floats]
    shown: Floats
    best: Floats

    def first(self, n: int) -> Measured:
        """The first n pictures."""
        return Measured({k: v[:n] for k, v in self.doubts.items()}, self.shown[:n], self.best[:n])


@dataclass(frozen=True, slots=True, eq=False)
class Ranked:
    """An order, and the columns it was made from; ``rule`` has the trust in the doubts filled in."""

    ranking: Ranking
    doubt: Floats
    need: Floats
    rule: OrderRule


def rule_for(
    method: str, *, diversity: float | None = None, balance: float | None = None, explore: float | None = None
) -> OrderRule:
    """The exponents of a method: those given, else the defaults for ``ours`` and 0 for all others."""
    ours = OrderRule()

    def chosen(value: float | None, default: float) -> float:
        return (default if method == "ours" else 0.0) if value is None else value

    return OrderRule(
        diversity=chosen(diversity, ours.diversity),
        balance=chosen(balance, ours.balance),
        explore=chosen(explore, ours.explore),
    )


def measure(
    at: npt.NDArray[np.integer],
    label: npt.NDArray[np.integer],
    score: npt.NDArray[np.floating],
    quality: npt.NDArray[np.floating],
    given: Sequence[Mapping[str, float]],
    labels: int,
    *,
    shown_from: float,
) -> Measured:
    """Measure pictures.

    Parameters
    ----------
    at : (m,) the picture of each instance, below n
    label : (m,) its label below ``labels``, negative = none of them
    score, quality : (m,) 0..1
    given : for each of the n pictures, the doubts that the model itself names; they go first
    """
    n = len(given)
    doubts = doubts_of_tasks(at, score, quality, n, shown_from=shown_from)
    for name in sorted({name for entry in given for name in entry}):
        column = np.array([entry.get(name, np.nan) for entry in given], np.float64)
        doubts[name] = np.where(np.isfinite(column), column, doubts.get(name, np.full(n, np.nan)))
    sure = np.clip(np.nan_to_num(np.asarray(score, np.float64)), 0.0, 1.0)
    seen = (label >= 0) & (sure >= shown_from)
    shown, best = np.zeros((n, labels)), np.zeros(n)
    np.add.at(shown, (at[seen], label[seen]), sure[seen])
    np.maximum.at(best, at, sure)
    return Measured(doubts, shown, best)


def doubt_of(method: str, measured: Measured, scorer: DoubtScorer, tasks: Sequence[int], seed: int) -> Floats:
    """(n,) 0..1: what the method orders by, highest first."""
    if method == "max_probability":
        return np.asarray(np.clip(measured.best, 0.0, 1.0), np.float64)
    if method == "random":
        return np.array([_chance(seed, task) for task in tasks], np.float64)
    if method == "sequential":
        return np.asarray(1.0 / (1.0 + np.asarray(tasks, np.float64)), np.float64)
    return scorer.values(measured.doubts, len(tasks))


def rank_measured(
    method: str,
    measured: Measured,
    scorer: DoubtScorer,
    rule: OrderRule,
    *,
    tasks: Sequence[int],
    labelled: Sequence[int],
    feature: Features,
    labelled_feature: Features | None,
    seed: int,
    batch: int,
    last: npt.NDArray[np.bool_] | None = None,
) -> Ranked:
    """The order of n pictures.

    Parameters
    ----------
    tasks : (n,) their ids
    labelled : (k,) labelled objects of each label
    feature, labelled_feature : (n, f) and (m, f) vectors of them and of labelled pictures; f may be 0
    batch : labelled pictures after which there is a new model
    last : (n,) those that come after all others, see ``rank_tasks``
    """
    doubt = doubt_of(method, measured, scorer, tasks, seed)
    need = class_need(measured.shown, np.asarray(labelled, np.float64))
    trust = 1.0
    if method == "ours" and len(labelled):
        trust = float(np.minimum(np.asarray(labelled) / _ENOUGH_LABELS, 1.0).mean())
    rule = replace(rule, doubt=trust, ahead=max(_FEWEST_AHEAD, 10 * batch))
    ranking = rank_tasks(
        doubt, feature, need=need, labelled=labelled_feature, last=last, rule=rule, seed=seed
    )
    return Ranked(ranking, doubt, need, rule)


def worth(doubt: Floats, need: Floats, rule: Mapping[str, float]) -> Floats:
    """(n,) what later pictures are compared by: doubt and need with the exponents of the ``rule``; the less
    doubt the more, where the most confident come first.
    """
    if rule.get("most"):
        return np.asarray(1.0 - doubt, np.float64)
    return np.asarray(doubt ** float(rule["doubt"]) * need ** float(rule["balance"]), np.float64)


def _chance(seed: int, task: int) -> float:
    """A number in 0..1 that follows from seed and task."""
    digest = hashlib.blake2b(f"{seed} {task}".encode(), digest_size=7).digest()
    return int.from_bytes(digest, "big") / 2.0**56
