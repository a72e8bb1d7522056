"""Cards that are only held ahead: given back, passed on to who has nothing else, answered by one person."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

from sqlalchemy import event, select

from sync.review.outbox import CLASSES
from sync.store.review_tables import CardRecord
from tests.sync.web.review.place import PersonAtBrowser, Place, task_of
from tests.sync.web.review.test_classes import classes

__all__ = ["classes"]

Asking = Callable[..., Place]


def ask(person: PersonAtBrowser, have: list[str], shown: str = "", n: int = 12) -> dict[str, Any]:
    """What a page does when its deck runs low."""
    reply = person.get("cards", stream=person.stream, n=n, have=",".join(have), shown=shown)
    assert reply.status_code == 200, reply.json
    return dict(reply.json)


def names(reply: dict[str, Any]) -> list[str]:
    return [card["id"] for card in reply["cards"]]


def everything(person: PersonAtBrowser) -> list[str]:
    """All cards there are, the first of them on the screen."""
    cards = names(ask(person, [], n=30))
    ask(person, cards, cards[0])
    return cards


def test_who_has_nothing_else_gets_half_of_what_others_only_hold_ahead(asking: Asking) -> None:
    place = asking()
    ana, ben = place.person("Ana"), place.person("Ben")
    cards = everything(ana)
    n = len(cards)
    assert n >= 8
    passed_on = names(ask(ben, []))
    assert len(passed_on) == min(12, n // 2)  # half of the n - 1 that she does not look at, rounded up
    assert cards[0] not in passed_on, "she looks at it"
    assert set(passed_on) == set(cards[-len(passed_on) :]), "those that she would come to last"
    reply = ask(ana, cards, cards[0])
    assert set(reply["lost"]) == set(passed_on)
    assert reply["cards"] == [], "she has others, so she takes none back"
    assert ask(ben, passed_on, passed_on[0])["lost"] == []


def test_two_people_finish_a_round_and_every_question_is_answered_once(asking: Asking) -> None:
    place = asking()
    ana, ben = place.person("Ana"), place.person("Ben")
    decks = {ana: everything(ana), ben: names(ask(ben, []))}
    total = len(decks[ana])
    answered: list[str] = []
    while any(decks.values()):
        for person in (ana, ben, ben):  # one is faster
            if not decks[person]:
                decks[person] = names(ask(person, []))
            if not decks[person]:
                continue
            card = decks[person].pop(0)
            on_screen = decks[person][0] if decks[person] else ""
            reply = person.post(
                "answers",
                {"answers": [{"uuid": str(uuid.uuid4()), "card": card, "value": "yes", "seconds": 1.0}],
                 "shown": on_screen},
            ).json  # fmt: skip
            answered += [card] if reply["stored"] else []
            lost = set(ask(person, decks[person], on_screen)["lost"])
            decks[person] = [one for one in decks[person] if one not in lost]
    assert len(answered) == len(set(answered)) == total
    place.flush()
    assert sorted(len(rows) for rows in place.annotations().values()) == [1] * total


def test_of_two_who_hold_a_card_for_a_moment_one_answers_it(asking: Asking) -> None:
    place = asking()
    ana, ben = place.person("Ana"), place.person("Ben")
    cards = everything(ana)
    passed_on = names(ask(ben, []))
    # her page has not heard of it yet
    first, second = passed_on[0], passed_on[1]
    body = [{"uuid": str(uuid.uuid4()), "card": cards[0], "value": "yes", "seconds": 1.0}]
    assert ana.post("answers", {"answers": body, "shown": first}).json["lost"] == [first]
    assert ana.answer(first, value="yes")["stored"], "nobody has answered it, so her work counts"
    refused = ben.answer(first, value="no")["refused"]
    assert "somebody else has answered" in refused[0]["error"]
    assert ben.answer(second, value="no")["stored"]
    assert "somebody else" in ana.answer(second, value="yes")["refused"][0]["error"]
    ben.post("undo", {"card": second})
    assert ben.answer(second, value="yes")["stored"], "it is still his"
    place.flush()
    assert {len(rows) for rows in place.annotations().values()} == {1}


def test_two_answers_at_the_same_moment_are_one(asking: Asking) -> None:
    place = asking()
    ana, ben = place.person("Ana"), place.person("Ben")
    everything(ana)
    passed_on = names(ask(ben, []))

    def say(person: PersonAtBrowser) -> list[str]:
        body = [
            {"uuid": str(uuid.uuid4()), "card": card, "value": "yes", "seconds": 1.0} for card in passed_on
        ]
        return list(person.post("answers", {"answers": body}).json["stored"])

    with ThreadPoolExecutor(2) as threads:
        stored = list(threads.map(say, (ana, ben)))
    assert sum(map(len, stored)) == len(passed_on)
    while place.flush().written:
        pass
    assert {len(rows) for rows in place.annotations().values()} == {1}


def test_cards_that_are_given_back_are_there_for_others_at_once(asking: Asking) -> None:
    place = asking()
    ana, ben = place.person("Ana"), place.person("Ben")
    cards = everything(ana)
    reply = ana.post("give-back", {"cards": cards[1:]})
    assert (reply.status_code, reply.json) == (200, {"given_back": len(cards) - 1})
    assert ana.post("give-back", {"cards": cards[1:]}).json == {"given_back": 0}
    taken = names(ask(ben, [], n=3))
    assert taken == cards[1:4] or set(taken) < set(cards[1:])
    # she comes back: what nobody took is hers again, and she learns what is not
    reply = ask(ana, cards, cards[0])
    assert set(reply["lost"]) == set(taken)
    assert set(names(ask(ben, taken, taken[0]))) & set(cards) - set(taken) == set()
    assert ana.answer(cards[0], value="yes")["stored"]
    assert ben.answer(taken[0], value="yes")["stored"]
    assert ana.answer(taken[0], value="no")["refused"], "she gave it back, and he answered it"


def test_nobody_gives_back_or_takes_what_is_not_theirs_to_take(asking: Asking) -> None:
    place = asking()
    ana, eve = place.person("Ana"), place.person("Eve")
    mine = names(ask(ana, [], n=2))
    assert eve.post(
        "give-back", {"cards": [*mine, "x", None, 7, f"9:s:{task_of({'id': mine[0]})}"]}
    ).json == {"given_back": 0}
    for wrong in ({}, {"cards": "x"}, {"cards": mine * 40}):
        assert eve.post("give-back", wrong).status_code == 400
    # to say that a card of somebody else is on the screen gives no right to it
    ask(eve, mine, mine[0])
    assert eve.answer(mine[0], value="yes")["refused"]
    assert ask(ana, mine, mine[0])["lost"] == []
    # what is on a screen is taken from nobody
    ask(ana, mine, mine[1])
    others = names(ask(eve, [], n=30))
    assert not set(others) & set(mine)
    assert not set(names(ask(eve, others, others[0], n=30))) & set(mine)


def test_what_a_page_has_is_looked_up_in_one_statement(asking: Asking) -> None:
    place = asking()
    ana, eve = place.person("Ana"), place.person("Eve")
    cards = everything(ana)
    theirs = names(ask(eve, []))
    lookups: list[str] = []

    def note(_: object, __: object, statement: str, ___: object, ____: object, _____: object) -> None:
        if "FROM review_cards" in statement and "SELECT" in statement:
            lookups.append(statement)

    def cost(have: list[str]) -> int:
        lookups.clear()
        ask(ana, have, cards[0], n=0)
        return len(lookups)

    event.listen(place.world.store._engine, "before_cursor_execute", note)
    assert 0 < cost(cards[:4]) == cost(cards[:2])
    event.remove(place.world.store._engine, "before_cursor_execute", note)
    assert ask(ana, theirs, cards[0])["lost"] == sorted(set(theirs) & set(cards)), "given to her once"


def test_where_two_people_answer_each_question_a_third_gets_one_place(asking: Asking) -> None:
    place = asking(review_overlap=2, review_overlap_max=2)
    ana, ben, cleo = (place.person(name) for name in ("Ana", "Ben", "Cleo"))
    cards = everything(ana)
    assert set(everything(ben)) == set(cards)
    taken = names(ask(cleo, []))
    assert taken
    lost = [set(ask(person, cards, cards[0])["lost"]) for person in (ana, ben)]
    assert lost[0] | lost[1] == set(taken), "one of the two holders gives way"
    assert lost[0] & lost[1] == set()


def test_pictures_are_passed_on_like_questions(classes: Callable[..., Place]) -> None:
    place = classes()
    ana, ben = place.person("Ana", scopes=[CLASSES]), place.person("Ben", scopes=[CLASSES])
    cards = everything(ana)
    ana.answer(cards[0], value="skip")
    assert names(ask(ben, [], n=1)) == [cards[0]], "she left it to others"
    ask(ana, cards[1:], cards[1])
    passed_on = names(ask(ben, [cards[0]], cards[0]))
    assert set(passed_on) == set(cards[-len(passed_on) :])
    assert set(ask(ana, cards[1:], cards[1])["lost"]) == set(passed_on)
    assert ben.answer(passed_on[0], choices=["disc"])["stored"]
    assert "somebody else" in ana.answer(passed_on[0], choices=["bar"])["refused"][0]["error"]
    place.flush()
    assert len(place.studio.task(task_of({"id": passed_on[0]})).annotations) == 1


def test_who_takes_a_skip_back_answers_only_what_nobody_else_has_answered(
    classes: Callable[..., Place],
) -> None:
    place = classes()
    ana, ben = place.person("Ana", scopes=[CLASSES]), place.person("Ben", scopes=[CLASSES])
    first, second = everything(ana)[:2]
    for card in (first, second):
        ana.answer(card, value="skip")
    assert names(ask(ben, [], n=2)) == [first, second], "she left them to others"
    for card in (second, first):
        assert ana.post("undo", {"card": card}).status_code == 200
    assert ben.answer(first, choices=["disc"])["stored"]
    assert "somebody else" in ana.answer(first, choices=["bar"])["refused"][0]["error"]
    assert ana.answer(second, choices=["bar"])["stored"]
    assert "somebody else" in ben.answer(second, choices=["disc"])["refused"][0]["error"]
    while place.flush().written:
        pass
    made = [place.studio.task(task_of({"id": card})).annotations for card in (first, second)]
    assert [len(rows) for rows in made] == [1, 1]


def test_a_card_that_was_on_the_screen_long_ago_is_passed_on_when_it_is_held_ahead_again(
    asking: Asking,
) -> None:
    place = asking()
    ana, ben = place.person("Ana"), place.person("Ben")
    cards = everything(ana)
    for card in cards:
        ask(ana, cards, card)
    with place.world.store.write() as session:
        for row in session.scalars(select(CardRecord)):
            row.until -= timedelta(days=1)
    assert everything(ana) == cards
    assert names(ask(ben, [])), "of all these, she looks at the first one now"
