"""``groundswell restore``: an archive of ``groundswell backup`` becomes an installation again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    @app.command()
    def restore(
        archive: Annotated[Path, typer.Argument(help="file that `groundswell backup` wrote")],
        data_dir: Annotated[Path | None, typer.Option(help="data directory; made when it is missing")] = None,
        overwrite: Annotated[
            bool,
            typer.Option(
                "--overwrite",
                help="the target may hold something: its files are set aside in a folder of it, tables of "
                "Postgres are replaced",
            ),
        ] = False,
        as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    ) -> None:
        """Restore a backup into an empty data directory and an empty store (GROUNDSWELL_DATABASE_URL).

        Stop everything that works on the target first. The archive is checked as a whole before anything is
        written. A backup of an older release is brought up to date. Killed, the same command goes on.

        Do not let the original and its copy work at the same time: both would push to the same projects.

        Example: groundswell restore groundswell-20260301-020000.tar.gz --data-dir new-data

        Example: groundswell restore cells.tar --overwrite
        """
        import json
        from dataclasses import asdict

        from sync.backup.figures import restore_lines
        from sync.backup.restore import restore as restore_archive
        from sync.settings import load_settings

        settings = load_settings(**({} if data_dir is None else {"data_dir": data_dir}))
        done = restore_archive(settings, archive, overwrite=overwrite)
        typer.echo(json.dumps(asdict(done), indent=1) if as_json else "\n".join(restore_lines(done)))
