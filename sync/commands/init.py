"""``groundswell init``: create a project to label."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sync.projects.init_request import InitRequest
    from sync.settings import Settings

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    @app.command()
    def init(
        title: Annotated[str, typer.Option(help="title of the project; an existing one is completed")],
        labels: Annotated[str, typer.Option(help="classes, comma-separated")] = "",
        images: Annotated[Path | None, typer.Option(help="folder of pictures")] = None,
        output: Annotated[str, typer.Option(help="masks are drawn as brush, bitmask or polygon")] = "brush",
        kind: Annotated[
            str,
            typer.Option(
                help="instances: one mask per object; boxes; segmentation: one mask per class; "
                "components: the same, judged part by part; classes: of whole pictures; weak: masks from "
                "classes of the picture"
            ),
        ] = "instances",
        multiple: Annotated[
            bool, typer.Option("--multiple", help="a picture may have several classes (--kind classes)")
        ] = False,
        config: Annotated[
            Path | None, typer.Option(help="file with the XML of a label config, instead of labels and kind")
        ] = None,
        serve: Annotated[
            str, typer.Option(help="upload the pictures, or serve the folder: local")
        ] = "upload",
        files_root: Annotated[
            Path | None, typer.Option(help="document root of Label Studio's local files (for --serve local)")
        ] = None,
        segmenter: Annotated[str, typer.Option(help="click segmenter of this project")] = "",
        option: Annotated[
            list[str] | None,
            typer.Option(
                help="worker setting of this project, name=value; repeatable; settings that it has stay"
            ),
        ] = None,
        groups: Annotated[
            Path | None,
            typer.Option(help="table with columns file,group: pictures that the test split must not part"),
        ] = None,
        cold_start: Annotated[
            str,
            typer.Option(
                help="what gives predictions before any label: torchvision/…, the folder or hub name of a "
                "transformers model, or `everything`: masks of all that the click segmenter finds"
            ),
        ] = "",
        cold_option: Annotated[
            list[str] | None, typer.Option(help="option of the cold start, name=value; repeatable")
        ] = None,
        studio_url: Annotated[
            str, typer.Option(help="Label Studio (default: the one of groundswell up)")
        ] = "",
        api_key: Annotated[str, typer.Option(help="API key", envvar="GROUNDSWELL_API_KEY")] = "",
        review_url: Annotated[str, typer.Option(help="Label Studio of the crowd workers, if another")] = "",
        review_api_key: Annotated[
            str, typer.Option(help="API key of --review-url", envvar="GROUNDSWELL_REVIEW_API_KEY")
        ] = "",
        yes: Annotated[
            bool, typer.Option("--yes", "-y", help="change options of a project that exists without asking")
        ] = False,
        data_dir: Annotated[Path | None, typer.Option(help="data directory")] = None,
        dry_run: Annotated[
            bool, typer.Option("--dry-run", help="only say what would be made; make nothing")
        ] = False,
        as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    ) -> None:
        """Create a project: label config with smart tools, backend, webhook, order of tasks, review project.

        Run it while `groundswell up` runs. Called again it adds what is missing.

        A label config of your own (--config) may ask for several things at once, say boxes and a class of the
        picture: all of them are trained and predicted.

        Example: groundswell init --title Cells --images ./cells --labels RBC,WBC,Platelets

        Example: groundswell init --title Cells --images ./cells --labels RBC,WBC,Platelets --dry-run

        Example: groundswell init --title Tiles --images ./tiles --kind classes --labels ok,defect

        Example: groundswell init --title Street --images ./street --kind boxes --labels vehicle
        --cold-start torchvision/fasterrcnn_resnet50_fpn_v2
        --cold-option class_map={"map":{"car":"vehicle","truck":"vehicle"}}
        """
        import json
        from collections.abc import Sequence
        from dataclasses import asdict
        from typing import get_args

        from ml_backend.errors import BadInput
        from ml_backend.kinds.base import Kind
        from ml_backend.label_studio.label_config import Output
        from ml_backend.server_address import address_option
        from sync.console import agree, parse_options, read_text, say
        from sync.installation import effective_settings
        from sync.projects.init_project import Serve, init_project
        from sync.projects.init_request import check_request
        from sync.projects.option_changes import OptionChange
        from sync.report.project_lines import change_lines
        from sync.studio.client import Studio

        for name, value, allowed in (
            ("output", output, get_args(Output)),
            ("kind", kind, get_args(Kind)),
            ("serve", serve, get_args(Serve)),
        ):
            if value not in allowed:
                raise BadInput(f"unknown {name} {value!r}", field=name, hint=f"One of {', '.join(allowed)}")
        if bool(labels.strip()) == (config is not None):
            raise BadInput("either --labels or --config is needed", field="labels")
        if multiple and kind != "classes":
            raise BadInput("--multiple belongs to --kind classes", field="multiple")
        if bool(review_url) != bool(review_api_key):
            raise BadInput("--review-url and --review-api-key belong together", field="review_url")
        review_server = address_option(review_url, "review_url")
        if cold_option and not cold_start:
            raise BadInput("--cold-option belongs to --cold-start", field="cold_option")
        options = parse_options(option or [])
        if cold_start:
            given = parse_options(cold_option or [])
            is_learner = cold_start == "everything"
            options["cold_start"] = cold_start if is_learner else "zero-shot"
            options["cold_start_options"] = given if is_learner else {"detector": cold_start, **given}

        def tell(changes: Sequence[OptionChange], effects: Sequence[str]) -> None:
            if not as_json:
                typer.echo("\n".join([*change_lines(changes), *(f"  → {line}" for line in effects)]))
            agree("Set this?", yes=yes, quiet=as_json)

        settings = effective_settings(data_dir, studio_url=studio_url, api_key=api_key)
        names = [label.strip() for label in labels.split(",") if label.strip()]
        if dry_run:
            request = check_request(
                settings,
                title=title,
                labels=names,
                images=images,
                output=output,  # type: ignore[arg-type]
                kind=kind,  # type: ignore[arg-type]
                multiple=multiple,
                label_config="" if config is None else read_text(config),
                options=options or None,
                groups=groups,
            )
            _say_only(settings, request, images, serve, files_root, as_json=as_json)
            return
        review = Studio(review_server, review_api_key) if review_server else None
        made = init_project(
            Studio(settings.studio_url, settings.current_studio_token),
            title=title,
            labels=names,
            images=images,
            settings=settings,
            output=output,  # type: ignore[arg-type]
            kind=kind,  # type: ignore[arg-type]
            multiple=multiple,
            label_config="" if config is None else read_text(config),
            serve=serve,  # type: ignore[arg-type]
            files_root=files_root,
            segmenter=segmenter,
            options=options or None,
            groups=groups,
            review_client=review,
            on_change=tell,
            report=(lambda line: None) if as_json else say,
        )
        if as_json:
            typer.echo(json.dumps(asdict(made), indent=1))
            return
        for line in made.refused:
            typer.secho(f"not a picture: {line}", fg=typer.colors.YELLOW, err=True)
        for line in made.renamed:
            typer.secho(line, fg=typer.colors.YELLOW, err=True)
        if review_server and settings.review_url != review_server:
            say(f"set GROUNDSWELL_REVIEW_URL={review_server} and GROUNDSWELL_REVIEW_TOKEN for the worker")
        typer.echo(f"label   {made.url}")
        typer.echo(f"review  {made.review_url}")
        typer.echo(
            "        (contact sheets get a project of their own; `groundswell status` says what is open)"
        )
        typer.echo(f"{made.training} (`groundswell status` counts them)")


def _say_only(
    settings: Settings,
    request: InitRequest,
    images: Path | None,
    serve: str,
    files_root: Path | None,
    *,
    as_json: bool,
) -> None:
    import json
    from dataclasses import asdict

    from sync.projects.init_plan import plan_init
    from sync.projects.init_request import project_titled
    from sync.report.plan_lines import init_lines
    from sync.store.database import Store
    from sync.store.tables import ProjectRecord
    from sync.studio.client import Studio

    studio = Studio(settings.studio_url, settings.current_studio_token)
    row, known = project_titled(studio, request), None
    there = settings.database_url.get_secret_value() or (settings.data_dir / "groundswell.db").exists()
    if row is not None and there:  # opening a store that is not there would make one
        with Store(settings.database()).read() as session:
            known = session.get(ProjectRecord, row.id)
    plan = plan_init(
        studio,
        settings,
        request,
        images=images,
        known=known,
        serve=serve,  # type: ignore[arg-type]
        files_root=files_root,
    )
    if as_json:
        typer.echo(json.dumps(asdict(plan), indent=1))
        return
    for line in init_lines(plan):
        typer.echo(line)
