"""Write docs/cli.md from the commands' own help: ``make docs``. A test compares the two."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from sync.cli import build_app

PAGE = Path(__file__).with_name("cli.md")
INTRODUCTION = """\
# Commands

Written by `make docs` from the commands' own help.

`--json` prints the result as JSON to standard output; progress and warnings go to standard error. Commands
that change what somebody set ask first; `--yes` answers for scripts.

| exit code | meaning |
| --- | --- |
| 0 | done |
| 1 | an error; its message says what was wrong and what to do |
| 2 | the command line is wrong: an unknown option, a missing argument |
| 3 | done in part; what is missing is named |
| 130 | stopped with Ctrl-C |

"""


def commands(command: Any, name: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command and every group of commands with its full name, a group before its members."""
    yield name, command
    for key, child in getattr(command, "commands", {}).items():
        yield from commands(child, (*name, key))


def page() -> str:
    """The page as it should be."""
    lines = INTRODUCTION.splitlines()
    for name, command in commands(typer.main.get_command(build_app())):
        lines += section(" ".join(("groundswell", *name)), command)
    return "\n".join(lines)


def section(title: str, command: Any) -> list[str]:
    """Heading, help, options and, for a group, the commands in it."""
    help_text = inspect.cleandoc((command.help or "").replace("\b", ""))
    lines = [f"## {title}", "", "```text", help_text, "```", ""]
    options = [parameter for parameter in command.params if "--help" not in parameter.opts]
    if options:
        lines += ["| option | meaning |", "| --- | --- |", *map(option_row, options), ""]
    children = getattr(command, "commands", {})
    if children:
        lines += ["| command | what it does |", "| --- | --- |"]
        for key, child in children.items():
            lines.append(f"| [`{title} {key}`](#{title.replace(' ', '-')}-{key}) | {first_line(child)} |")
        lines.append("")
    return lines


def option_row(parameter: Any) -> str:
    """One option or argument with its help and its default."""
    is_option = getattr(parameter, "param_type_name", "") == "option"
    names = ", ".join(parameter.opts + parameter.secondary_opts) if is_option else parameter.name or ""
    text = " ".join((getattr(parameter, "help", "") or "").split()).replace("|", "\\|")
    default = getattr(parameter, "default", None)
    if default not in (None, False, "", ()) and not callable(default):
        text = f"{text} (default {default})"
    return f"| `{names}` | {text} |"


def first_line(command: Any) -> str:
    """The first sentence of a command's help."""
    return inspect.cleandoc(command.help or "").splitlines()[0].replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page())
    sys.stdout.write(f"wrote {PAGE}\n")
