"""People who go on working while everything breaks. What was called stored must be there in the end."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter

import httpx
from sqlalchemy import select

from ml_backend.errors import GroundswellError
from sync.review.review_tasks import read_questions
from sync.store.tables import SplitRecord
from sync.web.review.invites import create_invite
from tests.chaos.site import Site
from tests.studio.test_review_page_real import Person
from tests.sync.conftest import answer_result

__all__ = ["People"]

FIRST = 6
"""pictures that are labelled at the start"""
LATER = 4
"""and while things break"""


class People:
    """An annotator, and two who answer questions: one on the review page, one in Label Studio's own form."""

    def __init__(self, site: Site, rng: random.Random) -> None:
        self.site = site
        self.rng = rng
        self.labelled: list[int] = []
        self.corrected: int | None = None
        self.answered: Counter[int] = Counter()
        """by review task: answers that were called stored"""
        self.stopped = threading.Event()
        self.errors: list[BaseException] = []
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        for who in (self._annotate, self._answer_on_page, self._answer_in_studio):
            thread = threading.Thread(target=self._run, args=(who,), daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        self.stopped.set()
        for thread in self._threads:
            thread.join(timeout=120)
            assert not thread.is_alive(), "somebody still waits for an answer"
        if self.errors:
            raise self.errors[0]

    def _run(self, who: object) -> None:
        assert callable(who)
        try:
            who()
        except BaseException as error:
            self.errors.append(error)

    def _pause(self) -> None:
        self.stopped.wait(self.rng.uniform(0.2, 1.0))

    def label(self, number: int) -> None:
        """Submit, and look whether it is there before submitting once more, as a person would."""
        world = self.site.world
        result = world.scenes[number].result()
        for _ in range(60):
            try:
                if not self.site.studio.task(world.tasks[number]).annotations:
                    self.site.studio.create_annotation(world.tasks[number], result, lead_time_s=20.0)
                self.labelled.append(number)
                return
            except GroundswellError:
                time.sleep(0.5)  # Label Studio is away
        raise AssertionError("Label Studio never came back")

    def correct(self) -> None:
        """Take a region out of a finished task that is not in the test split, where one is known."""
        world = self.site.world
        with world.store.read() as session:
            split = set(session.scalars(select(SplitRecord.task_id)))
        number = next(n for n in self.labelled if world.tasks[n] not in split)
        for _ in range(60):
            try:
                (annotation,) = self.site.studio.task(world.tasks[number]).annotations
                self.site.studio.update_annotation(annotation.id, world.scenes[number].result()[:-1])
                self.corrected = number
                return
            except GroundswellError:
                time.sleep(0.5)
        raise AssertionError("Label Studio never came back")

    def _annotate(self) -> None:
        for number in range(FIRST, FIRST + LATER):
            self.stopped.wait(self.rng.uniform(2.0, 12.0))  # each may be what the next training waits for
            self.label(number)

    def _answer_on_page(self) -> None:
        """One answer after the other, each sent until the page's server says that it is stored."""
        person: Person | None = None
        while not self.stopped.is_set():
            self._pause()
            try:
                if person is None:
                    person = self._invited()
                for card in person.cards(4)[:1]:
                    task = int(card["id"].split(":")[2])
                    good = self._is_good(task)
                    person.answer(card, "yes" if good else "no")
                    self.answered[task] += person.stored.pop(task, None) is not None
            except (httpx.HTTPError, GroundswellError, LookupError):
                continue  # a part is away, or nothing is asked

    def _invited(self) -> Person:
        world = self.site.world
        invite = create_invite(
            world.settings,
            world.store,
            self.site.studio,
            self.site.studio,
            project_id=world.project_id,
            name="Ana",
        )
        return Person(self.site.backend, invite.link)

    def _is_good(self, review_task: int) -> bool:
        _, (question,) = read_questions(self.site.studio.task(review_task).data)
        return self.site.world.is_good(question)

    def _answer_in_studio(self) -> None:
        while not self.stopped.is_set():
            self._pause()
            try:
                for review in self.site.world.review_projects().values():
                    task = self.site.studio.next_task(review)
                    if task is None or task.annotations:
                        continue
                    form, questions = read_questions(task.data)
                    good = [self.site.world.is_good(question) for question in questions]
                    self.site.studio.create_annotation(task.id, answer_result(form, good), lead_time_s=2.0)
                    self.answered[task.id] += 1
            except GroundswellError:
                continue
