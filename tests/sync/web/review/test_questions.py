"""Answering questions on the page: cards, answers, undo, and what then stands in Label Studio."""

from __future__ import annotations

import io
import json
import uuid
from collections.abc import Callable
from datetime import timedelta
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import select

from ml_backend.label_studio.label_config import parse_label_config
from sync.review.known_truth import known_truth
from sync.review.review_tasks import parse_answers
from sync.store.database import utc_now
from sync.store.review_tables import CardRecord, InviteRecord
from sync.store.tables import AnswerRecord, QuestionRecord
from sync.web.review.invites import revoke_invite
from tests.sync.web.review.place import POST, Place, task_of, truth_of

Asking = Callable[..., Place]


def test_a_person_answers_and_label_studio_holds_it_as_theirs(asking: Asking) -> None:
    place = asking()
    ana = place.person()
    assert (ana.arrived.status_code, ana.arrived.headers["Location"]) == (303, "/review/")
    me = ana.get("me").json
    assert me["name"] == "Ana"
    assert me["settings"] == {"auto_s": 3.0, "auto_answer": "no", "show_speed": True, "show_gold": False}
    (stream,) = me["streams"]
    assert (stream["mode"], stream["labels"], stream["answered"]) == ("questions", ["disc", "bar"], 0)
    assert stream["left"] == len(place.review_tasks())
    first, second, third, *_ = ana.cards()
    assert first["form"] == "single"
    assert first["label"] in first["question"]
    reply = ana.answer(first["id"], value="yes", seconds=1.5)
    assert reply["stored"] == [reply["uuid"]]
    assert (reply["refused"], reply["feedback"], reply["answered"]) == ([], [], 1)
    assert reply["left"] == stream["left"] - 1
    ana.answer(second["id"], value="unsure")
    ana.answer(third["id"], value="skip")
    assert place.annotations() == {}
    assert ana.get("stats").json["queue"] == 3
    assert place.flush().written == 3
    assert place.flush().written == 0
    held = place.annotations()
    assert set(held) == {task_of(first), task_of(second), task_of(third)}
    (user,) = {row.completed_by for rows in held.values() for row in rows}
    assert place.studio.user_names()[user] == "Ana"
    (yes,), (unsure,), (skip,) = (held[task_of(card)] for card in (first, second, third))
    said = [parse_answers(place.studio.task(row.task_id).data, row) for row in (yes, unsure, skip)]
    assert [[a.value for a in some] for some in said] == [["yes"], ["unsure"], []]
    assert (yes.lead_time_s, skip.was_cancelled) == (1.5, True)
    (item,) = yes.result
    assert set(item) == {"value", "id", "from_name", "to_name", "type", "origin"}
    assert ana.get("stats").json["queue"] == 0
    # the worker reads them like any other answer
    place.world.worker().look(place.world.project_id)
    with place.world.store.read() as session:
        rows = {(row.review_task_id, row.value) for row in session.scalars(select(AnswerRecord))}
    assert (task_of(first), "yes") in rows
    assert (task_of(third), "skip") in rows
    assert not {task_of(first), task_of(second), task_of(third)} & {task_of(c) for c in ana.cards()}


def test_cards_of_one_label_come_together_and_the_page_gets_only_new_ones(asking: Asking) -> None:
    place = asking()
    ana = place.person()
    cards = ana.cards()
    labels = [card["label"] for card in cards]
    assert len(set(labels)) == 2
    assert sum(a != b for a, b in pairwise(labels)) == 1
    again = ana.cards()  # a reload shows the same cards
    assert sorted(c["id"] for c in again) == sorted(c["id"] for c in cards)
    have = [card["id"] for card in cards[:4]]
    assert not {c["id"] for c in ana.cards(have=have)} & set(have)
    assert len(ana.cards(n=2)) == 2
    last = cards[-1]
    ana.answer(last["id"], value="no")
    assert ana.cards(n=1)[0]["label"] == last["label"]


def test_pictures_come_by_signed_addresses_alone(asking: Asking) -> None:
    place = asking()
    ana = place.person()
    card = ana.cards()[0]
    stranger = place.app.test_client()
    for name in ("crop", "context"):
        address = card[name]
        assert address.startswith("/")
        assert ana.cards()[0][name] == address  # so browsers keep it
        found = stranger.get(address)
        assert (found.status_code, found.mimetype) == (200, "image/jpeg")
        assert "max-age" in found.headers["Cache-Control"]
        for forged in (address.split("?")[0], address[:-1] + "x", address.replace("exp=", "exp=9")):
            assert stranger.get(forged).status_code == 403, forged
        for other in ("for=0", "for=&x=", "to="):
            assert stranger.get(address.replace("for=", other, 1)).status_code == 403
    crop, context = (stranger.get(card[name]).data for name in ("crop", "context"))
    assert crop != context
    examples = card["examples"]
    assert examples["good"]
    assert len(examples["bad"]) == len(examples["bad_captions"])
    for address in examples["good"] + examples["bad"]:
        assert stranger.get(address).status_code == 200


