"""``groundswell status`` calls what a project wants by its name: masks, boxes or classes."""

from __future__ import annotations

from typing import Any

import pytest

from ml_backend.kinds.registry import Wanted
from ml_backend.label_studio.config_builder import build_label_config
from sync.report.status_figures import status
from sync.report.status_lines import status_lines
from sync.review.instruction_text import instructions
from sync.review.nouns import noun_of, plural
from sync.rounds.registration import register_project
from sync.settings import Settings
from sync.store.database import Store, utc_now
from sync.store.tables import RoundRecord
from tests.fakes.label_studio import FakeStudio

REVIEW = {
    "asked": 9, "answered": 7, "accepted": 5, "verified": 4, "rejected": 1, "masks_per_question": 0.71,
    "promise": {"holds": None, "accepted_unseen": 0, "purity": 0.85}, "labels": [], "found": None,
    "forecast": {"questions": 4, "minutes": 2.0, "masks": 3, "drawing_minutes": 9.0},
    "audits": [{"label": "", "good": 3, "asked": 4, "lower": 0.3, "upper": 0.99, "confidence": 0.95}],
}  # fmt: skip


def lines(tmp_path: Any, kind: str) -> str:
    """What ``status`` prints of a project of this kind after a round."""
    settings = Settings(data_dir=tmp_path)
    store = Store(settings.database())
    studio = FakeStudio()
    made = studio.create_project("Parts", build_label_config(["a", "b"], kind=kind))  # type: ignore[arg-type]
    register_project(settings, store, studio, made.id)
    figures = {"cluster": {"pool": {"a": 6}}, "review": REVIEW}
    with store.write() as session:
        session.add(
            RoundRecord(
                project_id=made.id, number=1, model_version="v", digest="d", step="review", finished_tasks=5,
                started_at=utc_now(), updated_at=utc_now(), figures=figures,
            )
        )  # fmt: skip
    text = "\n".join(status_lines(status(settings, store)))
    store.close()
    return text


@pytest.mark.parametrize(
    ("kind", "one", "many"),
    [("instances", "mask", "masks"), ("boxes", "box", "boxes"), ("classes", "class", "classes")],
)
def test_status_uses_the_noun_of_the_kind(tmp_path: Any, kind: str, one: str, many: str) -> None:
    text = lines(tmp_path, kind)
    assert f"a 6 ({many} found on unfinished pictures)" in text
    assert f"5 {many} accepted" in text
    assert f"0.71 {many} per question" in text
    assert f"no {one} is accepted without a look at it" in text
    assert f"expected to finish 3 {many}, {'naming' if one == 'class' else 'drawing'} them takes" in text
    assert f"3 of 4 accepted {many} looked at were good" in text
    assert ("mask" in text) == (one == "mask")


def test_several_kinds_at_once_are_masks() -> None:
    assert noun_of([Wanted("boxes", ("a",)), Wanted("instances", ("b",))]) == "mask"
    assert noun_of([Wanted("boxes", ("a",)), Wanted("boxes", ("b",))]) == "box"
    assert (plural(1, "box"), plural(2, "box"), plural(1002, "class")) == (
        "1 box",
        "2 boxes",
        "1,002 classes",
    )


@pytest.mark.parametrize("kind", ["instances", "boxes", "segmentation", "components", "classes", "weak"])
def test_instructions_say_in_words_what_is_good(kind: str) -> None:
    text = instructions([Wanted(kind, ("cat",))], form="single")  # type: ignore[arg-type]
    said = text.split("<b>cat</b>: good is ")[1]
    assert said.startswith(("a ", "an ", "one ")), "a thing follows, not another sentence"
    assert "Wrong is: " in said
    assert "its name" not in said
