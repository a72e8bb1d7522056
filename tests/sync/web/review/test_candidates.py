"""Which open tasks a person may be given: rules about repeated questions, on rows made by hand."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sync.review.question import HIDDEN
from sync.settings import Settings
from sync.store.database import Store
from sync.store.tables import AnswerRecord, QuestionRecord, ReviewTaskRecord
from sync.web.review.candidates import open_cards
from sync.web.review.sessions import Person

NOW = datetime(2030, 1, 1, tzinfo=UTC)
ANA, BEN = 21, 22


class Asked:
    """Single questions about masks, each a review task of its own."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def question(self, task: int, mask: str, repeat: int = 0) -> None:
        with self._store.write() as session:
            session.add(
                ReviewTaskRecord(
                    id=task, project_id=1, form=0, key=f"k{task}", is_open=True, pictures=[[mask, "x"]]
                )
            )
            session.add(
                QuestionRecord(
                    project_id=1, key=f"q{task}", round=1, task_id=5, instance=mask, label="disc", item=0,
                    cluster=0, stream=0, inclusion=1.0, form=0, repeat=repeat, prior=0.5, rle={},
                    review_task_id=task,
                )
            )  # fmt: skip

    def answer(self, task: int, user: int, value: str = "yes") -> None:
        with self._store.write() as session:
            session.add(
                AnswerRecord(
                    annotation_id=100 * user + task, project_id=1, question_key=f"q{task}", worker=user,
                    value=value, seconds=1.0, created_at=NOW, updated_at=NOW, review_task_id=task,
                )
            )  # fmt: skip
            if value != "skip":
                session.get_one(ReviewTaskRecord, (1, task)).is_open = False

    def given(self, user: int, overlap: int = 1) -> list[int]:
        """Tasks that a person gets, in their order."""
        person = Person(f"p{user}", "Somebody", "i", 1, ("questions",), user, None)
        with self._store.read() as session:
            cards = open_cards(session, person, overlap=overlap, now=NOW, user=user)
        return [card.task_id for card in cards]


@pytest.fixture
def asked(tmp_path: Path) -> Iterator[Asked]:
    store = Store(Settings(data_dir=tmp_path).database())
    yield Asked(store)
    store.close()


def test_a_hidden_repeat_goes_to_who_judged_the_mask_and_to_others_last(asked: Asked) -> None:
    asked.question(1, "m1")
    asked.question(2, "m1", repeat=HIDDEN)
    asked.question(3, "m3")
    asked.question(4, "m4")
    asked.answer(1, ANA)
    assert asked.given(ANA) == [2, 3, 4], "in the order of asking: nothing tells it from others"
    assert asked.given(BEN) == [3, 4, 2], "it says nothing about how steady somebody else is"


def test_a_mask_that_needs_another_worker_does_not_come_back_to_the_first(asked: Asked) -> None:
    asked.question(1, "m1")
    asked.question(2, "m1", repeat=1)
    asked.question(3, "m3")
    asked.answer(1, ANA)
    assert asked.given(ANA) == [3]
    assert asked.given(BEN) == [2, 3]


def test_a_skip_is_no_judgement(asked: Asked) -> None:
    asked.question(1, "m1")
    asked.question(2, "m1", repeat=1)
    asked.answer(1, ANA, "skip")
    assert asked.given(ANA) == [2], "not the skipped one, but the repeat is new to them"
    assert asked.given(BEN) == [1, 2]
