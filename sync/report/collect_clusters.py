"""Collect the clusters of a project from its newest clustered round: store, round files and pictures."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from sqlalchemy import select

from clustering.answers import AnswerLog, Stream, final_verdicts
from ml_backend.artifacts.files import write_atomic
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.artifacts.verdicts import VerdictTable, read_verdicts
from ml_backend.errors import BadImage, BadInput, StudioError
from ml_backend.images.crops import render_crop
from ml_backend.images.store import ImageStore
from sync.report.choose_clusters import Limits, Members, label_section
from sync.report.render_clusters import Purity, Section, render_cluster_page
from sync.review.verdicts import offsets, read_review_log
from sync.rounds.cluster import LabelPool, load_label_pools
from sync.rounds.progress import Memo
from sync.rounds.round_records import trained_round
from sync.settings import Settings
from sync.store.project_store import ProjectStore
from sync.store.round_state import has_finished
from sync.store.tables import DecisionRecord, RoundRecord, TaskRecord

__all__ = ["project_sections", "write_cluster_page"]

_log = logging.getLogger(__name__)


def write_cluster_page(
    db: ProjectStore,
    settings: Settings,
    paths: ProjectPaths,
    images: ImageStore,
    memo: Memo,
    out: Path,
    *,
    limits: Limits | None = None,
    thumbnail_px: int = 144,
    report: Callable[[float, str], None] = lambda share, line: None,
) -> list[Section]:
    """Write the page of the newest clustered round and return what it shows.

    ``report`` is called with the share done (0..1) and a line about it. Raises BadInput when no round was
    clustered yet, StorageError when ``out`` cannot be written.
    """
    record = trained_round(db)
    if record is None or not has_finished(record, "cluster"):
        raise BadInput(
            f"project {db.id} has no clustered round yet",
            field="project",
            hint="Label a few tasks and let `groundswell round` or the worker finish a round",
        )
    sections = project_sections(
        db,
        settings,
        paths,
        images,
        memo,
        record,
        limits=limits or Limits(),
        thumbnail_px=thumbnail_px,
        report=report,
    )
    subtitle = f"project {db.id} · round {record.number} · {record.model_version}"
    page = render_cluster_page(sections, title=f"Clusters of {db.title}", subtitle=subtitle)
    write_atomic(out, page.encode())
    return sections


def project_sections(
    db: ProjectStore,
    settings: Settings,
    paths: ProjectPaths,
    images: ImageStore,
    memo: Memo,
    record: RoundRecord,
    *,
    limits: Limits,
    thumbnail_px: int,
    report: Callable[[float, str], None] = lambda share, line: None,
) -> list[Section]:
    """One section per label of a clustered round."""
    pools = load_label_pools(db, paths, memo, record)
    log = read_review_log(db, settings, record.number, pools)
    verdicts = read_verdicts(paths.round(record.number))
    with db.read() as session:
        decisions = list(
            session.scalars(
                select(DecisionRecord)
                .where(DecisionRecord.project_id == db.id, DecisionRecord.round == record.number)
                .order_by(DecisionRecord.number)
            )
        )
    sections = []
    first = offsets(pools)
    for number, pool in enumerate(pools):
        report(number / len(pools), f"pictures of {pool.label}, {len(pool)} instances")
        mine = [  # the label's own, and those of sets over all labels
            one for one in decisions if one.label in (pool.label, "") and one.action in ("accept", "reject")
        ]
        sections.append(
            label_section(
                pool.label,
                pool.tree,
                _members(pool, int(first[number]), log.log, verdicts),
                decided={one.cluster: _purity(one) for one in mine if one.cluster >= 0},
                sets=[_purity(one) for one in mine if one.cluster < 0 and one.action == "accept"],
                picture=_pictures(db, images, pool, thumbnail_px),
                caption=lambda row, pool=pool: f"task {pool.table.task_id[row]}",  # type: ignore[misc]
                limits=limits,
            )
        )
    return sections


def _members(pool: LabelPool, first: int, log: AnswerLog, verdicts: VerdictTable) -> Members:
    """What is known of the masks of a label; ``first`` is its first row in ``log``."""
    n = len(pool)
    verdict, verified = np.zeros(n, np.int8), np.zeros(n, bool)
    for key, row in pool.rows_by_key().items():
        found = verdicts.get(key)
        if found is not None and found.label == pool.label:
            verdict[row], verified[row] = found.verdict, found.verified
    answered, yes = np.zeros(n, bool), np.zeros(n, np.float32)
    items, verdict_of = final_verdicts(log.take(log.stream != Stream.CARRIED))
    mine = (items >= first) & (items < first + n)
    answered[items[mine] - first] = True
    yes[items[mine] - first] = verdict_of[mine]
    return Members(pool.pool.prior, verdict, verified, answered, yes)


def _purity(decision: DecisionRecord) -> Purity:
    return Purity(
        lower=decision.lower,
        upper=decision.upper,
        confidence=decision.confidence,
        asked=decision.asked,
        yes=float(decision.yes),
        test=decision.test,
    )


def _pictures(db: ProjectStore, images: ImageStore, pool: LabelPool, size_px: int) -> Callable[[int], bytes]:
    """A function that renders a member once; the result is empty where the image cannot be read."""
    kept: dict[int, bytes] = {}

    def picture(row: int) -> bytes:
        if row not in kept:
            try:
                kept[row] = _render(db, images, pool, row, size_px)
            except (BadImage, BadInput, StudioError) as error:
                _log.warning("no thumbnail for %s: %s", pool.table.key[row], error)
                kept[row] = b""
        return kept[row]

    return picture


def _render(db: ProjectStore, images: ImageStore, pool: LabelPool, row: int, size_px: int) -> bytes:
    task_id = int(pool.table.task_id[row])
    with db.read() as session:
        task = session.get(TaskRecord, task_id)
    if task is None:
        raise BadInput(f"task {task_id} is gone", field="task")
    image = images.get(task.image, task_id=task.id, project_id=task.project_id)
    crop = render_crop(images.pixels(image), pool.table.rle(row), size_px=2 * size_px)
    file = io.BytesIO()
    with Image.open(
        io.BytesIO(crop)
    ) as large:  # rendered at twice the size and scaled down, so that the outline is thin
        large.thumbnail((size_px, size_px))
        large.save(file, "JPEG", quality=80)
    return file.getvalue()
