"""The worker against a real Label Studio, beside the calls that a user of the SDK would write. JSON lines.

    python -m bench.sync --quick            # 300 and 1,200 tasks, a few minutes
    python -m bench.sync                    # 5,000 and 20,000 tasks, about an hour on two cores
    python -m bench.sync --store-only       # 10,000 and 100,000 tasks without a server: our own costs

``value`` is ours, ``baseline`` the plain way in the same run, ``ratio`` is baseline / value (higher is
better). The plain way lists all tasks with the SDK and parses their annotations, and creates predictions one
by one; of long loops a sample is timed and the time per row multiplied (``sampled`` says how many). Lines
``…_growth`` compare the larger project with the smaller one: ``value`` is how many times longer it takes.
The pictures of the tasks do not exist: no figure needs them. Models are stand-ins that were never trained.
``load`` is the load of the machine when the line was printed.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from label_studio_sdk import LabelStudio
from sqlalchemy import select

from bench.sync_project import CONFIG, Level, add_model, address, drawn, fill_store, settings_for
from sync.local.label_studio_server import StudioServer
from sync.rounds.project import OpenProject, open_project
from sync.rounds.pull import pull
from sync.rounds.registration import register_project
from sync.settings import Settings
from sync.store.database import Store
from sync.store.tables import RoundRecord, TaskRecord
from sync.studio.client import Studio
from sync.worker.loop import Worker
from tests.conftest import LOGIN, free_port

LABELLED = 60
"""tasks that people finished before the model was there"""
CHANGED = 100
SAMPLE = 1_000
"""tasks that the plain way lists"""
LARGE, SMALL = 200, 4
"""radius of the discs of a prediction: about 20 kB of JSON, and about 2.5 kB"""
Site = tuple[Settings, OpenProject, Worker]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="300 and 1,200 tasks")
    parser.add_argument("--store-only", action="store_true", help="without a server")
    parser.add_argument("--sizes", type=int, nargs=2, metavar=("SMALL", "LARGE"))
    parser.add_argument("--looks", type=int, help="idle looks over which memory is watched (200, quick: 20)")
    parser.add_argument("--first-sync", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # pictures that are not there
    if options.first_sync is not None:
        print(json.dumps(_first_sync(*options.first_sync)))
        return
    plain = (10_000, 100_000) if options.store_only else (5_000, 20_000)
    sizes = tuple(options.sizes or ((300, 1_200) if options.quick else plain))
    looks = options.looks or (20 if options.quick else 200)
    with tempfile.TemporaryDirectory() as scratch:
        if options.store_only:
            _without_server(Path(scratch), sizes, looks)
        else:
            with StudioServer(Path(scratch) / "studio", LOGIN, port=free_port()) as server:
                _with_server(Path(scratch), server.url, sizes, looks, turns=1 if options.quick else 3)


def say(name: str, value: float, unit: str, baseline: float | None = None, **more: object) -> None:
    """Print one figure."""
    row: dict[str, object] = {"name": f"sync/{name}", "value": round(value, 3), "unit": unit}
    row["baseline"] = None if baseline is None else round(baseline, 3)
    row["ratio"] = None if baseline is None else round(baseline / max(value, 1e-9), 1)
    load = round(os.getloadavg()[0], 1)
    print(json.dumps({**row, **more, "load": load}), flush=True)


def timed(work: Callable[[], Any]) -> float:
    """Seconds that it takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def rss_mb() -> float:
    """Memory of this process now."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def _look(worker: Worker, number: int) -> Any:
    report = worker.look(number)
    if report is None or report.error:
        raise SystemExit(f"a look failed: {report}")
    return report


def _idle(worker: Worker, number: int, looks: int) -> tuple[float, float]:
    """Median seconds of an idle look, and growth of memory in MB over ``looks`` of them."""
    for _ in range(5):
        _look(worker, number)
    before, seconds = rss_mb(), []
    for _ in range(looks):
        seconds.append(timed(lambda: _look(worker, number)))
    return statistics.median(seconds), rss_mb() - before


# ---- without a server ---------------------------------------------------------------------------------


def _without_server(folder: Path, sizes: Sequence[int], looks: int) -> None:
    idle, pushes, changes = [], [], []
    for size in sizes:
        settings = settings_for(folder / str(size), compare_s=1e9)
        store = Store(settings.database())
        fill_store(store, size, finished=size // 10)
        studio: Any = Level(size)
        add_model(open_project(settings, store, studio, 1), radius=SMALL)
        worker = Worker(settings, store, studio, only=[1])
        pushes.append(timed(lambda worker=worker: _look(worker, 1)))  # type: ignore[misc]
        say(f"store_only/first_push_of_{size}", pushes[-1], "s")
        seconds, grown = _idle(worker, 1, looks)
        idle.append(seconds)
        say(f"store_only/idle_look_at_{size}", seconds, "s", rss_mb=round(rss_mb()))
        say(f"store_only/rss_over_{looks}_idle_looks_at_{size}", grown, "MB")
        with store.write() as session:
            session.get_one(TaskRecord, size).finished = True
        changes.append(timed(lambda worker=worker: _look(worker, 1)))  # type: ignore[misc]
        say(f"store_only/look_after_one_change_at_{size}", changes[-1], "s")
        store.close()
    for name, found in (("idle_look", idle), ("look_after_one_change", changes), ("first_push", pushes)):
        say(f"store_only/{name}_growth", found[1] / found[0], "times", tasks_growth=sizes[1] / sizes[0])


# ---- with a server ------------------------------------------------------------------------------------


def _with_server(folder: Path, url: str, sizes: Sequence[int], looks: int, *, turns: int) -> None:
    sdk = LabelStudio(base_url=url, api_key=LOGIN.token)
    studio = Studio(url, LOGIN.token)
    pulls, idles = [], []
    for size in sizes:
        is_small = size == sizes[0]
        number = studio.create_project(f"Sync of {size} tasks", CONFIG).id
        ids = studio.import_tasks(number, [{"image": address(n)} for n in range(size)])
        one_row = _listing(sdk, number, min(size, SAMPLE))
        listing = one_row * size
        with _site(folder / str(size), url, number) as (settings, project, worker):
            seconds, peak = _first_sync_apart(settings, url, number)
            sampled = min(size, SAMPLE)
            say(f"first_sync_of_{size}", seconds, "s", listing, sampled=sampled, peak_growth_mb=peak)
            _label(studio, ids[:LABELLED])
            pull(project.db, studio, project.config, settings, project.progress)
            add_model(project, radius=LARGE if is_small else SMALL)
            _push(sdk, worker, number, ids, is_small)
            for _ in range(3):
                _look(worker, number)
            _settle(settings)
            seconds, grown = _idle(worker, number, looks)
            idles.append(seconds)
            say(f"idle_look_at_{size}", seconds, "s", listing, sampled=sampled)
            say(f"rss_over_{looks}_idle_looks_at_{size}", grown, "MB")
            pulls.append(_changes(studio, project, worker, ids, turns, listing, sampled))
            _next_prediction(studio, sdk, worker, number, size, listing)
    say("pull_growth", pulls[1] / pulls[0], "times", tasks_growth=sizes[1] / sizes[0])
    say("idle_look_growth", idles[1] / idles[0], "times", tasks_growth=sizes[1] / sizes[0])


@contextmanager
def _site(folder: Path, url: str, number: int) -> Iterator[Site]:
    settings = settings_for(folder, studio_url=url, studio_token=LOGIN.token, overlap_s=5.0)
    store, studio = Store(settings.database()), Studio(url, LOGIN.token)
    register_project(settings, store, studio, number)
    project = open_project(settings, store, studio, number)
    yield settings, project, Worker(settings, store, studio, only=[number])
    store.close()


def _listing(sdk: LabelStudio, number: int, sample: int) -> float:
    """Seconds per task of listing them with the SDK and parsing annotations."""

    def listed() -> None:
        for task in islice(sdk.tasks.list(project=number, fields="all", page_size=100), sample):
            for annotation in task.annotations or ():
                json.dumps(annotation if isinstance(annotation, dict) else annotation.dict(), default=str)

    return timed(listed) / sample


def _first_sync_apart(settings: Settings, url: str, number: int) -> tuple[float, float]:
    """Seconds of the first pull and how much memory grew in it, measured in a process of its own."""
    arguments = [str(settings.data_dir), url, str(number), settings.database()]
    line = [sys.executable, "-m", "bench.sync", "--first-sync", *arguments]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    seconds, grown = json.loads(done.stdout)
    return seconds, grown


def _first_sync(data_dir: str, url: str, number: str, database: str) -> tuple[float, float]:
    settings = Settings(data_dir=data_dir, studio_url=url, studio_token=LOGIN.token, database_url=database)
    store, studio = Store(database), Studio(url, LOGIN.token)
    project = open_project(settings, store, studio, int(number))
    studio.project(project.id)
    before = rss_mb()
    seconds = timed(lambda: pull(project.db, studio, project.config, settings, project.progress))
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
    return round(seconds, 3), round(peak - before, 1)


def _label(studio: Studio, ids: Sequence[int]) -> None:
    for place, task in enumerate(ids):
        studio.create_annotation(task, drawn(place), lead_time_s=10.0)


def _push(sdk: LabelStudio, worker: Worker, number: int, ids: Sequence[int], is_large: bool) -> None:
    """The push of a first round, which makes its predictions too; kB of one.

    The whole look (order, clusters and all) is told beside it, and how long one bulk request takes with all
    these predictions ready-made: the limit.
    """
    rows = len(ids) - LABELLED
    kind = "20_kB" if is_large else "small"
    looked = timed(lambda: _look(worker, number))
    seconds = _push_seconds(worker, number)
    made = sdk.predictions.list(task=ids[-1])[0]
    sent = json.loads(json.dumps(made.result, default=str))
    sample = min(40, rows)

    def one_by_one() -> None:
        for task in ids[-sample:]:
            sdk.predictions.create(task=task, result=sent, score=0.5, model_version="plain")

    baseline = timed(one_by_one) / sample * rows
    kilobytes = round(len(json.dumps(sent, separators=(",", ":"))) / 1000, 1)
    whole = {"whole_look_s": round(looked, 3), "kilobytes_each": kilobytes}
    say(f"push_of_{rows}_predictions_{kind}", seconds, "s", baseline, sampled=sample, **whole)
    ready = [{"task": task, "result": sent, "score": 0.5, "model_version": "ready"} for task in ids[:2000]]
    limit = timed(lambda: sdk.projects.import_predictions(number, request=ready)) / len(ready) * rows
    say(f"push_of_{rows}_predictions_{kind}_to_limit", seconds, "s", limit, sampled=len(ready))


def _push_seconds(worker: Worker, number: int) -> float:
    """Seconds that the worker noted for the step."""
    with worker._store.read() as session:
        record = session.scalars(select(RoundRecord).where(RoundRecord.project_id == number)).one()
        return float(record.figures["push"]["seconds"])


def _settle(settings: Settings) -> None:
    """Wait until the last import is older than the look-back of a pull."""
    time.sleep(settings.overlap_s + 2.0)


def _changes(
    studio: Studio,
    project: OpenProject,
    worker: Worker,
    ids: Sequence[int],
    turns: int,
    listing: float,
    sampled: int,
) -> float:
    """The pull after 100 submitted annotations; the median."""
    found = []
    for turn in range(turns):
        first = LABELLED + turn * CHANGED
        chosen = ids[first : first + CHANGED] if len(ids) > first + CHANGED else ids[-CHANGED:]
        memo: dict[object, object] = {}
        pull(project.db, studio, project.config, project.settings, project.progress, memo)
        _settle(project.settings)
        pull(project.db, studio, project.config, project.settings, project.progress, memo)
        _label(studio, chosen)

        def again(memo: dict[object, object] = memo) -> None:
            report = pull(project.db, studio, project.config, project.settings, project.progress, memo)
            assert report.annotations_created == CHANGED, report

        found.append(timed(again))
    seconds = statistics.median(found)
    say(f"pull_after_{CHANGED}_changes_at_{len(ids)}", seconds, "s", listing, sampled=sampled)
    _look(worker, project.id)
    return seconds


def _next_prediction(
    studio: Studio, sdk: LabelStudio, worker: Worker, number: int, size: int, listing: float
) -> None:
    """From one submitted annotation to the next task with its prediction, and the look that follows."""
    shown = studio.project(number).model_version
    waits, looks = [], []
    for turn in range(5):
        task = studio.next_task(number)
        if task is None:
            raise SystemExit("no task is served")
        began = time.perf_counter()
        studio.create_annotation(task.id, drawn(turn), lead_time_s=10.0)
        after = studio.next_task(number)
        if after is None or not any(row.model_version == shown for row in studio.predictions(after.id)):
            raise SystemExit("the next task has no prediction")
        waits.append(time.perf_counter() - began)
        looks.append(timed(lambda: _look(worker, number)))
    made = sdk.predictions.list(task=after.id)[0].result
    plain = timed(
        lambda: sdk.predictions.create(task=after.id, result=made, score=0.5, model_version="plain")  # type: ignore[arg-type]
    )
    say(f"submit_to_next_prediction_at_{size}", statistics.median(waits), "s", listing + plain)
    say(f"look_after_one_annotation_at_{size}", statistics.median(looks), "s", listing + plain)


if __name__ == "__main__":
    print(
        json.dumps({"name": "sync/began", "at": datetime.now(UTC).isoformat(timespec="seconds")}),
        file=sys.stderr,
    )
    main()