def test_a_link_that_is_withdrawn_or_runs_out_loses_its_pictures(asking: Asking) -> None:
    place = asking()
    ana, ben = place.person("Ana"), place.person("Ben")
    card, kept = ana.cards(n=1)[0], ben.cards(n=1)[0]
    addresses = [card["crop"], card["context"], *card["examples"]["good"]]
    assert len(addresses) > 2
    stranger = place.app.test_client()
    assert {stranger.get(address).status_code for address in addresses} == {200}
    revoke_invite(place.settings, place.world.store, ana.invite.id)
    assert {stranger.get(address).status_code for address in addresses} == {403}
    assert {ana.client.get(address).status_code for address in addresses} == {403}
    swapped = addresses[0].replace(ana.invite.id, ben.invite.id)
    assert stranger.get(swapped).status_code == 403, "the address of one invite is none of another"
    assert stranger.get(kept["crop"]).status_code == 200, "others keep theirs"
    with place.world.store.write() as session:
        session.get_one(InviteRecord, ben.invite.id).expires_at = utc_now()
    assert stranger.get(kept["crop"]).status_code == 403


def test_the_wider_cut_shows_the_same_mask_smaller(asking: Asking) -> None:
    place = asking()
    ana = place.person()
    card = ana.cards()[0]
    shares = []
    for name in ("crop", "context"):
        pixels = np.asarray(Image.open(io.BytesIO(ana.client.get(card[name]).data))).astype(int)
        outline = (pixels[..., 0] > 210) & (pixels[..., 1] > 210) & (pixels[..., 2] < 160)
        columns = np.flatnonzero(outline.any(0))
        shares.append((columns[-1] - columns[0]) / pixels.shape[1])
    assert 0.1 < shares[1] < 0.9 * shares[0]


def test_undo_takes_an_answer_back_before_and_after_it_was_written(asking: Asking) -> None:
    place = asking()
    ana = place.person()
    cards = ana.cards()
    unwritten, written = cards[0]["id"], cards[1]["id"]
    ana.answer(unwritten, value="yes")
    reply = ana.post("undo", {"card": unwritten})
    assert reply.status_code == 200
    assert reply.json["before"] == {"value": "yes"}
    assert reply.json["card"]["id"] == unwritten
    assert place.flush().written == 1  # nothing to remove
    assert place.annotations() == {}
    ana.answer(written, value="yes")
    place.flush()
    ((before,),) = place.annotations().values()
    assert ana.post("undo", {"card": written}).status_code == 200
    assert written in {card["id"] for card in ana.cards()}  # it is theirs again
    ana.answer(written, value="no")
    place.flush()
    ((after,),) = place.annotations().values()
    assert after.id == before.id
    assert parse_answers(place.studio.task(after.task_id).data, after)[0].value == "no"
    ana.post("undo", {"card": written})
    place.flush()
    assert place.annotations() == {}
    assert ana.post("undo", {"card": written}).status_code == 409  # nothing to take back any more
    assert ana.post("undo", {"card": cards[2]["id"]}).status_code == 409


def test_only_the_last_ten_answers_can_be_taken_back(asking: Asking) -> None:
    place = asking()
    ana = place.person()
    cards = ana.cards()[:12]
    assert len(cards) == 12
    for card in cards:
        ana.answer(card["id"], value="yes")
    codes = [ana.post("undo", {"card": card["id"]}).status_code for card in cards]
    # each undo makes room: of twelve answers the two oldest stay until others are taken back
    assert codes[:2] == [409, 409]
    assert set(codes[2:]) == {200}


def test_sheets_are_answered_with_the_wrong_ones(asking: Asking) -> None:
    place = asking(review_form="sheet")
    ana = place.person()
    sheet = ana.cards()[0]
    assert sheet["form"] == "sheet"
    assert sheet["question"].startswith("Tick every card that is NOT")
    good = truth_of(place, sheet)
    assert len(sheet["items"]) == len(good)
    wrong = [i for i, ok in enumerate(good) if not ok]
    assert ana.answer(sheet["id"], wrong=[len(good)])["refused"]
    assert ana.answer(sheet["id"], wrong=[True])["refused"]
    assert ana.answer(sheet["id"], value="yes")["refused"]
    assert ana.answer(sheet["id"], wrong=wrong)["stored"]
    place.flush()
    ((row,),) = place.annotations("sheet").values()
    said = parse_answers(place.studio.task(row.task_id).data, row)
    assert [answer.value == "yes" for answer in said] == good


