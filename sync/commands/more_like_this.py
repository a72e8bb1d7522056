"""``groundswell more-like-this``: offer what looks like the first drawn masks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    @app.command("more-like-this")
    def more_like_this(
        project: Annotated[int, typer.Option(help="Label Studio project")],
        label: Annotated[
            list[str] | None, typer.Option(help="offer masks of this label (repeatable; default: all drawn)")
        ] = None,
        k: Annotated[int, typer.Option("--k", help="masks of each label, 1 to 1000")] = 50,
        per_picture: Annotated[
            int,
            typer.Option(help="masks of one label on one picture; 0: a fifth of k, at least 3"),
        ] = 0,
        pictures: Annotated[int, typer.Option(help="unfinished pictures to look at, 1 to 1000")] = 200,
        task: Annotated[
            list[int] | None,
            typer.Option(help="take the masks of this finished task as examples (repeatable; default: all)"),
        ] = None,
        source: Annotated[
            str,
            typer.Option(help="where proposals come from: classical, or segmenter (one with a checkpoint)"),
        ] = "classical",
        concepts: Annotated[
            str, typer.Option(help="folder with SAM 3 (transformers), to look for the labels as well")
        ] = "",
        dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would be offered")] = False,
        data_dir: Annotated[Path | None, typer.Option(help="data directory")] = None,
        studio_url: Annotated[str, typer.Option(help="Label Studio (default: that of groundswell up)")] = "",
        api_key: Annotated[str, typer.Option(help="API key", envvar="GROUNDSWELL_API_KEY")] = "",
        as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    ) -> None:
        """Offer the masks that look most like those people drew, on pictures that nobody has finished.

        For a project without a model: draw the objects of one picture, submit it, and call this. No text and
        no training is needed. Masks found without any class are compared with the drawn ones by their looks,
        and the k most alike of each label are shown as predictions, which people accept, mend or delete.
        Nobody has certified them: no export counts them, and the first round replaces them.

        Example: groundswell more-like-this --project 3 --dry-run

        Example: groundswell more-like-this --project 3 --label nucleus --k 100 --task 118

        Example: groundswell more-like-this --project 3 --concepts /models/sam3
        """
        import json

        from sync.alike.ask import Ask
        from sync.console import progress
        from sync.installation import open_installation
        from sync.worker.more_like_this import more_like_this as offer

        made = open_installation(data_dir, studio_url=studio_url, api_key=api_key)
        ask = Ask(tuple(label or ()), k, per_picture, pictures, tuple(task or ()), source, concepts)
        with progress(quiet=as_json) as bar:
            offered = offer(
                made.settings,
                made.store,
                made.studio,
                project,
                ask,
                dry_run=dry_run,
                report=lambda step, share, text: bar(share, f"{step}: {text}"),
            )
        if as_json:
            typer.echo(json.dumps(offered.as_json(), indent=1))
            return
        would = "would be offered" if dry_run else "offered"
        for name, count in offered.masks.items():
            typer.echo(f"{name}: {count} masks {would}, like {offered.examples[name]} that people drew")
        typer.echo(
            f"{offered.tasks} tasks show at least one; {offered.proposals} proposals on {offered.looked_at} "
            f"pictures were compared in {offered.cpu_s:.0f} s"
        )
        if offered.version:
            typer.echo(f"shown as predictions of {offered.version}, until the first round replaces them")
        for number, why in offered.unreadable.items():
            typer.secho(f"task {number} was not read: {why}", fg=typer.colors.YELLOW, err=True)
