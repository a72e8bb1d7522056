"""A ranking is learnt on half of the held-out pictures, tested on the other half, and adopted or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ml_backend.artifacts.files import write_json
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.clicks.evaluation.robots import component_robot
from ml_backend.clicks.project_network.click_net import (
    ClickNet,
    NetworkManifest,
    ProjectSegmenter,
    save_network,
)
from ml_backend.clicks.project_network.versions import is_usable
from ml_backend.clicks.ranking.ranker import RANKING_FILE, load_ranker
from ml_backend.clicks.ranking.versions import current_ranking
from ml_backend.clicks.segmenters.input_maps import CLICK_FORMAT
from ml_backend.clicks.start_masks import Proposals
from ml_backend.clicks.training import ranking as steps
from ml_backend.clicks.training.job import ClickJobSpec, _rank, publish_click_model
from ml_backend.clicks.training.project_clicks import ClickedPicture, play, usual_sizes, wanted_of
from ml_backend.clicks.training.ranking import RankingReport, train_ranking
from ml_backend.errors import BadInput
from ml_backend.examples import Example
from ml_backend.images.decode import read_image
from tests.ml_backend.clicks.click_helpers import disc
from tests.ml_backend.clicks.ranking.ranking_helpers import DISCS, HW, Finder, Small, picture, proposals


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    folder = tmp_path_factory.mktemp("pictures")
    return [picture(folder / f"{i}.png", i) for i in range(34)]


def trained(pictures: list[Example], out: Path, look: int = 1, **parts: Any) -> RankingReport:
    given: dict[str, Any] = {"base": Small(), "second": None, "model": None} | parts
    return train_ranking(
        pictures[:3], pictures, ["Cat"], out, look=look, progress=lambda share, line: None, **given
    )


class Perfect(Small):
    """A network that knows every object of the pictures."""

    def segment(self, embedding: Any, prompt: Any, start_mask: Any) -> Any:
        found = super().segment(embedding, prompt, start_mask)
        for x, y, radius in DISCS:
            known = disc(embedding.hw, x, y, radius)
            if start_mask is None and (known & found.masks[0]).any():
                found.masks[0] = known
        return found


def test_a_ranking_that_saves_clicks_is_adopted(pictures: list[Example], tmp_path: Path) -> None:
    report = trained(pictures, tmp_path, second=Perfect(encoder="net"))
    assert report.use
    assert report.adoption is not None
    assert (report.adoption.masks, report.adoption.pictures, report.learnt_from) == (34, 17, 17)
    assert report.clicks is not None
    assert report.clicks[0] == 1.0 < report.clicks[1]
    assert report.first_iou is not None
    assert report.first_iou[0] == 1.0 > report.first_iou[1]
    ranker = load_ranker(tmp_path)
    assert ranker.base == report.base == "small:small-1"
    assert ranker.second == "small:net"
    assert set(ranker.sizes) == {"Cat"}
    assert "use the ranking" in report.reason


def test_no_picture_decides_that_was_learnt_from(
    pictures: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, set[Path]] = {}

    def note(step: str) -> None:
        real = getattr(steps, step)

        def noted(given: list[ClickedPicture], *arguments: Any, **named: Any) -> Any:
            seen[step] = {one.image for one in given}
            return real(given, *arguments, **named)

        monkeypatch.setattr(steps, step, noted)

    note("learn_ranking")
    note("measure")
    trained(pictures, tmp_path, second=Perfect(encoder="net"))
    assert len(seen["learn_ranking"]) == len(seen["measure"]) == 17
    assert not seen["learn_ranking"] & seen["measure"]


def test_a_ranking_that_saves_nothing_is_not_adopted(pictures: list[Example], tmp_path: Path) -> None:
    report = trained(pictures, tmp_path, base=Perfect(), second=Small(encoder="net"))
    assert not report.use
    assert report.clicks == (1.0, 1.0)
    assert "keep it as it is" in report.reason


def test_a_lead_that_later_looks_may_not_count_on_is_refused(pictures: list[Example], tmp_path: Path) -> None:
    report = trained(pictures, tmp_path, look=3000, second=Perfect(encoder="net"))
    assert report.adoption is not None
    assert report.clicks is not None
    assert report.clicks[0] < report.clicks[1]
    assert not report.use


def test_too_little_held_out_is_said_and_nothing_is_written(pictures: list[Example], tmp_path: Path) -> None:
    report = trained(pictures[:18], tmp_path, second=Perfect(encoder="net"))
    assert not report.use
    assert report.adoption is None
    assert "60 held-out masks on 20 pictures" in report.reason
    assert list(tmp_path.iterdir()) == []


def test_proposals_of_the_model_are_candidates_of_the_training(
    pictures: list[Example], tmp_path: Path
) -> None:
    """Nobody clicks where proposals are right; those beside the objects are clicked where they are wrong."""
    with pytest.raises(BadInput, match="no click with several candidates"):
        trained(pictures, tmp_path, model=Finder())
    wrong = trained(pictures, tmp_path, model=Finder(wrong=True), second=Perfect(encoder="net"))
    assert wrong.clicks is not None
    assert wrong.clicks[0] < wrong.clicks[1]


def test_a_simulated_person_begins_where_a_shown_proposal_is_wrong(pictures: list[Example]) -> None:
    example = pictures[0]
    x, y, radius = DISCS[1]
    badly = proposals([disc(HW, x + 6, y, radius), disc(HW, *DISCS[0])])
    known = ClickedPicture(example.image, ("Cat", "Cat"), example.rle, badly)
    (bad,) = wanted_of(known, [0, 1])  # nobody would touch the other one
    assert bad.shown is not None
    assert [w.shown for w in wanted_of(known, [0, 1], from_nothing=True)] == [None, None]
    base = Small()
    embedding = base.embed(read_image(example.image))
    trace = play(
        base, embedding, bad, usual=base, proposals=badly, robot=component_robot, max_clicks=3, image="a"
    )
    assert trace.had_proposal
    assert 0.3 < trace.ious[0] < 0.85
    first = trace.clicks[0]
    assert bool(bad.mask[first.y, first.x]) is first.positive
    assert bool(bad.shown[first.y, first.x]) is not first.positive
    assert base.starts[-len(trace.clicks)] is not None


def test_sizes_are_known_from_three_objects_on(pictures: list[Example]) -> None:
    rle = pictures[0].rle
    found = usual_sizes([(("Cat", "Dog"), rle), (("Cat", "Cat"), rle)])
    assert set(found) == {"Cat"}
    assert 5.0 < found["Cat"].mean < 6.5


def test_a_report_decides_which_ranking_serves(tmp_path: Path) -> None:
    project = ProjectPaths(tmp_path, 7)
    for version, ranking, there, serves in (
        ("v0", None, True, None),  # of an earlier release
        ("v1", {"use": True}, True, "v1"),
        ("v2", {"use": False}, True, "v1"),
        ("v3", {"use": True}, False, "v1"),  # its file is missing
        ("v1", {"use": False}, True, None),  # trained again, no longer better
    ):
        folder = project.clicks / version
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "report.json", {"use": False} | ({} if ranking is None else {"ranking": ranking}))
        if there:
            (folder / RANKING_FILE).write_text("{}")
        publish_click_model(project, version, {}, lambda *_: pytest.fail("trained again"))
        assert current_ranking(project) == serves


def test_rankings_have_a_count_of_comparisons_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = ProjectPaths(tmp_path, 7)
    asked: list[tuple[int, int, str | None]] = []

    def made(spec: dict[str, Any], out: Path, *_: object) -> None:
        asked.append((spec["look"], spec["ranking_look"], spec["serving"]))
        tested = len(asked) > 1
        write_json(out / "click.json", {"format": CLICK_FORMAT})
        adoption = {"look": spec["ranking_look"]} if tested else None
        write_json(
            out / "report.json",
            {
                "use": tested,
                "adoption": {"look": spec["look"]},
                "ranking": {"use": False, "adoption": adoption},
            },
        )

    monkeypatch.setattr("ml_backend.clicks.training.job.run_click_job", made)
    for version in ("v1", "v2", "v3"):
        publish_click_model(project, version, {}, lambda *_: None)
    assert is_usable(project.clicks / "v2")
    assert asked == [(1, 1, None), (2, 1, None), (3, 2, str(project.clicks / "v2"))]


@pytest.mark.parametrize(
    ("network_serves", "earlier", "base", "second"),
    [(True, True, "v2", "small"), (False, True, "v1", "v2"), (False, False, "small", "v2")],
)
def test_the_job_measures_a_ranking_with_what_will_serve(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    network_serves: bool,
    earlier: bool,
    base: str,
    second: str,
) -> None:
    for seed, name in enumerate(("v1", "v2")):
        torch.manual_seed(seed)
        (tmp_path / name).mkdir()
        save_network(tmp_path / name, ClickNet(8), NetworkManifest(size=48, width=8, first_side=64.0))
    asked: dict[str, Any] = {}

    def made(*_: object, **named: Any) -> RankingReport:
        asked.update(named)
        return RankingReport(True, "better")

    monkeypatch.setattr("ml_backend.clicks.training.ranking.train_ranking", made)
    spec = ClickJobSpec(
        train=(), test=(), ranking_look=4, serving=tmp_path / "v1" if earlier else None,
        options={"device": "cpu"},
    )  # fmt: skip
    lines: list[float] = []
    found = _rank(
        spec, tmp_path / "v2", Small(), lambda share, line: lines.append(share), network_serves=network_serves
    )
    assert (found["use"], asked["look"], asked["model"]) == (True, 4, None)
    names = [
        s.folder.name if isinstance(s, ProjectSegmenter) else s.name for s in (asked["base"], asked["second"])
    ]
    assert names == [base, second]
    asked["progress"](0.5, "half of it")
    assert lines == [pytest.approx(0.95)]
    missing = spec.model_copy(update={"model": tmp_path / "no model"})
    failed = _rank(missing, tmp_path / "v2", Small(), lambda *_: None, network_serves=network_serves)
    assert not failed["use"]
    assert "no model version" in failed["reason"]


def test_proposals_need_the_label(pictures: list[Example]) -> None:
    other = Proposals("v1", ("Dog",), proposals([disc(HW, 20, 20, 9)]).instances)
    base = Small()
    known = ClickedPicture(pictures[0].image, ("Cat", "Cat"), pictures[0].rle, other)
    (wanted,) = wanted_of(known, [0], from_nothing=True)
    embedding = base.embed(read_image(pictures[0].image))
    play(base, embedding, wanted, usual=base, proposals=other, robot=component_robot, max_clicks=1)
    assert base.starts == [None]