def test_several_answers_at_once_are_stored_apart_from_those_that_are_refused(asking: Asking) -> None:
    place = asking()
    ana = place.person()
    first, second, *_ = ana.cards()
    names = [str(uuid.uuid4()) for _ in range(3)]
    body = [
        {"uuid": names[0], "card": first["id"], "value": "yes", "seconds": 1},
        {"uuid": names[1], "card": second["id"], "value": "maybe", "seconds": 1},
        {"uuid": names[2], "card": second["id"], "value": "no", "seconds": 1},
        {"uuid": "x", "card": second["id"], "value": "no", "seconds": 1},
        {"uuid": names[1], "card": "9:s:1", "value": "no", "seconds": 1},
        17,
    ]
    reply = ana.post("answers", {"answers": body}).json
    assert reply["stored"] == [names[0], names[2]]
    assert [row["uuid"] for row in reply["refused"]] == [names[1], "x", names[1], "None"]
    assert all(row["error"] for row in reply["refused"])
    place.flush()
    assert len(place.annotations()) == 2


def test_an_answer_sent_twice_counts_once(asking: Asking) -> None:
    place = asking()
    ana = place.person()
    card = ana.cards()[0]["id"]
    body = {"answers": [{"uuid": str(uuid.uuid4()), "card": card, "value": "yes", "seconds": 1.0}]}
    for _ in range(3):
        assert ana.post("answers", body).json["stored"] == [body["answers"][0]["uuid"]]
        place.flush()
    assert [len(rows) for rows in place.annotations().values()] == [1]
    # the same answer under another name is one too, another answer is none
    assert ana.answer(card, value="yes")["stored"]
    assert "already" in ana.answer(card, value="no")["refused"][0]["error"]
    # a late copy of an answer that was taken back does not bring it back
    ana.post("undo", {"card": card})
    ana.post("answers", body)
    place.flush()
    assert place.annotations() == {}


def test_no_more_people_than_wanted_get_a_question(asking: Asking) -> None:
    place = asking(review_overlap=2, review_overlap_max=2)
    people = [place.person(name) for name in ("Ana", "Ben", "Cleo")]
    given = [{task_of(card) for card in person.cards(n=1)} for person in people]
    assert given[0] == given[1] != given[2]
    everything = [{task_of(card) for card in person.cards()} for person in people]
    for task in place.review_tasks():
        assert sum(task in held for held in everything) <= 2
    (first,) = given[0]
    card = next(card["id"] for card in people[0].cards() if task_of(card) == first)
    for person in people[:2]:
        person.answer(card, value="yes")
    # full, also while its answers wait in the queue
    assert first not in {task_of(c) for c in people[2].cards()}
    assert "not given" in people[2].answer(card, value="yes")["refused"][0]["error"]


def test_an_answer_and_the_card_it_was_given_to_count_as_one_person(asking: Asking) -> None:
    place = asking(review_overlap=2, review_overlap_max=2)
    ana, ben = place.person("Ana"), place.person("Ben")
    card = ana.cards(n=1)[0]["id"]
    ana.answer(card, value="yes")
    assert card in {c["id"] for c in ben.cards()}


def test_a_card_that_nobody_answers_goes_to_others_and_a_late_answer_is_kept(asking: Asking) -> None:
    place = asking(page={"review_hold_s": 30.0})
    ana, ben = place.person("Ana"), place.person("Ben")
    card = ana.cards(n=1)[0]
    assert card["id"] not in {c["id"] for c in ben.cards()}
    with place.world.store.write() as session:
        for row in session.scalars(select(CardRecord)):
            row.until -= timedelta(minutes=5)
    assert card["id"] in {c["id"] for c in ben.cards()}
    ben.answer(card["id"], value="no")
    assert ana.answer(card["id"], value="yes")["stored"]
    place.flush()
    assert sorted(len(rows) for rows in place.annotations().values()) == [2]


