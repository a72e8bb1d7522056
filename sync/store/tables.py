"""Tables of the store, as typed SQLAlchemy models.

``ProjectRecord`` is configuration (which Label Studio projects take part); every other table of this module
is derived from Label Studio and the data directory and may be dropped: ``groundswell rebuild`` fills it.
Tables of the review page, which may not, are in ``review_tables``.
Regions are kept as COCO RLE in JSON; verdicts on whole pools are columns on disk (``rounds/<n>/``), not rows.
A change here needs a migration in ``sync/store/migrations``; a test compares the two.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    ForeignKeyConstraint,
    Index,
    String,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

__all__ = [
    "AnnotationRecord",
    "AnswerRecord",
    "ArtifactRecord",
    "Base",
    "DecisionRecord",
    "InferenceRecord",
    "InstallationRecord",
    "JobRecord",
    "LeaseRecord",
    "LeftOverRecord",
    "PersonRecord",
    "ProjectRecord",
    "QuestionRecord",
    "ReviewTaskRecord",
    "RoundRecord",
    "SplitRecord",
    "TaskRecord",
    "UtcDateTime",
]


class UtcDateTime(TypeDecorator[datetime]):
    """Aware UTC in Python, naive UTC in databases that know no zones (SQLite)."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        dict[str, Any]: JSON,
        list[Any]: JSON,
        datetime: UtcDateTime,
    }


class ProjectRecord(Base):
    """A Label Studio project that takes part, with its companion review project."""

    __tablename__ = "projects"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    key: Mapped[str] = mapped_column(String(64))
    title: Mapped[str] = mapped_column(String(500))
    label_config: Mapped[str]
    review_project_id: Mapped[int | None]
    """review project of single questions, made when the first one is asked"""
    sheet_project_id: Mapped[int | None]
    """review project of contact sheets"""
    options: Mapped[dict[str, Any]] = mapped_column(default=dict)
    watermark: Mapped[datetime | None]
    """newest ``updated_at`` of a pulled task"""
    review_watermark: Mapped[datetime | None]
    sheet_watermark: Mapped[datetime | None]
    error: Mapped[str] = mapped_column(default="")
    """why the last look at this project failed; empty when it went well"""
    pulled_at: Mapped[datetime | None]
    compared_at: Mapped[datetime | None]
    """when all tasks were last compared with Label Studio, not only those that changed"""
    compared_surplus: Mapped[int | None]
    """how many more tasks Label Studio listed than it counted, at that comparison; 0 as a rule"""
    gone_at: Mapped[datetime | None]
    """when Label Studio first said that the project is not there; such a project is not looked at"""
    paused: Mapped[str] = mapped_column(String(8), default="")
    """empty; ``asking``: no new questions; ``all``: nothing but reading what people did"""
    round_wanted: Mapped[datetime | None]
    """when an admin asked for a round; None once it has begun"""
    tasks_revision: Mapped[str] = mapped_column(String(32), default="", server_default="")
    """another one after every change of tasks, annotations, test split or inferences (``store.revisions``)"""
    review_revision: Mapped[str] = mapped_column(String(32), default="", server_default="")
    """the same for questions, answers and review tasks"""
    artifacts_revision: Mapped[str] = mapped_column(String(32), default="", server_default="")
    """the same for the files in the object store, where there is one"""
    version_wanted: Mapped[str] = mapped_column(String(120), default="", server_default="")
    """model version that an admin asked to serve again; empty when none is, or once it has begun"""


class TaskRecord(Base):
    __tablename__ = "tasks"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    project_id: Mapped[int] = mapped_column(index=True)
    data: Mapped[dict[str, Any]]
    image: Mapped[str]
    """value of the image tag as Label Studio stores it; empty when the task has none"""
    updated_at: Mapped[datetime]
    finished: Mapped[bool]
    """a person submitted a result (not a skip)"""
    tagged_only: Mapped[bool] = mapped_column(default=False)
    """finished by saying what the picture shows, where the project wants to know where it is as well"""
    broken: Mapped[str] = mapped_column(default="")
    """why the task cannot be used (no image, bad region), found by the pull; empty when it can"""
    image_error: Mapped[str] = mapped_column(default="")
    """why the image could not be read when a step last tried; empty when it could"""

    __table_args__ = (Index("tasks_open", "project_id", "finished"),)


