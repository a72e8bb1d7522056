"""A project with open questions on the fake Label Studio, the app with pages, and people at browsers."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from flask import Flask
from flask.testing import FlaskClient

from sync.review.flush import FlushReport, flush
from sync.review.outbox import QUESTIONS, Mode
from sync.review.review_tasks import read_questions
from sync.store.tables import ProjectRecord
from sync.web.app import create_web_app
from sync.web.review.invites import Invite, create_invite
from tests.sync.conftest import World

POST = {"X-Groundswell": "1"}


class Place:
    """The review page over a world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.settings = world.settings
        self.studio = world.studio
        self.app: Flask = create_web_app(self.settings, store=world.store, studio=world.studio)

    def invite(self, name: str = "Ana", scopes: Sequence[Mode] = (QUESTIONS,), days: float = 7.0) -> Invite:
        return create_invite(
            self.settings,
            self.world.store,
            self.studio,
            self.studio,
            project_id=self.world.project_id,
            name=name,
            scopes=scopes,
            days=days,
        )

    def person(self, name: str = "Ana", **more: Any) -> PersonAtBrowser:
        return PersonAtBrowser(self.app, self.invite(name, **more))

    def flush(self, **more: Any) -> FlushReport:
        return flush(self.world.store, "here", lambda mode: self.studio, **more)

    def review_tasks(self, form: str = "single") -> list[int]:
        with self.world.store.read() as session:
            record = session.get_one(ProjectRecord, self.world.project_id)
        project = record.review_project_id if form == "single" else record.sheet_project_id
        return [] if project is None else sorted(self.studio.task_ids(project))

    def annotations(self, form: str = "single") -> dict[int, list[Any]]:
        found = {task: list(self.studio.task(task).annotations) for task in self.review_tasks(form)}
        return {task: rows for task, rows in found.items() if rows}


class PersonAtBrowser:
    """Somebody who opened their link."""

    def __init__(self, app: Flask, invite: Invite) -> None:
        self.app = app
        self.invite = invite
        self.client: FlaskClient = app.test_client()
        self.link = "/review/i/" + invite.link.rpartition("/")[2]
        self.arrived = self.client.get(self.link)

    def get(self, path: str, **query: Any) -> Any:
        return self.client.get(f"/review/api/{path}", query_string=query)

    def post(self, path: str, body: Any) -> Any:
        return self.client.post(f"/review/api/{path}", json=body, headers=POST)

    @property
    def stream(self) -> str:
        return str(self.get("me").json["streams"][0]["id"])

    def cards(self, n: int = 30, have: Sequence[str] = (), **more: Any) -> list[dict[str, Any]]:
        reply = self.get("cards", stream=self.stream, n=n, have=",".join(have), **more)
        assert reply.status_code == 200, reply.json
        return list(reply.json["cards"])

    def answer(self, card: str, **what: Any) -> dict[str, Any]:
        """One answer; the reply."""
        body = {"uuid": str(uuid.uuid4()), "card": card, "seconds": 1.0, **what}
        reply = self.post("answers", {"answers": [body]})
        assert reply.status_code == 200, reply.json
        return dict(reply.json) | {"uuid": body["uuid"]}


def task_of(card: dict[str, Any]) -> int:
    return int(card["id"].split(":")[2])


def truth_of(place: Place, card: dict[str, Any]) -> list[bool]:
    """Whether each mask of a card is good, in the order shown."""
    _, questions = read_questions(place.studio.task(task_of(card)).data)
    return [place.world.is_good(question) for question in questions]
