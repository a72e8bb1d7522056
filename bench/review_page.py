"""The review page against Label Studio's own form: the time to the next card, and answers per minute.

    python -m bench.review_page                  # 200 questions, 0.6 s of thinking each
    python -m bench.review_page --delay-ms 100   # both over a line on which everything takes 0.1 s longer

A played worker answers the same questions twice in Chromium (1366 × 768): on the review page with one key,
and in Label Studio's label stream with ``y`` or ``n`` and Ctrl+Enter. Both times the worker sees the picture,
thinks for the same time, and presses. Label Studio, the backend and the browser run on this machine.

One line of JSON per figure: name, value, unit, baseline, ratio. ``key_to_next_card`` is from the key event to
the frame that shows the next picture, as the browser reports it (Element Timing); its limit is 50 ms. Its
baseline is Label Studio's form: from Ctrl+Enter to the next picture loaded. ``load`` is the machine's load
average during the run: figures of a busy machine are worse than those of a free one.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sync.local.label_studio_server import StudioServer
from sync.review.review_tasks import read_questions
from sync.studio.client import Studio
from tests.browser.place import open_stream, sign_in
from tests.browser.review_place import ReviewPlace, review_place
from tests.browser.review_screen import DESKTOP, escape
from tests.conftest import CHROMIUM_FLAGS, LOGIN, free_port

if TYPE_CHECKING:
    from playwright.sync_api import Page

LIMIT_MS = 50.0
_HOOK = """
window.keyTimes = []; window.paintTimes = {};
addEventListener('keydown', e => keyTimes.push(e.timeStamp), true);
new PerformanceObserver(list => {
    for (const e of list.getEntries()) paintTimes[e.identifier] ??= e.renderTime;
}).observe({ type: 'element', buffered: true });
"""
_OTHER = "card => ![card, undefined].includes(document.getElementById('stage').dataset.card)"
_LOADED = "Htx.annotationStore.selected?.objects[0]?.imageIsLoaded === true"
_FRESH = "Htx.annotationStore.selected?.serializeAnnotation().length === 0"


@dataclass(frozen=True)
class Play:
    """What a played worker did: answers, seconds from the first picture to the last answer, waits in ms."""

    answers: int
    seconds: float
    waits_ms: Sequence[float]

    @property
    def per_minute(self) -> float:
        return 60 * self.answers / self.seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--think-s", type=float, default=0.6, help="seconds of looking (default: 0.6)")
    parser.add_argument("--delay-ms", type=float, default=0.0, help="added to every request (default: 0)")
    parser.add_argument("--pictures", type=int, default=12, help="drawn pictures (default: 12)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, _studio(Path(scratch)) as studio:
        page = _played(on_page, studio, Path(scratch) / "page", options)
        form = _played(on_form, studio, Path(scratch) / "form", options)
    _print(
        "key_to_next_card_median", statistics.median(page.waits_ms), "ms", statistics.median(form.waits_ms)
    )
    _print("key_to_next_card_p95", _p95(page.waits_ms), "ms", _p95(form.waits_ms))
    within = sum(wait <= LIMIT_MS for wait in page.waits_ms) / len(page.waits_ms)
    _print("key_to_next_card_within_limit", within, f"share of {len(page.waits_ms)} keys", None)
    _print("answers_per_minute", page.per_minute, "1/min", form.per_minute)


def _print(name: str, value: float, unit: str, baseline: float | None) -> None:
    figure = {
        "name": f"review_page.{name}",
        "value": round(value, 2),
        "unit": unit,
        "baseline": None if baseline is None else round(baseline, 2),
        "ratio": None if baseline is None else round(value / baseline, 4),
        "load": round(os.getloadavg()[1], 1),
    }
    print(json.dumps(figure), flush=True)


def _p95(values: Sequence[float]) -> float:
    return sorted(values)[int(0.95 * len(values))]


@contextmanager
def _studio(folder: Path) -> Iterator[Studio]:
    with StudioServer(folder / "label-studio", LOGIN, port=free_port(), files_root=folder) as server:
        yield Studio(server.url, LOGIN.token)


def _played(player: object, studio: Studio, folder: Path, options: argparse.Namespace) -> Play:
    """Let a worker answer all questions of a fresh project in a fresh browser."""
    from playwright.sync_api import sync_playwright

    assert callable(player)
    program = next(p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n)))
    with (
        review_place(studio, folder, questions=options.questions, pictures=options.pictures) as here,
        sync_playwright() as playwright,
    ):
        chromium = playwright.chromium.launch(executable_path=program, args=CHROMIUM_FLAGS)
        tab = chromium.new_context(**DESKTOP).new_page()
        tab.set_default_timeout(60_000)
        if options.delay_ms:
            line = {"offline": False, "latency": options.delay_ms, "downloadThroughput": -1}
            tab.context.new_cdp_session(tab).send(
                "Network.emulateNetworkConditions", {**line, "uploadThroughput": -1}
            )
        play = player(tab, here, options.think_s)
        chromium.close()
    assert isinstance(play, Play)
    return play


def on_page(tab: Page, here: ReviewPlace, think_s: float) -> Play:
    """Answer every question on the review page."""
    good = _good_tasks(here)
    tab.add_init_script(_HOOK)
    tab.goto(here.invite("a played worker").link)
    tab.locator("dialog[open]").wait_for()
    escape(tab)
    tab.wait_for_function("() => document.getElementById('stage').dataset.card")
    cards: list[str] = []
    start = time.monotonic()
    while True:
        card = tab.evaluate("document.getElementById('stage').dataset.card")
        cards.append(card)
        tab.wait_for_timeout(1000 * think_s)
        tab.keyboard.press("y" if good[int(card.split(":")[-1])] else "n")
        if len(cards) == len(good):
            break
        tab.wait_for_function(_OTHER, arg=card)
    seconds = time.monotonic() - start
    tab.get_by_text("All answered").wait_for()
    keys = tab.evaluate("keyTimes")[-len(cards) :]
    painted = tab.evaluate("paintTimes")
    waits = [painted[card] - key for key, card in zip(keys, cards[1:], strict=False)]
    _check_stored(here, tab)
    return Play(len(cards), seconds, waits)


def on_form(tab: Page, here: ReviewPlace, think_s: float) -> Play:
    """Answer every question in Label Studio's label stream."""
    good = _good_tasks(here)
    sign_in(tab, here.studio.url)
    open_stream(tab, here.studio.url, here.made.review_project_id)
    tab.get_by_text("Labeling Instructions").wait_for()
    tab.keyboard.press("Escape")
    tab.get_by_text("Labeling Instructions").wait_for(state="hidden")
    tab.wait_for_function(_LOADED)
    waits: list[float] = []
    start = time.monotonic()
    for number in range(len(good)):
        task = tab.evaluate("Number(Htx.task.id)")
        tab.wait_for_timeout(1000 * think_s)
        tab.keyboard.press("y" if good[task] else "n")
        tab.wait_for_function("Htx.annotationStore.selected.serializeAnnotation().length === 1")
        pressed = time.monotonic()
        tab.keyboard.press("Control+Enter")
        if number == len(good) - 1:
            break
        tab.wait_for_function(f"t => Number(Htx.task?.id) !== t && {_FRESH} && {_LOADED}", arg=task)
        waits.append(1000 * (time.monotonic() - pressed))
    seconds = time.monotonic() - start
    _check_stored(here, tab)
    return Play(len(good), seconds, waits)


def _good_tasks(here: ReviewPlace) -> dict[int, bool]:
    """Review task -> whether its mask is a good one."""
    tasks = here.studio.tasks(here.made.review_project_id)
    return {task.id: here.truth[read_questions(task.data)[1][0].key] for task in tasks}


def _check_stored(here: ReviewPlace, tab: Page) -> None:
    """Every question has exactly one annotation, sooner or later."""
    counts: list[int] = []
    for _ in range(600):
        counts = [len(task.annotations) for task in here.studio.tasks(here.made.review_project_id)]
        if all(counts):
            break
        tab.wait_for_timeout(200)
    if set(counts) != {1}:
        raise SystemExit(
            f"{counts.count(0)} questions of {len(counts)} have no annotation, or some have several"
        )


if __name__ == "__main__":
    main()
