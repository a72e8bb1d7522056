"""``groundswell history``: how good each model version of a project was."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    @app.command()
    def history(
        project: Annotated[int, typer.Argument(help="Label Studio project")],
        as_csv: Annotated[bool, typer.Option("--csv", help="print every figure as CSV")] = False,
        data_dir: Annotated[Path | None, typer.Option(help="data directory")] = None,
        as_json: Annotated[bool, typer.Option("--json", help="print every figure as JSON")] = False,
    ) -> None:
        """Show how good each model version of a project was, for all labels and for each.

        Versions of different test splits cannot be compared; a line stands between them. The worker keeps
        the same figures in history.csv, in the project's folder of the data directory.

        Example: groundswell history 3
        """
        import json
        from dataclasses import asdict

        from sync.installation import open_store
        from sync.report.history_lines import history_lines
        from sync.rounds.history import history as figures
        from sync.rounds.history import history_csv
        from sync.rounds.project import registered

        settings, store = open_store(data_dir)
        rows = figures(registered(settings, store, project, files=True)[0], settings)
        if as_json:
            typer.echo(json.dumps([asdict(row) for row in rows], indent=1))
        elif as_csv:
            typer.echo(history_csv(rows), nl=False)
        else:
            for line in history_lines(rows):
                typer.echo(line)
