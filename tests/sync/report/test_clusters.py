"""The cluster browser: what it shows (arrays), that it is self-contained, and how it behaves in Chromium."""

from __future__ import annotations

import html
import io
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from typer.testing import CliRunner

from clustering.trees.linkage import ExactLinkage
from clustering.trees.tree import ClusterTree
from ml_backend.errors import BadInput
from sync.commands import clusters as clusters_command
from sync.installation import Installation
from sync.report.choose_clusters import Limits, Members, label_section
from sync.report.collect_clusters import write_cluster_page
from sync.report.render_clusters import Cluster, Purity, Section, render_cluster_page
from tests.sync.steps import step

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Browser, Page

    from tests.sync.conftest import World

HOSTILE = "</script><img src=x onerror=alert(1)> & 'quotes\""


def _jpeg(row: int, good: bool) -> bytes:
    """A disc, whole or half, in the colour of its row."""
    image = Image.new("RGB", (96, 96), (40 + 5 * (row % 20), 60, 70))
    draw = ImageDraw.Draw(image)
    box = (20, 20, 76, 76)
    draw.ellipse(box, fill=(200, 90 + row % 120, 60))
    draw.arc(box, 0, 360 if good else 200, fill=(255, 255, 90), width=3)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=60)
    return file.getvalue()


def _section(n: int = 400, label: str = "disc", *, limits: Limits | None = None, seed: int = 0) -> Section:
    """Eight groups of differing purity; the purest are accepted, the worst rejected, some asked."""
    rng = np.random.default_rng(seed)
    group = rng.integers(0, 8, n)
    good = rng.random(n) < np.linspace(0.05, 0.98, 8)[group]
    prior = np.clip(0.4 * good + 0.07 * group + 0.05 * rng.normal(size=n), 0, 1).astype(np.float32)
    embedding = 6.0 * np.eye(8)[group] + 0.4 * rng.normal(size=(n, 8))
    tree = ClusterTree.from_linkage(ExactLinkage().merges(embedding, prior), n)
    answered = rng.random(n) < np.where(group == 3, 0.0, 0.08)
    verdict = np.where(group >= 6, 1, np.where(group == 0, -1, 0)).astype(np.int8)
    verdict[answered] = np.where(good[answered], 1, -1)
    members = Members(prior, verdict, answered.copy(), answered, good.astype(np.float32))
    share = tree.means(group == 7)
    decided = {}
    if n > 100:
        node = int(np.flatnonzero(share >= 0.99)[np.argmax(tree.size[np.flatnonzero(share >= 0.99)])])
        decided = {node: Purity(0.91, 0.99, 0.95, 46, 45.0, "e-process, q0 0.85")}
    return label_section(
        label,
        tree,
        members,
        decided=decided,
        sets=[Purity(0.88, 1.0, 0.95, 60, 57.0, "fixed sequence")] if n > 100 else [],
        picture=lambda row: b"" if row % 37 == 5 else _jpeg(row, bool(good[row])),
        caption=lambda row: f"task {row}",
        limits=limits or Limits(),
    )


def _all(cluster: Cluster) -> Iterator[Cluster]:
    yield cluster
    for child in cluster.children:
        yield from _all(child)


def _data(page: str) -> dict[str, object]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert found is not None
    value: dict[str, object] = json.loads(found.group(1))
    return value


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 100),
    most=st.integers(1, 60),
    least=st.integers(1, 20),
    pictures=st.integers(0, 9),
    seed=st.integers(0, 99),
)
def test_what_is_shown_is_part_of_the_tree(n: int, most: int, least: int, pictures: int, seed: int) -> None:
    section = _section(n, limits=Limits(most, least, pictures), seed=seed)
    shown = list(_all(section.root))
    assert section.root.size == section.size == n
    assert len({cluster.node for cluster in shown}) == len(shown) <= max(1, most)
    for cluster in shown:
        assert len(cluster.thumbnails) <= max(pictures, 0)
        assert cluster.accepted + cluster.rejected <= cluster.size
        if cluster.children:
            assert sum(child.size for child in cluster.children) + cluster.left_out == cluster.size
            assert cluster.left_out >= 0
            assert all(child.size >= least for child in cluster.children)
        if cluster.purity is not None:
            assert 0.0 <= cluster.purity.lower <= cluster.purity.upper <= 1.0
        assert (cluster.purity is not None) == (cluster.asked > 0)


