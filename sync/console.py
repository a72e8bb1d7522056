"""What long-running commands say, and how they end: SIGTERM counts as Ctrl-C."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import typer

from ml_backend.errors import BadInput
from sync.rounds.remaining_time import Remaining

if TYPE_CHECKING:
    from sync.local.up import Stack


__all__ = [
    "PARTLY",
    "agree",
    "interruptible",
    "parse_options",
    "progress",
    "read_text",
    "say",
    "show_login",
    "their_names",
]

PARTLY = 3
"""exit code of a command that did a part of what it should and says what is missing"""

ReportShare = Callable[[float, str], None]
"""called with the share done (0..1) and one line about it"""


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
            options[name.strip()] = json.loads(value, parse_constant=_no_number)
        except ValueError:
            options[name.strip()] = value
    return options


def _no_number(text: str) -> None:
    """NaN and Infinity are no JSON, though Python reads them."""
    raise ValueError(text)


def their_names(lines: Sequence[str]) -> dict[str, str]:
    """``their=our`` pairs: what labels of others are called here. Raises BadInput."""
    names: dict[str, str] = {}
    for line in lines:
        theirs, equals, ours = line.partition("=")
        if not equals or not theirs:
            raise BadInput(
                f"{line!r} is not their=our", field="map", hint="e.g. --map RBC=cell, or --map RBC="
            )
        names[theirs] = ours
    return names


def read_text(path: Path) -> str:
    """The text of a file that somebody named. Raises BadInput when it cannot be read."""
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read: {error}", field=path.name) from error


def say(line: str) -> None:
    """One line about what happens, to the terminal."""
    typer.echo(f"· {line}")


def agree(question: str, *, yes: bool, quiet: bool = False) -> None:
    """Ask a person; anything but yes ends the command with exit code 1.

    ``yes``: they agreed already. Raises BadInput where nobody can be asked: ``quiet``, or no terminal.
    """
    if yes:
        return
    if quiet or not _is_terminal():
        raise BadInput("somebody must agree to this", field="yes", hint="Nothing was changed. Add --yes")
    typer.confirm(question, abort=True, err=True)


def _is_terminal() -> bool:
    return sys.stdin.isatty()


@contextmanager
def progress(*, quiet: bool = False) -> Iterator[ReportShare]:
    """Show how far a long command is: a bar on a terminal, a line per tenth in a log, nothing when quiet.

    It goes to standard error, so that standard output holds the result alone.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    remaining = Remaining()
    console = Console(stderr=True)
    if quiet:
        yield lambda share, line: None
        return
    if not console.is_terminal:
        told = -1

        def tell(share: float, line: str) -> None:
            nonlocal told
            if int(share * 10) > told:
                told = int(share * 10)
                left = remaining.text(share)
                typer.echo(f"{share:4.0%} {line}" + (f" ({left})" if left else ""), err=True)
            else:
                remaining.text(share)  # notes when it began

        yield tell
        return
    columns = (
        BarColumn(bar_width=24),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        job = bar.add_task("", total=1.0, left="")
        yield lambda share, line: bar.update(
            job, completed=share, description=line[:100], left=remaining.text(share)
        )


def show_login(stack: Stack) -> None:
    """Print the addresses and the login of what was started."""
    typer.echo("")
    typer.secho(f"  Label Studio  {stack.url}", bold=True)
    if stack.embedded:
        typer.echo(f"  log in as     {stack.secrets.email}")
        typer.echo(f"  password      {stack.secrets.password}")
        typer.echo(f"                (kept in {stack.data_dir / 'secrets.json'})")
    typer.echo(f"  ML backend    {stack.settings.backend_url}")
    typer.echo(f"  dashboard     {stack.settings.backend_url}/dashboard (the same login)")
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
        # the handlers stay: a signal while Python shuts down must not change the exit code
        typer.echo("\n· stopped")
        raise typer.Exit(exit_code) from None
    except BaseException:
        _restore(numbers, before)
        raise
    _restore(numbers, before)


def _restore(numbers: Sequence[signal.Signals], handlers: Sequence[Any]) -> None:
    for number, handler in zip(numbers, handlers, strict=True):
        signal.signal(number, handler)
