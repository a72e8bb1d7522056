"""Export, status and rebuild: what leaves the system, what is told about it, and getting it back."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from sqlalchemy import select

from clustering.answers import AUDIT, Action, AnswerLog, Decisions, PolicyStep, Questions
from clustering.project_pool import ProjectPool
from clustering.search import POLICIES
from ml_backend.artifacts.verdicts import read_verdicts
from ml_backend.errors import BadInput
from sync.exchange.export import export_project
from sync.projects.rebuild import rebuild
from sync.report.status_figures import status
from sync.report.status_lines import status_lines
from sync.review.review import review
from sync.review.review_tasks import read_questions
from sync.rounds.round_records import trained_round
from sync.store.database import Store
from sync.store.lease import hold_project
from sync.store.tables import (
    AnnotationRecord,
    AnswerRecord,
    QuestionRecord,
    RoundRecord,
    SplitRecord,
    TaskRecord,
)
from tests.sync.conftest import World
from tests.sync.steps import step

MakeWorld = Callable[..., World]


@pytest.fixture
def reviewed(make_world: MakeWorld) -> World:
    """A project after a whole round with its review."""
    world = make_world(20, policy="original")  # the certified policy verifies all of so few masks
    world.label(*range(6))
    worker = world.worker()
    for _ in range(20):
        report = worker.look(world.project_id)
        assert report is not None
        assert report.error == ""
        if report.review is not None and report.review.done:
            return world
        world.answer_all()
    raise AssertionError("the review never ended")


def dump_store(store: Store) -> dict[str, Any]:
    """Derived tables without row numbers and times of rows."""
    with store.read() as session:
        return {
            "tasks": [
                (t.id, t.finished, t.broken)
                for t in session.scalars(select(TaskRecord).order_by(TaskRecord.id))
            ],
            "annotations": sorted((a.id, a.digest) for a in session.scalars(select(AnnotationRecord))),
            "questions": sorted((q.key, q.review_task_id) for q in session.scalars(select(QuestionRecord))),
            "answers": sorted((a.annotation_id, a.value) for a in session.scalars(select(AnswerRecord))),
            "split": sorted(session.scalars(select(SplitRecord.task_id))),
            "rounds": [
                (r.number, r.model_version, r.step, r.pushed, r.review_done, r.started_at)
                for r in session.scalars(select(RoundRecord))
            ],
        }


def test_export_loads_in_pycocotools_with_provenance(reviewed: World, tmp_path: Path) -> None:
    out = tmp_path / "masks.json"
    done = step(export_project, reviewed.open(), out)
    assert done.annotations["human"] == 18
    assert done.annotations["propagated"] > 0
    assert (done.round, done.review_done, list(done.left_out)) == (1, True, [])
    coco = COCO(str(out))
    assert {row["name"] for row in coco.loadCats(coco.getCatIds())} == {"disc", "bar"}
    for annotation in coco.loadAnns(coco.getAnnIds()):
        mask = coco.annToMask(annotation)
        assert mask.sum() == annotation["area"]
        if annotation["source"] == "human":
            assert annotation["person"] is not None
        elif annotation["source"] == "propagated":
            assert 0 <= annotation["purity_lower"] <= annotation["purity_upper"] <= 1
            assert annotation["test"]
            assert annotation["cluster"] >= 0
        else:
            assert annotation["source"] == "verified"
    truth = dict(zip(reviewed.tasks, reviewed.scenes, strict=True))
    for image in coco.getImgIds():
        found = [coco.annToMask(a).astype(bool) for a in coco.loadAnns(coco.getAnnIds(image))]
        true = [mask for _, mask in truth[image].masks]
        assert all(any(np.array_equal(a, b) for b in true) for a in found)
    with pytest.raises(BadInput, match="format"):
        step(export_project, reviewed.open(), out, format="tiff")
    assert "NaN" not in out.read_text()


class AcceptsAll:
    """A policy that accepts everything and has audited it."""

    name = "accepts all"

    def step(
        self, project: ProjectPool, log: AnswerLog, *, budget: int, seed: int, certificate: int = 1
    ) -> PolicyStep:
        n = len(project)
        decisions = Decisions(
            label=np.array([-1, -1]),
            cluster=np.array([-1, -1]),
            phase=np.array([9, 9]),
            action=np.full(2, Action.ACCEPT, np.int8),
            asked=np.array([30, 9]),
            yes=np.array([29, 8]),
            lower=np.array([0.85, 0.61]),
            upper=np.array([1.0, 0.99]),
            confidence=np.full(2, 0.95),
            test=("set test", AUDIT),
        )
        label = np.ones(n, np.int8)
        return PolicyStep(Questions.empty(), decisions, label, np.zeros(n, np.int64), True)


def test_the_audit_is_told_and_exported(
    make_world: MakeWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(POLICIES, AcceptsAll.name, AcceptsAll)
    world = make_world(20, policy=AcceptsAll.name)
    world.label(*range(6))
    report = world.worker().look(world.project_id)
    assert report is not None
    assert report.error == ""
    lines = status_lines(status(world.settings, world.store))
    told = "8 of 9 accepted masks looked at were good: purity (share of good ones) 0.61–0.99 (95%)"
    assert any(f"all labels: {told}" in line for line in lines)
    step(export_project, world.open(), tmp_path / "masks.json")
    info = json.loads((tmp_path / "masks.json").read_text())["info"]
    (audit,) = info["audits"]
    assert audit["label"] == ""  # over all labels
    assert (audit["asked"], audit["yes"]) == (9, 8)
    assert (audit["purity_lower"], audit["purity_upper"]) == (0.61, 0.99)


def test_what_the_crowd_did_on_gold_is_told_and_whether_the_promise_allows_for_it(reviewed: World) -> None:
    def worker(number: int, counts: list[int], *, suspended: bool) -> dict[str, Any]:
        row = dict.fromkeys(("seconds", "agreement"))
        row |= {"worker": number, "answers": 90, "sensitivity": 0.9, "specificity": 0.9}
        row |= {"sensitivity_interval": [0.8, 1.0], "specificity_interval": [0.8, 1.0], "reasons": []}
        return row | {"gold": counts[1] + counts[3], "gold_counts": counts, "suspended": suspended}

    crowd = [
        worker(1, [58, 60, 37, 40], suspended=False),
        worker(2, [40, 40, 58, 60], suspended=False),
        worker(3, [10, 20, 9, 20], suspended=True),
    ]
    found = status(reviewed.settings, reviewed.store)
    review_figures = found["projects"][0]["rounds"][-1]["figures"]["review"]
    review_figures["workers"] = crowd
    assert review_figures["promise"] is None  # of the original policy, which knows nothing of noise
    lines = status_lines(found)
    told = next(line for line in lines if line.startswith("    crowd "))
    # those of the suspended one are left out
    assert told.endswith("said yes to 98 of 100 good and no to 95 of 100 bad gold masks")
    assert not any("allows for such errors" in line for line in lines)

    promise: dict[str, Any] = {"purity": 0.85, "delta": 0.05, "certificate": 1, "accepted_unseen": 0}
    promise |= {"verified": 9, "audit": None, "holds": None, "gold": None}
    review_figures["promise"] = promise  # an option says how people err: gold is not counted
    assert not any("allows for such errors" in line for line in status_lines(found))
    promise["gold"] = [90, 95, 88, 93]
    lines = status_lines(found)
    allowed = next(line for line in lines if "allows for such errors" in line)
    assert allowed.endswith("yes to 90 of 95 good, no to 88 of 93 bad")
    # the worker passes gold on by itself: nobody is told to set it
    assert not any("POLICY_OPTIONS" in line for line in lines)

    review_figures["workers"] = crowd[2:]
    assert not any(line.startswith("    crowd ") for line in status_lines(found))


def test_a_finished_task_exports_what_the_person_drew(reviewed: World, tmp_path: Path) -> None:
    number = 10
    reviewed.studio.create_annotation(reviewed.tasks[number], reviewed.scenes[number].result()[:1])
    reviewed.worker().look(reviewed.project_id)
    step(export_project, reviewed.open(), tmp_path / "a.json")
    rows = [
        a
        for a in json.loads((tmp_path / "a.json").read_text())["annotations"]
        if a["image_id"] == reviewed.tasks[number]
    ]
    assert [row["source"] for row in rows] == ["human"]


def test_status_counts_and_reads_well(reviewed: World) -> None:
    nowhere = {
        "studio_url": "http://127.0.0.1:1",
        "studio_public_url": "https://labels.example",
        "backend_url": "https://models.example",
        "backend_internal_url": "http://127.0.0.1:1",
    }
    found = status(reviewed.settings.model_copy(update=nowhere), reviewed.store)
    json.dumps(found, allow_nan=False)
    at = "not reachable at http://127.0.0.1:1/health (ConnectError)"
    assert found["services"] == {"label_studio": at, "backend": at}
    (project,) = found["projects"]
    (review,) = project["answer_at"]
    assert review["url"] == f"https://labels.example/projects/{reviewed.review_projects()['single']}/data"
    assert (project["tasks"], project["finished"], project["test_split"]) == (20, 6, 2)
    (record,) = project["rounds"]
    assert record["figures"]["train"]["metrics"]["AP"] == [0.5, 0.4, 0.6]
    assert record["figures"]["review"]["accepted"] > 0
    text = "\n".join(status_lines(found))
    for part in (
        "AP       0.500 (95 % interval 0.400–0.600, too few pictures (n=2) to tell",
        "finished 6",
        "masks accepted",
        "not reachable",
    ):
        assert part in text
    empty = status_lines({**found, "projects": []})
    assert "groundswell init" in empty[-1]


def test_who_is_at_work_is_told_by_the_clock_of_the_database(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ahead(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + timedelta(hours=5)

    world = make_world(2)
    monkeypatch.setattr("sync.report.status_figures.datetime", Ahead, raising=False)
    nowhere = {"studio_url": "http://127.0.0.1:1", "backend_url": "http://127.0.0.1:1"}
    with hold_project(world.store, world.settings, world.project_id):
        found = status(world.settings.model_copy(update=nowhere), world.store)
    assert [row["what"] for row in found["at_work"]] == [
        f"project/{world.project_id}",
        f"project/{world.project_id}/train",
    ]


def test_status_names_broken_tasks(make_world: MakeWorld) -> None:
    world = make_world(2)
    world.studio.import_tasks(world.project_id, [{"image": ""}])
    world.worker().look(world.project_id)
    (project,) = status(world.settings, world.store)["projects"]
    assert "'image'" in project["broken"][0]["reason"]


@pytest.mark.parametrize("store_lost", [False, True])
def test_rebuild_gets_the_same_state_again(reviewed: World, tmp_path: Path, store_lost: bool) -> None:
    before = dump_store(reviewed.store)
    folder = reviewed.open().paths.round(1)
    verdicts = str(sorted(read_verdicts(folder).rows.items()))
    (folder / "verdicts.parquet").unlink()
    shown = reviewed.studio.project(reviewed.project_id).model_version
    store = Store(f"sqlite:///{tmp_path / 'fresh.db'}") if store_lost else reviewed.store
    (report,) = rebuild(reviewed.settings, store, reviewed.studio)
    assert report.error == ""
    assert report.rounds == 1
    assert dump_store(store) == before
    assert str(sorted(read_verdicts(folder).rows.items())) == verdicts
    reviewed.store = store
    again = reviewed.worker().look(reviewed.project_id)
    assert again is not None
    assert (again.error, again.trained, again.pushed) == ("", "", None)
    assert reviewed.studio.project(reviewed.project_id).model_version == shown
    assert dump_store(store) == before


def test_a_withdrawn_answer_takes_its_decision_back(reviewed: World) -> None:
    project = reviewed.open()
    record = step(trained_round, project)
    assert record is not None
    accepted = {key for key, v in read_verdicts(project.paths.round(1)).rows.items() if v.verdict > 0}
    review_id = reviewed.review_projects()["single"]
    for task in list(reviewed.studio.tasks(review_id)):
        for annotation in task.annotations:
            reviewed.studio.delete_annotation(annotation.id)
    report = step(review, project, record)
    assert (report.accepted, report.answered) == (0, 0)
    assert not report.done
    reviewed.answer_all()
    for _ in range(10):
        report = step(review, project, record)
        if report.done:
            break
        reviewed.answer_all()
    again = {key for key, v in read_verdicts(project.paths.round(1)).rows.items() if v.verdict > 0}
    assert again == accepted


@pytest.mark.parametrize("form", ["single", "sheet"])
def test_a_deleted_review_task_is_asked_again(make_world: MakeWorld, form: str) -> None:
    world = make_world(20, review_form=form)
    world.label(*range(6))
    first = world.worker().look(world.project_id)
    assert first is not None
    assert first.review is not None
    project = world.open()
    record = step(trained_round, project)
    assert record is not None
    review_id = world.review_projects()[form]
    task = min(world.studio.task_ids(review_id))
    lost = len(read_questions(world.studio.task(task).data)[1])
    assert (lost == 1) == (form == "single")
    before = set(world.studio.task_values(review_id, "groundswell_key"))
    world.studio.delete_tasks(review_id, [task])
    report = step(review, project, record)
    assert (report.new, report.asked) == (lost, first.review.asked)
    if form == "single":
        assert report.asked == len(before)
    assert set(world.studio.task_values(review_id, "groundswell_key")) == before


def test_answers_of_a_deleted_review_task_are_forgotten(reviewed: World) -> None:
    project = reviewed.open()
    record = step(trained_round, project)
    assert record is not None
    before = record.figures["review"]["answered"]
    review_id = reviewed.review_projects()["single"]
    reviewed.studio.delete_tasks(review_id, [min(reviewed.studio.task_ids(review_id))])
    assert step(review, project, record).answered == before - 1
