"""What the steps of a review would change, worked out without a server or a store."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from ml_backend.masks.rle import encode_mask
from sync.review.answers import Answer, ReviewChanges, ReviewTask, StoredReview, compare_review_tasks
from sync.review.ask import tasks_to_ask
from sync.review.open_tasks import NewLinks, OpenTask, outdated_links, tasks_to_close
from sync.review.question import Question
from sync.review.review_project import (
    FoundReviewProject,
    ReviewOwner,
    belongs_to_another,
    ensure_review_project,
    find_review_projects,
    installation_id,
)
from sync.review.review_tasks import pictures_of, sheet_key, sheet_task, single_task, with_pictures
from sync.review.weighing import AskedMask, Told, by_expert, evidence, weigh
from sync.settings import Settings
from sync.studio.protocol import ProjectRow
from tests.fakes.label_studio import FakeStudio

START = datetime(2026, 1, 1, tzinfo=UTC)
NAN = float("nan")


def question(i: int = 0) -> Question:
    mask = np.zeros((8, 8), bool)
    mask[2:5, 2 : 6 + i % 2] = True
    return Question(
        key=f"1:t{i}-aa:0:0", project_id=1, round=1, task_id=i, instance=f"t{i}-aa", label="disc", item=i,
        cluster=3, stream=0, inclusion=1.0, form=0, repeat=0, prior=0.8, rle=encode_mask(mask),
    )  # fmt: skip


def answer(number: int, task: int, value: str = "yes") -> Answer:
    return Answer(number, question().key, task, 5, value, 2.0, START, START)


def task(number: int, *answers: Answer, is_open: bool = True) -> ReviewTask:
    one = question()
    return ReviewTask(number, 0, one.key, is_open, ((one.instance, "u"),), (one,), answers)


NOTHING = StoredReview({}, {}, {})


# ---- answers ----------------------------------------------------------------------------------------------


def test_a_new_review_task_brings_its_row_question_and_answers() -> None:
    changes = compare_review_tasks(NOTHING, [task(7, answer(1, 7))])
    assert [row.id for row in changes.tasks] == [7]
    assert changes.questions == [(question(), 7)]
    assert (changes.answers, changes.withdrawn, changes.changed) == ([answer(1, 7)], [], {7})


def test_what_is_level_changes_nothing() -> None:
    stored = StoredReview(
        {7: replace(task(7), questions=())}, {question().key: 7}, {(1, question().key): answer(1, 7)}
    )
    changes = compare_review_tasks(stored, [task(7, answer(1, 7))])
    assert changes == ReviewChanges()
    changes = compare_review_tasks(stored, [task(7, answer(1, 7, "no"), is_open=False)])
    assert ([row.is_open for row in changes.tasks], changes.answers) == ([False], [answer(1, 7, "no")])
    changes = compare_review_tasks(stored, [task(7)])
    assert (changes.withdrawn, changes.changed) == ([(1, question().key)], {7})


def test_a_question_on_two_tasks_belongs_to_the_lower_one_whatever_comes_first() -> None:
    first, second = task(7, answer(1, 7)), task(9, answer(2, 9))
    for order in ([first, second], [second, first]):
        changes = compare_review_tasks(NOTHING, order)
        assert changes.questions == [(question(), 7)]
        assert changes.answers == [answer(1, 7), answer(2, 9)]
    on_second = StoredReview({}, {question().key: 9}, {})
    assert compare_review_tasks(on_second, [first]).moved == [(question().key, 7)]
    on_first = StoredReview({}, {question().key: 7}, {})
    assert compare_review_tasks(on_first, [second]).moved == []


def test_a_task_that_cannot_be_read_takes_no_answer_away() -> None:
    stored = StoredReview({7: task(7)}, {question().key: 7}, {(1, question().key): answer(1, 7)})
    broken = ReviewTask(7, 0, question().key, True, broken="edited")
    changes = compare_review_tasks(stored, [broken])
    assert [row.broken for row in changes.tasks] == ["edited"]
    assert changes == ReviewChanges(tasks=[replace(broken)])


# ---- open tasks -------------------------------------------------------------------------------------------


def test_older_rounds_and_second_copies_are_closed() -> None:
    tasks = [OpenTask(1, 0, 1, ()), OpenTask(2, 0, 2, ()), OpenTask(3, 0, 2, (), is_double=True)]
    assert [one.id for one in tasks_to_close(tasks, 2)] == [1, 3]
    assert tasks_to_close(tasks[1:2], 2) == []


def test_only_links_that_differ_are_replaced() -> None:
    same = OpenTask(1, 0, 1, (("a", "http://new/a"),))
    other = OpenTask(2, 1, 1, (("a", "http://new/a"), ("b", "http://old/b")))
    found = outdated_links([same, other], lambda instance: f"http://new/{instance}")
    assert found == [NewLinks(2, 1, ("http://new/a", "http://new/b"))]
    assert outdated_links([same], lambda instance: f"http://new/{instance}") == []


def test_pictures_of_both_forms_are_read_and_replaced() -> None:
    single = single_task(question(), "http://x/a?b=1&c=2")
    assert pictures_of(single) == ["http://x/a?b=1&c=2"]
    assert with_pictures(single, ["v"]) == single_task(question(), "v")
    questions = [question(i) for i in range(3)]
    sheet = sheet_task(questions, ["a?b=1&c=2", "b", "c"])
    assert pictures_of(sheet) == ["a?b=1&c=2", "b", "c"]
    assert with_pictures(sheet, ["d", "e&f", "g"]) == sheet_task(questions, ["d", "e&f", "g"])


def test_review_tasks_that_are_there_are_not_made_again() -> None:
    questions = [question(i) for i in range(3)]
    assert [new.key for new in tasks_to_ask("single", questions, {})] == [q.key for q in questions]
    assert [new.key for new in tasks_to_ask("single", questions, {questions[1].key: 5})] == [
        questions[0].key,
        questions[2].key,
    ]
    (sheet,) = tasks_to_ask("sheet", questions, {})
    assert (sheet.key, sheet.questions) == (sheet_key(questions), tuple(questions))
    assert tasks_to_ask("sheet", questions, {sheet.key: 5}) == []


# ---- review projects --------------------------------------------------------------------------------------


def row(number: int, title: str, description: str = "", created: int = 2000) -> ProjectRow:
    return ProjectRow(number, title, "<View/>", "", f"{number}.{created}", 0, description)


def test_review_projects_are_known_by_key_and_installation_not_by_number() -> None:
    studio = FakeStudio()
    mine = ReviewOwner("7.1000", "here")
    others = [ReviewOwner("7.1000", "there"), ReviewOwner("7.1500", "here")]
    made = [ensure_review_project(studio, owner, "Cells", form="single") for owner in (mine, *others)]
    assert len(set(made)) == 3
    for owner, number in zip((mine, *others), made, strict=True):
        assert ensure_review_project(studio, owner, "Other title", form="single") == number
        assert find_review_projects(studio.projects(), owner) == {
            "single": FoundReviewProject(number, is_marked=True)
        }
    assert [belongs_to_another(studio.project(number), mine) for number in made] == [False, True, True]


def test_a_review_project_of_the_old_form_is_kept_when_it_can_only_be_ours() -> None:
    owner = ReviewOwner("7.1000", "here")
    old = row(9, "Cells · review 7 (single)")
    assert find_review_projects([old], owner) == {"single": FoundReviewProject(9, is_marked=False)}
    assert find_review_projects([old, row(10, "Cells · review 7 (single)")], owner) == {}
    assert find_review_projects([row(9, "Cells · review 17 (single)")], owner) == {}
    assert find_review_projects([old], ReviewOwner("7.90000", "here")) == {}  # older than the label project
    studio = FakeStudio()
    kept = studio.create_project(
        "Cells · review 7 (single)", "<View><Image name='i' value='$image'/></View>"
    ).id
    assert ensure_review_project(studio, owner, "Cells", form="single") == kept
    assert find_review_projects(studio.projects(), owner)["single"].is_marked
    assert ensure_review_project(studio, ReviewOwner("7.1000", "there"), "Cells", form="single") != kept


def test_an_installation_keeps_its_id(tmp_path_factory: pytest.TempPathFactory) -> None:
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    assert installation_id(one / "data") == installation_id(one / "data")
    assert installation_id(one / "data") != installation_id(two / "data")


# ---- what answers amount to -------------------------------------------------------------------------------


def told(
    minute: int, worker: int, yes: float, *, seconds: float = 3.0, hidden: bool = False, skip: bool = False
) -> Told:
    return Told(START + timedelta(minutes=minute), minute, worker, yes, seconds, hidden, skip)


def test_each_person_counts_once_with_the_newest_answer() -> None:
    first, second, other = told(1, 1, 1.0), told(2, 1, 0.0), told(3, 2, 1.0)
    assert evidence([other, second, first], 0.0) == [second, other]


def test_a_hidden_repeat_is_no_further_evidence() -> None:
    first, repeat = told(1, 1, 1.0), told(2, 1, 0.0, hidden=True)
    assert evidence([first, repeat], 0.0) == [first]
    assert evidence([repeat], 0.0) == [repeat]  # somebody who was not asked before


def test_a_skip_counts_for_those_only_who_said_nothing() -> None:
    skip, said = told(1, 1, NAN, skip=True), told(0, 1, 1.0)
    assert evidence([skip], 0.0) == [skip]
    assert evidence([said, skip], 0.0) == [said]


def test_hurried_answers_do_not_count() -> None:
    slow, hurried = told(1, 1, 1.0), told(2, 1, 0.0, seconds=0.1)
    assert evidence([slow, hurried], 1.0) == [slow]
    assert evidence([hurried], 1.0) == []


def mask(*answers: Told) -> AskedMask:
    return AskedMask("disc", 0, told=list(answers))


def test_at_overlap_one_the_expert_decides_and_repeats_do_not_add_up() -> None:
    expert = mask(told(1, 9, 0.0), told(2, 1, 1.0), told(3, 2, 1.0))
    assert weigh([expert], Settings()).p_yes == [1.0]
    assert weigh([expert], Settings(experts=[9])).p_yes == [0.0]
    insisting = mask(told(1, 1, 1.0), told(2, 1, 1.0), told(3, 1, 1.0), told(4, 2, 0.0), told(5, 3, 0.0))
    assert weigh([insisting], Settings()).p_yes == [0.0]
    only_skipped = weigh([mask(told(1, 1, NAN, skip=True))], Settings())
    assert (only_skipped.p_yes, only_skipped.again) == ([0.5], set())
    hurried = mask(told(1, 1, 1.0, seconds=0.1))
    assert weigh([hurried], Settings(min_answer_s=1.0)).again == {0}
    by_expert_in_a_hurry = weigh([hurried], Settings(min_answer_s=1.0, experts=[1]))
    assert (by_expert_in_a_hurry.p_yes, by_expert_in_a_hurry.again) == ([1.0], set())


def test_in_a_crowd_an_answer_given_twice_is_one_answer() -> None:
    settings = Settings(review_overlap_max=5)
    once = weigh([mask(told(1, 1, 0.0))], settings)
    thrice = weigh([mask(told(1, 1, 0.0), told(2, 1, 0.0), told(3, 1, 0.0))], settings)
    assert thrice.p_yes == once.p_yes


def test_the_newest_word_of_an_expert_counts_and_gold_where_there_is_none() -> None:
    said = mask(told(1, 9, 0.0), told(2, 9, 1.0), told(3, 9, NAN), told(4, 9, 0.0, hidden=True))
    assert by_expert(said, [9]) == 1.0
    assert by_expert(replace(said, gold=0.0), []) == 0.0
    assert np.isnan(by_expert(said, []))


def test_answers_of_a_suspended_worker_do_not_count() -> None:
    gold = [
        AskedMask("disc", -1, gold=1.0, told=[told(i, 1, 1.0), told(i, 2, 0.0), told(i, 3, 1.0)])
        for i in range(30)
    ]
    asked = mask(told(40, 2, 1.0))
    weighed = weigh([*gold, asked], Settings(review_overlap_max=3))
    assert [row["worker"] for row in weighed.workers if row["suspended"]] == [2]
    assert weighed.said[-1] == []
    assert weighed.p_yes[-1] == 0.5
    assert len(gold) in weighed.again  # somebody else is asked
    careful = weigh([*gold, mask(told(40, 1, 1.0))], Settings(review_overlap_max=3))
    assert careful.p_yes[-1] > 0.8
    assert [one.worker for one in careful.said[-1]] == [1]
