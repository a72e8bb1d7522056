"""``groundswell add-images``: more pictures for a project."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Callable

    from sync.rounds.project import OpenProject

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    @app.command("add-images")
    def add_images(
        source: Annotated[
            str, typer.Argument(help="folder, file with web addresses (.txt, .csv), or address of a bucket")
        ],
        project: Annotated[int, typer.Option(help="Label Studio project")],
        serve: Annotated[
            str, typer.Option(help="of a folder: upload the pictures, or serve them from there: local")
        ] = "upload",
        files_root: Annotated[
            Path | None, typer.Option(help="document root of Label Studio's local files (for --serve local)")
        ] = None,
        check: Annotated[
            bool, typer.Option(help="of web addresses: read one picture of each host first")
        ] = True,
        server_credentials: Annotated[
            bool,
            typer.Option("--server-credentials", help="of a bucket: Label Studio's environment has the keys"),
        ] = False,
        dry_run: Annotated[bool, typer.Option("--dry-run", help="check the source, change nothing")] = False,
        data_dir: Annotated[Path | None, typer.Option(help="data directory")] = None,
        studio_url: Annotated[str, typer.Option(help="Label Studio (default: that of groundswell up)")] = "",
        api_key: Annotated[str, typer.Option(help="API key", envvar="GROUNDSWELL_API_KEY")] = "",
        as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    ) -> None:
        """Add pictures to a project: from a folder, from a list of web addresses, or from a bucket.

        Pictures that the project has are not added again. A list holds one address a line, or is a CSV file
        with a column url; the worker must be allowed to read from their hosts (allow_image_hosts).

        A bucket is s3://bucket/prefix, gs://bucket/prefix or azure-blob://container/prefix. Its credentials
        come from the environment and are kept by Label Studio: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY
        (AWS_REGION, AWS_ENDPOINT_URL); GOOGLE_APPLICATION_CREDENTIALS; AZURE_STORAGE_ACCOUNT and
        AZURE_STORAGE_KEY.

        Exit codes: 0 done, 1 nothing could be done, 3 some pictures or addresses were refused.

        Example: groundswell add-images photos --project 3

        Example: groundswell add-images addresses.txt --project 3 --dry-run

        Example: groundswell add-images s3://pictures/2024/ --project 3
        """
        import json

        from sync.console import say
        from sync.installation import open_installation
        from sync.rounds.project import refreshed

        made = open_installation(data_dir, studio_url=studio_url, api_key=api_key)
        opened = refreshed(made.open(project))
        tell = (lambda line: None) if as_json else say
        if "://" in source:
            added, there, refused = _bucket(opened, source, server_credentials, dry_run=dry_run)
        elif Path(source).is_dir():
            added, there, refused = _folder(opened, Path(source), serve, files_root, tell, dry_run=dry_run)
        else:
            added, there, refused = _list(opened, Path(source), check=check, dry_run=dry_run)
        if as_json:
            typer.echo(
                json.dumps({"added": added, "there": there, "refused": refused, "dry_run": dry_run}, indent=1)
            )
        else:
            for line in refused:
                typer.secho(f"refused: {line}", fg=typer.colors.YELLOW, err=True)
            counted = "the bucket can be read" if dry_run and "://" in source else f"{added} pictures"
            rest = "" if there is None else f", {there} are there already"
            typer.echo(
                f"{counted} {'would be added' if dry_run and '://' not in source else ''}{rest}".strip()
            )
        if refused:
            raise typer.Exit(3)


def _bucket(
    opened: OpenProject, source: str, server_credentials: bool, *, dry_run: bool
) -> tuple[int, int | None, list[str]]:
    import os

    from sync.projects.buckets import add_bucket, parse_bucket

    bucket = parse_bucket(source, os.environ, server_credentials=server_credentials)
    return add_bucket(opened.studio, opened.id, bucket, dry_run=dry_run), None, []


def _folder(
    opened: OpenProject,
    folder: Path,
    serve: str,
    files_root: Path | None,
    tell: Callable[[str], None],
    *,
    dry_run: bool,
) -> tuple[int, int | None, list[str]]:
    from ml_backend.errors import BadInput
    from sync.local.up import read_state
    from sync.projects.picture_tasks import (
        PictureProject,
        missing_pictures,
        missing_served,
        serve_pictures,
        upload_pictures,
    )
    from sync.projects.pictures import find_images

    if serve not in ("upload", "local"):
        raise BadInput(f"{serve!r} is neither upload nor local", field="serve")
    found, refused = find_images(folder)
    place = PictureProject(opened.studio, opened.id, opened.config.image_key, folder)
    root: Path | None = None
    if serve == "local":
        state = read_state(opened.settings.data_dir)
        root = files_root or (Path(state.files_root) if state is not None else None)
        root = None if root is None else root.resolve()
    if dry_run:
        if serve == "local":
            count = len(missing_served(place, found, files_root=root))
        else:
            count = len(missing_pictures(place, found))
        return count, len(found) - count, refused
    if serve == "local":
        added = serve_pictures(place, found, files_root=root, report=tell)
    else:
        added = upload_pictures(place, found, report=tell)
    for line in added.renamed:
        tell(line)
    return added.count, len(found) - added.count, refused


def _list(
    opened: OpenProject, path: Path, *, check: bool, dry_run: bool
) -> tuple[int, int | None, list[str]]:
    from sync.projects.address_tasks import add_addresses, check_hosts, read_addresses

    if check:
        check_hosts(opened.images, opened.id, read_addresses(path))
    added = add_addresses(
        opened.studio, opened.id, opened.config.image_key, read_addresses(path), dry_run=dry_run
    )
    return added.count, added.there, list(added.refused)
