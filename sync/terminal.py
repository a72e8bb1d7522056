"""What long-running commands say, and how they end: SIGTERM counts as Ctrl-C."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from sync.up import Stack

__all__ = ["interruptible", "say", "show_login"]


def say(line: str) -> None:
    """One line about what happens, to the terminal."""
    typer.echo(f"· {line}")


def show_login(stack: Stack) -> None:
    """Address and login of a started stack."""
    typer.echo("")
    typer.secho(f"  Label Studio  {stack.url}", bold=True)
    if stack.embedded:
        typer.echo(f"  log in as     {stack.secrets.email}")
        typer.echo(f"  password      {stack.secrets.password}")
        typer.echo(f"                (kept in {stack.data_dir / 'secrets.json'})")
    typer.echo(f"  ML backend    {stack.settings.backend_url}")
    typer.echo(f"  logs          {stack.logs}")
    typer.echo("\n  Ctrl-C stops everything.\n")


@contextmanager
def interruptible() -> Iterator[None]:
    """Turn SIGTERM into KeyboardInterrupt inside, so that clean-up runs; Ctrl-C ends without a traceback."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("\n· stopped")
    finally:
        signal.signal(signal.SIGTERM, before)
