"""``groundswell doctor``: what is broken and what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]

_MARKS = {"ok": ("✓", "green"), "warn": ("!", "yellow"), "bad": ("✗", "red")}


def register(app: typer.Typer) -> None:
    @app.command()
    def doctor(
        data_dir: Annotated[Path | None, typer.Option(help="data directory")] = None,
        studio_url: Annotated[
            str, typer.Option(help="Label Studio (default: the one of groundswell up)")
        ] = "",
        api_key: Annotated[str, typer.Option(help="API key", envvar="GROUNDSWELL_API_KEY")] = "",
        as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    ) -> None:
        """Try every connection: data directory, backend, Label Studio, token, webhooks, pictures.

        Exit code 1 when something is broken.

        Example: groundswell doctor
        """
        import json
        from dataclasses import asdict

        from sync.installation import effective_settings
        from sync.report.doctor import examine

        findings = []
        for finding in examine(effective_settings(data_dir, studio_url=studio_url, api_key=api_key)):
            findings.append(finding)
            if as_json:
                continue
            mark, colour = _MARKS[finding.level]
            typer.secho(f"{mark} {finding.name}: {finding.detail}", fg=colour)
            if finding.hint:
                typer.echo(f"    {finding.hint}")
        if as_json:
            typer.echo(json.dumps([asdict(finding) for finding in findings], indent=1))
        if any(finding.level == "bad" for finding in findings):
            raise typer.Exit(1)
