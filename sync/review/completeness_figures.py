"""Which share of the objects on the pictures of a round is found; see ``clustering.completeness``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from clustering.answers import final_verdicts
from clustering.completeness import FoundShare, KnownObjects, completeness
from clustering.costs import DRAWN_MASK_S
from ml_backend.artifacts.paths import ProjectPaths
from sync.review.decide import Plan
from sync.rounds.cluster import load_label_pools
from sync.rounds.infer import pool_index
from sync.rounds.known_masks import KnownMasks, load_known_masks
from sync.rounds.progress import Memo
from sync.rounds.task_queries import open_task_ids
from sync.settings import Settings
from sync.store.project_store import ProjectStore
from sync.store.tables import RoundRecord

__all__ = ["DELTA", "found_figures", "lost_masks"]

DELTA = 0.05
"""Probability that a bound on the share of objects found does not hold."""


def found_figures(
    db: ProjectStore,
    settings: Settings,
    paths: ProjectPaths,
    memo: Memo,
    record: RoundRecord,
    plan: Plan,
) -> dict[str, Any] | None:
    """Lower bounds on the share of objects that the accepted masks hold, on pictures that nobody drew on.

    None where the policy gives no estimate for every mask (those of the paper decide about whole clusters,
    which says nothing about masks on test pictures), without test pictures, and without unfinished tasks.

    ``lower`` is the bound, ``share`` what was found on the test pictures. ``promised`` is the option
    ``promise_found``; ``drawing_minutes`` is how long people would draw until that share is shown.
    """
    outcome = plan.outcome
    step, pools = outcome.step, outcome.pools
    labels = [pool.label for pool in load_label_pools(db, paths, memo, record)]
    known = load_known_masks(db, paths, memo, record, labels)
    if step.p_yes is None or known is None:
        return None
    is_open = set(open_task_ids(db)) & set(pool_index(paths, memo, record.model_version).task_id.tolist())
    if not is_open:
        return None
    # what people have drawn since is finished, whatever was decided about masks there
    tasks = np.concatenate([pool.table.task_id for pool in pools]) if pools else np.zeros(0, np.int64)
    rows = np.flatnonzero(np.isin(tasks, np.array(sorted(is_open), np.int64)))
    number = np.concatenate(
        [np.full(len(pool), labels.index(pool.label), np.int64) for pool in pools] or [np.zeros(0, np.int64)]
    )
    found = completeness(
        step.p_yes[rows],
        lost_masks(plan)[rows],
        number[rows],
        _of_known(known, [pool.label for pool in pools], step.p_lessons),
        KnownObjects(known.good, known.object, known.picture, known.label, known.pictures, known.objects),
        others=len(is_open),
        delta=DELTA,
    )
    if found is None:
        return None
    expected = len(is_open) * found.whole.objects / found.whole.pictures
    gap = max(0.0, (settings.promise_found or 0.0) - found.whole.lower)
    return {
        **_row(found.whole),
        "delta": DELTA,
        "labels": [
            {"label": label, **_row(share)}
            for label, share in zip(labels, found.labels, strict=True)
            if share is not None
        ],
        "promised": settings.promise_found,
        "drawing_minutes": round(gap * expected * DRAWN_MASK_S / 60.0, 1),
    }


def lost_masks(plan: Plan) -> npt.NDArray[np.float64]:
    """(n,) how likely each mask is a good one that is not delivered, see ``completeness``."""
    done = plan.outcome.propagation
    lost = np.where(done.label > 0, 0.0, 1.0)
    items, yes = final_verdicts(plan.log.log)
    refused = (done.label[items] < 0) & done.verified[items]
    lost[items[refused]] = yes[refused]
    return lost


def _of_known(
    known: KnownMasks, labels: Sequence[str], p_lessons: npt.NDArray[np.float32] | None
) -> npt.NDArray[np.float64]:
    """(k,) estimates of the known masks; those of labels without any mask in the pool are never delivered."""
    p = np.full(len(known), -1.0)
    taught = np.isin(known.label, [known.labels.index(label) for label in labels])
    if p_lessons is not None:
        p[taught] = p_lessons
    return p


def _row(share: FoundShare) -> dict[str, Any]:
    return {
        "lower": round(share.lower, 4),
        "share": round(share.share, 4),
        "pictures": share.pictures,
        "objects": share.objects,
    }
