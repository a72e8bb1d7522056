"""``groundswell export-model``: a model version as a folder that works without Groundswell."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    @app.command("export-model")
    def export_model(
        project: Annotated[int, typer.Argument(help="Label Studio project")],
        out: Annotated[Path, typer.Option(help="folder to write, new or empty")],
        version: Annotated[str, typer.Option(help="model version (default: the one that serves)")] = "",
        title: Annotated[str, typer.Option(help="title of the model card")] = "",
        data_dir: Annotated[Path | None, typer.Option(help="data directory")] = None,
        as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    ) -> None:
        """Write a model as ONNX or TorchScript with labels, a model card and a script that uses it.

        The script predict.py needs no Groundswell.

        Example: groundswell export-model 3 --out tiles-model
        """
        import json

        from ml_backend.artifacts.model_versions import ModelRegistry
        from ml_backend.errors import BadInput
        from sync.artifacts.opening import bring_version
        from sync.exchange.model_export import export_model
        from sync.installation import open_store
        from sync.rounds.project import registered
        from sync.settings import load_settings

        settings = load_settings()
        store = None
        if settings.artifacts_url:
            settings, store = open_store(data_dir)
            registered(settings, store, project, files=True)
        registry = ModelRegistry(data_dir or settings.data_dir)
        chosen = version or registry.current(project)
        if not chosen:
            raise BadInput(
                f"project {project} has no model yet",
                field="project",
                hint="The worker trains one once enough tasks are finished",
            )
        if store is not None:
            bring_version(settings, store, project, chosen)
        done = export_model(registry.info(project, chosen), project, out, title=title)
        if as_json:
            typer.echo(
                json.dumps({"folder": str(done.folder), "version": done.version, "files": dict(done.files)})
            )
            return
        typer.echo(f"{done.folder}: {done.learner} {done.version}")
        for name, what in done.files.items():
            typer.echo(f"  {name}: {what}")
        if "predict.py" in done.files:
            typer.echo(f"To use it: python {done.folder / 'predict.py'} PICTURE…")
