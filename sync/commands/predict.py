"""``groundswell predict``: an existing model on new pictures; nothing is trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sync.installation import Installation
    from sync.settings import Settings
    from sync.store.database import Store

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    @app.command()
    def predict(
        project: Annotated[int | None, typer.Argument(help="Label Studio project")] = None,
        model: Annotated[
            str,
            typer.Option(help="model version of any project, or its folder (default: the one that serves)"),
        ] = "",
        images: Annotated[Path | None, typer.Option(help="folder of pictures")] = None,
        out: Annotated[Path | None, typer.Option(help="file to write: .json (COCO) or .csv")] = None,
        push: Annotated[
            bool, typer.Option("--push", help="show the predictions on all open tasks of the project")
        ] = False,
        map_label: Annotated[
            list[str] | None,
            typer.Option("--map", help="their=our: name of a label here; their=: drop it; repeatable"),
        ] = None,
        default: Annotated[
            str | None, typer.Option(help="label here for the model's other labels (default: the same name)")
        ] = None,
        min_score: Annotated[
            float | None, typer.Option(help="lowest class score in the file (default: push_min_score)")
        ] = None,
        batch: Annotated[int, typer.Option(help="pictures that are kept together", min=1)] = 50,
        data_dir: Annotated[Path | None, typer.Option(help="data directory")] = None,
        studio_url: Annotated[str, typer.Option(help="Label Studio (default: that of groundswell up)")] = "",
        api_key: Annotated[str, typer.Option(help="API key", envvar="GROUNDSWELL_API_KEY")] = "",
        as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    ) -> None:
        """Let an existing model look at new pictures. Nothing is trained.

        With --images and --out it writes a file: COCO, or CSV for a name that ends so (usual for classes).
        Killed and called again, it goes on where it was. With --push the model looks at all open tasks of
        the project, and annotators see what it finds; --images adds these pictures as tasks first. The model
        may be that of another project: --map says what its labels are called here.

        Example: groundswell predict 3 --images new --out new.json

        Example: groundswell predict 5 --model gs3-r7-0123456789 --map RBC=cell --map WBC=cell --push
        """
        from ml_backend.errors import BadInput
        from sync.console import their_names
        from sync.installation import open_installation, open_store

        if project is None and (push or not model):
            raise BadInput(
                "which project?", field="project", hint="Give its number, or --model with --images"
            )
        if push and out is not None:
            raise BadInput(
                "--push shows predictions, --out writes them", field="out", hint="Give one of both"
            )
        if not push and images is None:
            raise BadInput(
                "nothing to look at", field="images", hint="Give --images, or a project and --push"
            )
        named = their_names(map_label or ())
        if push and project is not None:
            made = open_installation(data_dir, studio_url=studio_url, api_key=api_key)
            _push(made, project, model, images, named, default, as_json=as_json)
        elif images is not None:
            settings, store = open_store(data_dir)
            wanted = settings.push_min_score if min_score is None else min_score
            _write(
                settings, store, project, model, images, out, named, default, wanted, batch, as_json=as_json
            )


def _push(
    made: Installation,
    project: int,
    model: str,
    images: Path | None,
    named: dict[str, str],
    default: str | None,
    *,
    as_json: bool,
) -> None:
    """Add the pictures as tasks, and show what the model finds on all open tasks."""
    import json
    from dataclasses import asdict

    from sync.console import progress, say
    from sync.projects.picture_tasks import PictureProject, upload_pictures
    from sync.projects.pictures import find_images
    from sync.rounds.given_rounds import bring_model, find_model
    from sync.worker.take_over import take_over

    if model:
        bring_model(made.settings, made.store, model)
    chosen = find_model(made.settings, model) if model else None
    added = 0
    if images is not None:
        opened = made.open(project)
        place = PictureProject(made.studio, project, opened.config.image_key, images)
        tell = (lambda line: None) if as_json else say
        added = upload_pictures(place, find_images(images)[0], report=tell).count
    with progress(quiet=as_json) as bar:
        done = take_over(
            made.settings,
            made.store,
            made.studio,
            project,
            chosen,
            named=named,
            default=default,
            review_studio=made.review_studio,
            report=lambda step, share, text: bar(share, f"{step}: {text}"),
        )
    if as_json:
        typer.echo(json.dumps({"added": added, **asdict(done)}, indent=1))
    elif done.pushed is None:
        typer.echo(f"round {done.round}: every open task shows its predictions already")
    else:
        typer.echo(f"round {done.round}: {done.pushed.tasks} tasks show {done.pushed.version}")


def _write(
    settings: Settings,
    store: Store,
    project: int | None,
    model: str,
    images: Path,
    out: Path | None,
    named: dict[str, str],
    default: str | None,
    min_score: float,
    batch: int,
    *,
    as_json: bool,
) -> None:
    """Write what the model finds on the pictures of a folder."""
    import json
    from dataclasses import asdict

    from ml_backend.artifacts.model_versions import ModelRegistry
    from ml_backend.errors import BadInput
    from sync.console import progress
    from sync.exchange.folder_predictions import kind_of_model, predict_folder
    from sync.projects.pictures import find_images
    from sync.rounds.given_rounds import bring_model, find_model
    from sync.rounds.project import registered_labels

    name = model or (ModelRegistry(settings.data_dir).current(project) if project is not None else None)
    if not name:
        raise BadInput(f"project {project} has no model yet", field="model", hint="Name one with --model")
    bring_model(settings, store, name)
    chosen = find_model(settings, name)
    pictures, refused = find_images(images)
    is_csv = kind_of_model(chosen).unit == "picture"
    file = out or Path("predictions.csv" if is_csv else "predictions.json")
    with progress(quiet=as_json) as bar:
        written = predict_folder(
            chosen,
            pictures,
            images,
            file,
            min_score=min_score,
            batch=batch,
            device=settings.device,
            ours=None if project is None else registered_labels(store, project),
            named=named,
            default=default,
            progress=bar,
        )
    if as_json:
        found = {"file": str(file), "model": chosen.version, **asdict(written), "refused": refused}
        typer.echo(json.dumps(found, indent=1))
        return
    typer.echo(
        f"{file}: {written.instances} instances on {written.pictures} pictures by {chosen.version}, "
        f"{written.seconds_per_picture:.3f} s per picture"
    )
    for line in (*refused, *(f"{name}: {why}" for name, why in written.unreadable.items())):
        typer.secho(f"not read: {line}", fg=typer.colors.YELLOW, err=True)
