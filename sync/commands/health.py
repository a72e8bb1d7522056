"""``groundswell health``: whether a part works, for whatever starts it again when it does not."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]


class Part(StrEnum):
    """What can be asked about. The backend has /health for this, Label Studio too."""

    worker = "worker"


def register(app: typer.Typer) -> None:
    @app.command()
    def health(
        part: Annotated[Part, typer.Argument(help="what to ask about")],
        anywhere: Annotated[
            bool, typer.Option("--anywhere", help="workers of all machines that share the data directory")
        ] = False,
        data_dir: Annotated[Path | None, typer.Option(help="data directory")] = None,
        as_json: Annotated[bool, typer.Option("--json", help="print the answer as JSON")] = False,
    ) -> None:
        """Say whether a worker of this machine works; exit code 1 when none does.

        A worker counts as dead when it gave no sign of life for three times GROUNDSWELL_HEARTBEAT_S (30 s by
        default), as stuck when its work has not moved for GROUNDSWELL_STUCK_S (an hour by default). It reads
        a small file; neither the store nor Label Studio is asked.

        Example: groundswell health worker
        """
        import json
        from dataclasses import asdict

        from sync.settings import load_settings
        from sync.worker.signs import worker_health

        settings = load_settings(**({} if data_dir is None else {"data_dir": data_dir}))
        found = worker_health(settings.data_dir, stuck_s=settings.stuck_s, anywhere=anywhere)
        if as_json:
            typer.echo(json.dumps(asdict(found)))
        else:
            typer.echo(found.line, err=not found.ok)
        if not found.ok:
            raise typer.Exit(1)
