"""``groundswell status``: what runs, what each project holds, figures of the last round."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    @app.command()
    def status(
        project: Annotated[int | None, typer.Option(help="this project only; default: all")] = None,
        data_dir: Annotated[Path | None, typer.Option(help="data directory")] = None,
        as_json: Annotated[bool, typer.Option("--json", help="print JSON, with all rounds")] = False,
    ) -> None:
        """Show what is running, counts per project and the last round's figures with their intervals.

        Words: the pool are the masks (boxes, classes) that the model found on unfinished pictures. Shown are
        the predictions that annotators see. Purity is the share of good ones among those accepted. Unseen
        ones were accepted or rejected though nobody looked at them. docs/glossary.md has all words.

        Exit code 1: there is no Groundswell data in the folder, or no such project.

        Example: groundswell status --project 3

        Example: groundswell status --json
        """
        import json

        from sync.installation import open_store
        from sync.report.status_figures import status as read_status
        from sync.report.status_lines import status_lines

        settings, store = open_store(data_dir)
        found = read_status(settings, store, only=project)
        if as_json:
            typer.echo(json.dumps(found, indent=1))
        else:
            typer.echo("\n".join(status_lines(found)))
