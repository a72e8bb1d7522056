"""``groundswell mistakes``: finished tasks whose annotation is likely wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    @app.command()
    def mistakes(
        project: Annotated[int, typer.Option(help="Label Studio project")],
        out: Annotated[Path | None, typer.Option(help="write a page with pictures to this HTML file")] = None,
        top: Annotated[int, typer.Option(min=1, help="findings listed at most")] = 50,
        folds: Annotated[
            int,
            typer.Option(
                help="train so many models first, so that tasks which every version learnt from can "
                "be judged; takes as long as so many rounds; 0: none"
            ),
        ] = 0,
        dismiss: Annotated[
            list[int] | None, typer.Option(help="this task is right: take it off the list (repeatable)")
        ] = None,
        data_dir: Annotated[Path | None, typer.Option(help="data directory")] = None,
        studio_url: Annotated[str, typer.Option(help="Label Studio (default: that of groundswell up)")] = "",
        api_key: Annotated[str, typer.Option(help="API key", envvar="GROUNDSWELL_API_KEY")] = "",
        as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    ) -> None:
        """List finished tasks that likely hold a mistake, the likeliest first, each with a reason.

        Objects that nobody drew, that lie elsewhere or have another label; wrong classes; pictures that are
        there twice, also on both sides of the test split. Each task is judged by a model that was not trained
        on it. The worker keeps the list up to date, and shows it in Label Studio as the tab "Look here".

        Example: groundswell mistakes --project 3 --out mistakes.html
        """  # fmt: skip
        import json

        from sync.console import progress
        from sync.installation import open_installation
        from sync.report.mistakes_page import write_mistakes_page
        from sync.report.mistakes_report import list_mistakes
        from sync.rounds.progress import Progress

        installation = open_installation(data_dir, studio_url=studio_url, api_key=api_key)
        with progress(quiet=as_json) as report:
            opened = installation.open(project, Progress(lambda step, share, text: report(share, text)))
            table = list_mistakes(opened, folds=folds, dismissed=dismiss or ())
            if out is not None:
                write_mistakes_page(
                    out,
                    table,
                    opened.db,
                    opened.paths,
                    opened.images,
                    opened.settings.shown_studio_url,
                    top=top,
                )
        rows = [finding.as_json() for finding in table.findings[:top]]
        if as_json:
            typer.echo(
                json.dumps({**table.about, "findings": rows, "file": None if out is None else str(out)})
            )
            return
        for row in rows:
            typer.echo(f"{row['score']:.2f}  task {row['task']}  {row['kind']}: {row['reason']}")
        judged = sum(table.about["judged"].values())
        typer.echo(
            f"{len(table)} likely mistakes on {len(table.tasks())} tasks; {judged} of "
            f"{table.about['finished']} finished tasks were judged by a model that was not trained on them"
        )
        if table.about["unjudged"]:
            typer.echo(
                f"{table.about['unjudged']} tasks could not be judged: every model has learnt from them. "
                f"`groundswell mistakes --project {project} --folds 5` trains models that have not"
            )
        if out is not None:
            typer.echo(f"written {out}")
