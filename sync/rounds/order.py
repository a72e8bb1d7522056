"""Order: which unfinished task is served next, as one score per task that Label Studio sorts by.

The order of a model version is made once, before its predictions are pushed. Then it stays: a task that gets
finished moves no other, and a task that comes later gets a place between two others. So nothing has to be
pushed again, and everybody is served the same order. The settings ``order…`` make another order.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from clustering.task_order import OrderRule, Ranking, class_need, put_last, with_uniform_picks
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.artifacts.pool_index import PoolIndex
from ml_backend.artifacts.pools import read_doubts, read_pool
from ml_backend.artifacts.task_orders import TaskOrder, place_among, read_order, write_order
from ml_backend.label_studio.label_config import LabelConfig
from ml_backend.learners.doubt_scorer import DoubtScorer, fit_scorer, plain_scorer
from sync.rounds.order_core import Measured, doubt_of, measure, rank_measured, rule_for, worth
from sync.rounds.order_quotas import with_quotas
from sync.rounds.picture_truth import fixes_of_test_pictures
from sync.rounds.picture_vectors import vectors_of
from sync.rounds.progress import Memo
from sync.rounds.round_records import digest_of, load_snapshot
from sync.rounds.series import in_series_of, series_of
from sync.rounds.task_queries import finished_digests, test_split
from sync.settings import Settings
from sync.store.project_store import ProjectStore
from sync.store.tables import RoundRecord

__all__ = ["ensure_order", "known_order", "order_key", "rule_of"]

Floats = npt.NDArray[np.float64]


def rule_of(settings: Settings) -> OrderRule:
    """The exponents that the settings name."""
    return rule_for(
        settings.order,
        diversity=settings.order_diversity,
        balance=settings.order_balance,
        explore=settings.order_explore,
    )


def known_order(paths: ProjectPaths, memo: Memo, version: str) -> TaskOrder | None:
    """The order of a version as it stands in its file; None when none was made. Raises StorageError."""
    path = paths.order(version)
    try:
        now = path.stat()
    except FileNotFoundError:
        return None
    stamp = (version, now.st_ino, now.st_mtime_ns)
    name = ("task order", paths.project_id)
    kept = memo.get(name)
    if isinstance(kept, tuple) and kept[0] == stamp:
        found: TaskOrder = kept[1]
        return found
    fresh = read_order(path)
    if fresh is not None:
        memo[name] = (stamp, fresh)
    return fresh


def ensure_order(
    db: ProjectStore,
    config: LabelConfig,
    settings: Settings,
    paths: ProjectPaths,
    memo: Memo,
    record: RoundRecord,
    index: PoolIndex,
    tasks: Sequence[int],
) -> TaskOrder:
    """The order of the round's version over all of ``tasks``, which its pool holds; made or extended if
    needed.

    A look at an unchanged project reads nothing. Raises StorageError when the pool is gone or damaged.
    """
    version = record.model_version
    rule, key = rule_of(settings), order_key(settings, version)
    order = known_order(paths, memo, version)
    if order is not None and order.key.rstrip("+") != key:
        order = None
    wanted = np.asarray(tasks, np.int64)
    parts = _parts(index, wanted)
    stale: list[int] = []
    if order is not None:
        rows = np.minimum(np.searchsorted(order.task_id, wanted), max(len(order) - 1, 0))
        there = order.task_id[rows] == wanted if len(order) else np.zeros(len(wanted), bool)
        same = there.copy()
        same[there] = order.part[rows[there]] == parts[there]
        if same.all():
            return order
        stale = wanted[there & ~same].tolist()
        wanted, parts = wanted[~same], parts[~same]
    subject = _Subject(db, config, settings, paths, record, index, wanted, parts)
    if order is not None:
        try:
            fresh = subject.placed_in(order.without(stale))
        except ValueError:  # too many came between the same two
            wanted = np.asarray(tasks, np.int64)
            subject = _Subject(db, config, settings, paths, record, index, wanted, _parts(index, wanted))
            fresh = subject.ranked(f"{order.key}+", rule)
    else:
        fresh = subject.ranked(key, rule)
    write_order(paths.order(version), fresh, guard=db.guard)
    return fresh


def order_key(settings: Settings, version: str) -> str:
    """What an order of this version follows from; one that was ranked anew has a "+" behind it."""
    rule = rule_of(settings)
    return digest_of(
        [
            version,
            settings.order,
            rule.diversity,
            rule.balance,
            rule.explore,
            settings.seed,
            settings.features,
            *(["series", settings.split_by] if settings.split_by else []),
            *(["quotas first", settings.pick, settings.ideal_class_balance] if _has_quotas(settings) else []),
        ]
    )[:16]


def _has_quotas(settings: Settings) -> bool:
    return bool(settings.ideal_class_balance) or settings.pick == "most"


def _parts(index: PoolIndex, tasks: npt.NDArray[np.int64]) -> npt.NDArray[np.object_]:
    names = np.array([*index.parts, ""], object)
    rows = np.searchsorted(index.task_id, tasks)
    found: npt.NDArray[np.object_] = names[index.part[rows]] if len(tasks) else np.zeros(0, object)
    return found


@dataclass(frozen=True, slots=True)
class _Subject:
    """Some tasks of a pool, to be ranked or to be placed among those ranked before."""

    db: ProjectStore
    config: LabelConfig
    settings: Settings
    paths: ProjectPaths
    record: RoundRecord
    index: PoolIndex
    tasks: npt.NDArray[np.int64]
    parts: npt.NDArray[np.object_]

    def ranked(self, key: str, rule: OrderRule) -> TaskOrder:
        """All of them in an order of their own."""
        test = self._shares()
        both = np.concatenate([self.tasks, np.setdiff1d(np.array(sorted(test), np.int64), self.tasks)])
        measured = self._measure(both)
        scorer = self._scorer(measured.doubts, both, test)
        n, tasks = len(self.tasks), self.tasks.tolist()
        labelled = self._labelled_counts()
        feature: npt.NDArray[np.float32] = np.zeros((n, 0), np.float32)
        of_labelled: npt.NDArray[np.float32] | None = None
        if rule.diversity:
            done = sorted(set(finished_digests(self.db)) - test_split(self.db, self.record.split))
            feature, of_labelled = vectors_of(
                self.paths, self.settings.features, self.record.model_version, tasks, done
            )
        quotas = _has_quotas(self.settings)
        # labels of these could not be trained on
        tested = in_series_of(
            series_of(self.db, self.settings.split_by), test_split(self.db, self.record.split)
        )
        last = np.isin(self.tasks, np.array(sorted(tested), np.int64))
        # each order draws anew: what its uniform places say counts on top of earlier orders
        seed = self.settings.seed + 1_000_003 * self.record.number
        found = rank_measured(
            self.settings.order,
            measured.first(n),
            scorer,
            replace(rule, explore=0.0) if quotas else rule,
            tasks=tasks,
            labelled=labelled,
            feature=feature,
            labelled_feature=of_labelled,
            seed=seed,
            batch=self.settings.retrain_after,
            last=last,
        )
        about: dict[str, Any] = {
            "method": self.settings.order,
            "rule": {name: getattr(found.rule, name) for name in ("doubt", "diversity", "balance")},
            "explore": rule.explore,
            "scorer": scorer.as_json(),
            "labelled": dict(zip(self.config.labels, labelled, strict=True)),
            "test_pictures": len(test),
        }
        ranking = found.ranking
        if quotas:
            about["quotas"] = {"pick": self.settings.pick, "balance": self.settings.ideal_class_balance}
            about["rule"]["most"] = self.settings.pick == "most"
            shown = measured.first(n).shown
            greedy = with_quotas(ranking.order, shown, found.doubt, self.settings, self.config.labels)
            greedy = put_last(greedy, last)
            order, explored, inclusion = with_uniform_picks(greedy, rule.explore, np.random.default_rng(seed))
            ranking = replace(ranking, order=order, explored=explored, inclusion=inclusion)
        score = np.empty(n)
        score[ranking.order] = (np.arange(n) + 0.5) / max(n, 1)
        return self._order(key, about, score, found.doubt, found.need, measured.first(n).doubts, ranking)

    def placed_in(self, order: TaskOrder) -> TaskOrder:
        """The order with them in it, each where its doubt and classes say. Raises ValueError without room."""
        measured = self._measure(self.tasks)
        scorer = DoubtScorer.from_json(order.about["scorer"])
        doubt = doubt_of(self.settings.order, measured, scorer, self.tasks.tolist(), self.settings.seed)
        counts = order.about["labelled"]
        need = class_need(measured.shown, [float(counts.get(name, 0)) for name in self.config.labels])
        n = len(self.tasks)
        plain = Ranking(np.arange(n), np.full(n, np.nan), np.full(n, -1), np.zeros(n, bool), np.ones(n))
        score = place_among(order.value, order.score, worth(doubt, need, order.about["rule"]))
        return order.joined(self._order(order.key, order.about, score, doubt, need, measured.doubts, plain))

    def _order(
        self,
        key: str,
        about: Mapping[str, Any],
        score: Floats,
        doubt: Floats,
        need: Floats,
        doubts: Mapping[str, Floats],
        ranking: Ranking,
    ) -> TaskOrder:
        similar = np.where(ranking.similar >= 0, self.tasks[np.maximum(ranking.similar, 0)], -1)
        texts = np.empty(len(self.tasks), object)
        texts[:] = [
            json.dumps(
                {name: round(float(v), 4) for name, v in zip(doubts, row, strict=True) if np.isfinite(v)}
            )
            for row in zip(*doubts.values(), strict=True)
        ]
        by_id = np.argsort(self.tasks, kind="stable")
        return TaskOrder(
            key,
            about,
            self.tasks[by_id],
            score[by_id],
            worth(doubt, need, about["rule"])[by_id],
            doubt[by_id],
            need[by_id],
            ranking.gain[by_id],
            similar[by_id].astype(np.int64),
            ranking.explored[by_id],
            ranking.inclusion[by_id],
            self.parts[by_id],
            texts[by_id],
        )

    def _measure(self, tasks: npt.NDArray[np.int64]) -> Measured:
        folder = self.paths.pool(self.record.model_version)
        columns = ("task_id", "label", "score", "quality")
        table = read_pool(folder, columns=columns, task_ids=tasks.tolist(), index=self.index)
        by_id = np.argsort(tasks, kind="stable")
        at = by_id[np.searchsorted(tasks[by_id], table.task_id)]
        given = read_doubts(folder, self.index)
        number = {label: i for i, label in enumerate(self.config.labels)}
        return measure(
            at,
            np.array([number.get(str(name), -1) for name in table.label], np.int64),
            table.score,
            table.quality,
            [given.get(task, {}) for task in tasks.tolist()],
            len(number),
            shown_from=self.settings.push_min_score,
        )

    def _shares(self) -> dict[int, float]:
        """Share of wrong objects by test picture."""
        if self.settings.order != "ours":
            return {}
        fixes = fixes_of_test_pictures(
            self.db,
            self.paths,
            self.index,
            self.record,
            self.config,
            shown_from=self.settings.push_min_score,
        )
        return {task: found.share for task, found in fixes.items()}

    def _scorer(
        self, doubts: Mapping[str, Floats], tasks: npt.NDArray[np.int64], test: Mapping[int, float]
    ) -> DoubtScorer:
        if self.settings.order != "ours":
            return plain_scorer(self.settings.order, tuple(doubts))
        share = np.array([test.get(task, 0.0) for task in tasks.tolist()])
        return fit_scorer(doubts, share, np.isin(tasks, np.array(sorted(test), np.int64)))

    def _labelled_counts(self) -> list[int]:
        """Labelled objects (or pictures) of each label that the version was trained on."""
        rows = load_snapshot(self.paths, self.record.number)["train"]
        counts: Counter[str] = Counter()
        for row in rows:
            counts.update(str(region["label"]) for region in row["regions"])
            counts.update(str(tag) for tag in row.get("tags", ()))
        return [counts[label] for label in self.config.labels]
