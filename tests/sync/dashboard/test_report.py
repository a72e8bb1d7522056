"""The report: one file without anything from outside, in which no text becomes a tag."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sync.cli import build_app
from sync.dashboard.collect import collect_project, project_record
from sync.dashboard.live import live_state
from sync.dashboard.render import is_web, render_report
from sync.dashboard.wording import MEANINGS, about, duration, percent
from sync.review.nouns import plural
from sync.store.tables import ProjectRecord, RoundRecord
from tests.sync.conftest import World

MakeWorld = Callable[..., World]
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"
MAY_LOAD = re.compile(r"url\(|@import|\bsrc=|<link|<iframe|<object|<script|\bstyle=|\bon\w+=", re.I)


class _Tags(HTMLParser):
    """Tags and attributes of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            assert not name.startswith("on"), name
            if name == "id":
                self.ids.append(value or "")
            if name in ("href", "src"):
                self.references.append(value or "")


def parse(page: str) -> _Tags:
    found = _Tags()
    found.feed(page)
    return found


def report(world: World) -> str:
    found = collect_project(world.settings, world.store, world.project_id)
    return render_report([(found, live_state(world.settings, world.store, project(world)))])


def project(world: World) -> ProjectRecord:
    return project_record(world.store, world.project_id)


@pytest.fixture
def played(make_world: MakeWorld) -> World:
    world = make_world(40, policy_options={"purity": 0.6}, question_batch=60, test_min=10, test_fraction=0.5)
    world.label(*range(20))
    worker = world.worker()
    for _ in range(4):
        worker.look(world.project_id)
        world.answer_all()
    return world


def test_the_report_loads_nothing_and_is_small(played: World) -> None:
    page = report(played)
    assert MAY_LOAD.search(page) is None
    found = parse(page)
    assert found.tags.count("svg") >= 4
    assert all(reference.startswith(("#", "http://", "https://")) for reference in found.references)
    assert len(found.ids) == len(set(found.ids))
    assert len(page) < 60_000
    assert "default-src 'none'" in page


def test_every_chart_has_a_title_a_description_and_a_table(played: World) -> None:
    page = report(played)
    charts = re.findall(r'<svg class="chart".*?</svg>', page, re.S)
    assert len(charts) == 2
    for chart in charts:
        names = re.search(r'aria-labelledby="(\S+) (\S+)"', chart)
        assert names is not None
        assert f'<title id="{names[1]}">' in chart
        assert f'<desc id="{names[2]}">' in chart
    for name in ("curve", "masks"):
        section = re.search(rf'<section [^>]*id="{name}-\d+".*?</section>', page, re.S)
        assert section is not None
        assert "<table>" in section[0]


def test_every_section_says_what_it_means_in_plain_words(played: World) -> None:
    page = report(played)
    empty = ("experts", "clusters", "mistakes", "troubles", "invites")  # nothing to show of these here
    explained = [text for name, text in MEANINGS.items() if name not in empty]
    assert page.count('<details class="meaning">') == len(explained) + page.count("Look here")
    assert all(text.split(".")[0] in page.replace("&#39;", "'") for text in explained)


def test_no_text_of_people_becomes_a_tag(played: World) -> None:
    plain = parse(report(played)).tags
    with played.store.write() as session:
        row = session.get_one(ProjectRecord, played.project_id)
        row.title, row.error = HOSTILE, HOSTILE
        record = session.get_one(RoundRecord, (played.project_id, 1))
        review = dict(record.figures["review"])
        review["labels"] = [{"label": HOSTILE, "lower": 0.1, "upper": 0.2, "asked": 3}]
        review["expert_queue"] = 2
        review["expert"] = [
            {"label": HOSTILE, "task": 1, "url": "javascript:alert(3)"},
            {"label": HOSTILE, "task": 2, "url": f"http://127.0.0.1/{HOSTILE}"},
        ]
        pool = {HOSTILE: 5, **record.figures["cluster"]["pool"]}
        record.figures = {**record.figures, "review": review, "cluster": {"pool": pool}}
    page = report(played)
    found = parse(page)
    assert "script" not in found.tags
    assert "img" not in found.tags
    assert set(found.tags) == set(plain) | {"a"}
    assert not any(reference.startswith("javascript") for reference in found.references)
    assert page.count("&lt;script&gt;") >= 5


def test_the_command_writes_one_project_or_all(played: World, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("GROUNDSWELL_LEARNER", "tiny")
    place = ["--data-dir", str(played.settings.data_dir)]
    monkeypatch.setenv("GROUNDSWELL_DATABASE_URL", played.settings.database())
    run = CliRunner().invoke
    out = tmp_path / "r.html"
    done = run(build_app(), ["report", "--project", str(played.project_id), "--out", str(out), *place])
    assert done.exit_code == 0, done.output
    assert "Report: Shapes" in out.read_text()
    done = run(build_app(), ["report", "--all", "--json", *place])
    (found,) = json.loads(done.output)
    assert (found["id"], found["finished"], found["now"]["round"]) == (played.project_id, 20, 1)
    assert found["masks"][-1]["propagated"] > 0
    for wrong in ([], ["--all", "--project", "1"], ["--project", "999"]):
        assert run(build_app(), ["report", *wrong, *place]).exit_code == 1
    monkeypatch.delenv("GROUNDSWELL_DATABASE_URL")
    assert run(build_app(), ["report", "--all", "--data-dir", str(tmp_path / "empty")]).exit_code == 1


def test_numbers_are_written_as_people_read_them() -> None:
    assert [percent(x) for x in (None, 0.0, 0.004, 0.5, 0.9997, 1.0)] == [
        "–", "0 %", "0.4 %", "50 %", "99.9 %", "100 %"
    ]  # fmt: skip
    assert [duration(x) for x in (None, 5.0, 89.0, 600.0, 5400.0, 36000.0)] == [
        "–", "5 s", "89 s", "10 min", "1.5 h", "10.0 h"
    ]  # fmt: skip
    assert [about(x) for x in (None, 3.0, 44.0, 600.0)] == [
        "", "a few seconds left", "about 40 s left", "about 10 min left"
    ]  # fmt: skip
    assert [plural(1, "box"), plural(2, "box"), plural(3000, "class"), plural(2, "mask")] == [
        "1 box", "2 boxes", "3,000 classes", "2 masks"
    ]  # fmt: skip
    assert [is_web(url) for url in ("http://a", "https://a", "javascript:x", "data:x", "/x")] == [
        True, True, False, False, False
    ]  # fmt: skip
