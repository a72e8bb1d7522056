"""``groundswell backup``: one archive of the store and the data directory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    @app.command()
    def backup(
        out: Annotated[
            Path, typer.Option(help="archive to write (.tar.gz, or .tar), or a folder: it gets a name there")
        ] = Path(),
        models: Annotated[
            Literal["all", "needed"],
            typer.Option(help="model versions: all, or those that serve, are worked on or were asked for"),
        ] = "all",
        pools: Annotated[
            Literal["all", "needed"],
            typer.Option(
                help="pools, the masks that models found on unfinished pictures: those of the newest rounds, "
                "or all"
            ),
        ] = "needed",
        secrets: Annotated[
            bool,
            typer.Option(
                help="with passwords and keys, and with the Label Studio of `groundswell up`, whose database "
                "holds some; without, back that up yourself"
            ),
        ] = True,
        data_dir: Annotated[Path | None, typer.Option(help="data directory")] = None,
        as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    ) -> None:
        """Write one archive of everything that cannot be made again. Workers and backend may go on meanwhile.

        In it: the store, model versions, rounds, and the Label Studio of `groundswell up` with its uploads.
        Not in it: copies of pictures, embeddings, logs, pulled weights, and a Label Studio that runs
        elsewhere (back that up by its own means). A store of Postgres needs the program pg_dump.

        Example: groundswell backup --out /backups

        Example: groundswell backup --out cells.tar --models needed --no-secrets
        """
        import json
        from dataclasses import asdict

        from sync.backup.backup import backup as write_backup
        from sync.backup.figures import backup_lines
        from sync.installation import settings_of_data

        done = write_backup(settings_of_data(data_dir), out, models=models, pools=pools, secrets=secrets)
        typer.echo(json.dumps(asdict(done), indent=1) if as_json else "\n".join(backup_lines(done)))
