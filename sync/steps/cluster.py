"""Cluster: one merge tree per label over the pool of the round, kept in ``rounds/<n>/``.

The pool of a round is frozen here: ``pool.json`` lists the labels and ``keys-<i>.json`` the instances in the
order in which tree, questions and decisions number them. Tasks that arrive later are shown predictions of the
same model; they are clustered in the next round.
"""

from __future__ import annotations

import io
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from clustering.linkage import ExactLinkage, Linkage, TwoLevelLinkage, grow_tree
from clustering.pool import Pool
from clustering.tree import ClusterTree
from ml_backend.artifacts import read_json, write_atomic, write_json
from ml_backend.errors import BadInput
from ml_backend.pools import PoolTable, read_pool
from sync.project_state import Project
from sync.steps.queries import open_task_ids
from sync.steps.rounds import finish_step, has_finished
from sync.tables import RoundRecord

__all__ = ["LabelPool", "cluster", "label_pool", "load_label_pools", "mask_statistics"]


@dataclass(frozen=True, slots=True, eq=False)
class LabelPool:
    """The frozen pool of one label: row i of ``table`` and ``pool`` is leaf i of ``tree``."""

    label: str
    table: PoolTable
    pool: Pool
    tree: ClusterTree

    def __len__(self) -> int:
        return len(self.table)

    def rows_by_key(self) -> dict[str, int]:
        """Row of each instance key."""
        return {str(key): row for row, key in enumerate(self.table.key)}


def cluster(project: Project, record: RoundRecord) -> RoundRecord:
    """Freeze the pool of each label and grow its tree; does nothing when it was done."""
    folder = project.paths.round(record.number)
    if has_finished(record, "cluster") and (folder / "pool.json").exists():
        return record
    started = time.monotonic()
    table = read_pool(project.paths.pool(record.model_version), task_ids=open_task_ids(project))
    table = table.take(np.flatnonzero(table.score >= project.settings.pool_min_score))
    table = table.take(np.argsort(table.key.astype(str), kind="stable"))
    sizes: dict[str, int] = {}
    labels = list(project.config.labels)
    for i, label in enumerate(labels):
        project.at("cluster.label")
        mine = table.take(np.flatnonzero(table.label == label))
        sizes[label] = len(mine)
        tree = grow_tree(label_pool(mine), linkage=_linkage(project), seed=project.settings.seed)
        file = io.BytesIO()
        tree.save(file)
        write_atomic(folder / f"tree-{i}.npz", file.getvalue())
        write_json(folder / f"keys-{i}.json", [str(key) for key in mine.key])
        project.report("cluster", (i + 1) / len(labels), f"{label}: {len(mine)} instances")
    write_json(folder / "pool.json", {"labels": labels, "version": record.model_version, "sizes": sizes})
    figures: dict[str, Any] = {"seconds": round(time.monotonic() - started, 3), "pool": sizes}
    return finish_step(project, record.number, "cluster", figures)


def load_label_pools(project: Project, record: RoundRecord) -> list[LabelPool]:
    """The frozen pools of a clustered round, one per label, in the order of the label config then."""
    folder = project.paths.round(record.number)
    labels = [str(label) for label in read_json(folder / "pool.json")["labels"]]
    table = read_pool(project.paths.pool(record.model_version))
    place = {str(key): row for row, key in enumerate(table.key)}
    pools = []
    for i, label in enumerate(labels):
        keys = read_json(folder / f"keys-{i}.json")
        mine = table.take(np.array([place[key] for key in keys], np.intp))
        pools.append(LabelPool(label, mine, label_pool(mine), ClusterTree.load(folder / f"tree-{i}.npz")))
    return pools


def label_pool(table: PoolTable) -> Pool:
    """Rows of a pool as the columns that trees and policies read."""
    embedding = table.embedding if table.embedding.shape[1] else np.zeros((len(table), 1), np.float32)
    return Pool(embedding, table.score, table.quality, mask_statistics(table))


def mask_statistics(table: PoolTable) -> npt.NDArray[np.float32]:
    """(n, 4) float32: root of the share of the image, share of the box filled, log of height over width, and
    whether the box touches the border (0 or 1).
    """
    from pycocotools import mask as coco

    n = len(table)
    if n == 0:
        return np.zeros((0, 4), np.float32)
    area = coco.area([table.rle(row) for row in range(n)]).astype(np.float64)
    height, width = table.hw[:, 0].astype(np.float64), table.hw[:, 1].astype(np.float64)
    x0, y0, x1, y1 = table.box_xyxy.astype(np.float64).T
    box_w, box_h = np.maximum(x1 - x0, 1.0), np.maximum(y1 - y0, 1.0)
    border = (x0 <= 1) | (y0 <= 1) | (x1 >= width - 1) | (y1 >= height - 1)
    columns = (
        np.sqrt(area / np.maximum(height * width, 1.0)),
        np.minimum(area / (box_w * box_h), 1.0),
        np.log(box_h / box_w),
        border.astype(np.float64),
    )
    return np.stack(columns, axis=1).astype(np.float32)


def _linkage(project: Project) -> Linkage | None:
    known: dict[str, Linkage | None] = {
        "auto": None,
        "exact": ExactLinkage(),
        "two-level": TwoLevelLinkage(),
    }
    name = project.settings.linkage
    if name not in known:
        raise BadInput(
            f"there is no linkage {name!r}", field="settings.linkage", hint=f"One of {', '.join(known)}"
        )
    return known[name]
