"""What would follow from other options, said before they are set.

Most settings count from a certain step on, and a line says from which. Settings of the review may change
which masks are accepted: that is not guessed but tried, on a copy of the store (``rehearse``).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from sqlalchemy import insert, select

from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.artifacts.verdicts import read_verdicts
from ml_backend.label_studio.label_config import parse_label_config
from sync.projects.option_changes import merged, option_changes
from sync.review.decide import decide
from sync.rounds.cluster import load_label_pools
from sync.rounds.due import training_due
from sync.rounds.kind_settings import kind_settings
from sync.rounds.policies import terms_digest
from sync.rounds.progress import Progress
from sync.rounds.project import registered
from sync.rounds.round_records import trained_round
from sync.rounds.wishes import wishes_of
from sync.settings import Settings
from sync.store.database import Store
from sync.store.project_store import ProjectStore
from sync.store.round_state import has_finished
from sync.store.tables import Base, ProjectRecord, RoundRecord

__all__ = ["COUNTS_FROM", "effects_of"]

_TRAINING = "counts from the next training on; the model of now stays until then"
_SPLIT = "counts when a test split is drawn: at the first training, or by `groundswell repartition`"
_CLICKS = "counts from the next training of the click network on"
_NOW = "counts for clicks from the worker's next look on"
_COLD = "counts before the first training only"
_POOL = "counts from the next round on; the clusters of this one stay"
_ORDER = "the order of unfinished tasks is worked out anew at the next look"
_PUSH = "predictions are sent again at the next look"
_PACE = "changes speed and memory, not what is found"
_REVIEW = "counts for questions and answers from the next look on"
_DUE = "counts from the next look on"
_PAGE = "counts for review pages that are opened from now on"

COUNTS_FROM: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        (
            "learner",
            "learner_options",
            "preset",
            "iterations",
            "early_s",
            "cluster_features",
            "train_on_propagated",
        ),
        _TRAINING,
    ),
    **dict.fromkeys(("test_fraction", "test_min", "split_by"), _SPLIT),
    **dict.fromkeys(("click_options", "train_clicks"), _CLICKS),
    "segmenter": _NOW,
    **dict.fromkeys(("cold_start", "cold_start_options", "more_like_this"), _COLD),
    **dict.fromkeys(("pool_min_score", "linkage"), _POOL),
    **dict.fromkeys(
        (
            "features",
            "ideal_class_balance",
            "order",
            "order_balance",
            "order_diversity",
            "order_explore",
            "order_mirror",
            "order_start",
            "pick",
        ),
        _ORDER,
    ),
    **dict.fromkeys(("max_tags_per_pixel", "push_min_score"), _PUSH),
    **dict.fromkeys(("infer_batch", "infer_part", "embed_ahead"), _PACE),
    **dict.fromkeys(
        (
            "crowd",
            "experts",
            "gold_share",
            "min_answer_s",
            "policy",
            "policy_options",
            "promise_found",
            "question_batch",
            "question_budget",
            "repeat_share",
            "review_form",
            "review_overlap",
            "review_overlap_max",
            "seed",
        ),
        _REVIEW,
    ),
    **dict.fromkeys(("keep_rounds", "min_finished", "mistakes", "retrain_after"), _DUE),
    **dict.fromkeys(("review_auto_answer", "review_auto_s", "review_show_gold", "review_show_speed"), _PAGE),
}
"""From when on each option of a project counts."""


def effects_of(
    settings: Settings,
    store: Store,
    project_id: int,
    changes: Mapping[str, Any],
    *,
    unset: Sequence[str] = (),
    report: Callable[[str], None] | None = None,
) -> list[str]:
    """One line for each thing that would follow from these changes; nothing is changed.

    ``report`` is told when this takes a while. Raises BadInput when an option is wrong.
    """
    db, before = registered(settings, store, project_id, files=True)
    with store.read() as session:
        record = session.get_one(ProjectRecord, project_id)
    new = merged(record.options, changes, unset)
    names = [change.name for change in option_changes(settings, record.options, new)]
    config = parse_label_config(record.label_config)
    before = kind_settings(before, config.wanted)
    after = kind_settings(settings.for_project(new), config.wanted)
    lines: dict[str, list[str]] = {}
    for name in names:
        lines.setdefault(COUNTS_FROM[name], []).append(name)
    found = [f"{', '.join(group)}: {text}" for text, group in lines.items()]
    paths = ProjectPaths(settings.data_dir, project_id)
    if wishes_of(db).paused != "all":
        due = training_due(db, config, after, paths, {})
        if due and not training_due(db, config, before, paths, {}):
            found.append(f"a training starts at the next look: {due}")
    shown = trained_round(db)
    may_decide = {name for name in names if COUNTS_FROM[name] == _REVIEW}
    if shown is not None and has_finished(shown, "review") and may_decide:
        if report is not None:
            report("works out what would become of the masks that are accepted")
        found += _rehearse(db, before, after, paths, shown)
    return found


def _rehearse(
    db: ProjectStore, before: Settings, after: Settings, paths: ProjectPaths, shown: RoundRecord
) -> list[str]:
    """What the next review would do with the answers of now under the settings ``after``."""
    with _copied(db) as copy:
        memo: dict[object, object] = {}
        pools = [pool for pool in load_label_pools(copy, paths, memo, shown) if len(pool)]
        plan = decide(copy, after, paths, Progress(), memo, shown, pools)
    done = plan.outcome.propagation
    keys = np.concatenate([np.zeros(0, "U1"), *(pool.table.key.astype(str) for pool in pools)])
    unseen = set(keys[(done.label > 0) & ~done.verified].tolist())
    old = read_verdicts(paths.round(shown.number)).rows.values()
    now = {row.key for row in old if row.verdict > 0 and not row.verified}
    found = []
    if now - unseen:
        found.append(
            f"{len(now - unseen)} of {len(now)} propagated masks (accepted though nobody looked at them) "
            "would be withdrawn at the next push"
            + ("" if unseen else ", until further answers support them again")
        )
    if unseen - now:
        found.append(f"{len(unseen - now)} more masks would be accepted though nobody looked at them")
    if terms_digest(before) != terms_digest(after):
        found.append("a new certificate (proof of the promised purity) begins: answers stay, samples are new")
    if plan.wanted:
        found.append(f"{len(plan.wanted)} questions would be asked now")
    return found


@contextmanager
def _copied(db: ProjectStore) -> Iterator[ProjectStore]:
    """One project's rows in a store of their own, which is thrown away."""
    with tempfile.TemporaryDirectory(prefix="groundswell-") as folder:
        store = Store(f"sqlite:///{Path(folder) / 'copy.db'}")
        try:
            with db.read() as source, store.write() as target:
                for table in Base.metadata.sorted_tables:
                    column = table.c.id if table.name == "projects" else table.c.get("project_id")
                    if column is None:
                        continue
                    rows = source.execute(select(table).where(column == db.id)).mappings()
                    for part in rows.partitions(1000):
                        target.execute(insert(table), [dict(row) for row in part])
            yield replace(db, store=store, lease=None, shared=None)
        finally:
            store.close()
