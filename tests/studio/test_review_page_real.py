"""The review page on a real Label Studio: the backend killed and Label Studio cut off while people answer.

What must hold afterwards: every answer that the page called stored is in Label Studio once, as its person's.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy import select

from sync.review.review_tasks import parse_answers
from sync.settings import Settings
from sync.store.review_tables import InviteRecord, OutboxRecord
from sync.store.tables import AnswerRecord
from sync.studio.client import Studio
from sync.web.review.invites import create_invite
from tests.chaos.wire import Wire
from tests.conftest import LOGIN, free_port
from tests.sync.conftest import World, _tiny_learner

pytestmark = [pytest.mark.studio, pytest.mark.slow]

__all__ = ["_tiny_learner"]  # a fixture

POST = {"X-Groundswell": "1"}
WAIT_S = 90.0


class Backend:
    """The backend as `groundswell up` starts it, in a process group of its own."""

    def __init__(self, settings: Settings, log: Path) -> None:
        self.port = int(settings.backend_url.rpartition(":")[2])
        self.url = settings.backend_url
        self.log = log
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("GROUNDSWELL_")}
        for name in settings.model_fields_set:
            value = getattr(settings, name)
            if isinstance(value, str | Path | int | float | SecretStr):
                text = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
                self.env[f"GROUNDSWELL_{name.upper()}"] = text
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [
            *(sys.executable, "-m", "gunicorn", "sync.web.wsgi:app", "--bind", f"127.0.0.1:{self.port}"),
            *("--worker-class", "gthread", "--threads", "4", "--workers", "1"),
            *("--control-socket", str(self.log.with_suffix(".ctl"))),
        ]
        with self.log.open("ab") as file:
            self.process = subprocess.Popen(
                command, env=self.env, stdout=file, stderr=file, start_new_session=True
            )
        end = time.monotonic() + WAIT_S
        while time.monotonic() < end:
            try:
                if httpx.get(f"{self.url}/health", timeout=5).status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.1)
        pytest.fail(f"the backend did not start:\n{self.log.read_text()[-3000:]}")

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


class Person:
    """Somebody whose browser keeps an answer until the page's server has said that it is stored."""

    def __init__(self, backend: Backend, link: str) -> None:
        self.http = httpx.Client(base_url=backend.url, timeout=30, headers=POST)
        assert self.http.get("/review/i/" + link.rpartition("/")[2]).status_code == 303
        self.stored: dict[int, str] = {}
        self.refused: list[Any] = []

    def cards(self, n: int = 30) -> list[dict[str, Any]]:
        stream = self.http.get("/review/api/me").raise_for_status().json()["streams"][0]["id"]
        reply = self.http.get("/review/api/cards", params={"stream": stream, "n": n})
        return list(reply.raise_for_status().json()["cards"])

    def answer(self, card: dict[str, Any], value: str) -> None:
        """Send until it is stored, as the page does after a lost connection."""
        body = {"uuid": str(uuid.uuid4()), "card": card["id"], "value": value, "seconds": 0.3}
        end = time.monotonic() + WAIT_S
        while time.monotonic() < end:
            try:
                reply = (
                    self.http.post("/review/api/answers", json={"answers": [body]}).raise_for_status().json()
                )
            except httpx.HTTPError:
                time.sleep(0.1)
                continue
            self.refused += reply["refused"]
            if reply["stored"]:
                self.stored[int(card["id"].split(":")[2])] = value
            return
        pytest.fail("the answer was never taken")


class Place:
    """A project with open questions on the real server, the backend behind a wire to it."""

    def __init__(self, folder: Path, studio: Studio) -> None:
        self.studio = studio
        host, _, port = studio.url.removeprefix("http://").partition(":")
        self.wire = Wire((host, int(port)))
        self.world = World(
            folder,
            18,
            studio,  # type: ignore[arg-type]
            studio_url=studio.url,
            studio_token=LOGIN.token,
            backend_url=f"http://127.0.0.1:{free_port()}",
            signing_key="a signing key",
            policy="random",
            review_form="single",
            review_overlap=2,
            review_overlap_max=2,
        )
        names = {
            str(task.data["image"]).rsplit("-", 1)[-1]: task.id
            for task in studio.tasks(self.world.project_id)
        }
        self.world.tasks = [names[f"{number:03d}.png"] for number in range(18)]
        self.world.label(*range(6))
        report = self.world.worker().look(self.world.project_id)
        assert report is not None
        assert report.error == ""
        behind = self.world.settings.model_copy(update={"studio_url": self.wire.url})
        self.backend = Backend(behind, folder / "backend.log")

    def person(self, name: str) -> Person:
        invite = create_invite(
            self.world.settings,
            self.world.store,
            self.studio,
            self.studio,
            project_id=self.world.project_id,
            name=name,
        )
        return Person(self.backend, invite.link)

    def wait_until_written(self) -> None:
        end = time.monotonic() + WAIT_S
        while time.monotonic() < end:
            with self.world.store.read() as session:
                rows = list(session.scalars(select(OutboxRecord)))
            if all(row.written == row.revision for row in rows):
                return
            time.sleep(0.3)
        pytest.fail(f"answers still wait: {[(row.tries, row.error) for row in rows if row.error]}")

    def check(self, *people: Person) -> None:
        """Each answer is there once, as its person's; nothing else is."""
        self.wait_until_written()
        users = {row.name: row.review_user for row in invited(self.world)}
        wanted = Counter(
            (users[name], task, value)
            for name, person in zip(("Ana", "Ben"), people, strict=False)
            for task, value in person.stored.items()
        )
        (review_id,) = self.world.review_projects().values()
        found: Counter[tuple[int | None, int, str]] = Counter()
        for task in self.studio.tasks(review_id):
            for annotation in task.annotations:
                (said,) = parse_answers(task.data, annotation)
                found[annotation.completed_by, task.id, said.value] += 1
        assert found == wanted
        assert all(not person.refused for person in people)


