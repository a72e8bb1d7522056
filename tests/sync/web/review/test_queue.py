"""The queue of answers: written once whatever fails or is killed, kept by a rebuild, never given up."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from ml_backend.errors import StudioError
from sync.local.processes import start_time
from sync.projects.rebuild import rebuild
from sync.report.status_figures import status
from sync.report.status_lines import status_lines
from sync.review.answers import pull_answers
from sync.review.flush import CLAIM_S, flush
from sync.review.outbox import QUESTIONS, NewAnswer, put_answer, waiting
from sync.rounds.pull import pull
from sync.store.database import Store, utc_now
from sync.store.review_tables import OutboxRecord
from sync.studio.protocol import PersonsAnnotation
from sync.web.review.invites import invites
from tests.fakes.label_studio import FakeStudio
from tests.sync.web.review.place import Place

Asking = Callable[..., Place]


class Queue:
    """A queue of its own over one project with three tasks, and a Label Studio that may be away."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.studio = FakeStudio()
        project = self.studio.create_project("Questions", '<View><Image name="image" value="$image"/></View>')
        self.tasks = self.studio.import_tasks(project.id, [{"image": str(i)} for i in range(3)])
        self.user = self.studio.add_person("ana@people.invalid", "Ana")
        self.now = utc_now()

    def put(self, task: int = 0, value: str = "yes", **changes: Any) -> None:
        answer = NewAnswer(
            uuid=str(uuid.uuid4()),
            mode=QUESTIONS,
            project_id=1,
            task_id=self.tasks[task],
            form="single",
            label="disc",
            value={"value": value},
            suggested=(),
            result=[{"value": {"choices": [value]}}],
            is_skip=False,
            seconds=1.0,
        )
        with self.store.write() as session:
            put_answer(session, "ana", self.user, replace(answer, **changes), self.now)

    def withdraw(self, task: int = 0) -> None:
        with self.store.write() as session:
            row = session.scalars(select(OutboxRecord).where(OutboxRecord.task_id == self.tasks[task])).one()
            row.withdrawn, row.revision = True, row.revision + 1

    def flush(self, later: float = 0.0) -> tuple[int, int]:
        self.now += timedelta(seconds=later)
        found = flush(self.store, "here", lambda mode: self.studio, now=lambda: self.now)
        return found.written, found.failed

    def said(self, task: int = 0) -> list[str]:
        rows = self.studio.task(self.tasks[task]).annotations
        return [row.result[0]["value"]["choices"][0] for row in rows]

    def rows(self) -> list[OutboxRecord]:
        with self.store.read() as session:
            return list(session.scalars(select(OutboxRecord).order_by(OutboxRecord.id)))

    def fail(self, status: int | None, call: str = "create_persons_annotation") -> None:
        def refuse(name: str) -> None:
            if name == call:
                raise StudioError("Label Studio is away" if status is None else "refused", status=status)

        self.studio.before_call = refuse


@pytest.fixture
def queue(store: Store) -> Queue:
    return Queue(store)


def test_an_answer_is_written_once_as_that_of_its_person(queue: Queue) -> None:
    queue.put()
    assert queue.flush() == (1, 0)
    assert queue.flush() == (0, 0)
    (row,) = queue.studio.task(queue.tasks[0]).annotations
    assert (row.completed_by, row.lead_time_s, queue.said()) == (queue.user, 1.0, ["yes"])


