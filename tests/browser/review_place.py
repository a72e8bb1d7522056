"""Open questions in a real review project, and the backend with its review page in front of them.

The questions are about drawn masks: the true ones of the sample set, and the same ones shifted or cut in
half. So it is known which ones are good, and nothing has to be trained.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select
from werkzeug.serving import make_server

from ml_backend.artifacts.pool_tables import instance_key
from ml_backend.kinds.base import Kind
from ml_backend.masks.coco import load_coco
from sync.lab.ground_truth import Truth
from sync.lab.sample_set import LABELS, make_sample_set
from sync.projects.init_project import InitReport, init_project
from sync.review.ask import ask
from sync.review.gold_masks import half, shifted
from sync.review.outbox import QUESTIONS, Mode
from sync.review.question import Question
from sync.rounds.project import OpenProject, open_project
from sync.rounds.pull import pull
from sync.settings import Settings
from sync.store.database import Store
from sync.store.tables import ProjectRecord, TaskRecord
from sync.studio.client import Studio
from sync.web.access.shared import services_of
from sync.web.app import create_web_app
from sync.web.review.invites import Invite, create_invite
from sync.web.review.queue_thread import start_queue_thread
from tests.conftest import LOGIN, free_port
from tests.sync.steps import step

__all__ = ["ReviewPlace", "review_place"]


@dataclass(frozen=True)
class ReviewPlace:
    """A project with open questions, and what made it."""

    settings: Settings
    studio: Studio
    store: Store
    project: OpenProject
    made: InitReport
    truth: dict[str, bool]
    """key of each question: whether its mask is a good one"""

    def invite(self, name: str, mode: Mode = QUESTIONS) -> Invite:
        """A link for a person of this name."""
        return create_invite(
            self.settings,
            self.store,
            self.studio,
            self.studio,
            project_id=self.made.project_id,
            name=name,
            scopes=(mode,),
        )


@contextmanager
def review_place(
    studio: Studio,
    folder: Path,
    *,
    questions: int,
    form: int = 0,
    pictures: int = 3,
    kind: Kind = "instances",
) -> Iterator[ReviewPlace]:
    """Ask ``questions`` single questions (``form`` 1: contact sheets) about ``pictures`` drawn pictures.

    Of the kind ``classes`` the pictures themselves wait for their classes, so nothing is asked.
    """
    drawn = make_sample_set(folder / "set", n=pictures)
    coco = load_coco(drawn / "images", drawn / "annotations.json")
    port = free_port()
    values = Settings(
        data_dir=folder / "data",
        studio_url=studio.url,
        studio_token=LOGIN.token,
        backend_url=f"http://127.0.0.1:{port}",
        webhook_secret="a secret of the tests",
        open_backend=True,
        signing_key="a signing key of the tests, long enough",
        review_requests=6000,
        review_address_requests=60000,
    )
    store = Store(values.database())
    app = create_web_app(values, store=store)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = make_server("127.0.0.1", port, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    made = init_project(
        studio,
        title="Metal parts",
        labels=LABELS,
        images=drawn / "images",
        settings=values,
        kind=kind,
        connect=False,
    )
    try:
        project = open_project(values, store, studio, made.project_id)
        step(pull, project)
        asked = _questions(project, Truth(coco), questions, form) if questions else []
        step(ask, project, [question for question, _ in asked])
        start_queue_thread(services_of(app))
        truth = {question.key: is_good for question, is_good in asked}
        yield ReviewPlace(values, studio, store, project, made, truth)
    finally:
        with store.read() as session:
            record = session.get(ProjectRecord, made.project_id)
            sheets = record.sheet_project_id if record is not None else None
        for project_id in (made.project_id, made.review_project_id, sheets):
            if project_id is not None:
                studio.delete_project(project_id)
        server.shutdown()
        server.server_close()
        thread.join(timeout=10)
        store.close()


def _questions(project: OpenProject, truth: Truth, count: int, form: int) -> list[tuple[Question, bool]]:
    """Questions in an order that mixes good and wrong masks, and whether each mask is good."""
    with project.db.read() as session:
        tasks = session.execute(
            select(TaskRecord.id, TaskRecord.image).where(TaskRecord.project_id == project.id)
        ).all()
    rows = []
    for task_id, address in tasks:
        image = truth.image(address)
        for label, rle in zip(image.label, image.rle, strict=True):
            name = truth.labels[label]
            changes = [(rle, True), (shifted(rle), False), (half(rle), False)]
            rows += [(task_id, name, mask, good) for mask, good in changes if mask is not None]
    rows.sort(key=lambda row: (row[1], str(row[2]["counts"])))
    found = []
    for number, (task_id, label, mask, is_good) in enumerate(rows[:: max(1, len(rows) // count)][:count]):
        instance = instance_key(task_id, label, str(mask["counts"]))
        question = Question(
            key=Question.make_key(1, instance, 0, 0, phase=-1, certificate=0),
            project_id=project.id, round=1, task_id=task_id, instance=instance, label=label, item=number,
            cluster=0, stream=0, inclusion=1.0, form=form, repeat=0, prior=0.5, rle=mask,
        )  # fmt: skip
        found.append((question, is_good))
    assert len(found) == count, f"the pictures give {len(found)} questions"
    return found
