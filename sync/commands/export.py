"""``groundswell export``: human and propagated masks with their provenance."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    @app.command()
    def export(
        project: Annotated[int, typer.Option(help="Label Studio project")],
        out: Annotated[Path, typer.Option(help="file to write")],
        format: Annotated[str, typer.Option(help="coco")] = "coco",
        pull: Annotated[bool, typer.Option(help="bring the labels up to date first")] = True,
        data_dir: Annotated[Path | None, typer.Option(help="data directory")] = None,
        studio_url: Annotated[str, typer.Option(help="Label Studio (default: that of groundswell up)")] = "",
        api_key: Annotated[str, typer.Option(help="API key", envvar="GROUNDSWELL_API_KEY")] = "",
        as_json: Annotated[bool, typer.Option("--json", help="print counts as JSON")] = False,
    ) -> None:
        """Write all masks of a project: drawn, verified one by one, and propagated, each with its origin.

        Example: groundswell export --project 3 --format coco --out masks.json
        """
        import json

        from sync.exchange.coco_export import export_project
        from sync.installation import open_session
        from sync.rounds.project import open_project, refreshed
        from sync.rounds.pull import pull as pull_labels

        session = open_session(data_dir, studio_url=studio_url, api_key=api_key)
        opened = open_project(
            session.settings, session.store, session.studio, project, review_studio=session.review_studio
        )
        if pull:
            opened = refreshed(opened)
            pull_labels(opened.db, opened.studio, opened.config, opened.settings, opened.progress)
        counts = export_project(opened.db, opened.config, opened.paths, opened.images, out, format=format)
        if as_json:
            typer.echo(json.dumps({"file": str(out), **counts}))
        else:
            typer.echo(f"{out}: " + ", ".join(f"{count} {name}" for name, count in counts.items()))
