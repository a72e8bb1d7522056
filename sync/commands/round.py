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
        dry_run: Annotated[
            bool, typer.Option("--dry-run", help="only say what would be done; change nothing")
        ] = False,
        as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    ) -> None:
        """Train on everything finished so far and push, even if few tasks are new.

        A round that was begun and not pushed yet is finished instead. When a worker has the project (that of
        `groundswell up`, say), it is told to start the round at its next look, and the command ends.

        With --dry-run nothing is trained, asked or pushed. It says whether a training would run and on how
        many tasks, what the model would look at, which predictions would be sent and withdrawn, and how long
        this takes, from earlier rounds.

        Example: groundswell round --project 3

        Example: groundswell round --project 3 --dry-run
        """
        import json
        from dataclasses import asdict

        from ml_backend.errors import GroundswellError
        from ml_backend.extras import require_extra

        require_extra("worker")
        from sync.installation import open_installation
        from sync.projects.control import request_round
        from sync.rounds.registration import project_ids, register_project
        from sync.worker.console import WorkerConsole
        from sync.worker.loop import Worker

        if dry_run:
            _say_only(project, data_dir, studio_url, api_key, as_json=as_json)
            return
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
        if report is None:  # the worker of `groundswell up`, as a rule
            is_new = request_round(installation.settings, installation.store, project)
            if as_json:
                typer.echo(json.dumps({"project_id": project, "asked_for": True}, indent=1))
                return
            told = "starts it at its next look" if is_new else "was asked for it before"
            typer.echo(f"a worker is busy with project {project} and {told}; see `groundswell status`")
            return
        if report.error:
            raise GroundswellError(report.error)
        if as_json:
            typer.echo(json.dumps(asdict(report), indent=1))


def _say_only(project: int, data_dir: Path | None, studio_url: str, api_key: str, *, as_json: bool) -> None:
    import json
    from dataclasses import asdict

    from sync.installation import open_installation
    from sync.report.plan_lines import round_lines
    from sync.worker.dry_run import plan_round

    installation = open_installation(data_dir, studio_url=studio_url, api_key=api_key)
    plan = plan_round(installation.open(project))
    if as_json:
        typer.echo(json.dumps({**asdict(plan), "total_minutes": plan.minutes.total}, indent=1))
        return
    for line in round_lines(plan):
        typer.echo(line)
