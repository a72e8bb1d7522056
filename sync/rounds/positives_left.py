"""Positives left: of each label of pictures, about how many are still unlabelled, at most how many, and
whether one may stop looking.

The orders of tasks mix in places that were drawn uniformly, and keep the probability of each place. So the
answers to the tasks served by an order are draws of known probability (``clustering.remaining``). Of each
order its beginning counts, as far as nine in ten of its tasks are answered: nobody reaches the rest in turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from clustering.remaining import Picks, remaining_positives
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.artifacts.task_orders import TaskOrder, read_order
from ml_backend.label_studio.label_config import LabelConfig
from sync.rounds.region_rows import tags_of
from sync.rounds.start_order import START
from sync.rounds.task_queries import finished_tasks, task_images
from sync.store.project_store import ProjectStore

__all__ = ["picks_of_orders", "positives_left"]

_ANSWERED = 0.9


def positives_left(
    db: ProjectStore, config: LabelConfig, paths: ProjectPaths, versions: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """``Remaining`` as a dict by label, for labels that say what a picture as a whole is.

    ``versions``: model versions that served, oldest first. Empty without such labels or without any order.
    """
    labels = [label for target in config.wanted if target.is_of.unit == "picture" for label in target.labels]
    if not labels:
        return {}
    orders = [order for name in (START, *versions) if (order := read_order(paths.order(name))) is not None]
    if not orders:
        return {}
    tags = {task: set(tags_of(speaks.regions)) for task, (_, speaks) in finished_tasks(db).items()}
    pool = np.array(sorted(task_images(db)), np.int64)
    found = {}
    for label in labels:
        truth = {task: label in mine for task, mine in tags.items()}
        left = len(pool) - len(truth)
        picks = picks_of_orders(orders, truth, pool)
        found[label] = asdict(remaining_positives(picks, found=sum(truth.values()), left=left))
    return found


def picks_of_orders(
    orders: Sequence[TaskOrder], truth: Mapping[int, bool], pool: npt.NDArray[np.int64]
) -> Picks:
    """The draws by chance in orders of tasks, oldest first.

    Parameters
    ----------
    orders : of the cold start and of model versions; each was made over the tasks that were open then
    truth : whether people gave the label, by answered task
    pool : all tasks of the project
    """
    known = np.array([task in truth for task in pool.tolist()], np.bool_)
    yes = np.array([truth.get(task, False) for task in pool.tolist()], np.bool_)
    parts = []
    for number, order in enumerate(orders):
        # what was answered while this order was served: later orders must not decide how much of it counts
        later = set(orders[number + 1].task_id.tolist()) if number + 1 < len(orders) else set()
        answered = {task: value for task, value in truth.items() if task not in later}
        gone = int((yes | ~known)[~np.isin(pool, _drawn(order))].sum())
        part = _picks(order, answered, gone=gone)
        if part is not None:
            parts.append(part)
    return Picks.joined(parts)


def _drawn(order: TaskOrder) -> npt.NDArray[np.int64]:
    """The tasks that its places were drawn from: not those that joined it later."""
    if "explore" not in order.about:
        return order.task_id
    drawn: npt.NDArray[np.bool_] = (order.inclusion < 1.0) | (order.score == order.score.max(initial=0.0))
    found: npt.NDArray[np.int64] = order.task_id[drawn]
    return found


def _picks(order: TaskOrder, truth: Mapping[int, bool], *, gone: int) -> Picks | None:
    """The draws of one order; ``gone``: positives it was not drawn from, with all tasks of unknown truth."""
    rows = np.argsort(order.score, kind="stable")
    n = len(rows)
    if "explore" not in order.about:  # the cold start drew some tasks uniformly before all else
        rows = rows[order.explored[rows]]
        share = 1.0
        q = 1.0 / (n - np.arange(len(rows)))
    else:
        share = float(order.about["explore"])
        # tasks that came later have a place by their value, drawn from nothing
        rows = rows[(order.inclusion[rows] < 1.0) | (np.arange(n) == n - 1)]
        q = order.inclusion[rows]
        n = len(rows)
    if not share or not len(rows):
        return None
    tasks = order.task_id[rows].tolist()
    answered = np.array([task in truth for task in tasks], np.bool_)
    positive = np.array([truth.get(task, False) for task in tasks], np.bool_)
    enough = np.flatnonzero(answered & (np.cumsum(answered) >= _ANSWERED * np.arange(1, len(rows) + 1)))
    if not len(enough):
        return None
    first = slice(0, int(enough[-1]) + 1)
    least = np.minimum(share / (n - np.arange(len(rows))), q)
    return Picks.in_turn(positive[first], answered[first], q[first], least[first], gone=gone)
