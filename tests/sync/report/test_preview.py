"""The preview: what it shows of a project, that it changes nothing, and how its page behaves in Chromium."""

from __future__ import annotations

import copy
import json
import os
import re
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from clustering.costs import Costs
from clustering.pool import Pool
from clustering.price import Cost
from clustering.project_pool import ProjectPool
from clustering.trees.tree import ClusterTree
from ml_backend.artifacts.pool_tables import PoolTable
from ml_backend.errors import BadInput
from ml_backend.label_studio.label_config import parse_label_config
from ml_backend.masks.rle import encode_mask
from sync.commands import preview as preview_command
from sync.installation import Installation
from sync.report.preview_data import _open_masks, make_preview
from sync.report.preview_plays import Stage, _begin
from sync.report.preview_price import _price, sampled_pools
from sync.report.preview_sample import choose_tasks, mask_path
from sync.report.render_preview import render_preview
from sync.rounds.cluster import LabelPool
from sync.store.tables import Base
from tests.sync.steps import step

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from playwright.sync_api import Browser, Page

    from tests.sync.conftest import World

HOSTILE = "</script><img src=x onerror=alert(1)> & 'quotes\""


def _table(rows: list[tuple[int, str, float]]) -> PoolTable:
    n = len(rows)
    names = np.array([label for _, label, _ in rows], object)
    return PoolTable(
        key=np.array([f"t{task}-{i}" for i, (task, _, _) in enumerate(rows)], object),
        task_id=np.array([task for task, _, _ in rows], np.int64),
        label=names,
        box_xyxy=np.zeros((n, 4), np.float32),
        counts=names,
        hw=np.ones((n, 2), np.int32),
        score=np.array([score for _, _, score in rows], np.float32),
        quality=np.zeros(n, np.float32),
        embedding=np.zeros((n, 1), np.float32),
        edges=np.zeros((n, 10), np.float32),
    )


def test_rare_labels_are_among_the_pictures_and_the_rest_is_random() -> None:
    rows = [(task, "common", 0.9) for task in range(500)]
    rows += [(7, "rare", 0.8), (300, "rare", 0.6), (301, "rare", 0.2), (12, "once", 0.9)]
    chosen = choose_tasks(
        range(500), _table(rows), ["common", "rare", "once", "never"], sample=20, shown_from=0.5, seed=1
    )
    tasks = [task for task, _ in chosen]
    assert len(set(tasks)) == 20
    assert {7, 300, 12} <= set(tasks)
    added = {task: label for task, label in chosen if label}
    assert added == {7: "rare", 300: "rare", 12: "once"}
    again = choose_tasks(
        range(500), _table(rows), ["common", "rare", "once", "never"], sample=20, shown_from=0.5, seed=1
    )
    assert again == chosen
    other = choose_tasks(range(500), _table(rows), ["common"], sample=20, shown_from=0.5, seed=2)
    assert [task for task, _ in other] != tasks
    few = choose_tasks(range(3), _table([]), ["common"], sample=20, shown_from=0.5, seed=2)
    assert sorted(few) == [(0, ""), (1, ""), (2, "")]


def test_a_path_holds_all_parts_and_holes_at_the_size_of_the_page() -> None:
    mask = np.zeros((60, 80), bool)
    mask[10:30, 10:40] = True
    mask[15:25, 20:30] = False
    mask[40:50, 60:70] = True
    path = mask_path(encode_mask(mask), 2.0, "mask")
    assert path.count("M") == path.count("Z") == 3
    numbers = [float(text) for text in re.findall(r"[\d.]+", path)]
    assert min(numbers[::2]) == pytest.approx(20, abs=1.5)
    assert max(numbers[::2]) == pytest.approx(140, abs=2)
    assert mask_path(encode_mask(mask), 1.0, "box").startswith("M10.0 10.0L70.0 10.0L70.0 50.0")
    assert mask_path(encode_mask(mask), 1.0, "picture") == ""
    assert mask_path(encode_mask(np.zeros((4, 4), bool)), 1.0, "mask") == ""
    single = np.zeros((9, 9), bool)
    single[4, 4] = True
    assert mask_path(encode_mask(single), 1.0, "mask").count("L") == 3


