"""``groundswell project``: which projects take part, their options, a pause, and how one leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["list_projects", "register"]

DataDir = Annotated[Path | None, typer.Option(help="data directory")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]
Number = Annotated[int, typer.Argument(help="number of the Label Studio project")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="do not ask")]


def list_projects(data_dir: Path | None, as_json: bool) -> None:
    """What `project list` and `projects` print."""
    import json

    from sync.installation import open_store
    from sync.report.project_lines import list_figures, list_lines

    rows = list_figures(open_store(data_dir)[1])
    typer.echo(json.dumps(rows) if as_json else "\n".join(list_lines(rows)))


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True)
    app.add_typer(group, name="project")

    @group.callback()
    def project() -> None:
        """Projects that take part: list them, show and set their options, pause them, let them leave."""

    @group.command("list")
    def show_all(data_dir: DataDir = None, as_json: AsJson = False) -> None:
        """List the projects that take part, with their titles and pauses.

        Example: groundswell project list
        """
        list_projects(data_dir, as_json)

    @group.command()
    def show(
        project: Number,
        everything: Annotated[bool, typer.Option("--all", help="also the settings that nobody set")] = False,
        data_dir: DataDir = None,
        as_json: AsJson = False,
    ) -> None:
        """Show a project: labels, pause, and its settings with the place that each comes from.

        A setting comes from the project's own options, the environment, the settings file, or is the default.

        Example: groundswell project show 3
        """
        import json

        from sync.installation import open_store
        from sync.report.project_lines import show_figures, show_lines
        from sync.rounds.project import registered

        settings, store = open_store(data_dir)
        registered(settings, store, project)
        found = show_figures(settings, store, project)
        typer.echo(
            json.dumps(found, indent=1) if as_json else "\n".join(show_lines(found, everything=everything))
        )

    @group.command("set")
    def set_options(
        project: Number,
        values: Annotated[
            list[str] | None, typer.Argument(metavar="NAME=VALUE...", help="options and their new values")
        ] = None,
        unset: Annotated[
            list[str] | None, typer.Option(help="take this option out again; repeatable")
        ] = None,
        yes: Yes = False,
        dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would change")] = False,
        data_dir: DataDir = None,
        as_json: AsJson = False,
    ) -> None:
        """Set options of a project; those it has and you do not name stay.

        First prints what changes and what follows from it, then asks. The worker follows at its next look.
        docs/settings.md lists the options: those marked "per project". Values are JSON where they parse as
        JSON, otherwise text.

        Example: groundswell project set 3 retrain_after=10 'policy_options={"purity":0.95}'

        Example: groundswell project set 3 --unset crowd --dry-run
        """
        import json
        from dataclasses import asdict

        from ml_backend.errors import BadInput
        from sync.console import agree, parse_options, say
        from sync.installation import open_store
        from sync.projects.control import set_options as change
        from sync.projects.option_effects import effects_of
        from sync.report.project_lines import change_lines

        if not values and not unset:
            raise BadInput("nothing to set", field="values", hint="Give name=value, or --unset name")
        settings, store = open_store(data_dir)
        new = parse_options(values or [])
        changes = change(settings, store, project, new, unset=unset or [], dry_run=True)
        effects = effects_of(
            settings, store, project, new, unset=unset or [], report=say if not as_json else None
        )
        if not as_json:
            typer.echo("\n".join(change_lines(changes)) or "nothing changes")
            for line in effects:
                typer.echo(f"  → {line}")
        if changes and not dry_run:
            agree("Set this?", yes=yes, quiet=as_json)
            change(settings, store, project, new, unset=unset or [])
        if as_json:
            rows = [asdict(row) for row in changes]
            typer.echo(json.dumps({"changes": rows, "effects": effects, "done": not dry_run}, indent=1))

    @group.command()
    def pause(
        project: Number,
        everything: Annotated[
            bool,
            typer.Option("--all", help="also stop training and pushing; labels and answers are still read"),
        ] = False,
        data_dir: DataDir = None,
        as_json: AsJson = False,
    ) -> None:
        """Ask no new questions; open ones may still be answered, and answers count.

        Example: groundswell project pause 3
        """
        import json

        from sync.installation import open_store
        from sync.projects.control import pause as pause_project
        from sync.rounds.wishes import PAUSE_TEXTS, Pause

        settings, store = open_store(data_dir)
        what: Pause = "all" if everything else "asking"
        changed = pause_project(settings, store, project, what)
        if as_json:
            typer.echo(json.dumps({"project": project, "paused": what, "changed": changed}))
        else:
            typer.echo(f"project {project} {'is' if changed else 'was already'} {PAUSE_TEXTS[what]}")

    @group.command()
    def resume(project: Number, data_dir: DataDir = None, as_json: AsJson = False) -> None:
        """End a pause; the worker goes on at its next look.

        Example: groundswell project resume 3
        """
        import json

        from sync.installation import open_store
        from sync.projects.control import resume as resume_project

        settings, store = open_store(data_dir)
        changed = resume_project(settings, store, project)
        if as_json:
            typer.echo(json.dumps({"project": project, "paused": "", "changed": changed}))
        else:
            typer.echo(f"project {project} {'goes on' if changed else 'was not paused'}")

    @group.command()
    def remove(
        project: Number,
        files: Annotated[
            bool,
            typer.Option("--files", help="also delete what Groundswell keeps of it: models, pools, rounds"),
        ] = False,
        yes: Yes = False,
        studio_url: Annotated[str, typer.Option(help="Label Studio (default: that of groundswell up)")] = "",
        api_key: Annotated[str, typer.Option(help="API key", envvar="GROUNDSWELL_API_KEY")] = "",
        data_dir: DataDir = None,
        as_json: AsJson = False,
    ) -> None:
        """Stop working on a project. Nothing is deleted in Label Studio.

        Groundswell's backend and webhook are taken out of the project; its tasks, annotations, predictions
        and review projects stay. Files and figures stay too (but for --files): `groundswell init` with the
        project's title, or `groundswell worker --project`, lets it go on where it was.

        Exit code 3: the project left, but Label Studio could not be asked to drop the connections.

        Example: groundswell project remove 3
        """
        import json
        from dataclasses import asdict

        from sync.console import PARTLY, agree
        from sync.installation import open_installation
        from sync.projects.control import remove as remove_project

        place = open_installation(data_dir, studio_url=studio_url, api_key=api_key)
        what = f"Project {project} takes part no more"
        agree(f"{what}{', and its models and rounds are deleted' if files else ''}?", yes=yes, quiet=as_json)
        done = remove_project(place.settings, place.store, place.studio, project, files=files)
        if as_json:
            typer.echo(json.dumps(asdict(done)))
        else:
            typer.echo(
                f"project {project} {done.title!r} takes part no more; "
                + ("its files are deleted" if files else "its files stay")
                + ", nothing was deleted in Label Studio"
            )
        if done.problem:
            typer.secho(f"backend and webhook are still connected: {done.problem}", fg="yellow", err=True)
            raise typer.Exit(PARTLY)