def test_while_label_studio_is_away_answers_wait_and_nothing_is_lost(
    queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    for task in range(3):
        queue.put(task)
    queue.fail(None)
    with caplog.at_level(logging.WARNING):
        written, failed = queue.flush()
    assert (written, failed > 0) == (0, True)
    assert "Label Studio is away" in caplog.text
    assert queue.flush() == (0, 0)  # not asked again at once
    with queue.store.read() as session:
        state = waiting(session)
    assert (state.count, state.refused > 0) == (3, True)
    assert "away" in state.error
    waits = []
    for _ in range(8):
        queue.flush(later=61.0)
        waits.append(max((row.retry_at or queue.now) - queue.now for row in queue.rows()))
    assert max(waits) <= timedelta(seconds=60)
    queue.studio.before_call = None
    assert queue.flush(later=61.0)[0] + queue.flush()[0] == 3
    assert [queue.said(task) for task in range(3)] == [["yes"]] * 3
    assert all(row.error == "" for row in queue.rows())


def test_a_refused_answer_is_kept_and_tried_ever_more_rarely(queue: Queue) -> None:
    queue.put()
    queue.fail(400)
    waits = []
    for _ in range(12):
        assert queue.flush(later=3600.0) == (0, 1)
        (row,) = queue.rows()
        assert row.retry_at is not None
        waits.append((row.retry_at - queue.now).total_seconds())
    assert waits[0] == 30
    assert waits == sorted(waits)
    assert waits[-1] == 3600
    assert "refused" in queue.rows()[0].error


def test_an_answer_whose_reply_was_lost_is_not_written_twice(queue: Queue) -> None:
    queue.put()
    create = queue.studio.create_persons_annotation

    def lose_the_reply(row: PersonsAnnotation) -> int:
        create(row)
        raise StudioError("the connection broke", status=None)

    queue.studio.create_persons_annotation = lose_the_reply  # type: ignore[method-assign]
    assert queue.flush() == (0, 1)
    queue.studio.create_persons_annotation = create  # type: ignore[method-assign]
    assert queue.flush(later=5.0) == (1, 0)
    assert queue.said() == ["yes"]


@pytest.mark.parametrize("kept", [True, False])
def test_an_answer_that_was_on_its_way_can_be_taken_back(queue: Queue, kept: bool) -> None:
    queue.put()
    create = queue.studio.create_persons_annotation

    def break_off(row: PersonsAnnotation) -> int:
        if kept:
            create(row)
        raise StudioError("the connection broke", status=None)

    queue.studio.create_persons_annotation = break_off  # type: ignore[method-assign]
    queue.flush()
    queue.studio.create_persons_annotation = create  # type: ignore[method-assign]
    queue.withdraw()
    queue.flush(later=5.0)
    assert queue.said() == []
    # where nothing was found it may still arrive: it is looked for once more
    if not kept:
        create(PersonsAnnotation(queue.tasks[0], queue.rows()[0].result, str(uuid.uuid4()), queue.user, 1.0))
        queue.flush(later=130.0)
    assert queue.said() == []
    assert [row.written == row.revision for row in queue.rows()] == [True]


def test_an_annotation_that_somebody_deleted_is_written_anew_when_the_answer_changes(queue: Queue) -> None:
    queue.put()
    queue.flush()
    (row,) = queue.studio.task(queue.tasks[0]).annotations
    queue.studio.delete_annotation(row.id)
    queue.withdraw()
    assert queue.flush() == (1, 0)
    queue.put(value="no")
    assert queue.flush() == (1, 0)
    assert queue.said() == ["no"]


def test_an_answer_changed_while_it_is_written_is_written_again(queue: Queue) -> None:
    queue.put()
    create = queue.studio.create_persons_annotation

    def change_meanwhile(row: PersonsAnnotation) -> int:
        number = create(row)
        queue.studio.create_persons_annotation = create  # type: ignore[method-assign]
        queue.withdraw()
        queue.put(value="no")
        return number

    queue.studio.create_persons_annotation = change_meanwhile  # type: ignore[method-assign]
    queue.flush()
    queue.flush()
    assert queue.said() == ["no"]


def test_a_bug_met_with_one_answer_does_not_hold_up_the_others(queue: Queue) -> None:
    for task in range(3):
        queue.put(task)
    create = queue.studio.create_persons_annotation

    def odd_reply(row: PersonsAnnotation) -> int:
        if row.task_id == queue.tasks[0]:
            raise KeyError("id")
        return create(row)

    queue.studio.create_persons_annotation = odd_reply  # type: ignore[method-assign]
    assert queue.flush() == (2, 1)
    assert [queue.said(task) for task in range(3)] == [[], ["yes"], ["yes"]]
    assert "unexpected KeyError" in queue.rows()[0].error
    assert queue.flush(later=5.0) == (0, 0)  # it is no hurry
    queue.studio.create_persons_annotation = create  # type: ignore[method-assign]
    assert queue.flush(later=60.0) == (1, 0)
    assert queue.said() == ["yes"]


def test_a_clock_that_was_set_back_holds_nothing_up(queue: Queue) -> None:
    queue.put()
    queue.put(1)
    queue.fail(400)
    assert queue.flush() == (0, 2)
    queue.studio.before_call = None
    with queue.store.write() as session:
        row = session.scalars(select(OutboxRecord).where(OutboxRecord.task_id == queue.tasks[1])).one()
        row.claimed_by, row.claimed_until = "elsewhere:1:2.0:x", queue.now + timedelta(seconds=CLAIM_S)
        row.retry_at = None
    assert queue.flush(later=-24 * 3600.0) == (2, 0)
    assert [queue.said(task) for task in range(2)] == [["yes"]] * 2


def test_two_writers_never_take_the_same_row(queue: Queue) -> None:
    for task in range(3):
        queue.put(task)
    calls: list[int] = []
    create = queue.studio.create_persons_annotation
    inside = threading.Barrier(2, timeout=60)

    def slow(row: PersonsAnnotation) -> int:
        calls.append(row.task_id)
        if len(calls) == 1:
            inside.wait()  # the other writer begins now
            inside.wait()  # and has ended
        return create(row)

    queue.studio.create_persons_annotation = slow  # type: ignore[method-assign]
    found: list[tuple[int, int]] = []
    first = threading.Thread(target=lambda: found.append(queue.flush()))
    first.start()
    inside.wait()
    assert queue.flush() == (0, 0)
    inside.wait()
    first.join(timeout=60)
    assert found == [(3, 0)]
    assert sorted(calls) == sorted(queue.tasks)


def test_who_took_too_long_notes_nothing_over_the_one_who_took_the_row_over(queue: Queue) -> None:
    queue.put()
    create = queue.studio.create_persons_annotation

    def take_over_meanwhile(row: PersonsAnnotation) -> int:
        with queue.store.write() as session:
            (record,) = session.scalars(select(OutboxRecord))
            record.claimed_by = "elsewhere:1:2.0:x"
            record.claimed_until = queue.now + timedelta(seconds=CLAIM_S)
        return create(row)

    queue.studio.create_persons_annotation = take_over_meanwhile  # type: ignore[method-assign]
    queue.flush()
    (row,) = queue.rows()
    assert (row.written, row.claimed_by) == (0, "elsewhere:1:2.0:x")
    queue.studio.create_persons_annotation = create  # type: ignore[method-assign]
    assert queue.flush(later=CLAIM_S + 1) == (1, 0)
    assert queue.said() == ["yes"]


def test_what_a_killed_process_had_claimed_is_taken_over(queue: Queue) -> None:
    queue.put()
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    host = os.uname().nodename[:60]

    def claim(pid: int, started: float | None) -> None:
        with queue.store.write() as session:
            (row,) = session.scalars(select(OutboxRecord))
            row.claimed_by = f"{host}:{pid}:{started}:abcd"
            row.claimed_until = queue.now + timedelta(seconds=CLAIM_S)

    claim(child.pid, start_time(child.pid))
    assert queue.flush() == (0, 0)  # it lives
    child.kill()
    child.wait()
    assert queue.flush() == (1, 0)
    # of a process on another machine nothing is known but the time
    queue.withdraw()
    with queue.store.write() as session:
        (row,) = session.scalars(select(OutboxRecord))
        row.claimed_by, row.claimed_until = "elsewhere:1:2.0:x", queue.now + timedelta(seconds=CLAIM_S)
    assert queue.flush() == (0, 0)
    assert queue.flush(later=CLAIM_S + 1) == (1, 0)
    assert queue.said() == []


def test_the_log_names_no_secret(queue: Queue, caplog: pytest.LogCaptureFixture) -> None:
    queue.put()
    queue.fail(None)
    with caplog.at_level(logging.DEBUG):
        queue.flush()
    assert "ana" not in caplog.text.replace("away", "")


def test_a_rebuild_keeps_invites_and_answers_that_wait(asking: Asking) -> None:
    place = asking()
    ana = place.person()
    card = ana.cards()[0]
    ana.answer(card["id"], value="yes")
    reports = rebuild(place.settings, place.world.store, place.studio)
    assert [report.error for report in reports] == [""]
    assert [row.name for row in invites(place.settings, place.world.store)] == ["Ana"]
    assert place.flush().written == 1
    assert len(place.annotations()) == 1
    assert card["id"] not in {c["id"] for c in ana.cards()}


def test_an_answer_is_not_refused_while_a_rebuild_reads_its_question_again(
    asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = asking()
    ana = place.person()
    cards = [card["id"] for card in ana.cards()]
    ana.answer(cards[0], value="yes")
    monkeypatch.setattr("sync.review.answers._BATCH", 3)
    codes: list[int] = []

    def send() -> Any:
        answers = [
            {"uuid": str(uuid.uuid4()), "card": card, "value": "no", "seconds": 1.0} for card in cards[1:]
        ]
        codes.append(ana.post("answers", {"answers": answers}).status_code)
        return ana.post("undo", {"card": cards[0]}).status_code

    def at(place_in_code: str) -> None:
        if place_in_code == "answers.batch":
            assert send() in (200, 409, 503)

    store = place.world.store
    store.drop_derived()
    assert send() == 503
    project = place.world.open(at)
    pull(project.db, project.studio, project.config, project.settings, project.progress)
    assert pull_answers(project.db, project.review_studio, project.settings, project.progress)
    assert len(codes) > 3
    assert set(codes) == {503}
    codes.clear()
    assert send() in (200, 409)  # it may have been taken back while its own question was there
    assert codes == [200]
    assert ana.get("me").json["streams"][0]["answered"] >= len(cards) - 1


def test_the_worker_writes_what_waits(asking: Asking) -> None:
    place = asking()
    ana = place.person()
    ana.answer(ana.cards()[0]["id"], value="yes")
    place.world.worker().look_at_all()
    assert len(place.annotations()) == 1
    assert ana.get("stats").json["queue"] == 0


def test_the_status_says_how_many_answers_wait_and_why(asking: Asking) -> None:
    place = asking()
    ana = place.person()

    def lines() -> str:
        found = status(place.settings, place.world.store)
        services = {"label_studio": "up", "backend": "up"}
        return "\n".join(status_lines({"services": services, **found}))

    assert "wait for Label Studio" not in lines()
    for card in ana.cards()[:2]:
        ana.answer(card["id"], value="yes")
    assert "2 answers wait for Label Studio" in lines()

    def away(call: str) -> None:
        raise StudioError("Label Studio is away", status=503)

    place.studio.before_call = away
    place.flush()
    assert "could not be written: Label Studio is away" in lines()
    place.studio.before_call = None
