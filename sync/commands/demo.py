"""``groundswell demo``: the whole loop on pictures with known truth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    @app.command()
    def demo(
        images: Annotated[
            Path | None, typer.Option(help="folder of pictures (default: a generated set)")
        ] = None,
        coco: Annotated[Path | None, typer.Option(help="COCO annotations of the pictures: the truth")] = None,
        csv: Annotated[
            Path | None, typer.Option(help="table with columns file,label: the truth for --kind classes")
        ] = None,
        groups: Annotated[
            Path | None,
            typer.Option(help="table with columns file,group: pictures that the test split must not part"),
        ] = None,
        kind: Annotated[
            str, typer.Option(help="instances, boxes, segmentation, components, classes or weak")
        ] = "instances",
        headless: Annotated[
            bool, typer.Option("--headless", help="simulate all people, report, and exit")
        ] = False,
        rounds: Annotated[int, typer.Option(min=1, help="rounds to run (--headless)")] = 3,
        report: Annotated[
            Path | None, typer.Option(help="report to write, JSON; a plot goes beside it")
        ] = None,
        start_tasks: Annotated[int, typer.Option(min=3, help="tasks labelled before the first round")] = 12,
        tasks_per_round: Annotated[
            int, typer.Option(min=0, help="tasks labelled before each later round")
        ] = 10,
        answers_error: Annotated[
            float, typer.Option(min=0.0, max=1.0, help="probability of a wrong crowd answer")
        ] = 0.0,
        labels_error: Annotated[
            float, typer.Option(min=0.0, max=1.0, help="probability that an instance is overlooked")
        ] = 0.0,
        workers: Annotated[int, typer.Option(min=1, help="crowd workers")] = 1,
        budget: Annotated[int | None, typer.Option(min=0, help="most questions per round")] = None,
        limit: Annotated[int | None, typer.Option(min=5, help="use the first pictures only")] = None,
        output: Annotated[str, typer.Option(help="masks as brush, bitmask or polygon")] = "brush",
        option: Annotated[
            list[str] | None, typer.Option(help="worker setting of the project, name=value; repeatable")
        ] = None,
        seed: Annotated[int, typer.Option(min=0, help="seed of all random choices")] = 0,
        port: Annotated[
            int | None, typer.Option(help="port of Label Studio (default 8080; any if headless)")
        ] = None,
        backend_port: Annotated[
            int | None, typer.Option(help="port of the backend (default 9090; any if headless)")
        ] = None,
        data_dir: Annotated[
            Path | None, typer.Option(help="data directory (headless: a temporary one by default)")
        ] = None,
        studio_url: Annotated[str, typer.Option(help="use this Label Studio instead of starting one")] = "",
        api_key: Annotated[
            str, typer.Option(help="API key for --studio-url", envvar="GROUNDSWELL_API_KEY")
        ] = "",
        as_json: Annotated[bool, typer.Option("--json", help="print the report as JSON")] = False,
    ) -> None:
        """Show the loop: label, train, propagate, ask, and push, on pictures with known truth.

        Without arguments it generates pictures, starts everything, lets a simulated annotator label the first
        ones, waits until the model has pre-annotated the rest, prints where to look, and keeps running.
        With --headless all people are simulated through Label Studio, and a report is written.

        Example: groundswell demo

        Example: groundswell demo --images img --coco truth.json --rounds 3 --headless --report report.json

        Example: groundswell demo --kind classes --images img --csv truth.csv --headless
        """
        from ml_backend.extras import require_extra
        from ml_backend.kinds.registry import get_kind

        require_extra("backend", "worker", "plots")
        from sync.console import parse_options
        from sync.lab.demo import DemoPlan
        from sync.lab.demo_run import DemoRun

        run = DemoRun(
            plan=DemoPlan(
                rounds=rounds,
                start_tasks=start_tasks,
                tasks_per_round=tasks_per_round,
                answers_error=answers_error,
                labels_error=labels_error,
                workers=workers,
                budget=budget,
                seed=seed,
                kind=get_kind(kind).name,
                groups=groups,
                output=output,  # type: ignore[arg-type]
                options=parse_options(option or []),
            ),
            images=images,
            annotations=coco,
            table=csv,
            limit=limit,
            data_dir=data_dir,
            studio_port=port,
            backend_port=backend_port,
            studio_url=studio_url,
            api_key=api_key,
        )
        if headless:
            run.headless(report=report, as_json=as_json)
        else:
            run.interactive()
