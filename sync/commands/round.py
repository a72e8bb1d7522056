"""``groundswell round``: run a round of one project now."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    @app.command(name="round")
    def run_round(
        project: Annotated[int, typer.Option(help="Label Studio project")],
        data_dir: Annotated[Path | None, typer.Option(help="data directory")] = None,
        studio_url: Annotated[str, typer.Option(help="Label Studio (default: that of groundswell up)")] = "",
        api_key: Annotated[str, typer.Option(help="API key", envvar="GROUNDSWELL_API_KEY")] = "",
        as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    ) -> None:
        """Train on everything finished so far and push, even if few tasks are new.

        A round that was begun and not pushed yet is finished instead.

        Example: groundswell round --project 3
        """
        import json
        from dataclasses import asdict

        from ml_backend.errors import GroundswellError
        from ml_backend.extras import require_extra

        require_extra("worker")
        from sync.installation import open_installation
        from sync.rounds.registration import project_ids, register_project
        from sync.worker.console import WorkerConsole
        from sync.worker.loop import Worker

        installation = open_installation(data_dir, studio_url=studio_url, api_key=api_key, create=True)
        if project not in project_ids(installation.store):
            register_project(installation.settings, installation.store, installation.studio, project)
        with WorkerConsole(quiet=as_json) as console:
            made = Worker(
                installation.settings,
                installation.store,
                installation.studio,
                review_studio=installation.review_studio,
                report=console.report,
            )
            made.install_signal_handlers()
            report = made.look(project, force_round=True)
        if report is None:
            raise GroundswellError(
                f"another worker holds project {project}",
                hint="It does the same work; see `groundswell status`",
            )
        if report.error:
            raise GroundswellError(report.error)
        if as_json:
            typer.echo(json.dumps(asdict(report), indent=1))
