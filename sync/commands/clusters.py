"""``groundswell clusters``: the tree of each label as a page to look at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    @app.command()
    def clusters(
        project: Annotated[int, typer.Option(help="Label Studio project")],
        out: Annotated[Path, typer.Option(help="HTML file to write")],
        most: Annotated[int, typer.Option(help="clusters shown per label", min=1)] = 120,
        least: Annotated[int, typer.Option(help="members of the smallest cluster shown", min=1)] = 8,
        pictures: Annotated[int, typer.Option(help="pictures per cluster", min=0)] = 8,
        data_dir: Annotated[Path | None, typer.Option(help="data directory")] = None,
        studio_url: Annotated[str, typer.Option(help="Label Studio (default: that of groundswell up)")] = "",
        api_key: Annotated[str, typer.Option(help="API key", envvar="GROUNDSWELL_API_KEY")] = "",
        as_json: Annotated[bool, typer.Option("--json", help="print counts as JSON")] = False,
    ) -> None:
        """Write one HTML page: the clusters of each label with pictures, purity and what was decided.

        The page needs no server and loads nothing; open it in any browser, or mail it.

        Example: groundswell clusters --project 3 --out clusters.html
        """
        import json

        from sync.console import progress
        from sync.installation import open_installation
        from sync.report.choose_clusters import Limits
        from sync.report.collect_clusters import write_cluster_page

        installation = open_installation(data_dir, studio_url=studio_url, api_key=api_key)
        opened = installation.open(project)
        with progress(quiet=as_json) as report:
            sections = write_cluster_page(
                opened.db,
                opened.settings,
                opened.paths,
                opened.images,
                opened.memo,
                out,
                limits=Limits(most, least, pictures),
                report=report,
            )
        rows = [
            {
                "label": section.label,
                "instances": section.size,
                "accepted": section.accepted,
                "rejected": section.rejected,
                "asked": section.asked,
            }
            for section in sections
        ]
        if as_json:
            typer.echo(json.dumps({"file": str(out), "labels": rows}))
            return
        for row in rows:
            typer.echo(
                f"{row['label']}: {row['instances']} instances, {row['accepted']} accepted, "
                f"{row['rejected']} rejected, {row['asked']} asked"
            )
        typer.echo(f"written {out}")
