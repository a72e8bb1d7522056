"""Revisions: every change of a project's rows changes its mark, and nothing else does."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from sqlalchemy import delete, insert, select, update
from sqlalchemy.orm import Session

from sync.store.database import Store, compare_everything
from sync.store.project_store import ProjectStore, Revision
from sync.store.tables import (
    AnnotationRecord,
    AnswerRecord,
    InferenceRecord,
    ProjectRecord,
    QuestionRecord,
    ReviewTaskRecord,
    SplitRecord,
    TaskRecord,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
Write = Callable[[Session], object]


def _task(number: int, project: int = 1) -> TaskRecord:
    return TaskRecord(
        id=number, project_id=project, data={}, image="", updated_at=NOW, finished=False, broken=""
    )


def _answer(number: int) -> AnswerRecord:
    return AnswerRecord(
        id=number, project_id=1, annotation_id=number, review_task_id=1, question_key="q", worker=1,
        value="yes", created_at=NOW, updated_at=NOW,
    )  # fmt: skip


def _inference() -> InferenceRecord:
    return InferenceRecord(project_id=1, task_id=1, model_version="v", image="")


def _question() -> QuestionRecord:
    names = ("round", "task_id", "item", "cluster", "stream", "inclusion", "form", "prior")
    return QuestionRecord(
        project_id=1, key="q", instance="i", label="l", rle={}, **dict.fromkeys(names, 0)
    )  # fmt: skip


def _review_task() -> ReviewTaskRecord:
    return ReviewTaskRecord(project_id=1, id=3, form=0, key="q", is_open=True, pictures=[])


def _annotation(session: Session) -> None:
    values = {"id": 5, "task_id": 1, "project_id": 1, "was_cancelled": False, "ground_truth": False}
    values |= {"created_at": NOW, "updated_at": NOW, "regions": [], "digest": "d"}
    session.execute(insert(AnnotationRecord), [values])


def _set(session: Session, **values: object) -> None:
    for name, value in values.items():
        setattr(session.get_one(TaskRecord, 1), name, value)


@pytest.fixture
def stores(store: Store) -> tuple[ProjectStore, ProjectStore]:
    with store.write() as session:
        for number in (1, 2):
            session.add(ProjectRecord(id=number, key=f"{number}.0", title="p", label_config="", options={}))
        session.flush()
        session.add(_task(1))
        session.add(_task(2, project=2))
    return ProjectStore(1, "1.0", "p", store), ProjectStore(2, "2.0", "p", store)


@pytest.mark.parametrize(
    ("write", "changed"),
    [
        (lambda s: s.add(_task(9)), {"tasks"}),
        (lambda s: s.delete(s.get_one(TaskRecord, 1)), {"tasks"}),
        (lambda s: _set(s, finished=True), {"tasks"}),
        (_annotation, {"tasks"}),
        (lambda s: s.execute(update(TaskRecord).where(TaskRecord.id == 1).values(image="x")), {"tasks"}),
        (lambda s: s.execute(delete(TaskRecord.__table__).where(TaskRecord.id == 1)), {"tasks"}),
        (lambda s: s.add(_inference()), {"tasks"}),
        (lambda s: s.add(SplitRecord(project_id=1, number=1, task_id=1)), {"tasks"}),
        (lambda s: s.add(_answer(1)), {"review"}),
        (lambda s: s.add(_question()), {"review"}),
        (lambda s: s.add(_review_task()), {"review"}),
        (compare_everything, {"tasks", "review"}),
        (lambda s: _set(s, finished=False), set()),
        (lambda s: s.execute(delete(TaskRecord).where(TaskRecord.id == 77)), set()),
        (lambda s: setattr(s.get_one(ProjectRecord, 1), "title", "another"), set()),
        (lambda s: s.scalars(select(TaskRecord)).all(), set()),
    ],
)
def test_what_changes_the_marks(
    stores: tuple[ProjectStore, ProjectStore], write: Write, changed: set[str]
) -> None:
    mine, _ = stores
    before = mine.revision()
    with mine.write() as session:
        write(session)
    after = mine.revision()
    assert {name for name in ("tasks", "review") if getattr(before, name) != getattr(after, name)} == changed


def test_a_change_of_one_project_leaves_the_marks_of_another(
    stores: tuple[ProjectStore, ProjectStore],
) -> None:
    mine, other = stores
    before = other.revision()
    with mine.write() as session:
        _set(session, finished=True)
    assert other.revision() == before


def test_what_is_rolled_back_marks_nothing_also_not_later(stores: tuple[ProjectStore, ProjectStore]) -> None:
    mine, _ = stores
    before = mine.revision()

    def write_and_fail() -> None:
        with mine.write() as session:
            _set(session, finished=True)
            session.flush()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_and_fail()
    assert mine.revision() == before


def test_a_project_that_is_not_there_has_empty_marks(store: Store) -> None:
    assert ProjectStore(7, "7.0", "p", store).revision() == Revision("7.0", "", "")
