"""``groundswell models``: segmenters, learners and checkpoints: what there is, what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["register"]

_TAKEN = "The segmenter `auto`, the default, finds it there at the next start of the backend"


def register(app: typer.Typer) -> None:
    group = typer.Typer(invoke_without_command=True)
    app.add_typer(group, name="models")

    @group.callback()
    def models(
        context: typer.Context,
        project: Annotated[
            int | None, typer.Option(help="also look for this project's own click model")
        ] = None,
        data_dir: Annotated[Path | None, typer.Option(help="data directory")] = None,
        probe: Annotated[
            bool, typer.Option("--probe", help="try large weights too, and what did not work before")
        ] = False,
        as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    ) -> None:
        """List click segmenters, learners and checkpoints, and say what each still needs.

        A segmenter has a ✓ once it was tried: its weights were loaded, and a click on a small picture gave a
        mask. Weights up to 200 MB are tried by themselves, larger ones with --probe. The result counts until
        the files change.

        Example: groundswell models --project 3

        Example: groundswell models --probe
        """
        if context.invoked_subcommand is not None:
            return
        import json

        from sync.report.model_list import list_models

        listed = list_models(_settings(data_dir), project, probing="all" if probe else "small")
        if as_json:
            typer.echo(json.dumps(listed, indent=1))
            return
        for title, key in (
            ("Click segmenters", "segmenters"),
            ("Learners", "learners"),
            ("Checkpoints", "checkpoints"),
        ):
            typer.secho(title, bold=True)
            for row in listed[key]:
                mark, colour = ("✓", typer.colors.GREEN) if row["ready"] else ("·", typer.colors.YELLOW)
                chosen = "  (in use)" if row.get("in_use") else ""
                typer.secho(f"  {mark} {row['name']}", fg=colour, nl=False)
                typer.echo(f"  {row['summary']}{chosen}" + (f"; {row['reason']}" if row["reason"] else ""))
                for line in row.get("better", ()):
                    typer.echo(f"      better: {line}")
                if row.get("licence"):
                    typer.echo(f"      licence of the weights: {row['licence']}")

    @group.command()
    def pull(
        name: Annotated[
            str, typer.Argument(help="sam_vit_b, sam_vit_l, sam_vit_h, or owner/name of a model on the hub")
        ],
        folder: Annotated[
            Path | None, typer.Option(help="where to put it (default: data-dir/checkpoints)")
        ] = None,
        mirror: Annotated[
            str, typer.Option(help="base URL to download from instead of the official one")
        ] = "",
        revision: Annotated[
            str, typer.Option(help="of a model on the hub: branch, tag or commit (default: its main branch)")
        ] = "",
        data_dir: Annotated[Path | None, typer.Option(help="data directory")] = None,
        as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    ) -> None:
        """Download weights for clicks: resumable, checked by hash. An official SAM checkpoint, or a model of
        transformers (SAM, HQ-SAM, SAM 2, EdgeTAM, SAM 3) from the hub.

        Example: groundswell models pull facebook/sam2.1-hiera-tiny
        """
        import json

        if "/" in name:
            _pull_from_hub(name, revision, folder, mirror, data_dir, as_json)
            return
        if revision:
            raise typer.BadParameter("only models on the hub (owner/name) have revisions")

        from rich.console import Console
        from rich.progress import DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

        from ml_backend.clicks.segmenters.sam_checkpoints import find_checkpoint, pull_checkpoint

        checkpoint = find_checkpoint(name, mirror=mirror)
        target = folder or _settings(data_dir).data_dir / "checkpoints"
        columns = ("{task.description}", DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            job = bar.add_task(checkpoint.file, total=checkpoint.size)
            path = pull_checkpoint(
                checkpoint, target, progress=lambda done, total: bar.update(job, completed=done, total=total)
            )
        if as_json:
            typer.echo(json.dumps({"name": name, "path": str(path), "sha256": checkpoint.sha256}))
            return
        typer.echo(f"{path}")
        if folder is None:
            typer.echo(_TAKEN)
        typer.echo(f"To name it: GROUNDSWELL_SEGMENTER=sam-onnx GROUNDSWELL_SAM_CHECKPOINT={path}")

    @group.command("export-clicks")
    def export_clicks(
        project: Annotated[int, typer.Argument(help="Label Studio's number of the project")],
        out: Annotated[Path, typer.Argument(help="ONNX file to write")],
        version: Annotated[str, typer.Option(help="click version (default: the one that serves)")] = "",
        data_dir: Annotated[Path | None, typer.Option(help="data directory")] = None,
        as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    ) -> None:
        """Write the click network of a project as an ONNX file, for other servers and other programs.

        Example: groundswell models export-clicks 3 clicks.onnx
        """
        import json

        from ml_backend.artifacts.paths import ProjectPaths
        from ml_backend.clicks.project_network.onnx_export import export_click_network
        from ml_backend.clicks.serving.catalog import current_version
        from ml_backend.errors import BadInput

        paths = ProjectPaths(_settings(data_dir).data_dir, project)
        chosen = version or current_version(paths)
        if not chosen or not (paths.clicks / chosen).is_dir():
            trained = sorted(folder.name for folder in paths.clicks.glob("click-*"))
            raise BadInput(
                f"project {project} has no click network {version!r}"
                if version
                else f"no click network of project {project} serves",
                field="version",
                hint=f"Give --version: {', '.join(trained)}"
                if trained
                else "The worker trains one once enough tasks are finished",
            )
        written = export_click_network(paths.clicks / chosen, out)
        if as_json:
            typer.echo(json.dumps({"version": chosen, "path": str(written)}))
            return
        typer.echo(f"{written}")
        typer.echo(f"To use it: GROUNDSWELL_SEGMENTER=click-onnx GROUNDSWELL_CLICK_ONNX={written}")


def _pull_from_hub(
    name: str, revision: str, folder: Path | None, mirror: str, data_dir: Path | None, as_json: bool
) -> None:
    import json

    from ml_backend.clicks.segmenters.hf_models import card_licence, pulled_folder
    from ml_backend.clicks.segmenters.hf_pull import pull_hf_model

    if mirror:
        raise typer.BadParameter("a mirror of the hub is named by the variable HF_ENDPOINT")
    at = pulled_folder(_settings(data_dir).data_dir, name, revision)
    path = pull_hf_model(name, folder or at, revision=revision)
    licence = card_licence(path) or "unknown"
    if as_json:
        typer.echo(json.dumps({"name": name, "path": str(path), "licence": licence}))
        return
    typer.echo(f"{path}")
    typer.echo(f"Licence of the weights, as the model's card says: {licence}")
    used = str(path) if folder else name
    more = f" GROUNDSWELL_HF_REVISION={revision}" if revision and not folder else ""
    if folder is None:
        typer.echo(_TAKEN)
    typer.echo(f"To name it: GROUNDSWELL_SEGMENTER=hf GROUNDSWELL_HF_MODEL={used}{more}")


def _settings(data_dir: Path | None) -> Any:
    from sync.settings import load_settings

    settings = load_settings()
    return settings if data_dir is None else settings.model_copy(update={"data_dir": data_dir})
