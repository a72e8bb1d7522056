"""``groundswell repartition``: draw a new test split."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    @app.command()
    def repartition(
        project: Annotated[int, typer.Argument(help="Label Studio project")],
        fraction: Annotated[
            float | None, typer.Option(help="share of the finished tasks (default: test_fraction)")
        ] = None,
        data_dir: Annotated[Path | None, typer.Option(help="data directory")] = None,
        as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    ) -> None:
        """Draw a new test split at random from all finished tasks, for the rounds that begin after it.

        The first split is drawn from the tasks that were finished first. When they no longer look like the
        rest, or are too few, draw again. Three things follow. Figures of the new split cannot be compared
        with those before. The next training starts anew, since the present model may know the new test tasks.
        And most tasks were chosen because the model was unsure of them, so the figures will look worse than
        those of a random sample of all pictures would.

        Example: groundswell repartition 3 --fraction 0.2
        """
        import json

        from ml_backend.artifacts.paths import ProjectPaths
        from sync.installation import open_store
        from sync.rounds.project import registered
        from sync.rounds.task_queries import finished_digests
        from sync.rounds.test_split import repartition as draw_again

        settings, store = open_store(data_dir)
        db, own = registered(settings, store, project, files=True)
        finished = sorted(finished_digests(db))
        split = draw_again(db, own, ProjectPaths(settings.data_dir, project), finished, fraction=fraction)
        if as_json:
            typer.echo(json.dumps({"number": split.number, "tasks": sorted(split.tasks)}))
            return
        typer.echo(f"test split {split.number}: {len(split.tasks)} of {len(finished)} finished tasks")
        typer.echo("it holds from the next round on; `groundswell round` begins one now")
