"""The cascade of linear classifiers that LSUN was built with (Yu et al. 2015, arXiv 1506.03365).

A baseline: it uses no tree and gives no bound on the error.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clustering.answers import (
    Action,
    AnswerLog,
    PolicyStep,
    Questions,
    Stream,
    final_verdicts,
    verified_labels,
)
from clustering.arrays import Floats, Ints
from clustering.pool import Pool
from clustering.search._parts import DecisionRows, LabelPolicy, QuestionRows
from clustering.trees import ClusterTree

__all__ = ["Lsun", "held_out_thresholds"]

_LEAST, _MOST = 100, 4000


class Lsun(LabelPolicy):
    """Repeat: ask about a random sample, fit a linear SVM to 80 % of it, take two thresholds from the rest.

    Instances above the upper threshold are accepted, those below the lower one rejected; the next iteration
    goes on with those between. The SVM reads embedding, score, quality and extras, each scaled by its spread
    in the sample. As published, the thresholds have no margin for the small number of held-out answers.

    Parameters
    ----------
    labels : answers per iteration; None = ``share`` of the pool, at least 100 and at most 4,000 (published:
        4,000 of pools of hundreds of thousands)
    share : see ``labels``
    iterations : most iterations. Published: 100 of 4,000 labels. Ten with the default share ask about half of
        a pool
    accept : precision among held-out answers above the upper threshold
    lost : largest share of held-out yes answers below the lower threshold
    train : share of the answers the SVM is fitted to

    Raises
    ------
    ValueError : a value is out of its range
    """

    name = "lsun"

    def __init__(
        self,
        *,
        labels: int | None = None,
        share: float = 0.05,
        iterations: int = 10,
        accept: float = 0.95,
        lost: float = 0.01,
        train: float = 0.8,
    ) -> None:
        if labels is not None and labels < 2:
            raise ValueError(f"labels is {labels}: one to fit and one to hold out are the least")
        if iterations < 1:
            raise ValueError(f"iterations is {iterations}: it must be 1 or more")
        for name, value in (("share", share), ("accept", accept), ("train", train)):
            if not 0.0 < value <= 1.0 or (name == "train" and value == 1.0):
                raise ValueError(f"{name} is {value}: it must lie between 0 and 1")
        if not 0.0 <= lost < 1.0:
            raise ValueError(f"lost is {lost}: it must be 0 or more and below 1")
        self.labels, self.share, self.iterations = labels, share, iterations
        self.accept, self.lost, self.train = accept, lost, train

    def label_step(
        self, tree: ClusterTree, pool: Pool, log: AnswerLog, *, budget: int, seed: int
    ) -> PolicyStep:
        """Repeat the cascade with everything answered; see ``SearchPolicy``.

        Time O(iterations · n · features), memory O(n + labels · features).
        """
        n = len(pool)
        questions, rows = QuestionRows(budget), DecisionRows(0.95)
        label, decision = np.zeros(n, np.int8), np.full(n, -1, np.int64)
        verdict = np.full(n, np.nan)
        items, yes = final_verdicts(log)
        verdict[items] = yes
        wanted = self.labels or int(np.clip(round(self.share * n), _LEAST, _MOST))
        done = True
        middle: Ints = np.arange(n)
        for iteration in range(self.iterations):
            if not len(middle):
                break
            rng = np.random.default_rng([seed, iteration])
            drawn = rng.choice(middle, min(wanted, len(middle)), replace=False)
            missing = drawn[np.isnan(verdict[drawn])]
            if len(missing):
                inclusion = len(drawn) / len(middle)
                questions.add(missing, phase=iteration, stream=Stream.SEARCH, inclusion=inclusion)
                done = False
                break
            middle = middle[~np.isin(middle, drawn)]
            told = drawn[verdict[drawn] != 0.5]
            cascade = self._fit(pool, told, verdict[told] > 0.5)
            if cascade is None or not len(middle):
                continue
            value = cascade.model.values(pool, middle)
            above, below = value >= cascade.upper, value < cascade.lower
            for chosen, action in ((above, Action.ACCEPT), (below & ~above, Action.REJECT)):
                asked, of_them = cascade.counts(action)
                row = rows.add(action, phase=iteration, asked=asked, yes=of_them, test=self.name)
                label[middle[chosen]] = 1 if action == Action.ACCEPT else -1
                decision[middle[chosen]] = row
            middle = middle[~(above | below)]
        verified = verified_labels(log, n)
        own = verified != 0
        label[own], decision[own] = verified[own], -1
        asked_next: Questions = questions.build()
        return PolicyStep(asked_next, rows.build(), label, decision, done)

    def _fit(self, pool: Pool, items: Ints, yes: npt.NDArray[np.bool_]) -> _Cascade | None:
        """Classifier and thresholds of one iteration; None where nothing is held out.

        ``items`` are in the order of the draw, so that the first 80 % are a random part of them.
        """
        cut = min(round(self.train * len(items)), len(items) - 1)
        if cut < 1:
            return None
        model = _fit_linear(pool, items[:cut], yes[:cut])
        value, good = model.values(pool, items[cut:]), yes[cut:]
        return _Cascade(model, value, good, *held_out_thresholds(value, good, self.accept, self.lost))


@dataclass(frozen=True, slots=True, eq=False)
class _Linear:
    """A linear decision value: weight (d,) and offset, where d counts all columns of the pool."""

    weight: Floats
    offset: float

    def values(self, pool: Pool, items: Ints) -> Floats:
        """(k,) decision values, in blocks: all columns at once would be another copy of the pool."""
        block = 65_536
        parts = [_columns(pool, items[at : at + block]) @ self.weight for at in range(0, len(items), block)]
        return np.concatenate([np.zeros(0), *parts]) + self.offset


@dataclass(frozen=True, slots=True, eq=False)
class _Cascade:
    """One iteration: the classifier, its values on the held-out answers, and the thresholds."""

    model: _Linear
    value: Floats
    good: npt.NDArray[np.bool_]
    upper: float
    lower: float

    def counts(self, action: Action) -> tuple[int, int]:
        """Held-out answers on the decided side of a threshold, and the yes among them."""
        side = self.value >= self.upper if action == Action.ACCEPT else self.value < self.lower
        return int(side.sum()), int(self.good[side].sum())


def _columns(pool: Pool, items: Ints) -> Floats:
    parts = [pool.embedding[items], pool.score[items, None], pool.quality[items, None], pool.extras[items]]
    return np.concatenate(parts, axis=1).astype(np.float64)


def _fit_linear(pool: Pool, items: Ints, yes: npt.NDArray[np.bool_]) -> _Linear:
    columns = _columns(pool, items)
    if yes.all() or not yes.any():
        # nothing to separate: equal values for all, so the held-out answers alone decide
        return _Linear(np.zeros(columns.shape[1]), 0.0)
    from sklearn.svm import LinearSVC

    mean, spread = columns.mean(axis=0), columns.std(axis=0)
    scale = np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > 1e-12)
    # the primal solver uses no random numbers
    fitted = LinearSVC(dual=False, C=1.0).fit((columns - mean) * scale, yes)
    weight = fitted.coef_[0] * scale
    return _Linear(weight, float(fitted.intercept_[0] - weight @ mean))


def held_out_thresholds(
    value: Floats, good: npt.NDArray[np.bool_], precision: float, lost: float
) -> tuple[float, float]:
    """The two thresholds of one iteration.

    Parameters
    ----------
    value : (k,) held-out decision values; good : (k,) bool, their verdicts

    Returns
    -------
    upper : smallest value such that at least ``precision`` of the answers at or above it are good; inf = none
    lower : below it lie at most a share ``lost`` of the good ones; inf where none is good
    """
    order = np.argsort(-value, kind="stable")
    sorted_value, hits = value[order], np.cumsum(good[order])
    # a threshold takes all equal values: only the last of them counts
    last = np.append(sorted_value[1:] < sorted_value[:-1], True)
    enough = np.flatnonzero(last & (hits >= precision * np.arange(1, len(value) + 1)))
    upper = float(sorted_value[enough[-1]]) if len(enough) else np.inf
    positives = np.sort(value[good])
    lower = float(positives[int(lost * len(positives))]) if len(positives) else np.inf
    return upper, lower
