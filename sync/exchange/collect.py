"""Collect what an export holds from store and pools.

A task that a person finished holds what that person said and nothing else; a task where people only tagged
what should be found holds what was found. Other tasks hold the accepted instances of the last reviewed round.
Rejected and undecided ones are left out. Everything is read page by page.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import select

from clustering.answers import AUDIT
from ml_backend.artifacts.other_class import OTHER_CLASS, with_other_classes
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.artifacts.pool_index import read_index
from ml_backend.artifacts.pool_tables import PoolTable
from ml_backend.artifacts.pools import read_pool
from ml_backend.artifacts.verdicts import Verdict, VerdictPages
from ml_backend.errors import BadImage, BadInput, StudioError
from ml_backend.images.store import ImageStore
from ml_backend.kinds.registry import Wanted
from ml_backend.kinds.segmentation import one_per_label
from sync.exchange.content import EVERYTHING, Choice, Content, Item, LeftOut, Shown
from sync.exchange.file_names import TaskPicture, file_names
from sync.review.nouns import noun_of
from sync.review.promise_text import promise_lines
from sync.rounds.absent import AbsentLabels, absent_labels, is_absent
from sync.rounds.cluster import labels_as_then
from sync.rounds.task_queries import finished_pages
from sync.store.project_store import ProjectStore
from sync.store.round_state import has_finished, reviewed_round
from sync.store.tables import AnnotationRecord, DecisionRecord, RoundRecord, TaskRecord
from sync.studio.protocol import PATH_FIELD

__all__ = ["collect"]

_PAGE: Final = 200
_ROWS: Final = 1000
_COLUMNS: Final = ("key", "task_id", "label", "box", "rle", "score", "quality")


def collect(
    db: ProjectStore,
    wanted: Sequence[Wanted],
    paths: ProjectPaths,
    images: ImageStore,
    choice: Choice = EVERYTHING,
    *,
    with_sizes: bool = True,
) -> Content:
    """What there is to export of the labels of ``wanted``.

    The picture of a finished task without any region is opened for its size. When it cannot be read the task
    is left out, with the reason. ``with_sizes=False``: no picture is opened, and sizes may be (0, 0). Raises
    BadInput when the round that was asked for does not exist, has no verdicts, or keeps its masks no more.
    """
    names = _file_names(db)
    with db.read() as session:
        rounds = list(session.scalars(select(RoundRecord).where(RoundRecord.project_id == db.id)))
    record = reviewed_round(rounds) if choice.round is None else _round(rounds, choice.round)
    if choice.round is not None and record is not None:
        db.bring(paths.pool(record.model_version))
    if choice.round is not None and record is not None and not paths.pool(record.model_version).is_dir():
        raise BadInput(
            f"the masks of round {choice.round} are not there any more: it is old, and `keep_rounds` says "
            "how many old rounds keep theirs",
            field="round",
            hint="Export without --round, or let its model serve again: it then finds its masks anew",
        )
    left_out: list[LeftOut] = []
    pictures = _pictures(
        db, wanted, paths, images if with_sizes else None, choice.origins, record, names, left_out
    )
    return Content(wanted, pictures, left_out, _info(db, record, noun_of(wanted)), names)


def _round(rounds: Sequence[RoundRecord], number: int) -> RoundRecord:
    found = next((r for r in rounds if r.number == number and has_finished(r, "review")), None)
    if found is None:
        reviewed = sorted(r.number for r in rounds if has_finished(r, "review"))
        raise BadInput(
            f"no round {number} has been reviewed",
            field="round",
            hint=f"Reviewed: {', '.join(map(str, reviewed)) or 'none yet'}",
        )
    return found


def _pictures(
    db: ProjectStore,
    wanted: Sequence[Wanted],
    paths: ProjectPaths,
    images: ImageStore | None,
    origins: frozenset[str],
    record: RoundRecord | None,
    names: Mapping[int, str],
    left_out: list[LeftOut],
) -> Iterator[Shown]:
    """Finished pictures in order of their tasks, then those with accepted instances."""
    # tags alone are finished work where they are what is wanted, and a start where places are
    places = any(target.sought for target in wanted)
    finished: set[int] = set()
    for page in finished_pages(db):
        for task, annotation in page:
            if task.id not in names:  # it came after the export began
                continue
            if places and task.tagged_only:
                continue
            finished.add(task.id)
            if "human" not in origins:
                continue
            try:
                hw = _size(images, task, annotation.regions)
            except (BadImage, StudioError) as error:
                left_out.append(LeftOut(task.id, names[task.id], str(error)))
                continue
            items = list(_said(wanted, annotation))
            yield Shown(task.id, names[task.id], hw, task.image, True, items)
    if record is None or not origins - {"human"}:
        return
    verdicts = VerdictPages(paths.round(record.number))
    absent = absent_labels(db, wanted)
    for task, hw, items in _accepted(db, paths, record, verdicts, wanted, finished, absent):
        chosen = [item for item in items if item.origin["source"] in origins]
        if chosen and task.id in names:
            yield Shown(task.id, names[task.id], hw, task.image, False, chosen)


def _said(wanted: Sequence[Wanted], annotation: AnnotationRecord) -> Iterator[Item]:
    """What a person said, in the order in which it was said, with the labels of ``wanted`` only.

    Where there is one mask per label, the masks that were drawn for it become one.
    """
    origin = {"source": "human", "person": annotation.completed_by, "annotation": annotation.id}
    kind_of = {label: target.is_of for target in wanted for label in target.labels}
    done: set[str] = set()
    for region in annotation.regions:
        label = region["label"]
        kind = kind_of.get(label)
        if kind is None or (region["rle"] is None) != (kind.unit == "picture"):
            continue
        if kind.unit == "picture":
            yield Item(label, None, origin)
        elif kind.whole_labels:
            if label not in done:
                drawn = [(row["label"], row["rle"]) for row in annotation.regions if row["label"] == label]
                ((_, rle),) = one_per_label([row for row in drawn if row[1] is not None])
                yield Item(label, rle, origin)
            done.add(label)
        else:
            box = region["box_xyxy"] if kind.unit == "box" else ()
            yield Item(label, region["rle"], origin, box, region.get("rotated") or ())


def _file_names(db: ProjectStore) -> dict[int, str]:
    """File names of all tasks of the project, exported or not: a later export gives the same names."""
    query = select(TaskRecord.id, TaskRecord.data, TaskRecord.image).where(TaskRecord.project_id == db.id)
    query = query.order_by(TaskRecord.id).execution_options(yield_per=_ROWS)  # the data is not kept
    with db.read() as session:
        rows = [
            TaskPicture(task, str(data.get(PATH_FIELD) or ""), image)
            for task, data, image in session.execute(query)
        ]
    return file_names(rows)


def _accepted(
    db: ProjectStore,
    paths: ProjectPaths,
    record: RoundRecord,
    pages: VerdictPages,
    wanted: Sequence[Wanted],
    finished: set[int],
    absent: Mapping[int, AbsentLabels],
) -> Iterable[tuple[TaskRecord, tuple[int, int], list[Item]]]:
    """Tasks nobody finished that hold accepted instances, with those.

    ``absent``: labels that people said are not on a picture.
    """
    labels = labels_as_then(paths, record.number, wanted)
    whole = {label for target in wanted if target.is_of.unit == "picture" for label in target.labels}
    folder = paths.pool(record.model_version)
    ids = [task for task in pages.tasks(or_test=OTHER_CLASS) if task not in finished]
    if not ids:
        return
    index = read_index(folder)
    for start in range(0, len(ids), _PAGE):
        page = ids[start : start + _PAGE]
        table = read_pool(folder, columns=_COLUMNS, task_ids=page, index=index)
        verdicts = pages.of(page)
        table, others = with_other_classes(table, verdicts, wanted)
        gone = is_absent(absent, table)
        by_task: dict[int, list[Item]] = {}
        for row in sorted(range(len(table)), key=lambda i: (int(table.task_id[i]), str(table.key[i]))):
            key = str(table.key[row])
            verdict = others.get(key) or verdicts.get(key)
            if gone[row] or verdict is None or verdict.verdict <= 0 or str(table.label[row]) not in labels:
                continue
            item = _accepted_item(table, row, verdict, record, whole)
            by_task.setdefault(int(table.task_id[row]), []).append(item)
        with db.read() as session:
            query = select(TaskRecord).where(TaskRecord.id.in_(page), TaskRecord.project_id == db.id)
            tasks = {task.id: task for task in session.scalars(query)}
        for task_id, items in by_task.items():
            entry = index.entry(task_id)
            if task_id in tasks and entry is not None:
                yield tasks[task_id], entry.hw, items


def _accepted_item(
    table: PoolTable, row: int, verdict: Verdict, record: RoundRecord, whole: set[str]
) -> Item:
    provenance = verdict.provenance(record.number)
    provenance["instance"] = provenance.pop("key")
    label = str(table.label[row])
    origin = {
        "score": round(float(table.score[row]), 4),
        "quality": round(float(table.quality[row]), 4),
        "model_version": record.model_version,
        **provenance,
    }
    box = [round(float(edge), 2) for edge in table.box_xyxy[row]]
    return Item(label, None if label in whole else table.rle(row), origin, box)


def _size(images: ImageStore | None, task: TaskRecord, regions: Sequence[Any]) -> tuple[int, int]:
    """Height and width in pixels. Without regions the picture is opened; without ``images`` they are 0 then.
    Raises BadImage, StudioError.
    """
    for region in regions:
        if region["rle"] is not None:
            height, width = region["rle"]["size"]
            return int(height), int(width)
    if images is None:
        return 0, 0
    return images.get(task.image, task_id=task.id, project_id=task.project_id).hw


def _number(value: float) -> float | None:
    """JSON knows no NaN."""
    return value if math.isfinite(value) else None


def _info(db: ProjectStore, record: RoundRecord | None, noun: str) -> dict[str, Any]:
    info: dict[str, Any] = {
        "description": f"Groundswell export of project {db.id} ({db.title})",
        "project": db.key,
        "round": None if record is None else record.number,
        "model_version": None if record is None else record.model_version,
        "review_done": record is not None and record.review_done,
        "decisions": [],
        "audits": [],
        "promise": None,
        "found": None,
        "says": [],
    }
    if record is None:
        return info
    review = record.figures.get("review", {})
    info |= {"promise": review.get("promise"), "found": review.get("found")}
    info["says"] = promise_lines(review, noun)
    query = select(DecisionRecord).where(
        DecisionRecord.project_id == db.id, DecisionRecord.round == record.number
    )
    with db.read() as session:
        info["decisions"] = [
            {
                "label": row.label,
                "number": row.number,
                "cluster": row.cluster,
                "action": row.action,
                "members": row.members,
                "asked": row.asked,
                "yes": row.yes,
                "purity_lower": _number(row.lower),
                "purity_upper": _number(row.upper),
                "confidence": _number(row.confidence),
                "test": row.test,
            }
            for row in session.scalars(query.order_by(DecisionRecord.label, DecisionRecord.number))
        ]
    info["audits"] = [row for row in info["decisions"] if row["test"] == AUDIT]
    return info