class AnnotationRecord(Base):
    __tablename__ = "annotations"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    task_id: Mapped[int] = mapped_column(BigInteger, index=True)
    project_id: Mapped[int] = mapped_column(index=True)
    completed_by: Mapped[int | None]
    was_cancelled: Mapped[bool]
    ground_truth: Mapped[bool]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    lead_time_s: Mapped[float | None]
    regions: Mapped[list[Any]]
    """``{"id", "label", "rle": {"size", "counts"}, "box_xyxy"}`` per region, mask at the image's size"""
    digest: Mapped[str] = mapped_column(String(64))
    broken: Mapped[str] = mapped_column(default="")
    clicks_left: Mapped[int] = mapped_column(default=0, server_default="0")
    """points and boxes of smart tools whose mask was never accepted"""

    __table_args__ = (ForeignKeyConstraint(["task_id"], ["tasks.id"], ondelete="CASCADE"),)


class InferenceRecord(Base):
    """What the last model run on a task used (version and image), and when to try a failed image again."""

    __tablename__ = "inferences"

    project_id: Mapped[int] = mapped_column(primary_key=True)
    task_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    model_version: Mapped[str] = mapped_column(String(120))
    image: Mapped[str]
    """address of the image then"""
    tries: Mapped[int] = mapped_column(default=0)
    """how often the image could not be read, in a row"""
    retry_at: Mapped[datetime | None]
    """when to try again; None when the image was read, or when trying again is of no use"""


class SplitRecord(Base):
    """A task of a frozen test split; see ``sync.rounds.test_split``."""

    __tablename__ = "test_split"

    project_id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False, default=1)
    task_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)


class RoundRecord(Base):
    __tablename__ = "rounds"

    project_id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    model_version: Mapped[str] = mapped_column(String(120))
    digest: Mapped[str] = mapped_column(String(64))
    """of the snapshot the round trains on"""
    step: Mapped[str] = mapped_column(String(20))
    """the last step that was finished: start, train, infer, cluster, review or push"""
    finished_tasks: Mapped[int]
    origin: Mapped[str] = mapped_column(String(12), default="trained")
    """where its version comes from: trained, cold (before any label) or adopted"""
    split: Mapped[int] = mapped_column(default=1)
    """number of the test split that the round's version was not trained on; 0: there is none"""
    pushed: Mapped[str] = mapped_column(String(160), default="")
    """prediction version last pushed completely"""
    pushed_at: Mapped[datetime | None]
    review_done: Mapped[bool] = mapped_column(default=False)
    failed: Mapped[str] = mapped_column(default="")
    """why the round could not be trained; on another snapshot it is begun anew"""
    started_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    figures: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """per step: seconds and what it counted"""


class QuestionRecord(Base):
    """One question about one instance. ``key`` travels in the review task, so the row can be rebuilt."""

    __tablename__ = "questions"

    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int]
    key: Mapped[str] = mapped_column(String(120))
    """see ``sync.review.question.Question.make_key``"""
    round: Mapped[int]
    task_id: Mapped[int] = mapped_column(BigInteger)
    instance: Mapped[str] = mapped_column(String(80))
    """key of the instance in the round's pool, or of the drawn mask of a gold question"""
    label: Mapped[str] = mapped_column(String(300))
    item: Mapped[int]
    """row in the pool of the label"""
    cluster: Mapped[int]
    phase: Mapped[int] = mapped_column(default=-1)
    """phase of the policy that asks, -1 for none"""
    stream: Mapped[int]
    inclusion: Mapped[float]
    certificate: Mapped[int] = mapped_column(default=0)
    """number of the promise that the answer may be a test of, 0 for none"""
    terms: Mapped[str] = mapped_column(String(16), default="")
    """digest of what that promise says and rests on"""
    form: Mapped[int]
    sheet: Mapped[int] = mapped_column(default=-1)
    """the policy's number of the contact sheet the question was put on"""
    repeat: Mapped[int] = mapped_column(default=0)
    prior: Mapped[float]
    rle: Mapped[dict[str, Any]]
    review_task_id: Mapped[int | None] = mapped_column(BigInteger, index=True)

    __table_args__ = (
        UniqueConstraint("project_id", "key"),
        Index("questions_round", "project_id", "round", "label"),
    )


class ReviewTaskRecord(Base):
    """One review task as Label Studio holds it."""

    __tablename__ = "review_tasks"

    project_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    form: Mapped[int]
    key: Mapped[str] = mapped_column(String(120))
    """key of its question or of its contact sheet; two tasks of one key show the same"""
    is_open: Mapped[bool]
    """Label Studio still serves it to people"""
    pictures: Mapped[list[Any]]
    """``[instance, address of its crop]`` in the order shown"""
    broken: Mapped[str] = mapped_column(default="")
    """why its questions cannot be read; empty when they can"""


