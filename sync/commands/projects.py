"""``groundswell projects``: which projects take part, and how one leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    group = typer.Typer(invoke_without_command=True)
    app.add_typer(group, name="projects")

    @group.callback()
    def projects(
        context: typer.Context,
        data_dir: Annotated[Path | None, typer.Option(help="data directory")] = None,
        as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    ) -> None:
        """List the projects that take part, with their titles.

        Example: groundswell projects
        """
        if context.invoked_subcommand is not None:
            return
        import json

        from sync.installation import open_store
        from sync.report.status_figures import project_titles

        _, store = open_store(data_dir)
        found = project_titles(store)
        if as_json:
            typer.echo(json.dumps([{"id": number, "title": title} for number, title in found.items()]))
            return
        for number, title in found.items():
            typer.echo(f"{number}  {title}")
        if not found:
            typer.echo("no project takes part yet: create one with `groundswell init`")

    @group.command()
    def remove(
        project: Annotated[int, typer.Argument(help="Label Studio project")],
        data_dir: Annotated[Path | None, typer.Option(help="data directory")] = None,
    ) -> None:
        """Stop working on a project. Nothing is deleted, in Label Studio or in the data directory.

        The worker forgets the project; its predictions, review tasks and connections stay in Label Studio.
        `groundswell init` with its title, or `groundswell worker --project`, lets it take part again.

        Example: groundswell projects remove 3
        """
        from ml_backend.errors import BadInput
        from sync.installation import open_store
        from sync.rounds.registration import project_ids, unregister_project

        _, store = open_store(data_dir)
        if project not in (known := project_ids(store) + project_ids(store, gone=True)):
            listed = ", ".join(map(str, known)) or "none"
            raise BadInput(
                f"project {project} does not take part", field="project", hint=f"Those that do: {listed}"
            )
        unregister_project(store, project)
        typer.echo(f"project {project} takes part no more; nothing was deleted")