def invited(world: World) -> list[InviteRecord]:
    with world.store.read() as session:
        return list(session.scalars(select(InviteRecord)))


@pytest.fixture
def place(studio: Studio, tmp_path: Path, _tiny_learner: None) -> Iterator[Place]:
    made = Place(tmp_path / "world", studio)
    made.backend.start()
    yield made
    made.backend.kill()
    made.wire.shutdown()
    made.wire.server_close()
    for review in made.world.review_projects().values():
        studio.delete_project(review)
    studio.delete_project(made.world.project_id)
    made.world.store.close()


def at_once(*what: Callable[[], None]) -> None:
    """Run these at the same time; the first failure is raised."""
    errors: list[BaseException] = []

    def run(one: Callable[[], None]) -> None:
        try:
            one()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(one,)) for one in what]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=3 * WAIT_S)
    if errors:
        raise errors[0]


def test_answers_of_two_people_survive_kills_and_a_lost_label_studio(place: Place) -> None:
    ana, ben = place.person("Ana"), place.person("Ben")
    cards = {"ana": ana.cards(), "ben": ben.cards()}
    assert all(len(held) >= 12 for held in cards.values())
    stop = threading.Event()

    def play(person: Person, mine: list[dict[str, Any]]) -> None:
        for number, card in enumerate(mine[:12]):
            person.answer(card, ("yes", "no", "unsure")[number % 3])
            time.sleep(0.15)

    def trouble() -> None:
        for number in range(4):
            time.sleep(0.5)
            if stop.is_set():
                return
            if number % 2:
                place.wire.is_cut = not place.wire.is_cut
            else:
                place.backend.kill()
                place.backend.start()
        place.wire.is_cut = False

    at_once(lambda: play(ana, cards["ana"]), lambda: play(ben, cards["ben"]), trouble)
    stop.set()
    place.wire.is_cut = False
    assert [len(person.stored) for person in (ana, ben)] == [12, 12]
    place.backend.kill()  # once more, with whatever is under way
    place.backend.start()
    place.check(ana, ben)
    # the worker reads them, and nobody is asked again what they answered
    report = place.world.worker().look(place.world.project_id)
    assert report is not None
    assert report.error == ""
    with place.world.store.read() as session:
        assert len(list(session.scalars(select(AnswerRecord)))) == 24
    left = {int(card["id"].split(":")[2]) for card in ana.cards()}
    assert not left & set(ana.stored)


def test_an_answer_taken_back_while_label_studio_was_away_is_not_there(place: Place) -> None:
    ana = place.person("Ana")
    first, second, third, *_ = ana.cards()
    ana.answer(first, "yes")
    place.wait_until_written()
    place.wire.is_cut = True
    ana.answer(second, "yes")
    for card in (first, second):
        assert ana.http.post("/review/api/undo", json={"card": card["id"]}).status_code == 200
        del ana.stored[int(card["id"].split(":")[2])]
    ana.answer(second, "no")
    ana.answer(third, "unsure")
    assert ana.http.get("/review/api/stats").json()["queue"] == 3
    end = time.monotonic() + WAIT_S
    while "wait in the queue" not in place.backend.log.read_text():  # the admin is told
        assert time.monotonic() < end
        time.sleep(0.2)
    place.wire.is_cut = False
    place.check(ana)
    (row,) = invited(place.world)
    user = place.studio._http.get(f"/api/users/{row.review_user}/")
    assert (user["first_name"], user["email"]) == ("Ana", f"{row.person}@review-page.invalid")
    assert LOGIN.token not in place.backend.log.read_text()
