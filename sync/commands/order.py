"""``groundswell order``: which tasks come next in a project, and why."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    @app.command()
    def order(
        project: Annotated[int, typer.Argument(help="Label Studio project")],
        explain: Annotated[int | None, typer.Option(help="say why this task has its place")] = None,
        top: Annotated[int, typer.Option(min=1, help="tasks to list")] = 20,
        data_dir: Annotated[Path | None, typer.Option(help="data directory")] = None,
        as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    ) -> None:
        """List the tasks that are served next, first one first, with the reason of each.

        Label Studio serves exactly this order, but for tasks that somebody has open. The order is made when a
        model has looked at all tasks; `GROUNDSWELL_ORDER` and the settings beside it choose another one.

        Example: groundswell order 3 --top 10

        Example: groundswell order 3 --explain 118 --json
        """
        import json
        from dataclasses import asdict

        from sync.installation import open_store
        from sync.report.order_list import served_next

        settings, store = open_store(data_dir)
        entries = served_next(settings, store, project, task=explain, top=top)
        if as_json:
            typer.echo(json.dumps([asdict(entry) for entry in entries], indent=1))
            return
        for entry in entries:
            typer.echo(f"{entry.place:>5} of {entry.of}  task {entry.task}  {entry.why}")