def test_states_follow_the_verdicts_and_decided_clusters_are_shown() -> None:
    section = _section(limits=Limits(clusters=60, least=20))
    shown = list(_all(section.root))
    tested = [cluster for cluster in shown if cluster.purity is not None and cluster.purity.test]
    assert [cluster.purity.test for cluster in tested] == ["e-process, q0 0.85"]
    assert {"accepted", "rejected", "partly"} <= {cluster.state for cluster in shown}
    for cluster in shown:
        if cluster.state == "accepted":
            assert cluster.accepted >= 0.95 * cluster.size
        if cluster.state == "undecided":
            assert cluster.asked == 0


def test_the_page_is_self_contained_and_hostile_text_stays_text() -> None:
    page = render_cluster_page([_section(label=HOSTILE)], title=HOSTILE, subtitle=HOSTILE)
    assert page.count("</script>") == 2
    assert not re.search(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//""", page)
    assert "<img" not in page
    assert f"<title>{html.escape(HOSTILE)}" in page.replace("&#39;", "&#x27;").replace("&#34;", "&quot;")
    assert "http://" not in page
    assert "https://" not in page
    data = _data(page)
    assert data["title"] == data["sections"][0]["label"] == HOSTILE
    assert len(data["pictures"]) == len(set(data["pictures"]))


def test_no_labels_and_an_unknown_state() -> None:
    assert _data(render_cluster_page([]))["sections"] == []
    with pytest.raises(ValueError, match="state 'odd' of cluster 0"):
        render_cluster_page([Section("disc", 1, 0, 0, 0, Cluster(0, 1, "odd", 0, 0, 0, 0.5, 0.0))])


def test_the_page_of_a_reviewed_project(
    make_world: Callable[..., World], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(20)
    with pytest.raises(BadInput, match="no clustered round yet"):
        step(write_cluster_page, world.open(), tmp_path / "clusters.html")
    world.label(*range(6))
    for _ in range(20):
        report = world.worker().look(world.project_id)
        assert report is not None
        assert report.error == ""
        if report.review is not None and report.review.done:
            break
        world.answer_all()
    sections = step(write_cluster_page, world.open(), tmp_path / "clusters.html", limits=Limits(least=1))
    assert [section.label for section in sections] == ["disc", "bar"]
    assert sum(section.size for section in sections) > 0
    assert sum(section.asked for section in sections) > 0
    assert sum(section.accepted for section in sections) > 0
    data = _data((tmp_path / "clusters.html").read_text())
    assert data["title"] == "Clusters of Shapes"
    assert data["pictures"]

    monkeypatch.setattr(
        "sync.installation.open_installation",
        lambda *_, **__: Installation(world.settings, world.store, world.studio, None),
    )
    app = typer.Typer()
    clusters_command.register(app)
    words = ["--project", str(world.project_id), "--out", str(tmp_path / "again.html"), "--least", "1"]
    done = CliRunner().invoke(app, [*words, "--json"], catch_exceptions=False)
    rows = json.loads(done.stdout)["labels"]
    assert [row["label"] for row in rows] == ["disc", "bar"]
    assert sum(row["instances"] for row in rows) == sum(section.size for section in sections)
    assert (tmp_path / "again.html").read_text() == (tmp_path / "clusters.html").read_text()
    plain = CliRunner().invoke(app, words, catch_exceptions=False).stdout
    assert plain.splitlines()[0].startswith(f"disc: {sections[0].size} instances, ")


def test_many_decided_clusters_do_not_break_the_limit() -> None:
    n = 600
    rng = np.random.default_rng(0)
    tree = ClusterTree.from_linkage(ExactLinkage().merges(rng.normal(size=(n, 3)), rng.random(n)))
    zero = np.zeros(n, np.int8)
    members = Members(np.full(n, 0.5, np.float32), zero, zero > 0, zero > 0, zero.astype(np.float32))
    decided = {int(node): Purity(0.9, 1.0, 0.95, 20, 20.0, "test") for node in tree.cut_into(300)}
    section = label_section(
        "disc",
        tree,
        members,
        decided=decided,
        picture=lambda row: b"",
        caption=str,
        limits=Limits(clusters=40, least=5, pictures=0),
    )
    shown = list(_all(section.root))
    assert 10 < len(shown) <= 80  # a way to a decided cluster may need both children of a node
    assert any(cluster.node in decided for cluster in shown)


@pytest.fixture
def clusters(browser: Browser, tmp_path: Path) -> Iterator[Page]:
    empty = Section("tiny", 0, 0, 0, 0, None)
    file = tmp_path / "clusters.html"
    sections = [_section(1200), _section(300, HOSTILE, seed=1), empty]
    file.write_text(render_cluster_page(sections, title="Clusters of Shapes", subtitle="project 3 · round 2"))
    context = browser.new_context(viewport={"width": 1440, "height": 900}, offline=True)
    page = context.new_page()
    troubles: list[str] = []
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("console", lambda message: troubles.append(message.text) if message.type == "error" else None)
    page.on(
        "request", lambda request: troubles.append(request.url) if request.url.startswith("http") else None
    )
    page.goto(file.as_uri())
    yield page
    context.close()
    assert troubles == []


@pytest.mark.browser
def test_the_tree_is_walked_by_keyboard(clusters: Page) -> None:
    page = clusters
    rows = page.locator("#tree li[role=treeitem]:visible")
    assert page.title() == "Clusters of Shapes"
    chosen = page.locator("#tree li[aria-selected=true]")
    assert chosen.get_attribute("aria-level") == "1"
    assert chosen.evaluate("li => li === document.activeElement")
    before = rows.count()
    assert before > 7
    page.keyboard.press("ArrowDown")
    assert chosen.get_attribute("aria-level") == "2"
    node = chosen.get_attribute("data-node")
    assert page.locator("#detail h2").inner_text() == f"Cluster {node}"
    assert page.locator("#detail figure").count() == 8
    page.keyboard.press("ArrowLeft")
    assert chosen.get_attribute("aria-expanded") == "false"
    assert rows.count() < before
    page.keyboard.press("ArrowLeft")
    assert chosen.get_attribute("aria-level") == "1"
    page.keyboard.press("*")
    assert rows.count() > before
    page.keyboard.press("End")
    assert page.locator("#tree li[role=treeitem]:visible").last.get_attribute("aria-selected") == "true"
    if folder := os.environ.get("GROUNDSWELL_SCREENSHOTS"):
        page.screenshot(path=f"{folder}/clusters-end.png")
    page.keyboard.press("Home")
    if folder := os.environ.get("GROUNDSWELL_SCREENSHOTS"):
        page.screenshot(path=f"{folder}/clusters.png")
        page.emulate_media(color_scheme="dark")
        page.screenshot(path=f"{folder}/clusters-dark.png")
    loaded = "images => images.every(image => !image.complete || image.naturalWidth > 0)"
    assert page.locator("#tree img").evaluate_all(loaded)


@pytest.mark.browser
def test_filters_and_labels(clusters: Page) -> None:
    page = clusters
    page.keyboard.press("2")
    assert page.locator(".chip[aria-pressed=true]").inner_text() == "✓ accepted"
    bright = page.locator("#tree li:visible:not(.dim)")
    assert bright.count() > 0
    assert set(bright.evaluate_all("rows => rows.map(row => row.dataset.state)")) == {"accepted"}
    page.keyboard.press("1")
    assert page.locator("#tree li.dim").count() == 0
    page.keyboard.press("]")
    assert page.locator(".label[aria-selected=true] b").inner_text() == HOSTILE
    page.keyboard.press("]")
    assert page.locator("#tree").inner_text() == "The model found no tiny on unfinished tasks."
    page.keyboard.press("]")
    assert page.locator(".label[aria-selected=true] b").inner_text() == "disc"
    page.set_viewport_size({"width": 480, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    if folder := os.environ.get("GROUNDSWELL_SCREENSHOTS"):
        page.screenshot(path=f"{folder}/clusters-narrow.png")
