"""How the demo command runs: which pictures, which processes, what is printed."""

from __future__ import annotations

import json
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import typer

from ml_backend.errors import BadInput
from ml_backend.kinds.registry import KINDS
from ml_backend.masks.coco import CocoSet, load_coco
from sync.console import interruptible, say, show_login
from sync.lab.class_table import load_class_table
from sync.lab.demo import Demo, DemoPlan
from sync.lab.demo_report_output import report_table, save_report
from sync.lab.sample_set import SAMPLE_PICTURES, make_sample_set
from sync.local.up import Stack
from sync.projects.init_project import InitReport
from sync.settings import Settings, load_settings

__all__ = ["DemoRun"]

_WAIT_S = 1800.0
_SAMPLE_ITERATIONS = 200


@dataclass(frozen=True, slots=True)
class DemoRun:
    """One call of the demo command; see its options."""

    plan: DemoPlan
    images: Path | None = None
    annotations: Path | None = None
    table: Path | None = None
    limit: int | None = None
    data_dir: Path | None = None
    studio_port: int | None = None
    backend_port: int | None = None
    studio_url: str = ""
    api_key: str = ""

    def headless(self, *, report: Path | None, as_json: bool) -> None:
        """Simulate all people, print and write the report, leave nothing running."""
        quiet = (lambda line: None) if as_json else say
        with self._settings_for_headless() as settings, interruptible(exit_code=130):
            coco = self._pictures(settings)
            stack = Stack(
                settings,
                studio_port=self.studio_port or _free_port(),
                backend_port=self.backend_port or _free_port(),
                studio_url=self.studio_url,
                api_key=self.api_key,
                with_worker=False,
                report=quiet,
            )
            with stack:
                found = Demo(stack.settings, coco, self._titled_plan(), say=quiet).play()
            if report is not None:
                save_report(found, report)
            if as_json:
                typer.echo(json.dumps(found.as_json(), indent=1))
                return
            from rich.console import Console

            # where there is no terminal, rich takes eighty columns, which cuts the figures off
            Console(width=None if sys.stdout.isatty() else 150).print(report_table(found))
            if report is not None:
                say(f"report: {report}, plot: {report.with_suffix('.png')}")

    def interactive(self) -> None:
        """Start everything, simulate the first annotator, wait for predictions, and keep running."""
        settings = load_settings(**({} if self.data_dir is None else {"data_dir": self.data_dir}))
        coco = self._pictures(settings)
        stack = Stack(
            settings,
            studio_port=self.studio_port or 8080,
            backend_port=self.backend_port or 9090,
            studio_url=self.studio_url,
            api_key=self.api_key,
            report=say,
        )
        with interruptible(), stack:
            demo = Demo(stack.settings, coco, self._titled_plan(), say=say)
            made = demo.prepare()
            show_login(stack)
            missing = self.plan.start_tasks - demo.labelled()
            if missing > 0:
                demo.label(missing)
            say("the worker trains on them; this takes a few minutes on a CPU")
            _wait_for_predictions(stack, demo, made)
            _show_where(made)
            stack.watch()

    def _titled_plan(self) -> DemoPlan:
        if self.images is None:
            # few steps are enough for generated pictures, and somebody is waiting: an early version would
            # only be the first thing they see, and the worst
            short = {"iterations": _SAMPLE_ITERATIONS, "early_s": 0}
            return replace(self.plan, options={**short, **self.plan.options})
        folder = self.images if self.images.name != "images" else self.images.resolve().parent
        return replace(self.plan, title=f"Groundswell demo: {folder.resolve().name}"[:50])

    def _pictures(self, settings: Settings) -> CocoSet:
        truths = [path for path in (self.annotations, self.table) if path is not None]
        if (self.images is None) != (not truths) or len(truths) > 1:
            raise BadInput(
                "--images belongs together with --coco or --csv",
                field="coco",
                hint="Give the pictures and one file with their truth, or neither",
            )
        if self.table is not None and KINDS[self.plan.kind].unit != "picture":
            raise BadInput(
                f"a project of kind {self.plan.kind} needs masks or boxes as truth",
                field="csv",
                hint="Use --coco, or --kind classes",
            )
        if self.images is not None and self.table is not None:
            found = load_class_table(self.images, self.table)
        elif self.images is not None and self.annotations is not None:
            found = load_coco(self.images, self.annotations)
        else:
            number = min(self.limit or SAMPLE_PICTURES, SAMPLE_PICTURES)
            name = "sample-set" if number == SAMPLE_PICTURES else f"sample-set-{number}"
            folder = settings.data_dir / name
            if not folder.exists():
                say("drawing the sample pictures")
            make_sample_set(folder, n=number)
            found = load_coco(folder / "images", folder / "annotations.json")
        # tables often list one class after the other
        places = np.random.default_rng(self.plan.seed).permutation(len(found.images)).tolist()
        chosen = found.images if self.table is None else tuple(found.images[place] for place in places)
        return CocoSet(found.categories, chosen[: self.limit])

    @contextmanager
    def _settings_for_headless(self) -> Iterator[Settings]:
        if self.data_dir is not None:
            yield load_settings(data_dir=self.data_dir)
            return
        with tempfile.TemporaryDirectory(prefix="groundswell-demo-") as folder:
            yield load_settings(data_dir=Path(folder))


def _wait_for_predictions(stack: Stack, demo: Demo, made: InitReport) -> None:
    """Wait until the project shows predictions; follows the worker's log meanwhile."""
    from rich.console import Console

    log = stack.logs / "worker.log"
    end = time.monotonic() + _WAIT_S
    with Console().status("training") as status:
        while time.monotonic() < end:
            stack.watch(seconds=1.0)
            if demo.admin.prediction_versions(made.project_id) and demo.admin.project(
                made.project_id
            ).model_version.startswith("gs"):
                return
            lines = log.read_text(errors="replace").splitlines() if log.exists() else []
            if lines:
                status.update(f"worker: {lines[-1][-100:]}")
    say(f"no predictions after {_WAIT_S / 60:.0f} minutes; see {log}")


def _show_where(made: InitReport) -> None:
    typer.echo("")
    typer.secho("  Pre-annotated tasks are ready.", bold=True)
    typer.echo(f"  label   {made.url}   (press Label All Tasks)")
    typer.echo(f"  review  groundswell invite create --project {made.project_id} --name You")
    typer.echo(
        "          prints a link to the review page, where a key is an answer: is this mask good? y / n"
    )
    typer.echo(
        "  What you label or answer changes the next round; groundswell status and the dashboard show it.\n"
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
