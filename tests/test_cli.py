"""Every command is documented: help with an example, and a place in the docs."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
import typer
from typer.testing import CliRunner

from sync.cli import COMMANDS, build_app

ROOT = Path(__file__).resolve().parent.parent


def leaves(command: click.Command, name: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], click.Command]]:
    children = getattr(command, "commands", None)
    if not children:
        return [(name, command)]
    return [leaf for key, child in children.items() for leaf in leaves(child, (*name, key))]


ALL = leaves(typer.main.get_command(build_app()))


@pytest.mark.parametrize(("name", "command"), ALL, ids=[" ".join(n) for n, _ in ALL])
def test_command_has_help_an_example_and_a_place_in_the_docs(name: tuple[str, ...], command: click.Command) -> None:
    result = CliRunner().invoke(build_app(), [*name, "--help"])
    assert result.exit_code == 0, result.output
    line = "groundswell " + " ".join(name)
    assert line in (command.help or ""), f"`{line} --help` shows no example"
    assert line in (ROOT / "docs" / "cli.md").read_text(), f"docs/cli.md does not mention `{line}`"


def test_every_registered_module_adds_a_command() -> None:
    top = {name[0] for name, _ in ALL}
    assert set(COMMANDS) <= top
