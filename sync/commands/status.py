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
        watch: Annotated[bool, typer.Option("--watch", help="show it anew until Ctrl-C")] = False,
        every: Annotated[
            float, typer.Option(min=0.2, max=86400, help="with --watch: seconds between two looks")
        ] = 2.0,
    ) -> None:
        """Show what is running, counts per project and the last round's figures with their intervals.

        Words: the pool are the masks (boxes, classes) that the model found on unfinished pictures. Shown are
        the predictions that annotators see. Purity is the share of good ones among those accepted. Unseen
        ones were accepted or rejected though nobody looked at them. docs/glossary.md has all words.

        Exit code 1: there is no Groundswell data in the folder, or no such project.

        Example: groundswell status --project 3

        With --watch it is shown again and again; with --json too, one line of JSON each time.

        Example: groundswell status --json

        Example: groundswell status --watch --every 5
        """
        import json
        import time

        from sync.installation import open_store
        from sync.report.status_figures import status as read_status
        from sync.report.status_lines import status_lines

        settings, store = open_store(data_dir)
        while True:
            found = read_status(settings, store, only=project)
            text = (
                json.dumps(found, indent=None if watch else 1) if as_json else "\n".join(status_lines(found))
            )
            if watch and not as_json:
                typer.echo("\033[2J\033[H", nl=False)  # an empty screen, as terminals know it
                typer.echo(time.strftime("%H:%M:%S  (Ctrl-C ends it)\n"))
            typer.echo(text)
            if not watch:
                return
            time.sleep(every)