class AnswerRecord(Base):
    """One worker's answer to one question: yes, no, unsure or skip."""

    __tablename__ = "answers"

    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(index=True)
    annotation_id: Mapped[int] = mapped_column(BigInteger)
    review_task_id: Mapped[int] = mapped_column(BigInteger, index=True)
    question_key: Mapped[str] = mapped_column(String(120), index=True)
    worker: Mapped[int]
    """Label Studio user, 0 when unknown"""
    value: Mapped[str] = mapped_column(String(8))
    """yes, no, unsure or skip"""
    seconds: Mapped[float | None]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]

    __table_args__ = (UniqueConstraint("project_id", "annotation_id", "question_key"),)


class PersonRecord(Base):
    """What Label Studio calls a person who labelled or answered; see ``sync.rounds.people``."""

    __tablename__ = "people"

    server: Mapped[str] = mapped_column(String(8), primary_key=True)
    """label, or review where the review projects are on a server of their own"""
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    """of the user on that server"""
    name: Mapped[str] = mapped_column(String(300))
    """empty where they gave none, or where the server does not know them any more"""
    email: Mapped[str] = mapped_column(String(254))
    read_at: Mapped[datetime]


class DecisionRecord(Base):
    """What was decided about a cluster or a set of masks; replaced as a whole at each look."""

    __tablename__ = "decisions"

    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int]
    round: Mapped[int]
    label: Mapped[str] = mapped_column(String(300))
    """empty for a set over all labels"""
    number: Mapped[int]
    """row in the policy's list of decisions"""
    cluster: Mapped[int]
    phase: Mapped[int] = mapped_column(default=-1)
    """phase of the policy whose answers decided, -1 for none"""
    action: Mapped[str] = mapped_column(String(8))
    members: Mapped[int]
    asked: Mapped[int]
    yes: Mapped[int]
    lower: Mapped[float]
    upper: Mapped[float]
    confidence: Mapped[float]
    test: Mapped[str] = mapped_column(String(120))

    __table_args__ = (UniqueConstraint("project_id", "round", "label", "number"),)


class ArtifactRecord(Base):
    """Which object of the object store is the content of a file; see ``sync.artifacts.manifest``."""

    __tablename__ = "artifacts"

    id: Mapped[int] = mapped_column(primary_key=True)
    """later content, higher number"""
    project_id: Mapped[int]
    path: Mapped[str] = mapped_column(String(500))
    """relative to the project's folder"""
    key: Mapped[str] = mapped_column(String(600))
    digest: Mapped[str] = mapped_column(String(64))
    """hex SHA-256"""
    size_bytes: Mapped[int] = mapped_column(BigInteger)

    __table_args__ = (UniqueConstraint("project_id", "path"),)


class InstallationRecord(Base):
    """A fact that all machines of an installation share, see ``sync.artifacts.opening``."""

    __tablename__ = "installation"

    name: Mapped[str] = mapped_column(String(40), primary_key=True)
    value: Mapped[str] = mapped_column(String(200))


class LeftOverRecord(Base):
    """An object that is no file's content: not yet, or not any more."""

    __tablename__ = "left_over_artifacts"

    key: Mapped[str] = mapped_column(String(600), primary_key=True)
    since: Mapped[datetime] = mapped_column(index=True)
    claimed: Mapped[bool] = mapped_column(default=False)
    """somebody deletes it, so it can become no content any more"""


class JobRecord(Base):
    """A kind of work on a project, and when it is due next; see ``sync.store.schedule``."""

    __tablename__ = "jobs"

    name: Mapped[str] = mapped_column(String(80), primary_key=True)
    """that of the lease it is done under"""
    project_id: Mapped[int]
    kind: Mapped[str] = mapped_column(String(8))
    next_at: Mapped[datetime | None] = mapped_column(index=True)
    """when it is due, by the database's clock; None: when somebody calls for it"""


class LeaseRecord(Base):
    """Who works on what. ``fence`` grows each time the lease changes hands."""

    __tablename__ = "leases"

    name: Mapped[str] = mapped_column(String(80), primary_key=True)
    holder: Mapped[str] = mapped_column(String(120))
    fence: Mapped[int] = mapped_column(BigInteger)
    heartbeat_at: Mapped[datetime]
