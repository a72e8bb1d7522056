"""``groundswell import``: labels that were made elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sync.exchange.import_report import ImportReport

__all__ = ["register"]

PROBLEMS_EXIT = 3
"""exit code of an import that went through, with rows that were rejected"""


def register(app: typer.Typer) -> None:
    @app.command("import")
    def import_(
        project: Annotated[int, typer.Option(help="Label Studio project")],
        format: Annotated[str, typer.Option(help="coco, yolo, voc, masks (PNG) or csv (classes)")],
        path: Annotated[Path, typer.Argument(help="the file, or the folder of the data set")],
        as_: Annotated[
            str, typer.Option("--as", help="annotations: finished work; predictions: to be shown and checked")
        ] = "annotations",
        images: Annotated[
            Path | None,
            typer.Option(
                help="folder of the pictures: the project gets those that it lacks, sizes are checked"
            ),
        ] = None,
        map_label: Annotated[
            list[str] | None,
            typer.Option("--map", help="their=our: name of a label here; their=: leave it out; repeatable"),
        ] = None,
        classes: Annotated[
            Path | None,
            typer.Option(
                help="file that names the numbers, one label a line (yolo, masks); of COCO results: the file "
                "with their images and categories"
            ),
        ] = None,
        version: Annotated[
            str, typer.Option(help="model version of predictions (default: import- and the name of the file)")
        ] = "",
        keep_rest: Annotated[
            bool, typer.Option("--keep-rest", help="use a picture though a row of it was rejected")
        ] = False,
        report: Annotated[
            Path | None,
            typer.Option(
                help="file for every rejected row, .csv or .json (default: import-report.csv if any)"
            ),
        ] = None,
        dry_run: Annotated[bool, typer.Option("--dry-run", help="check everything, change nothing")] = False,
        data_dir: Annotated[Path | None, typer.Option(help="data directory")] = None,
        studio_url: Annotated[str, typer.Option(help="Label Studio (default: that of groundswell up)")] = "",
        api_key: Annotated[str, typer.Option(help="API key", envvar="GROUNDSWELL_API_KEY")] = "",
        as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    ) -> None:
        """Bring labels that were made elsewhere into a project.

        Pictures are found by their file names. Labels must be those of the project: --map says what they are
        called here. Tasks that a person has annotated stay as they are. A second run changes nothing, and
        after a stop it goes on. Rows that cannot be used are named in the report; a picture with such a row
        is held back (--keep-rest takes its other rows), as a finished picture without one of its objects
        teaches that the object is background.

        Exit codes: 0 everything is in, 1 nothing could be done, 3 some rows were rejected.

        Example: groundswell import --project 3 --format coco instances.json --images train2017

        Example: groundswell import --project 3 --format yolo dataset --map person=Person --map car= --dry-run

        Example: groundswell import --project 3 --format coco found.json --classes set.json --as predictions
        """
        import json
        from dataclasses import asdict, replace

        from ml_backend.errors import BadInput
        from sync.console import progress, say, their_names
        from sync.exchange.import_labels import import_labels
        from sync.exchange.import_regions import LabelNames
        from sync.exchange.import_report import ProblemFile
        from sync.exchange.import_targets import ImportPlan
        from sync.exchange.readers.registry import open_reader
        from sync.installation import open_installation
        from sync.projects.picture_tasks import PictureProject, upload_pictures
        from sync.projects.pictures import find_images
        from sync.rounds.project import refreshed

        if as_ not in ("annotations", "predictions"):
            raise BadInput(f"{as_!r} is neither annotations nor predictions", field="as")
        if version and as_ == "annotations":
            raise BadInput("annotations have no model version", field="version", hint="Add --as predictions")
        made = open_installation(data_dir, studio_url=studio_url, api_key=api_key)
        opened = refreshed(made.open(project))
        names = LabelNames(opened.config.labels, their_names(map_label or ()))
        reader = open_reader(format, path, names.known, classes)
        tell = (lambda line: None) if as_json else say
        coming: list[str] = []
        if images is not None:
            found, refused = find_images(images)
            for line in refused:
                typer.secho(f"not a picture: {line}", fg=typer.colors.YELLOW, err=True)
            if dry_run:
                coming = [one.relative_to(images).as_posix() for one in found]
            else:
                place = PictureProject(opened.studio, project, opened.config.image_key, images)
                upload_pictures(place, found, report=tell)
        plan = ImportPlan(
            format,
            "predictions" if as_ == "predictions" else "annotations",
            version=version or f"import-{path.resolve().stem}",
            keep_rest=keep_rest,
            dry_run=dry_run,
        )
        with (
            ProblemFile(report or Path("import-report.csv"), always=report is not None) as problems,
            progress(quiet=as_json) as bar,
        ):
            done = import_labels(
                opened.studio,
                project,
                opened.config,
                opened.images,
                reader,
                names,
                plan,
                problems,
                pictures=images,
                coming=coming,
                progress=lambda count, line: bar(0.0, line),
            )
            done = replace(done, report_file=problems.written)
        if as_json:
            typer.echo(json.dumps(asdict(done), indent=1))
        else:
            _show(done)
        if done.rejected:
            raise typer.Exit(PROBLEMS_EXIT)


def _show(done: ImportReport) -> None:
    """A short summary."""
    what = "would be" if done.dry_run else "are"
    counts = ", ".join(f"{label} {count}" for label, count in done.labels.items())
    typer.echo(f"{done.pictures} pictures; {counts or 'no labels'}")
    typer.echo(
        f"{done.created} {what} new, {done.updated} {what} brought up to date, "
        f"{done.there} were there already"
    )
    if done.untouched:
        typer.echo(f"{done.untouched} tasks have an annotation of a person and stay as they are")
    if done.version and not done.dry_run:
        shown = "annotators see them" if done.shown else "another version is shown to annotators"
        typer.echo(f"model version {done.version}: {shown}")
    if done.left_out or done.changed:
        typer.echo(f"{done.left_out} rows left out, {done.changed} changed")
    if done.rejected:
        typer.secho(
            f"{done.rejected} rows rejected, {done.held_back} pictures held back", fg=typer.colors.YELLOW
        )
    for reason, count in list(done.reasons.items())[:5]:
        typer.echo(f"  {count} × {reason}")
    if done.report_file:
        typer.echo(f"every row: {done.report_file}")
