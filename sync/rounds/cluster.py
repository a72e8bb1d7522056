"""Cluster: one merge tree per label over the pool of the round, kept in ``rounds/<n>/``.

The pool of a round is frozen here: ``pool.json`` lists the labels and ``keys-<i>.json`` the instances in the
order in which tree, questions and decisions number them. Tasks that arrive later are shown predictions of the
same model; they are clustered in the next round.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from clustering.pool import Pool
from clustering.trees.linkage import ExactLinkage, Linkage, TwoLevelLinkage
from clustering.trees.tree import ClusterTree
from ml_backend.artifacts.files import read_json, write_atomic, write_json
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.artifacts.pool_tables import PoolTable, joined
from ml_backend.artifacts.pools import read_pool, read_replaced
from ml_backend.errors import BadInput
from ml_backend.kinds.base import ProjectKind
from ml_backend.kinds.instances import INSTANCES
from ml_backend.kinds.registry import Wanted, get_kind
from ml_backend.label_studio.label_config import LabelConfig
from ml_backend.masks.statistics import filled_masks, mask_statistics
from sync.executor.base import Job
from sync.executor.choice import executor_of
from sync.executor.local import LocalExecutor
from sync.rounds.absent import absent_labels, is_absent
from sync.rounds.progress import Memo, Progress
from sync.rounds.round_records import finish_step
from sync.rounds.task_queries import finished_digests, open_task_ids
from sync.rounds.tree_tasks import Growing, grow
from sync.settings import Settings
from sync.store.project_store import ProjectStore
from sync.store.round_state import has_finished
from sync.store.tables import RoundRecord

__all__ = [
    "LabelPool",
    "cluster",
    "frozen_kinds",
    "kinds_in",
    "label_pool",
    "labels_as_then",
    "load_label_pools",
    "usable_rows",
]

_log = logging.getLogger(__name__)
_LARGE = 4000
"""A smaller tree is grown here before another process has begun; a single one has nobody to share with."""


@dataclass(frozen=True, slots=True, eq=False)
class LabelPool:
    """The frozen pool of one label: row i of ``table`` and ``pool`` is leaf i of ``tree``.

    ``kind`` says what one instance is and when it is good.
    """

    label: str
    table: PoolTable
    pool: Pool
    tree: ClusterTree
    kind: ProjectKind = INSTANCES

    @property
    def wanted(self) -> Wanted:
        """The label alone, as something that a project wants."""
        return Wanted(self.kind.name, (self.label,))

    def __len__(self) -> int:
        return len(self.table)

    def rows_by_key(self) -> dict[str, int]:
        """Row of each instance key."""
        return {str(key): row for row, key in enumerate(self.table.key)}


def cluster(
    db: ProjectStore,
    config: LabelConfig,
    settings: Settings,
    paths: ProjectPaths,
    progress: Progress,
    memo: Memo,
    record: RoundRecord,
) -> RoundRecord:
    """Freeze the pool of each label and grow its tree; does nothing when this was done before."""
    folder = paths.round(record.number)
    if has_finished(record, "cluster") and (folder / "pool.json").exists():
        return record
    started = time.monotonic()
    table = read_pool(paths.pool(record.model_version), task_ids=open_task_ids(db))
    table, dropped = _usable(db, progress, table)
    table = table.take(np.flatnonzero(table.score >= settings.pool_min_score))
    table = table.take(np.flatnonzero(~_told(db, config, table)))
    table = table.take(np.argsort(table.key.astype(str), kind="stable"))
    labels = list(config.labels)
    rows = [np.flatnonzero(table.label == label) for label in labels]
    sizes = {label: len(mine) for label, mine in zip(labels, rows, strict=True)}
    executor = executor_of(settings, memo)
    if sum(size >= _LARGE for size in sizes.values()) < 2:
        executor = LocalExecutor()
    trees = executor.map(
        Job(grow, Growing(_linkage(settings), settings.seed), what="tree"),
        (label_pool(table.take(mine)) for mine in rows),
        check=lambda: progress.at("cluster.label"),
        said=lambda line: progress.report("cluster", 0.0, line),
    )
    with closing(trees):
        for i, tree in enumerate(trees):
            write_atomic(folder / f"tree-{i}.npz", tree, guard=db.guard)
            keys = [str(key) for key in table.key[rows[i]]]
            write_json(folder / f"keys-{i}.json", keys, guard=db.guard)
            progress.report("cluster", (i + 1) / len(labels), f"{labels[i]}: {len(keys)} instances")
    frozen = {
        "labels": labels,
        "version": record.model_version,
        "sizes": sizes,
        "min_score": settings.pool_min_score,
        "kinds": {label: config.kind_of(label).name for label in labels},
    }
    write_json(folder / "pool.json", frozen, guard=db.guard)
    figures: dict[str, Any] = {"seconds": round(time.monotonic() - started, 3), "pool": sizes}
    if dropped:
        figures["dropped"] = dropped
    return finish_step(db, paths, record.number, "cluster", figures)


def _told(db: ProjectStore, config: LabelConfig, table: PoolTable) -> npt.NDArray[np.bool_]:
    """(n,) bool: what somebody has told already, though other objects of the picture are still sought.

    Classes of finished pictures, and objects of labels that a picture does not have.
    """
    told = is_absent(absent_labels(db, config.wanted), table)
    classes = [label for target in config.wanted if target.is_of.unit == "picture" for label in target.labels]
    if classes:
        done = np.array(sorted(finished_digests(db)), np.int64)
        told |= np.isin(table.label.astype(str), classes) & np.isin(table.task_id, done)
    return told


def _usable(db: ProjectStore, progress: Progress, table: PoolTable) -> tuple[PoolTable, dict[str, int]]:
    """Rows that can be reviewed, and how many others each label had.

    An instance with a number that is not finite has no distance to the rest, and one with an empty mask
    cannot be shown. The infer step leaves such instances out, but a pool written by another program or an
    older version may hold them. The other instances are reviewed all the same.
    """
    good = usable_rows(table)
    if good.all():
        return table, {}
    labels, counts = np.unique(table.label[~good].astype(str), return_counts=True)
    dropped = {str(label): int(count) for label, count in zip(labels, counts, strict=True)}
    for label, count in dropped.items():
        tasks = np.unique(table.task_id[~good & (table.label == label)]).tolist()
        text = (
            f"{label}: {count} instances left out of the clusters, "
            "their embedding or score is not finite or their mask is empty"
        )
        _log.warning("project %s: %s (tasks %s)", db.id, text, ", ".join(map(str, tasks[:5])))
        progress.report("cluster", 0.0, text)
    return table.take(np.flatnonzero(good)), dropped


def usable_rows(table: PoolTable) -> npt.NDArray[np.bool_]:
    """(n,) bool: rows whose numbers are all finite and whose mask has at least one pixel."""
    numbers = np.column_stack([table.embedding, table.score, table.quality, table.edges])
    filled = filled_masks([str(text) for text in table.counts], table.hw)
    return np.asarray(np.isfinite(numbers).all(axis=1) & filled, np.bool_)


def load_label_pools(
    db: ProjectStore, paths: ProjectPaths, memo: Memo, record: RoundRecord
) -> list[LabelPool]:
    """The frozen pools of a clustered round, one per label, in the order of the label config then."""
    key = ("pools", db.id, record.number, record.model_version)
    kept = memo.get(key)
    if isinstance(kept, list):
        return kept
    for old in [old for old in memo if isinstance(old, tuple) and old[:2] == key[:2]]:
        del memo[old]
    pools = _read_label_pools(paths, record)
    memo[key] = pools
    return pools


def _read_label_pools(paths: ProjectPaths, record: RoundRecord) -> list[LabelPool]:
    folder = paths.round(record.number)
    kinds = frozen_kinds(paths, record.number)
    if kinds is None:
        raise FileNotFoundError(folder / "pool.json")
    labels = list(kinds)
    table = read_pool(paths.pool(record.model_version))
    keys_of = [[str(key) for key in read_json(folder / f"keys-{i}.json")] for i in range(len(labels))]
    replaced = {key for keys in keys_of for key in keys} - {str(key) for key in table.key}
    if replaced:  # the image of a task changed after the pool was frozen
        table = joined(table, read_replaced(paths.pool(record.model_version), replaced))
    place = {str(key): row for row, key in enumerate(table.key)}
    pools = []
    for i, label in enumerate(labels):
        keys = keys_of[i]
        mine = table.take(np.array([place[key] for key in keys], np.intp))
        tree = ClusterTree.load(folder / f"tree-{i}.npz")
        pools.append(LabelPool(label, mine, label_pool(mine), tree, kinds[label]))
    return pools


def frozen_kinds(paths: ProjectPaths, number: int) -> dict[str, ProjectKind] | None:
    """Kind of each label when the pools of a round were frozen, in their order; None when they never were."""
    try:
        return kinds_in(read_json(paths.round(number) / "pool.json"))
    except FileNotFoundError:
        return None


def kinds_in(frozen: Mapping[str, Any]) -> dict[str, ProjectKind]:
    """Kind of each label in the description of a frozen pool; older releases knew instances only."""
    names: Mapping[str, str] = frozen.get("kinds", {})
    return {str(label): get_kind(names.get(str(label), INSTANCES.name)) for label in frozen["labels"]}


def labels_as_then(paths: ProjectPaths, number: int, wanted: Sequence[Wanted]) -> set[str]:
    """Labels of ``wanted`` that mean now what they meant when the pools of the round were frozen.

    After an edit of the label config, what was accepted as a class of the picture is no box.
    """
    then = frozen_kinds(paths, number) or {}
    return {
        label
        for target in wanted
        for label in target.labels
        if label not in then or then[label].name == target.is_of.name
    }


def label_pool(table: PoolTable) -> Pool:
    """Rows of a pool as the columns that trees and policies read."""
    embedding = table.embedding if table.embedding.shape[1] else np.zeros((len(table), 1), np.float32)
    extras = mask_statistics([str(text) for text in table.counts], table.hw)
    return Pool(embedding, table.score, table.quality, np.concatenate([extras, table.edges], axis=1))


def _linkage(settings: Settings) -> Linkage | None:
    known: dict[str, Linkage | None] = {
        "auto": None,
        "exact": ExactLinkage(),
        "two-level": TwoLevelLinkage(),
    }
    name = settings.linkage
    if name not in known:
        raise BadInput(
            f"there is no linkage {name!r}", field="settings.linkage", hint=f"One of {', '.join(known)}"
        )
    return known[name]
