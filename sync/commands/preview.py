"""``groundswell preview``: what the present model would do to the whole project, before it does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    @app.command()
    def preview(
        project: Annotated[int, typer.Option(help="Label Studio project")],
        out: Annotated[Path | None, typer.Option(help="HTML file to write")] = None,
        sample: Annotated[int, typer.Option(help="pictures shown", min=1, max=200)] = 24,
        seed: Annotated[int, typer.Option(help="of the sample and of the plays", min=0)] = 0,
        data_dir: Annotated[Path | None, typer.Option(help="data directory")] = None,
        studio_url: Annotated[str, typer.Option(help="Label Studio (default: that of groundswell up)")] = "",
        api_key: Annotated[str, typer.Option(help="API key", envvar="GROUNDSWELL_API_KEY")] = "",
        as_json: Annotated[bool, typer.Option("--json", help="print the figures as JSON")] = False,
    ) -> None:
        """Before a mass run: predictions on a sample, precision and recall at every score, and the price.

        The page shows pictures that nobody has finished with what the model finds on them. A slider hides
        predictions of low score and tells, from the test split, which share of the rest is good and which
        share of all objects it holds. Below it stands how many questions and minutes a certificate will take
        at a promise of 80, 85 and 90 %, and what it would leave to draw. Every figure has its interval.

        The page needs no server and loads nothing. Nothing in the project changes.

        Example: groundswell preview --project 3 --out preview.html

        Example: groundswell preview --project 3 --json
        """
        import json

        from ml_backend.artifacts.files import write_atomic
        from ml_backend.errors import BadInput
        from ml_backend.extras import require_extra

        require_extra("worker")
        from sync.console import progress
        from sync.installation import open_installation
        from sync.report.preview_data import make_preview, without_pictures
        from sync.report.render_preview import render_preview

        if out is None and not as_json:
            raise BadInput("there is nothing to write to", field="out", hint="Give --out FILE, or --json")
        installation = open_installation(data_dir, studio_url=studio_url, api_key=api_key)
        opened = installation.open(project)
        with progress(quiet=as_json) as report:
            data = make_preview(
                opened.db,
                opened.config,
                opened.settings,
                opened.paths,
                opened.images,
                opened.memo,
                sample=sample,
                seed=seed,
                report=report,
            )
        if out is not None:
            write_atomic(out, render_preview(data).encode())
        if as_json:
            typer.echo(json.dumps({"file": None if out is None else str(out), **without_pictures(data)}))
            return
        _tell(data)
        typer.echo(f"written {out}")


def _tell(data: Mapping[str, Any]) -> None:
    """The price as lines; the rest is for the page."""
    tests = data["tests"]["pictures"]
    typer.echo(
        f"{data['masks']:,} predictions on {data['tasks']:,} unfinished pictures, {tests} test pictures"
    )
    for row in data["price"]["rows"]:
        promise = "no promise" if row["promise"] is None else f"promise {row['promise']:.0%}"
        questions, minutes, hours = row["questions"], row["minutes"], row["hours_of_drawing"]
        left = "too few test pictures to tell" if hours is None else f"{hours[0]} h ({hours[1]}–{hours[2]})"
        chance = (
            f"; nothing accepted unseen in {row['nothing']} of {row['plays']} plays" if row["nothing"] else ""
        )
        typer.echo(
            f"{promise}: {questions[0]:,} questions ({questions[1]:,}–{questions[2]:,}), "
            f"{minutes[0]} minutes ({minutes[1]}–{minutes[2]}); drawing left: {left}{chance}"
        )
