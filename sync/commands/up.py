"""``groundswell up``: Label Studio, the ML backend and one worker."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    @app.command()
    def up(
        port: Annotated[int, typer.Option(help="port of Label Studio")] = 8080,
        backend_port: Annotated[int, typer.Option(help="port of the ML backend")] = 9090,
        host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
        data_dir: Annotated[
            Path | None, typer.Option(help="all of Groundswell's files (default: $GROUNDSWELL_DATA_DIR)")
        ] = None,
        files_root: Annotated[
            Path | None, typer.Option(help="images may be served from below this folder (default: here)")
        ] = None,
        studio_venv: Annotated[
            Path | None, typer.Option(help="virtual environment with label-studio")
        ] = None,
        studio_url: Annotated[str, typer.Option(help="use this Label Studio instead of starting one")] = "",
        api_key: Annotated[
            str, typer.Option(help="API key for --studio-url", envvar="GROUNDSWELL_API_KEY")
        ] = "",
        no_worker: Annotated[bool, typer.Option("--no-worker", help="without the worker")] = False,
        yes: Annotated[
            bool,
            typer.Option("--yes", "-y", help="fetch weights for clicks if none are here, do not ask"),
        ] = False,
    ) -> None:
        """Start Label Studio, the ML backend and one worker; Ctrl-C stops them.

        The administrator is made at the first start and kept in the data directory, with everything else.

        Where no weights of a large click model are here, it asks once whether to fetch some. Without a
        terminal nothing is asked and nothing fetched, unless --yes is given.

        Example: groundswell up --port 8080

        Example: groundswell up --studio-url https://label.example.org --api-key $KEY
        """
        from ml_backend.extras import require_extra
        from sync.console import interruptible, say, show_login
        from sync.local.click_weights import can_ask, offer_weights
        from sync.local.up import Stack, check_token
        from sync.settings import load_settings

        require_extra("backend", *(() if no_worker else ("worker",)))
        overrides = {} if data_dir is None else {"data_dir": data_dir}
        stack = Stack(
            load_settings(**overrides),
            studio_port=port,
            backend_port=backend_port,
            host=host,
            files_root=files_root,
            studio_venv=studio_venv,
            studio_url=studio_url,
            api_key=api_key,
            with_worker=not no_worker,
            report=say,
        )
        if studio_url:
            say(f"using Label Studio at {studio_url} as {check_token(stack.settings)}")
        ask = partial(typer.confirm, default=False) if can_ask() else None
        offer_weights(stack.settings, yes=yes, ask=ask, say=say)
        with interruptible(), stack:
            show_login(stack)
            for line in stack.running_on():
                say(line)
            stack.watch()