def _played(world: World, labelled: int) -> None:
    world.label(*range(labelled))
    report = world.worker().look(world.project_id)
    assert report is not None
    assert report.error == ""


def _preview(world: World, **options: Any) -> dict[str, Any]:
    found: dict[str, Any] = step(make_preview, world.open(), workers=1, **options)
    return found


def test_figures_of_a_project_after_one_round(make_world: Callable[..., World]) -> None:
    world = make_world(60, early_s=0.0)
    with pytest.raises(BadInput, match="no whole round yet"):
        _preview(world)
    _played(world, 44)
    data = _preview(world, sample=6)
    assert data["tasks"] == 16
    assert [label["name"] for label in data["labels"]] == ["disc", "bar"]
    assert len(data["pictures"]) == 6
    assert all(picture["jpeg"].startswith("data:image/jpeg;base64,") for picture in data["pictures"])
    assert data["tests"]["pictures"] == 11
    whole = data["tests"]["curves"][""]
    assert not whole["too_few"]
    assert whole["pictures"] == 11
    assert whole["kept"][0] >= whole["kept"][50] >= whole["kept"][100]
    for which in ("precision", "recall"):
        middle, low, high = (np.array(column, float) for column in whole[which])
        known = ~np.isnan(middle)
        assert (low[known] <= middle[known]).all()
        assert (middle[known] <= high[known]).all()
    assert (np.diff(np.array(whole["recall"][0])) <= 0).all()
    for name, counts in data["counts"].items():
        assert (np.diff(counts) <= 0).all(), name
    assert sum(counts[0] for counts in data["counts"].values()) == data["masks"]
    rows = data["price"]["rows"]
    assert [row["promise"] for row in rows] == [0.8, 0.85, 0.9]
    assert data["price"]["now"] == 0.85
    for row in rows:
        for name in ("questions", "minutes", "unseen", "verified", "lost", "hours_of_drawing"):
            middle, low, high = row[name]
            assert 0 <= low <= middle <= high, name
        assert row["questions"][2] <= data["masks"]
        assert row["plays"] == 8
        assert (row["questions_then"] is None) == (row["nothing"] == 0)
    drawn = sum(len(picture["drawn"]) for picture in data["pictures"])
    assert drawn > 0


def test_what_is_answered_already_is_not_asked_again(make_world: Callable[..., World]) -> None:
    world = make_world(60, early_s=0.0)
    _played(world, 44)
    before = _preview(world, sample=1)["price"]
    for _ in range(20):
        world.answer_all()
        report = world.worker().look(world.project_id)
        assert report is not None
        if report.review is not None and report.review.done:
            break
    after = _preview(world, sample=1)["price"]
    now = next(row for row in after["rows"] if row["promise"] == after["now"])
    assert after["answered"] > 0
    assert now["questions"][0] == 0
    assert before["rows"][1]["questions"][0] > 0


def test_too_few_test_pictures_are_told(make_world: Callable[..., World]) -> None:
    world = make_world(14, early_s=0.0)
    _played(world, 8)
    data = _preview(world, sample=3)
    assert data["tests"]["pictures"] < data["tests"]["fewest"] == 10
    assert data["tests"]["curves"][""]["too_few"]
    assert data["price"]["missed"] is None
    assert all(row["hours_of_drawing"] is None for row in data["price"]["rows"])


def _state(world: World) -> tuple[object, ...]:
    """What a preview may not change: Label Studio, the rows of the store, and the files of the project."""
    with world.store.read() as session:
        rows = {
            table.name: [tuple(row) for row in session.execute(table.select())]
            for table in Base.metadata.sorted_tables
        }
    files = sorted((world.folder / "data" / "projects").rglob("*"))
    # hidden are notes of what this machine fetched
    kept = {str(path): path.read_bytes() for path in files if path.is_file() and path.name[0] != "."}
    return (copy.deepcopy(world.studio._db), rows, kept)


