"""Write docs/cli.md from the commands' own help: ``python docs/make_cli.py``. A test compares the two."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import typer

from sync.cli import build_app

PAGE = Path(__file__).with_name("cli.md")


def leaves(
    command: click.Command, name: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """All commands that run, with their full names."""
    children = getattr(command, "commands", None)
    if not children:
        yield name, command
        return
    for key, child in children.items():
        yield from leaves(child, (*name, key))


def page() -> str:
    """The page as it should be."""
    lines = ["# Commands", "", "Written by `python docs/make_cli.py` from the commands' own help.", ""]
    for name, command in leaves(typer.main.get_command(build_app())):
        help_text = inspect.cleandoc((command.help or "").replace("\b", ""))
        lines += [f"## groundswell {' '.join(name)}", "", "```text", help_text, "```", ""]
        rows = [
            (
                ", ".join(p.opts + p.secondary_opts)
                if getattr(p, "param_type_name", "") == "option"
                else p.name or "",
                p,
            )
            for p in command.params
            if "--help" not in p.opts
        ]
        if rows:
            lines += ["| option | meaning |", "| --- | --- |"]
            for option, parameter in rows:
                text = " ".join((getattr(parameter, "help", "") or "").split()).replace("|", "\\|")
                default = getattr(parameter, "default", None)
                if default not in (None, False, "", ()) and not callable(default):
                    text = f"{text} (default {default})"
                lines.append(f"| `{option}` | {text} |")
            lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page())
    sys.stdout.write(f"wrote {PAGE}\n")
