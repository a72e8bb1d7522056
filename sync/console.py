"""What long-running commands say, and how they end: SIGTERM counts as Ctrl-C."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

import typer

from ml_backend.errors import BadInput

if TYPE_CHECKING:
    from sync.local.up import Stack


__all__ = ["interruptible", "parse_options", "say", "show_login"]


def parse_options(lines: Sequence[str]) -> dict[str, Any]:
    """``name=value`` pairs as a dictionary; values are JSON where they parse as JSON, text otherwise."""
    options: dict[str, Any] = {}
    for line in lines:
        name, equals, value = line.partition("=")
        if not equals or not name.strip():
            raise BadInput(
                f"{line!r} is not name=value", field="option", hint="e.g. --option min_finished=10"
            )
        try:
            options[name.strip()] = json.loads(value)
        except ValueError:
            options[name.strip()] = value
    return options


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
def interruptible(*, exit_code: int = 0) -> Iterator[None]:
    """Turn the first SIGINT or SIGTERM inside into KeyboardInterrupt, so that clean-up runs to its end.

    Later ones are ignored: an impatient second Ctrl-C must not leave half of what was started behind
    (clean-up is bounded, it kills what does not stop). SIGINT is set too, as shells start background
    commands with it ignored. ``exit_code`` is that of an interrupted command: 0 for one that runs until it
    is interrupted.
    """
    numbers = (signal.SIGINT, signal.SIGTERM)

    def stop(number: int, frame: FrameType | None) -> None:
        for later in numbers:
            signal.signal(later, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = [signal.signal(number, stop) for number in numbers]
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("\n· stopped")
        raise typer.Exit(exit_code) from None
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