def test_the_command_writes_one_page_and_changes_nothing(
    make_world: Callable[..., World], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(30, early_s=0.0)
    _played(world, 20)
    monkeypatch.setattr(
        "sync.installation.open_installation",
        lambda *_, **__: Installation(world.settings, world.store, world.studio, None),
    )
    app = typer.Typer()
    preview_command.register(app)
    before = _state(world)
    words = ["--project", str(world.project_id)]
    out = tmp_path / "preview.html"
    done = CliRunner().invoke(app, [*words, "--out", str(out), "--sample", "4"], catch_exceptions=False)
    assert "promise 85%:" in done.stdout
    assert f"written {out}" in done.stdout
    page = out.read_text()
    assert page.count("<figure") == 0
    assert page.count("data:image/jpeg;base64,") == 4
    assert _state(world) == before
    done = CliRunner().invoke(app, [*words, "--json"], catch_exceptions=False)
    told = json.loads(done.stdout)
    assert len(told["pictures"]) == 10
    assert set(told["pictures"][0]) == {"task", "for_label", "masks"}
    with pytest.raises(BadInput, match="nothing to write to"):
        CliRunner().invoke(app, words, catch_exceptions=False)


def test_a_large_pool_is_played_on_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sync.report.preview_price.LARGEST_POOL", 60)
    rng = np.random.default_rng(0)
    tree = ClusterTree.from_linkage(np.zeros((0, 4)), 1)

    def label_pool(label: str, n: int) -> LabelPool:
        score = (np.arange(n) / n).astype(np.float32)
        pool = Pool(rng.normal(size=(n, 4)).astype(np.float32), score, score, np.zeros((n, 0), np.float32))
        return LabelPool(label, _table([(0, label, 0.5)] * n), pool, tree)

    pools = [label_pool("a", 90), label_pool("b", 30)]
    items, yes = np.arange(0, 120, 2), np.arange(60) % 2 * 1.0
    parts, kept, said, larger = sampled_pools(pools, items, yes, seed=1)
    assert larger == 2.0
    assert sum(len(part) for part in parts) == 60
    assert 35 <= len(parts[0]) <= 55
    assert len(kept) == len(said)
    scores = np.concatenate([part.score for part in parts])
    whole = np.concatenate([pool.pool.score for pool in pools])
    by_score = dict(zip(items.tolist(), yes.tolist(), strict=True))
    for row, verdict in zip(kept.tolist(), said.tolist(), strict=True):
        assert any(whole[item] == scores[row] and by_score[item] == verdict for item in by_score)
    assert sampled_pools(pools[1:], items[:3], yes[:3], seed=1)[3] == 1.0


def test_plays_that_certify_nothing_are_counted_and_priced() -> None:
    n = 2000
    pool = Pool(np.zeros((n, 1), np.float32), *np.full((2, n), 0.5, np.float32), np.zeros((n, 0), np.float32))
    stage = Stage(ProjectPool([pool]), np.zeros(n, bool), Costs(), None, 1.0)

    def cost(questions: int, unseen: int) -> Cost:
        return Cost(questions, 1.0, unseen, 0, 0, 0)

    some = _price(0.85, stage, [cost(100, 50), cost(900, 0), cost(1100, 0), cost(120, 40)])
    assert (some.plays, some.nothing, some.questions_then) == (4, 2, 1000)
    none = _price(0.85, stage, [cost(100, 50), cost(120, 40)])
    assert (none.plays, none.nothing, none.questions_then) == (2, 0, None)
    told = none.as_json()
    assert (told["promise"], told["plays"], told["questions_then"]) == (0.85, 2, None)


def test_plays_beside_a_server_leave_it_the_cores() -> None:
    stage = Stage(ProjectPool([]), np.zeros(0, bool), Costs(), None, 1.0)
    here = os.nice(0)
    for apart, expected in ((True, min(19, here + 10)), (False, here)):
        context = get_context("spawn")
        with ProcessPoolExecutor(1, context, initializer=_begin, initargs=(stage, apart)) as pool:
            assert pool.submit(os.nice, 0).result() == expected


def test_the_masks_of_a_page_take_no_copy_of_the_embeddings() -> None:
    n, wide = 20_000, 400
    table = replace(
        _table([(row % 50, "a", 0.5) for row in range(n)]), embedding=np.zeros((n, wide), np.float32)
    )
    pool = Pool(table.embedding, table.score, table.quality, table.edges)
    half = np.arange(0, n, 2)
    tree = ClusterTree.from_linkage(np.zeros((0, 4)), 1)
    pools = [LabelPool("a", table, pool, tree), LabelPool("b", table.take(half), pool, tree)]
    config = parse_label_config(
        '<View><Image name="image" value="$image"/><BrushLabels name="label" toName="image">'
        '<Label value="a"/><Label value="b"/></BrushLabels></View>'
    )
    tracemalloc.start()
    try:
        found = _open_masks(pools, list(range(25)), config)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(found) == n // 2 + n // 2 // 25 * 13
    assert set(found.task_id.tolist()) == set(range(25))
    assert found.rle(0)["counts"] == "a"
    assert peak < 0.3 * table.embedding.nbytes


def made_up(labels: list[str], *, pictures: int = 9, masks: int = 4, few: bool = False) -> dict[str, Any]:
    """Values of a page without any project behind them."""
    rng = np.random.default_rng(0)
    ladder = np.linspace(0.0, 1.0, 101)
    pixels = "data:image/jpeg;base64," + _jpeg()

    def curve() -> dict[str, Any]:
        precision = 0.5 + 0.5 * ladder
        recall = 1.0 - 0.6 * ladder**2
        return {
            "pictures": 4 if few else 31,
            "objects": 120,
            "too_few": few,
            "kept": np.round(200 * (1 - ladder)).astype(int).tolist(),
            "precision": [
                precision.tolist(),
                (precision - 0.06).tolist(),
                np.minimum(precision + 0.04, 1).tolist(),
            ],
            "recall": [recall.tolist(), (recall - 0.08).tolist(), np.minimum(recall + 0.07, 1).tolist()],
        }

    def drawn() -> list[Any]:
        found = []
        for i in range(masks):
            x, y = rng.integers(20, 360), rng.integers(20, 250)
            r = 30
            path = f"M{x} {y}L{x + r} {y}L{x + r} {y + r}L{x} {y + r}Z"
            found.append([i % len(labels), round(0.15 + 0.8 * i / masks, 3), path])
        return found

    row: dict[str, Any] = {
        "questions": [1200, 900, 1700], "minutes": [11.5, 8.0, 16.2], "unseen": [4000, 3500, 4600],
        "verified": [700, 500, 900], "lost": [5, 0, 20], "undecided": [0, 0, 0],
        "hours_of_drawing": None if few else [2.4, 1.1, 4.0],
    }  # fmt: skip
    if not few:  # a preview that an older release made does not have these
        row |= {"plays": 8, "nothing": 0, "questions_then": None}
    rows = [{"promise": promise, **row} for promise in (0.8, 0.85, 0.9)]
    if not few:
        rows[2] |= {"nothing": 3, "questions_then": 4364}
    return {
        "project": 3, "title": HOSTILE, "round": 1, "version": "gs3-r1-0123456789",
        "made_at": "2026-03-04T05:06:07+00:00", "seed": 0, "studio_url": "",
        "labels": [{"name": name, "unit": "mask", "kind": "instances"} for name in labels],
        "tasks": 1203, "masks": 1000 * len(labels), "shown_from": 0.5, "pool_from": 0.1,
        "counts": {name: np.round(1000 * (1 - ladder)).astype(int).tolist() for name in labels},
        "tests": {
            "pictures": 4 if few else 31, "fewest": 10,
            "curves": {"": curve(), **({name: curve() for name in labels} if len(labels) > 1 else {})},
        },
        "price": {
            "policy": "certified", "masks": 50_000, "played_masks": 20_000, "answered": 12, "lessons": 300,
            "test_pictures": 4 if few else 31, "now": 0.85, "budget": None, "confidence": 0.9,
            "drawn_s": 80.0,
            "missed": None
            if few
            else {"objects": [103, 40, 180], "of_test_objects": [9, 120], "pictures": 31},
            "rows": rows,
        },
        "pictures": [
            {"task": 100 + i, "for_label": HOSTILE if i == 8 else "", "width": 440, "height": 330,
             "jpeg": "" if i == 3 else pixels, "drawn": drawn()}
            for i in range(pictures)
        ],
    }  # fmt: skip


def _jpeg() -> str:
    import base64
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.effect_noise((440, 330), 60).convert("RGB").save(file, "JPEG", quality=30)
    return base64.b64encode(file.getvalue()).decode()


def test_the_page_is_self_contained_and_hostile_text_stays_text() -> None:
    page = render_preview(made_up(["disc", HOSTILE]))
    assert page.count("</script>") == 2
    assert "<img" not in page
    assert "http://" not in page
    assert "https://" not in page
    assert not re.search(r"""(?:src|href)\s*=\s*["']""", page)
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert found is not None
    assert json.loads(found.group(1))["title"] == HOSTILE
    linked = render_preview(
        made_up(["disc"]), css_url="/preview.css", js_url="/preview.js", back_url="/dashboard"
    )
    assert '<script src="/preview.js">' in linked
    assert "<style>" not in linked
    assert linked.count("<script") == 2


@pytest.fixture
def opened(browser: Browser, tmp_path: Path) -> Iterator[Callable[..., Page]]:
    contexts = []
    troubles: list[str] = []

    def open_page(data: dict[str, Any], width: int = 1366, height: int = 768) -> Page:
        file = tmp_path / "preview.html"
        file.write_text(render_preview(data))
        context = browser.new_context(viewport={"width": width, "height": height}, offline=True)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("console", lambda one: troubles.append(one.text) if one.type == "error" else None)
        page.on("request", lambda one: troubles.append(one.url) if one.url.startswith("http") else None)
        page.goto(file.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert troubles == []


def _shoot(page: Page, name: str, **options: Any) -> None:
    if folder := os.environ.get("GROUNDSWELL_SCREENSHOTS"):
        page.screenshot(path=f"{folder}/{name}.png", **options)


@pytest.mark.browser
@pytest.mark.parametrize(("width", "height"), [(1366, 768), (390, 844)])
def test_the_slider_hides_masks_and_counts_follow(
    opened: Callable[..., Page], width: int, height: int
) -> None:
    page = opened(made_up(["disc", HOSTILE]), width, height)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    sliders = page.locator(".slider")
    assert sliders.count() == 3
    masks = page.locator("#sheet path:visible")
    at_half = masks.count()  # scores are .15, .35, .55 and .75 on each of nine pictures
    assert at_half == 18
    assert page.locator("figcaption").first.inner_text().startswith("task 100")
    every = sliders.nth(0).locator("input")
    every.fill("80")
    assert masks.count() == 0
    assert "400 of 2,000" in " ".join(sliders.nth(0).locator(".told").inner_text().split())
    every.fill("10")
    assert masks.count() == 36
    one = sliders.nth(1).locator("input")
    one.focus()
    one.press("End")
    assert masks.count() == 18
    assert sliders.nth(0).locator("output").inner_text() == "mixed"
    assert sliders.nth(1).locator("output").inner_text() == "1.00"
    told = " ".join(sliders.nth(2).locator(".told").inner_text().split())
    assert "55 % 49 % to 59 %" in told
    page.locator("#outlines").uncheck()
    assert masks.count() == 0
    page.locator("#outlines").check()
    rows = page.locator("#price tbody tr")
    assert rows.count() == 3
    assert "900 to 1,700" in rows.nth(1).inner_text()
    assert "random sample of 20,000 of 50,000" in page.locator("#price").inner_text()
    assert page.get_by_text("nothing was accepted unseen").count() == 1
    said = page.get_by_text("nothing was accepted unseen").inner_text()
    assert "At 90 % good" in said
    assert "3 of 8 plays" in said
    assert "4,364 questions" in said
    every.fill("40")
    page.evaluate("scrollTo(0, 0)")
    _shoot(page, f"preview-{width}", full_page=True)


@pytest.mark.browser
def test_few_test_pictures_and_dark(opened: Callable[..., Page]) -> None:
    page = opened(made_up(["disc"], few=True))
    page.emulate_media(color_scheme="dark")
    assert page.locator(".slider").count() == 1
    assert "too few to tell" in page.locator(".told").inner_text()
    assert "too few to tell" in page.locator("#price tbody").inner_text()
    assert page.get_by_text("nothing was accepted unseen").count() == 0
    _shoot(page, "preview-dark", full_page=True)
