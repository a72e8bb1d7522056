"""``groundswell rebuild``: get the store again from Label Studio and the artefacts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    @app.command()
    def rebuild(
        data_dir: Annotated[Path | None, typer.Option(help="data directory")] = None,
        studio_url: Annotated[str, typer.Option(help="Label Studio (default: that of groundswell up)")] = "",
        api_key: Annotated[str, typer.Option(help="API key", envvar="GROUNDSWELL_API_KEY")] = "",
        as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    ) -> None:
        """Drop everything derived in the store and fill it again; nothing in Label Studio is changed.

        Stop the workers first. Labels and answers are pulled again, rounds are read from the data directory.

        Example: groundswell rebuild
        """
        import json
        from dataclasses import asdict

        from sync.console import PARTLY, say
        from sync.installation import open_installation
        from sync.projects.rebuild import rebuild as rebuild_store

        installation = open_installation(data_dir, studio_url=studio_url, api_key=api_key, create=True)
        reports = rebuild_store(
            installation.settings,
            installation.store,
            installation.studio,
            review_studio=installation.review_studio,
            report=(lambda line: None) if as_json else say,
        )
        if as_json:
            typer.echo(json.dumps([asdict(report) for report in reports], indent=1))
        failed = sum(bool(report.error) for report in reports)
        if failed:
            raise typer.Exit(1 if failed == len(reports) else PARTLY)
