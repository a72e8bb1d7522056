"""``groundswell projects``: short for ``groundswell project list``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sync.commands.project import list_projects

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    @app.command()
    def projects(
        data_dir: Annotated[Path | None, typer.Option(help="data directory")] = None,
        as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    ) -> None:
        """List the projects that take part: short for `groundswell project list`.

        `groundswell project` also shows and sets options, pauses projects and lets them leave.

        Example: groundswell projects
        """
        list_projects(data_dir, as_json)
