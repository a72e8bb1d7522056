"""``groundswell export``: what people said and what was propagated, with its provenance."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    @app.command()
    def export(
        project: Annotated[int, typer.Option(help="Label Studio project")],
        out: Annotated[
            Path, typer.Option(help="file to write; for masks, yolo, voc and parquet a new folder")
        ],
        format: Annotated[
            str,
            typer.Option(help="coco, yolo, voc, masks (PNG), csv (classes) or parquet; default: as suits"),
        ] = "",
        origin: Annotated[
            list[str] | None,
            typer.Option(help="drawn, verified or propagated; repeatable (default: all)"),
        ] = None,
        round: Annotated[
            int | None, typer.Option(help="round of the accepted masks (default: the newest reviewed one)")
        ] = None,
        boxes: Annotated[
            bool, typer.Option("--boxes", help="boxes around masks instead of masks (yolo, voc)")
        ] = False,
        with_images: Annotated[
            bool, typer.Option("--with-images", help="the pictures too (yolo, voc, parquet)")
        ] = False,
        pull: Annotated[bool, typer.Option(help="bring the labels up to date first")] = True,
        data_dir: Annotated[Path | None, typer.Option(help="data directory")] = None,
        studio_url: Annotated[str, typer.Option(help="Label Studio (default: that of groundswell up)")] = "",
        api_key: Annotated[str, typer.Option(help="API key", envvar="GROUNDSWELL_API_KEY")] = "",
        as_json: Annotated[bool, typer.Option("--json", help="print counts as JSON")] = False,
    ) -> None:
        """Write all labels of a project: drawn, verified one by one, and propagated, each with its origin.

        Pictures are read and written one after the other, so a project of any size can be exported.

        Example: groundswell export --project 3 --format coco --out masks.json

        Example: groundswell export --project 3 --format yolo --with-images --out dataset

        Example: groundswell export --project 3 --format coco --origin drawn --out drawn.json
        """
        import json
        from dataclasses import asdict

        from sync.exchange.content import Choice, origins_of
        from sync.exchange.export import export_project
        from sync.installation import open_installation
        from sync.rounds.project import refreshed
        from sync.rounds.pull import pull as pull_labels

        choice = Choice(origins_of(origin or ()), round)
        installation = open_installation(data_dir, studio_url=studio_url, api_key=api_key)
        opened = installation.open(project)
        if pull:
            opened = refreshed(opened)
            pull_labels(opened.db, opened.studio, opened.config, opened.settings, opened.progress)
        done = export_project(
            opened.db,
            opened.config,
            opened.paths,
            opened.images,
            out,
            format=format,
            choice=choice,
            boxes=boxes,
            with_images=with_images,
        )
        counts = {"images": done.images, **done.annotations}
        if as_json:
            rest = {
                name: value for name, value in asdict(done).items() if name not in ("images", "annotations")
            }
            typer.echo(json.dumps({"file": str(out), **counts, **rest}))
            return
        typer.echo(f"{out}: " + ", ".join(f"{count} {name}" for name, count in counts.items()))
        if done.other_labels:
            typer.echo(f"not in a {done.format} file: {', '.join(done.other_labels)}")
        if done.round is None:
            typer.echo("no round was reviewed yet: only what people drew or said")
        else:
            state = "its review is done" if done.review_done else "its review goes on"
            typer.echo(f"accepted: round {done.round}, model version {done.model_version}, {state}")
        for line in done.says:
            typer.echo(line)
        for row in done.left_out:
            typer.echo(f"left out: task {row.task_id} ({row.file_name}): {row.reason}")
