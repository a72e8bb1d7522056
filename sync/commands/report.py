"""``groundswell report``: everything that is known of a project, as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    @app.command()
    def report(
        project: Annotated[int | None, typer.Option(help="Label Studio project")] = None,
        everything: Annotated[bool, typer.Option("--all", help="all projects that take part")] = False,
        out: Annotated[Path, typer.Option(help="HTML file to write")] = Path("report.html"),
        data_dir: Annotated[Path | None, typer.Option(help="data directory")] = None,
        as_json: Annotated[
            bool, typer.Option("--json", help="print the figures as JSON, write no file")
        ] = False,
    ) -> None:
        """Write one HTML page: learning curve, masks by origin, hours, people, versions, what went wrong.

        The page is that of the dashboard at this moment. It needs no server and loads nothing; open it in any
        browser, or mail it. Label Studio need not run.

        Example: groundswell report --project 3 --out report.html

        Example: groundswell report --all --json
        """
        import json
        from dataclasses import asdict

        from ml_backend.artifacts.files import write_atomic
        from ml_backend.errors import BadInput
        from sync.dashboard.collect import collect_project, project_record
        from sync.dashboard.live import live_state
        from sync.dashboard.render import render_report
        from sync.installation import open_store
        from sync.report.status_figures import project_titles

        if (project is None) != everything:
            raise BadInput("which project?", field="project", hint="Give --project N, or --all")
        settings, store = open_store(data_dir)
        numbers = list(project_titles(store)) if project is None else [project]
        if not numbers:
            raise BadInput("no project takes part yet", field="project", hint="Create one: groundswell init")
        found = [
            (
                collect_project(settings, store, number),
                live_state(settings, store, project_record(store, number)),
            )
            for number in numbers
        ]
        if as_json:
            typer.echo(json.dumps([{**asdict(one), "now": asdict(live)} for one, live in found], indent=1))
            return
        write_atomic(out, render_report(found).encode())
        typer.echo(f"written {out}")