def test_a_question_whose_answer_was_deleted_in_label_studio_is_asked_again(asking: Asking) -> None:
    place = asking()
    ana, ben = place.person("Ana"), place.person("Ben")
    card = ana.cards(n=1)[0]
    ana.answer(card["id"], value="yes")
    place.flush()
    look = place.world.worker().look
    look(place.world.project_id)
    assert card["id"] not in {c["id"] for c in ben.cards()}
    (row,) = place.annotations()[task_of(card)]
    place.studio.delete_annotation(row.id)
    look(place.world.project_id)
    assert card["id"] in {c["id"] for c in ana.cards()}
    ana.answer(card["id"], value="no")
    place.flush()
    (row,) = place.annotations()[task_of(card)]
    look(place.world.project_id)
    assert card["id"] not in {c["id"] for c in ben.cards()}


def test_nobody_claims_more_time_than_has_passed(asking: Asking) -> None:
    place = asking()
    ana = place.person()
    cards = ana.cards()[:5]
    body = [
        {"uuid": str(uuid.uuid4()), "card": card["id"], "value": "yes", "seconds": 100.0} for card in cards
    ]
    ana.post("answers", {"answers": body})
    place.flush()
    times = [rows[0].lead_time_s for rows in place.annotations().values()]
    assert len(times) == 5
    assert sum(times) < 60


def test_gold_is_told_only_where_the_admin_wants_it(asking: Asking) -> None:
    place = asking(gold_share=0.4, review_show_gold=True, review_overlap_max=2)
    ana = place.person()
    with place.world.store.read() as session:
        config = parse_label_config(place.world.open().config.xml)
        known = {
            row.review_task_id: known_truth(session, config, row)
            for row in session.scalars(select(QuestionRecord))
        }
    gold = {task for task, good in known.items() if good is not None}
    assert gold
    feedback = []
    for card in ana.cards():
        (good,) = truth_of(place, card)
        said = good if len(feedback) % 2 else not good  # every other one wrong
        reply = ana.answer(card["id"], value="yes" if said else "no")
        assert bool(reply["feedback"]) == (task_of(card) in gold)
        feedback += [(row["right"], said == good) for row in reply["feedback"]]
    assert all(told == true for told, true in feedback)
    assert {told for told, _ in feedback} == {True, False}
    figures = ana.get("stats").json["gold"]
    assert figures == {"right": sum(told for told, _ in feedback), "asked": len(feedback)}


def test_who_was_told_cannot_correct_the_answer(asking: Asking) -> None:
    """Otherwise anybody is right about all gold questions."""
    place = asking(gold_share=0.4, review_show_gold=True, review_overlap_max=2)
    ana = place.person()
    codes: dict[bool, set[int]] = {}
    for card in ana.cards():
        reply = ana.answer(card["id"], value="yes")
        code = ana.post("undo", {"card": card["id"]}).status_code
        codes.setdefault(bool(reply["feedback"]), set()).add(code)
    assert codes == {True: {409}, False: {200}}
    assert ana.get("stats").json["gold"]["asked"] > 0


def test_nothing_on_the_page_tells_gold_from_other_questions(asking: Asking) -> None:
    place = asking(gold_share=0.4, review_overlap_max=2)
    ana = place.person()
    cards = ana.cards()
    assert len({frozenset(card) for card in cards}) == 1
    assert "gold" not in json.dumps(cards)
    assert all(not ana.answer(card["id"], value="yes")["feedback"] for card in cards[:5])
    assert ana.get("stats").json["gold"] is None


def test_figures_of_a_person(asking: Asking) -> None:
    place = asking()
    ana = place.person()
    empty = ana.get("stats").json
    assert (empty["answered_today"], empty["median_s"], empty["per_minute"]) == (0, None, None)
    for card in ana.cards()[:3]:
        ana.answer(card["id"], value="yes", seconds=0.5)
    figures = ana.get("stats", stream=ana.stream).json
    assert (figures["answered_today"], figures["median_s"], figures["per_minute"]) == (3, 0.5, 120.0)
    assert ana.get("stats", stream="1:nothing").status_code == 400


def test_answers_are_read_with_the_settings_of_the_project(asking: Asking) -> None:
    place = asking(review_auto_s=None, review_show_speed=False)
    ana = place.person()
    assert ana.get("me").json["settings"]["auto_s"] is None
    ana.answer(ana.cards()[0]["id"], value="yes")
    assert ana.get("stats").json["median_s"] is None


@pytest.mark.parametrize("path", ["cards?stream=1:questions&n=-1", "cards?stream=1:questions&n=x", "cards"])
def test_wrong_requests_for_cards_are_named(asking: Asking, path: str) -> None:
    ana = asking().person()
    reply = ana.client.get(f"/review/api/{path}", headers=POST)
    assert reply.status_code == 400
    assert reply.json["field"] in ("n", "stream")
