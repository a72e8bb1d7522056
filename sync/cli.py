"""The command line: ``groundswell <command>``. Thin: parse, call the library, print.

Each command lives in ``sync/commands/<name>.py`` and imports heavy libraries only when it runs, so that
``groundswell --help`` answers at once.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Annotated, NoReturn

import typer

from ml_backend.errors import GroundswellError
from ml_backend.extras import explain_missing

__all__ = ["COMMANDS", "build_app", "main"]

COMMANDS = (
    "demo",
    "up",
    "init",
    "serve",
    "worker",
    "round",
    "status",
    "health",
    "history",
    "repartition",
    "order",
    "project",
    "preview",
    "mistakes",
    "projects",
    "invite",
    "add-images",
    "import",
    "export",
    "export-model",
    "more-like-this",
    "predict",
    "backup",
    "restore",
    "rebuild",
    "doctor",
    "models",
    "evaluate",
    "pool",
    "simulate",
    "clusters",
    "report",
)


def build_app() -> typer.Typer:
    """The Typer application with every command registered."""
    app = typer.Typer(
        name="groundswell",
        help="Label a few masks, propagate to thousands: Label Studio with a model that learns as you label.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_every_command)
    for name in COMMANDS:
        module = "import_labels" if name == "import" else name.replace("-", "_")  # Python keeps that word
        import_module(f"sync.commands.{module}").register(app)
    return app


def _say_version(asked: bool) -> None:
    if asked:
        from sync.backup.manifest import release

        typer.echo(f"groundswell {release()}")
        raise typer.Exit


def _every_command(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_say_version, is_eager=True, help="Say which release this is."),
    ] = False,
) -> None:
    pass  # what the option does is done before


def main() -> None:
    """Run the command line. Errors that a user can mend become one line and exit code 1.

    A missing optional package is one of them: the line names the extra that installs it.
    """
    try:
        build_app()()
    except GroundswellError as error:
        _fail(error)
    except ModuleNotFoundError as error:
        explained = explain_missing(error)
        if explained is None:
            raise
        _fail(explained)
    except KeyboardInterrupt:
        sys.exit(130)


def _fail(error: GroundswellError) -> NoReturn:
    typer.secho(f"error: {error}", fg=typer.colors.RED, err=True)
    sys.exit(1)


if __name__ == "__main__":
    main()
