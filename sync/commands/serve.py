"""``groundswell serve``: the backend alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    @app.command()
    def serve(
        host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
        port: Annotated[int, typer.Option(help="port to listen on")] = 9090,
        threads: Annotated[int, typer.Option(min=1, help="requests that are answered at once")] = 8,
        data_dir: Annotated[Path | None, typer.Option(help="data directory")] = None,
        studio_url: Annotated[str, typer.Option(help="Label Studio (default: that of groundswell up)")] = "",
        api_key: Annotated[str, typer.Option(help="API key", envvar="GROUNDSWELL_API_KEY")] = "",
    ) -> None:
        """Run the ML backend alone: predictions, clicks, crops and the pages for people; Ctrl-C ends it.

        For a machine of its own, where Label Studio and the worker run elsewhere. GROUNDSWELL_BACKEND_URL
        says under which address browsers and Label Studio reach it. `groundswell up` starts the same server,
        with Label Studio and a worker.

        Example: groundswell serve --host 0.0.0.0 --port 9090 --studio-url https://label.example.org
        --api-key $KEY
        """
        import os

        from ml_backend.extras import require_extra
        from sync.console import say
        from sync.installation import effective_settings
        from sync.local.backend_server import as_environment, backend_command
        from sync.local.label_studio_server import check_port
        from sync.report.running_on import look_at_machine, running_on

        require_extra("backend")
        settings = effective_settings(data_dir, studio_url=studio_url, api_key=api_key)
        if "backend_url" not in settings.model_fields_set:
            browser_host = "127.0.0.1" if host == "0.0.0.0" else host
            settings = settings.model_copy(update={"backend_url": f"http://{browser_host}:{port}"})
        check_port(host, port, "the ML backend")
        for line in running_on(settings, look_at_machine()):
            say(line)
        say(f"the backend serves on http://{host}:{port} for Label Studio at {settings.studio_url}")
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        command = backend_command(settings.data_dir, host, port, threads=threads)
        os.execvpe(command[0], command, as_environment(settings))
